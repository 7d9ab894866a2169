"""Fixtures of the tests of downloads: hubs on the loopback, and nothing of the machine's own."""

from __future__ import annotations

import socket
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.small_hub import Handler, Hub, no_package, point_to
from support.world import World

from minift import hub, transfer


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """weights/ and a cache of the test's own, no token, and no hub but a closed port."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("MINIFT_WEIGHTS", str(tmp_path / "weights"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        point_to(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
    monkeypatch.setattr(hub, "_download_package", no_package)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    hub_state = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub_state})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub_state.url = f"http://127.0.0.1:{listening.server_port}"
    point_to(hub_state.url, monkeypatch)
    yield hub_state
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture
def world(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A folder with all that a download may touch; a second try comes soon."""
    world = World(tmp_path / "world", monkeypatch)
    monkeypatch.setenv("HOME", str(world.root / "home"))
    monkeypatch.setenv("MINIFT_WEIGHTS", str(world.weights))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world.cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(world.root / "hf" / "token"))
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.01)
    monkeypatch.chdir(world.work)
    return world


@pytest.fixture
def hasty_world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """As `world`, where a hub that says nothing is given up soon."""
    for name in ("TIMEOUT", "READ_TIMEOUT", "SLOW_SECONDS"):
        monkeypatch.setattr(transfer, name, 0.4)
    monkeypatch.setattr(transfer, "RETRIES", 1)
    return world
