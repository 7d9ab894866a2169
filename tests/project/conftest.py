"""The fixtures of the tests of downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from support.world import World

from minift import transfer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The place of a download, with no token, where a second try comes soon."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    world = World(tmp_path / "world", monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HOME", str(world.root / "home"))
    monkeypatch.setenv("MINIFT_WEIGHTS", str(world.weights))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world.cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(world.root / "hf" / "token"))
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.01)
    monkeypatch.chdir(world.work)
    return world


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that says nothing is given up after half a second."""
    for name in ("TIMEOUT", "READ_TIMEOUT", "SLOW_SECONDS"):
        monkeypatch.setattr(transfer, name, 0.5)
    monkeypatch.setattr(transfer, "RETRIES", 1)
