"""A folder with everything that a download may touch, and what must not change in it."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from minift import hub, transfer
from minift.errors import UserError
from support.loopback_hub import GOOD, REPO, Behaviour, LoopbackHub, serving, tell_the_truth
from support.small_hub import point_to

LIMIT = 10  # seconds for one download from the loopback, on a busy machine


# The ends of a download that a test allows.
TAKEN, REFUSED, ANY = ("taken",), ("refused",), ("taken", "refused")

PATIENCE = {
    name: getattr(transfer, name) for name in ("TIMEOUT", "READ_TIMEOUT", "SLOW_SECONDS", "RETRIES")
}

EVIL = b"not what was asked for"


@dataclass(frozen=True)
class Outcome:
    """What a download came to: a folder, or the message of a `UserError`."""

    folder: Path | None
    message: str = ""

    @property
    def files(self) -> dict[str, bytes] | None:
        if self.folder is None:
            return None
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


def listing(folder: Path, without: tuple[Path, ...] = ()) -> dict[str, tuple]:
    """All that is in a folder: name -> kind, size and hash, or the target of a link."""
    found: dict[str, tuple] = {}
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if path in without:
            continue
        if entry.is_symlink():
            found[entry.path] = ("link", os.readlink(path))
        elif entry.is_dir():
            found[entry.path] = ("folder",)
            found |= listing(path, without)
        else:
            data = path.read_bytes()
            found[entry.path] = ("file", len(data), hashlib.sha256(data).hexdigest())
    return found


class World:
    """Working directory, home, cache, weights, and a canary where lying paths point to.

    The cache is hf/hub, so from the folder of a repository's files in it "../../../../canary" is
    the canary; its files are what a reader that follows such a path would take for the model.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, monkeypatch
        self.cache, self.canary = root / "hf" / "hub", root / "canary"
        self.weights, self.work = root / "weights", root / "work"
        for folder in (self.cache, self.canary, self.weights, self.work, root / "home"):
            folder.mkdir(parents=True)
        for name in (*GOOD, "evil"):
            (self.canary / name).write_bytes(EVIL)
        self.repo = self.cache / f"models--{REPO.replace('/', '--')}"
        self.locks = self.cache / ".locks"
        self.outside = listing(root, (self.cache,))

    def wait_as_usual(self) -> None:
        """Be as patient as minift is with a hub, which on a busy machine may be slow to answer."""
        for name, value in PATIENCE.items():
            self.patch.setattr(transfer, name, value)

    def fetch(self, source: str = REPO, revision: str | None = None) -> Outcome:
        """Download; fails if that takes longer than LIMIT."""
        outcome: list[Outcome | BaseException] = []

        def run() -> None:
            try:
                outcome.append(Outcome(hub.find_checkpoint(source, revision)))
            except UserError as error:
                outcome.append(Outcome(None, str(error)))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(LIMIT)
        assert outcome, f"no end within {LIMIT} seconds"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def environment(self, url: str) -> dict[str, str]:
        """For a script in a process of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return kept | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(self.root / "hf"),
            "HOME": str(self.root / "home"),
            "MINIFT_WEIGHTS": str(self.weights),
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(hub.__file__).parent.parent),
            "HF_HUB_OFFLINE": "0",
        }

    def check(self) -> None:
        """Nothing outside the cache has changed, and nothing in it is what it should not be."""
        assert listing(self.root, (self.cache,)) == self.outside
        names = {path.name for path in self.cache.iterdir()}
        assert names <= {self.repo.name, ".locks", "CACHEDIR.TAG"}
        for path in self.repo.glob("snapshots/**/*"):
            if path.is_file():
                assert path.resolve().parent == self.repo / "blobs", f"{path} leads elsewhere"
                assert path.read_bytes() == GOOD.get(path.name), f"{path} is accepted"
        self.patch.setattr(constants, "HF_HUB_OFFLINE", True)
        taken = self.fetch()
        self.patch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert taken.files in (None, GOOD), "accepted offline"

    def survives(
        self,
        behave: Behaviour,
        ends: tuple[str, ...] = ANY,
        parts: tuple[str, ...] = (),
        store: str = "",
    ) -> LoopbackHub:
        """Download from a hub that misbehaves; then from the same hub, which tells the truth.

        ends: how the first download may end.  parts: of its error message.
        store: the hub that has the weights, if it is another one.
        """
        with serving(LoopbackHub(behave=behave, store=store)) as server:
            point_to(server.url, self.patch)
            outcome = self.fetch()
            sent = server.sent
            self.check()
            assert ("refused" if outcome.folder is None else "taken") in ends, outcome
            if outcome.folder is None:
                check_message(outcome.message, parts)
            else:
                assert outcome.files == GOOD
            server.behave = tell_the_truth
            self.wait_as_usual()
            assert self.fetch().files == GOOD
            self.check()
            server.sent = sent
        return server


def check_message(message: str, parts: tuple[str, ...] = ()) -> None:
    """An error is one line that names the source and a remedy."""
    assert message.startswith(f"{REPO}: "), message
    assert message.isprintable(), message
    assert len(message) < 1000, message
    assert "; " in message, f"no remedy: {message}"
    for part in parts:
        assert part in message, f"no {part!r}: {message}"
