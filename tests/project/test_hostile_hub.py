"""Downloads from hubs that lie, stall and fail.

Whatever a hub does, a download ends in time, with the right files or with one line; nothing outside
the cache is written, nothing wrong is kept in it, and the next download from a good hub succeeds.
"""

from __future__ import annotations

import json
import tracemalloc

import pytest
from support import hostile_hub as hostile
from support.hostile_hub import FIRST, LATER, on
from support.loopback_hub import COMMIT, GOOD, LoopbackHub, serving, tell_the_truth
from support.small_hub import point_to
from support.world import ANY, REFUSED, TAKEN

from minift import hub


def test_the_good_hub(world):
    server = world.survives(tell_the_truth, TAKEN)
    assert {ask.file for ask in server.asked if ask.method == "GET"} >= set(GOOD)


# ---- names that are paths --------------------------------------------------------------------

PATHS = {
    "climbs": "../../../../canary/evil",
    "climbs to a new file": "../../../../canary/new",
    "climbs to a file of the cache": "../../../new",
    "absolute": "{canary}/evil",
    "NUL": "a\0b",
    "long": "x" * 5000,
    "empty": "",
    "only quotes": '""',
    "a dot": ".",
    "dots": "..",
    "weak": 'W/"../../../../canary/evil"',
    "backslashes": "..\\..\\..\\..\\canary\\evil",
    "a drive": "C:evil",
    "not ASCII": "\xe9\xff",
    "escapes": "\x1b[2J\x9b31m",
    "lock": "../../../../canary/evil.lock",
}


@pytest.mark.parametrize("when", [hostile.EVERY, FIRST, LATER], ids=["every", "first", "later"])
@pytest.mark.parametrize("name", PATHS)
def test_an_etag_is_no_path(name, when, world):
    value = PATHS[name].format(canary=world.canary)
    quoted = value if name in ("only quotes", "weak", "empty") else f'"{value}"'
    # The first answer, to HEAD, announces the file.  The transport does not pass a NUL on.
    ends = ANY if name == "NUL" else TAKEN if when == LATER else REFUSED
    world.survives(on("files", hostile.etag(quoted), when), ends)


@pytest.mark.parametrize("sha", [*PATHS.values(), COMMIT[:7], COMMIT.upper(), COMMIT + "\n", 7])
@pytest.mark.parametrize("place", ["api", "header"])
def test_a_commit_is_no_path(sha, place, world):
    sha = sha.format(canary=world.canary) if isinstance(sha, str) else sha
    if place == "api":
        world.survives(hostile.about(sha=sha), REFUSED)
    elif "\n" not in str(sha):
        world.survives(on("file", hostile.header("X-Repo-Commit", sha)), REFUSED)


@pytest.mark.parametrize("sha", [None, ["x"], [], {}, True, 0.5, 10**50, "1" * 40 + "/../x"])
def test_a_commit_is_a_string(sha, world):
    world.survives(hostile.about(sha=sha), REFUSED)


@pytest.mark.parametrize("name", [*PATHS.values(), "../config.json", "x/../../config.json", 3])
def test_names_of_files_are_no_paths(name, world):
    name = name.format(canary=world.canary) if isinstance(name, str) else name
    world.survives(hostile.more_siblings({"rfilename": name, "size": 3}))
    world.survives(hostile.each_sibling(rfilename=name), REFUSED)


# ---- what the hub says of a repository ---------------------------------------------------------

