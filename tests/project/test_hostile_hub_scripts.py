"""`scripts/get_weights.py` and hubs that misbehave, in processes of their own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from support import hostile_hub as hostile
from support.cases import cases_with
from support.hostile_hub import on
from support.loopback_hub import GOOD, REPO, LoopbackHub, serving, tell_the_truth
from support.running import ROOT
from support.world import World, listing

from minift import hub

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix"),
]

INT, TERM = signal.SIGINT, signal.SIGTERM
STOP_LIMIT = 5  # seconds from a signal to the end; two are promised, on a machine that is not busy


@contextmanager
def started(world: World, url: str, *words: str, prefix: str = "", **variables: str):
    """A process of get_weights.py, which is ended if the test is over before it.

    prefix: Python statements that are run first.
    """
    script = str(ROOT / "scripts" / "get_weights.py")
    program = f"import runpy, sys; sys.argv = sys.argv[1:]; {prefix}\n"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, *(["-c", program] if prefix else []), script, *words],
        env=world.environment(url) | variables,
        cwd=world.work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(world: World, url: str, *words: str, **options: str) -> tuple[int, str, str]:
    with started(world, url, *words, **options) as process:
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def placed(world: World, name: str = "x") -> dict[str, bytes]:
    """The files of a model under weights/, where nothing else may be."""
    assert os.listdir(world.weights) == [name]
    return {path.name: path.read_bytes() for path in (world.weights / name).iterdir()}


def cache_is_clean(world: World) -> bool:
    """Whether the cache holds the model's files, once each, and no parts of downloads."""
    blobs = (world.repo / "blobs").iterdir()
    return sorted(path.read_bytes() for path in blobs) == sorted(GOOD.values())


@pytest.mark.parametrize(
    ("place", "number"),
    cases_with(
        [("api", INT), ("store", TERM)],
        itertools.product(["api", "config.json", "store"], [INT, TERM]),
    ),
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_a_signal_ends_a_stall(place, number, world):
    behave = on(place, hostile.stalls("start" if place == "api" else "body"))
    with serving(LoopbackHub(behave=behave)) as server:
        with started(world, server.url, REPO) as process:
            kind = {"config.json": "file"}.get(place, place)
            wait_for(lambda: any(ask.kind == kind and ask.method == "GET" for ask in server.asked))
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < STOP_LIMIT
        assert process.returncode in (128 + number, -number)
        assert out == ""
        assert "Traceback" not in err
        world.check()
        server.behave = tell_the_truth
        code, out, err = run(world, server.url, REPO)
        assert (code, out) == (0, f"{world.weights / 'x'}\n"), err
        assert placed(world) == GOOD
        assert cache_is_clean(world)


def test_what_a_killed_download_leaves_is_removed_by_the_next(world):
    with serving(LoopbackHub(behave=on("store", hostile.stalls("body")))) as server:
        with started(world, server.url, REPO) as process:
            wait_for(lambda: server.sent > 60_000)
            time.sleep(0.3)
            process.kill()
            process.communicate()
        server.behave = tell_the_truth
        assert run(world, server.url, REPO)[0] == 0
        assert placed(world) == GOOD
        assert cache_is_clean(world)


def test_two_downloads_at_once(world):
    with serving(LoopbackHub(behave=on("store", hostile.pause(1.0)))) as server:
        with started(world, server.url, REPO) as one, started(world, server.url, REPO) as two:
            ends = [
                (*process.communicate(timeout=60), process.returncode) for process in (one, two)
            ]
        for out, err, code in ends:
            assert (code, out) == (0, f"{world.weights / 'x'}\n"), err
        assert placed(world) == GOOD
        assert cache_is_clean(world)


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (on("api", hostile.error_code(401, "RepoNotFound")), ("no such",)),
        (on("all", hostile.status(403)), ("403", "HF_TOKEN")),
        (on("model.safetensors", hostile.status(404)), ("404",)),
        (on("store", hostile.other_bytes), ("sha256",)),
        (hostile.about(sha="../../../../canary"), ("o/x",)),
        (hostile.login_page, ("o/x",)),
    ],
    ids=["unknown", "403", "404", "other bytes", "sha", "login page"],
)
def test_a_refusal_is_the_last_line_and_status_2(behave, words, world):
    with serving(LoopbackHub(behave=behave)) as server:
        code, out, err = run(world, server.url, REPO)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {REPO}: ")
    for word in words:
        assert word in last
    assert "; " in last
    world.check()


def test_a_password_in_the_address_is_not_shown(world):
    for behave, expected in ((hostile.status(418), 2), (hostile.reset, 2), (tell_the_truth, 0)):
        with serving(LoopbackHub(behave=behave)) as server:
            url = server.url.replace("//", "//anna:pass%2Dword@")
            code, out, err = run(world, url, REPO)
            assert code == expected, err
            assert "pass%2Dword" not in out + err
            assert "pass-word" not in out + err
            assert server.url.removeprefix("http://") in err


def test_a_full_disk_is_said(world):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    with serving(LoopbackHub()) as server:
        code, out, err = run(world, server.url, REPO, prefix=limit)
        assert (code, out) == (2, "")
        last = err.splitlines()[-1]
        assert "File too large" in last
        assert "check the network" not in last
        world.check()
        assert run(world, server.url, REPO)[0] == 0
    assert placed(world) == GOOD
    assert cache_is_clean(world)


def test_a_pip_py_in_the_working_folder_is_not_run(world):
    mark = world.root / "canary" / "was-run"
    for name in ("pip.py", "pip/__init__.py", "pip/__main__.py", "zipfile.py", "tempfile.py"):
        (world.work / name).parent.mkdir(exist_ok=True)
        (world.work / name).write_text(f"open({str(mark)!r}, 'w')")
    # pip asks the machine's compilers for their versions, and some write into the home folder.
    aside = (world.cache, world.root / "home")
    before = listing(world.root, aside)
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(world.root / "home")}
    code, out, err = run(world, "http://127.0.0.1:9", **nowhere)
    assert (code, out) == (2, ""), err
    assert hub.DEFAULT_MODEL in err.splitlines()[-1]
    assert listing(world.root, aside) == before
