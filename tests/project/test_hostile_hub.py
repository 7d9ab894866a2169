"""Downloads from hubs that lie, stall and fail.

Whatever a hub does, a download ends in time, with the right files or with one line; nothing outside
the cache is written, nothing wrong is kept in it, and the next download from a good hub succeeds.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants
from support import hostile_hub as hostile
from support.hostile_hub import FIRST, LATER, on
from support.open_hub import COMMIT, GOOD, REPO, HostileHub, blob_name, serving, tell_the_truth
from support.world import World, listing

from minift import hub
from minift.errors import UserError

ANY = ("good", "refused")  # both are right
TAKEN, REFUSED = ("good",), ("refused",)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    world = World(tmp_path / "world", monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HOME", str(world.root / "home"))
    monkeypatch.setenv("MINIFT_WEIGHTS", str(world.weights))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world.cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(world.root / "hf" / "token"))
    monkeypatch.setattr(hub, "RETRY_SECONDS", 0.01, raising=False)
    monkeypatch.chdir(world.work)
    return world


def check(world: World, behave, allowed=ANY, parts=(), files=None, **options) -> HostileHub:
    """Download from a hub that misbehaves; then from the same hub, which tells the truth."""
    with serving(HostileHub(files or dict(GOOD), behave, **options)) as server:
        world.point_to(server.url)
        outcome = world.fetch()
        world.check()
        assert ("refused" if outcome.folder is None else "good") in allowed, outcome
        if outcome.folder is None:
            assert outcome.message.startswith(f"{REPO}: "), outcome
            assert outcome.message.isprintable(), outcome
            assert len(outcome.message) < 1000, outcome
            assert "; " in outcome.message, "no remedy"
            for part in parts:
                assert part in outcome.message, outcome
        else:
            assert outcome.files == GOOD
        sent, server.files, server.behave = server.sent, dict(GOOD), tell_the_truth
        assert world.fetch().files == GOOD
        world.check()
        server.sent = sent
    return server


def test_the_good_hub(world):
    server = check(world, tell_the_truth, TAKEN)
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
    "lock": "../../../../canary/evil.lock",
}


@pytest.mark.parametrize("when", [hostile.EVERY, FIRST, LATER], ids=["every", "first", "later"])
@pytest.mark.parametrize("name", PATHS)
def test_an_etag_is_no_path(name, when, world):
    value = PATHS[name].format(canary=world.canary)
    quoted = value if name in ("only quotes", "weak", "empty") else f'"{value}"'
    check(world, on("files", hostile.etag(quoted), when))


@pytest.mark.parametrize("sha", [*PATHS.values(), COMMIT[:7], COMMIT.upper(), COMMIT + "\n", 7])
@pytest.mark.parametrize("place", ["api", "header"])
def test_a_commit_is_no_path(sha, place, world):
    sha = sha.format(canary=world.canary) if isinstance(sha, str) else sha
    if place == "api":
        check(world, hostile.about(sha=sha), REFUSED)
    elif "\n" not in str(sha):
        check(world, on("file", hostile.header("X-Repo-Commit", sha)))


@pytest.mark.parametrize("sha", [None, ["x"], [], {}, True, 0.5, 10**50, "1" * 40 + "/../x"])
def test_a_commit_is_a_string(sha, world):
    check(world, hostile.about(sha=sha), REFUSED)


@pytest.mark.parametrize("name", [*PATHS.values(), "../config.json", "x/../../config.json", 3])
def test_names_of_files_are_no_paths(name, world):
    name = name.format(canary=world.canary) if isinstance(name, str) else name
    check(world, hostile.more_siblings({"rfilename": name, "size": 3}))
    check(world, hostile.each_sibling(rfilename=name), REFUSED)


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
    check(world, on("api", hostile.says(ODD_ANSWERS[name])), REFUSED)


@pytest.mark.parametrize("value", hostile.ODD_JSON, ids=lambda value: repr(value)[:20])
def test_odd_facts_about_files(value, world):
    check(world, hostile.about(siblings=value), REFUSED)
    check(world, hostile.about(siblings=[value]), REFUSED)
    check(world, hostile.more_siblings(value))
    check(world, hostile.more_siblings({"rfilename": value}))
    for key in ("size", "blobId", "lfs"):
        check(world, hostile.each_sibling(**{key: value}))
    for key in ("sha256", "size"):
        check(world, hostile.each_sibling(lfs={key: value}))


def test_100_000_files(world):
    check(world, hostile.more_siblings(*({"rfilename": f"{i}.bin"} for i in range(100_000))), TAKEN)


@pytest.mark.parametrize("last_is_true", [True, False])
def test_facts_given_twice(last_is_true, world):
    facts = HostileHub().about()
    lie, truth = '"sha": "../../../../canary"', f'"sha": "{COMMIT}"'
    both = f"{lie}, {truth}" if last_is_true else f"{truth}, {lie}"
    body = hostile.json.dumps(facts).replace(truth, both).encode()
    check(world, on("api", hostile.says(body)), ANY if last_is_true else REFUSED)


@pytest.mark.parametrize("place", ["api", *GOOD])
@pytest.mark.parametrize("flood", ["long", "bomb"])
def test_a_flood_is_neither_read_nor_unpacked(place, flood, world):
    behave = on(place, hostile.pages_of(200) if flood == "long" else hostile.gzip_bomb(200))
    tracemalloc.start()
    server = check(world, behave, REFUSED)
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
        hostile.header("Content-Range", "bytes 5-9/10"),
        hostile.no_http,
        hostile.endless_headers,
    ],
)
def test_a_body_that_is_not_the_file(file, body, world):
    server = check(world, on(file, body), ANY if file == "config.json" else ANY)
    assert server.sent < 60_000_000


def test_a_body_without_a_length_is_read_to_its_end(world):
    check(world, on("files", hostile.without_length), TAKEN)


@pytest.mark.parametrize("size", ["1", "131073", "-1", "9" * 30, "x", ""])
def test_the_announced_size_is_compared(size, world):
    check(world, on("file", hostile.header("X-Linked-Size", size)))


@pytest.mark.parametrize("spoil", [hostile.cut, hostile.reset, hostile.no_http])
@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "all"])
def test_broken_once_is_tried_again(place, spoil, world):
    check(world, on(place, spoil, FIRST), TAKEN)


def test_an_index_names_shards_elsewhere(world):
    for name in ("../../../../canary/model.safetensors", str(world.canary / "model.safetensors")):
        index = hostile.json.dumps({"weight_map": {"a": name}}).encode()
        files = {"config.json": GOOD["config.json"], hub.INDEX: index}
        with serving(HostileHub(files)) as server:
            world.point_to(server.url)
            assert "names the shard" in world.fetch().message


# ---- hubs that keep one waiting ---------------------------------------------------------------


@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "store"])
@pytest.mark.parametrize(
    "stall",
    [
        *map(hostile.stalls, ("start", "headers", "head", "body")),
        hostile.header_trickle,
        hostile.slow,
    ],
    ids=["start", "headers", "head", "body", "header_trickle", "slow"],
)
def test_a_hub_that_stalls_is_given_up(place, stall, world, short_patience):
    check(world, on(place, stall), REFUSED, ("check the network",))


# ---- statuses ----------------------------------------------------------------------------------

WHERE = ["api", "config.json", "model.safetensors", "store", "files"]


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("code", [401, 403, 404, 418, 429, 500, 502, 503, 504, 599])
def test_a_status_is_named(code, place, world):
    check(world, on(place, hostile.status(code)), REFUSED, (str(code),))


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(code, place, world):
    check(world, on(place, hostile.status(code), FIRST), TAKEN)


@pytest.mark.parametrize("wait", ["0", "1", "x", "-1", "0.5", ""])
def test_retry_after_is_respected(wait, world):
    check(world, on("model.safetensors", hostile.status(429, wait), FIRST), TAKEN)


@pytest.mark.parametrize("wait", ["1" + "0" * 9, "9" * 400, "Wed, 21 Oct 2099 07:28:00 GMT"])
@pytest.mark.parametrize("place", ["api", "model.safetensors"])
def test_nobody_waits_for_years(wait, place, world):
    check(world, on(place, hostile.status(429, wait)), REFUSED, ("429",))


def test_a_copy_in_the_cache_is_used_where_the_hub_fails(world):
    check(world, tell_the_truth, TAKEN)
    for behave in (hostile.status(503), hostile.reset, hostile.login_page):
        check(world, on("all", behave), TAKEN)


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
    check(world, on(place, hostile.redirect(target)), REFUSED)


def test_a_renamed_repository_is_found_by_a_relative_redirect(world):
    with serving(HostileHub(behave=hostile.renamed)) as server:
        world.point_to(server.url)
        assert world.fetch("o/old").files == GOOD


def test_the_token_stays_with_the_hub(world, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(HostileHub()) as other:
        server = check(world, tell_the_truth, TAKEN, store=other.url)
        assert {ask.token for ask in server.asked} == {"Bearer hf_secret"}
        assert [ask.kind for ask in other.asked if ask.method == "GET"] == ["store"]
        for place in ("api", "config.json"):
            target = f"{other.url}/o/x/resolve/main/config.json"
            check(world, on(place, hostile.redirect(target)))
        assert {ask.token for ask in other.asked} == {None}


def test_a_store_elsewhere_that_lies(world):
    with serving(HostileHub(behave=on("store", hostile.other_bytes))) as other:
        with serving(HostileHub(store=other.url)) as server:
            world.point_to(server.url)
            assert world.fetch().folder is None
            world.check()


# ---- what else is in the cache and in weights/ ---------------------------------------------------

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
    "a lock": (f"../.locks/models--o--x/{BLOBS['config.json']}.lock", "evil"),
    "a new lock": (f"../.locks/models--o--x/{BLOBS['config.json']}.lock", "new"),
    "all locks": ("../.locks/models--o--x", ""),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_link_is_not_followed(name, world):
    place, target = PLANTED[name]
    (world.repo / place).parent.mkdir(parents=True)
    (world.repo / place).symlink_to(world.canary / target)
    with serving(HostileHub()) as server:
        world.point_to(server.url)
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
    check(world, hostile.status(503), REFUSED)
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
    with serving(HostileHub(behave=behave)) as server:
        world.point_to(server.url)
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
    with serving(HostileHub()) as server:
        world.point_to(server.url)
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
    with serving(HostileHub(behave=on("store", hostile.pause(0.3)))) as server:
        world.point_to(server.url)
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(lambda _: world.fetch(), range(4)))
        assert [outcome.files for outcome in outcomes] == [GOOD] * 4, outcomes
        world.check()


# ---- at random ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_random_answers(seed, world):
    generator = random.Random(seed)
    for _ in range(30):
        check(world, hostile.at_random(generator, generator.choice([0.2, 0.5])))
        for path in sorted(world.cache.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else os.unlink(path)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMEOUT", "READ_TIMEOUT", "SLOW_SECONDS"):
        monkeypatch.setattr(hub, name, 0.5, raising=False)
    monkeypatch.setattr(hub, "RETRIES", 1, raising=False)