ODD_ANSWERS = {
    "a list": b"[]",
    "a list of one": b'[{"sha": "x"}]',
    "a number": b"7",
    "null": b"null",
    "a string": b'"../../x"',
    "nothing": b"",
    "half": b'{"id": "o/x", "sha": "',
    "not UTF-8": b'{"id": "\xff\xfe", "sha": "x"}',
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"siblings":' * 100_000,
    "a long number": b'{"sha": %s}' % (b"9" * 5000),
    "NaN": b'{"sha": NaN}',
    "a lone surrogate": b'{"id": "o/x", "sha": "\\ud800"}',
    "a page": hostile.LOGIN_PAGE,
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_odd_json_is_refused(name, world):
    world.survives(on("api", hostile.says(ODD_ANSWERS[name])), REFUSED)


@pytest.mark.parametrize("value", hostile.ODD_JSON, ids=lambda value: repr(value)[:20])
def test_odd_facts_about_files(value, world):
    world.survives(hostile.about(siblings=value), REFUSED)
    world.survives(hostile.about(siblings=[value]), REFUSED)
    world.survives(hostile.more_siblings(value))
    world.survives(hostile.more_siblings({"rfilename": value}))
    for key in ("size", "blobId", "lfs"):
        world.survives(hostile.each_sibling(**{key: value}))
    for key in ("sha256", "size"):
        world.survives(hostile.each_sibling(lfs={key: value}))


def test_100_000_files(world):
    world.survives(
        hostile.more_siblings(*({"rfilename": f"{i}.bin"} for i in range(100_000))), TAKEN
    )


@pytest.mark.parametrize("last_is_true", [True, False])
def test_facts_given_twice(last_is_true, world):
    facts = LoopbackHub().about()
    lie, truth = '"sha": "../../../../canary"', f'"sha": "{COMMIT}"'
    both = f"{lie}, {truth}" if last_is_true else f"{truth}, {lie}"
    body = json.dumps(facts).replace(truth, both).encode()
    world.survives(on("api", hostile.says(body)), ANY if last_is_true else REFUSED)


@pytest.mark.parametrize("place", ["api", *GOOD])
@pytest.mark.parametrize("flood", ["long", "bomb"])
def test_a_flood_is_neither_read_nor_unpacked(place, flood, world):
    behave = on(place, hostile.pages_of(200) if flood == "long" else hostile.gzip_bomb(200))
    tracemalloc.start()
    server = world.survives(behave, REFUSED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert server.sent < 60_000_000
    assert peak < 60_000_000


# ---- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", GOOD)
@pytest.mark.parametrize(
    "body",
    [
        hostile.other_bytes,
        hostile.shorter,
        hostile.longer,
        hostile.cut,
        hostile.endless,
        hostile.endless_chunks,
        hostile.login_page,
        *(hostile.header("Content-Length", value) for value in ("-5", "9" * 20, "x", "")),
        hostile.header("Content-Length", 3, 5),
        hostile.header("Transfer-Encoding", "chunked"),
        hostile.header("Content-Encoding", "gzip"),
        hostile.no_http,
        hostile.endless_headers,
    ],
)
def test_a_body_that_is_not_the_file(file, body, world):
    # Without a length, only a large file has an announced size, after which nothing is read.
    is_taken = body is hostile.endless and file == "model.safetensors"
    server = world.survives(on(file, body), TAKEN if is_taken else REFUSED)
    assert server.sent < 60_000_000


def test_a_body_without_a_length_is_read_to_its_end(world):
    world.survives(on("files", hostile.without_length), TAKEN)


def test_a_range_that_was_not_asked_for_is_ignored(world):
    world.survives(on("files", hostile.header("Content-Range", "bytes 5-9/10")), TAKEN)


def test_a_whole_body_is_taken_though_the_connection_stays_open(world):
    world.survives(on("store", hostile.keeps_open), TAKEN)


@pytest.mark.parametrize("size", ["1", "131073", "-1", "9" * 30, "x", ""])
def test_the_announced_size_is_compared(size, world):
    world.survives(on("file", hostile.header("X-Linked-Size", size)), REFUSED)


@pytest.mark.parametrize("spoil", [hostile.cut, hostile.reset, hostile.no_http])
@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "all"])
def test_broken_once_is_tried_again(place, spoil, world):
    world.survives(on(place, spoil, FIRST), TAKEN)


def test_an_index_names_shards_elsewhere(world):
    for name in ("../../../../canary/model.safetensors", str(world.canary / "model.safetensors")):
        index = json.dumps({"weight_map": {"a": name}}).encode()
        files = {"config.json": GOOD["config.json"], hub.INDEX: index}
        with serving(LoopbackHub(files)) as server:
            point_to(server.url, world.patch)
            assert "names the shard" in world.fetch().message


def test_an_index_of_40_000_shards_is_refused_soon(world):
    shards = [f"{number:05}-of-40000.safetensors" for number in range(40_001)]
    index = {"weight_map": dict(zip(shards, shards, strict=True))}
    files = {"config.json": GOOD["config.json"], hub.INDEX: json.dumps(index).encode()}
    others = [{"rfilename": name} for name in shards[:-1]]
    with serving(LoopbackHub(files, hostile.more_siblings(*others))) as server:
        point_to(server.url, world.patch)
        assert "names 40,001 shards" in world.fetch().message


# ---- hubs that keep one waiting ---------------------------------------------------------------


@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "store"])
@pytest.mark.parametrize(
    "stall",
    [
        *map(hostile.stalls, ("start", "headers", "head", "body")),
        hostile.header_trickle,
        hostile.wait_a_moment,
        hostile.slow,
    ],
    ids=["start", "headers", "head", "body", "header_trickle", "wait_a_moment", "slow"],
)
def test_a_hub_that_stalls_is_given_up(place, stall, hasty_world):
    hasty_world.survives(on(place, stall), REFUSED, ("check the network",))


# ---- statuses ----------------------------------------------------------------------------------

WHERE = ["api", "config.json", "model.safetensors", "store", "files"]


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("code", [401, 403, 404, 418, 429, 500, 502, 503, 504, 599])
def test_a_status_is_named(code, place, world):
    world.survives(on(place, hostile.status(code)), REFUSED, (str(code),))


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(code, place, world):
    world.survives(on(place, hostile.status(code), FIRST), TAKEN)


@pytest.mark.parametrize("wait", ["0", "1", "x", "-1", "0.5", ""])
def test_retry_after_is_respected(wait, world):
    world.survives(on("store", hostile.status(429, wait), FIRST), TAKEN)


@pytest.mark.parametrize("wait", ["1" + "0" * 9, "9" * 400, "Wed, 21 Oct 2099 07:28:00 GMT"])
@pytest.mark.parametrize("place", ["api", "model.safetensors"])
def test_nobody_waits_for_years(wait, place, world):
    world.survives(on(place, hostile.status(429, wait)), REFUSED, ("429",))


def test_a_copy_in_the_cache_is_used_where_the_hub_fails(world):
    world.survives(tell_the_truth, TAKEN)
    for behave in (hostile.status(503), hostile.reset, hostile.login_page):
        world.survives(on("all", behave), TAKEN)


# ---- redirects ---------------------------------------------------------------------------------

REDIRECTS = {
    "loop": "{url}/o/x/resolve/main/{file}",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/x",
    "data": "data:text/plain,x",
    "no host": "http:///x",
    "no URL": "http://[::bad",
    "empty": "",
    "closed port": "http://127.0.0.1:9/x",
    "canary": "{canary}/config.json",
}


@pytest.mark.parametrize("name", REDIRECTS)
@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors"])
def test_redirects_that_lead_nowhere(name, place, world):
    target = REDIRECTS[name].replace("{canary}", f"file://{world.canary}")
    world.survives(on(place, hostile.redirect(target)), REFUSED)


def test_a_renamed_repository_is_found_by_a_relative_redirect(world):
    with serving(LoopbackHub(behave=hostile.renamed)) as server:
        point_to(server.url, world.patch)
        assert world.fetch("o/old").files == GOOD


def test_a_hub_that_has_moved_is_found_at_its_new_host(world, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(LoopbackHub()) as other, serving(LoopbackHub()) as server:
        place = other.url.replace("127.0.0.1", "localhost")
        other.store = other.url
        server.behave = lambda hub, ask, answer: hostile.redirect(place + ask.path, 301)(
            hub, ask, answer
        )
        point_to(server.url, world.patch)
        assert world.fetch().files == GOOD
        world.check()
        assert {ask.token for ask in other.asked} == {None}


def test_the_token_stays_with_the_hub(world, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(LoopbackHub()) as other:
        server = world.survives(tell_the_truth, TAKEN, store=other.url)
        assert {ask.token for ask in server.asked} == {"Bearer hf_secret"}
        assert [ask.kind for ask in other.asked if ask.method == "GET"] == ["store"]
        for place in ("api", "config.json"):
            target = f"{other.url}/o/x/resolve/main/config.json"
            # The copy in the cache is complete, and used.
            world.survives(on(place, hostile.redirect(target)), TAKEN)
        assert {ask.token for ask in other.asked} == {None}


def test_a_store_elsewhere_that_lies(world):
    with (
        serving(LoopbackHub(behave=hostile.other_bytes)) as other,
        serving(LoopbackHub(store=other.url)) as server,
    ):
        point_to(server.url, world.patch)
        assert "sha256" in world.fetch().message
        world.check()
        other.behave = tell_the_truth
        assert world.fetch().files == GOOD
