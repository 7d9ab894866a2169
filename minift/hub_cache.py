"""The cache of hub repositories on disk, in the layout of `huggingface_hub`, and filling it.

In: a repository and a commit.  Out: a folder with its files.  Other programs find what minift put
there, and minift finds what they did.

    models--owner--name/
        refs/main                    the commit of a branch or tag
        blobs/ETAG                   contents, named by their checksums
        snapshots/COMMIT/config.json -> ../../blobs/ETAG
        .fetching-XXXXXXXX/          ours, while a file is on its way

Nothing that a hub says becomes a path before it is checked: a commit has 40 hexadecimal digits, a
checksum 40 or 64, and a file has the plain name that was asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants

from minift.errors import UserError, escape_fields
from minift.files import read_bytes, sync
from minift.terminal import ProgressBar
from minift.transfer import Connection, TransferError, log, wait_or_raise

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

COMMIT = re.compile("[0-9a-f]{40}")
ETAG = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
FILE_NAME = re.compile(r"\w[\w.,+=@ -]*")
# Parts of a branch's or tag's name, as git allows them, without those that are no plain names.
REVISION = re.compile(r"(?!.*\.\.)[^\s/.~^:?*\[\\\0-\x1f\x7f][^\s/~^:?*\[\\\0-\x1f\x7f]*")
SCRATCH = re.compile(r"\.fetching-[a-z0-9_]{8}")

MAX_SMALL_FILE = 100_000_000  # bytes of any file but weights; the largest tokenizer.json has 35 MB
MAX_UNANNOUNCED = 40_000_000  # bytes of a small file whose size the hub does not announce
PROGRESS_BYTES = 1_000_000  # a connection that brought so much may break again


@dataclass(frozen=True)
class Announced:
    """What a hub says of a file before it sends it.

    etag: 64 hexadecimal digits, the SHA-256 of the content, or 40, its SHA-1 as a blob of git.
    size: in bytes; None: not announced, of a small file.
    """

    etag: str
    size: int | None

    def matches(self, path: Path) -> bool:
        """Whether there is a file of this size, or if that is not known, of this checksum."""
        if not path.is_file():
            return False
        if self.size is None:
            return self.checksum(path) == self.etag
        return path.stat().st_size == self.size

    def checksum(self, path: Path) -> str:
        """The checksum of a file, of the same kind as `etag`."""
        head = f"blob {path.stat().st_size}\0".encode()
        git = len(self.etag) == 40
        digest = hashlib.sha1(head, usedforsecurity=False) if git else hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()


class CachedRepository:
    """A repository of the hub in the cache, whether anything of it is there or not."""

    def __init__(self, repo: str):
        """repo: owner/name, or name; a valid id."""
        self.repo = repo
        self.folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
        self._said = False

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit, as far as the cache knows it."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            commit = read_bytes(self.folder / "refs" / checked_revision(revision), 100).decode()
        except (UserError, ValueError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def set_commit(self, revision: str, commit: str) -> None:
        """Remember the commit of a branch or tag; `UserError` for links as in `find`."""
        if self.commit_of(revision) == commit:
            return
        ref = self.folder / "refs" / checked_revision(revision)
        real, folder = os.path.realpath(ref.parent), os.path.realpath(self.folder)
        if not Path(real).is_relative_to(folder):
            raise _leads_out(ref, real)
        with _writing(self.folder), scratch_folder(self.folder) as scratch:
            ref.parent.mkdir(parents=True, exist_ok=True)
            (scratch / "ref").write_text(commit, "ascii")
            os.replace(scratch / "ref", ref)

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def find(self, commit: str, name: str) -> Path | None:
        """The path of a file if its content is there.

        Raises `UserError` if it, or a folder on the way, is a link that leads out of this
        repository's folder.
        """
        path = self.snapshot(commit) / name
        real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(self.folder))
        blobs, snapshot = folder / "blobs", folder / "snapshots" / commit
        if blobs.is_symlink() or real.parent not in (blobs, snapshot):
            raise _leads_out(path, real)
        return path if real.is_file() else None

    def fetch(self, connection: Connection, commit: str, names: list[str]) -> Path:
        """The folder of a commit, with the files of these names; fetches those that are missing.

        The last file is there only if all are.
        Raises `TransferError` if the hub does not send what it announces, or the disk is full;
        `UserError` as `find` does.
        """
        announced = {}
        for name in names:
            with _about(name):
                announced[name] = self._announced(connection, commit, name)
        missing = [name for name in names if not self._has(commit, name, announced[name])]
        if not missing:
            return self.snapshot(commit)
        if not self._said:
            log(f"downloading {self.repo} from {connection.url}")
            self._said = True
        with _writing(self.folder), scratch_folder(self.folder) as scratch:
            needed = sum(announced[name].size or 0 for name in missing)
            if needed > (free := shutil.disk_usage(self.folder).free):
                raise TransferError(
                    f"its files take {needed / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free in "
                    f"{self.folder}",
                    "free disk space, or set HF_HOME to a folder on another disk",
                )
            for name in missing:
                blob = self.folder / "blobs" / announced[name].etag
                if blob.is_symlink() or not announced[name].matches(blob):
                    part = scratch / "part"
                    with _about(name):
                        _save(connection, self._path(commit, name), announced[name], part)
                    blob.parent.mkdir(exist_ok=True)
                    os.replace(part, blob)
                self._link(scratch, blob, self.snapshot(commit) / name)
        return self.snapshot(commit)

    def _path(self, commit: str, name: str) -> str:
        return f"{self.repo}/resolve/{commit}/{quote(name)}"

    def _announced(self, connection: Connection, commit: str, name: str) -> Announced:
        """What the hub announces of a file, checked."""
        if not FILE_NAME.fullmatch(name):
            raise TransferError("its name is not plain")
        answer = connection.head(self._path(commit, name))
        headers = answer.headers
        if headers.get("X-Repo-Commit") != commit:
            raise TransferError(f"it is of another commit than {commit}")
        etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
        etag = etag.removeprefix("W/").strip('"')
        if not ETAG.fullmatch(etag):
            raise TransferError(f"it is announced without a checksum, with the ETag {etag!r:.80}")
        length = None if "Location" in headers else headers.get("Content-Length")
        size = headers.get("X-Linked-Size") or length
        small = not name.endswith(".safetensors")
        if size is None and small:
            return Announced(etag, None)
        if not re.fullmatch("[0-9]{1,15}", size or ""):
            raise TransferError("it is announced without a size")
        if small and int(size) > MAX_SMALL_FILE:
            raise TransferError(f"it has {int(size):,} bytes, more than {MAX_SMALL_FILE:,}")
        return Announced(etag, int(size))

    def _has(self, commit: str, name: str, announced: Announced) -> bool:
        path = self.find(commit, name)
        if path is None or not announced.matches(path):
            return False
        return not path.is_symlink() or os.path.basename(os.path.realpath(path)) == announced.etag

    def _link(self, scratch: Path, blob: Path, path: Path) -> None:
        """Make a file of a snapshot: a link, or a copy where the system has no links."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = scratch / "new"
        try:
            new.symlink_to(os.path.relpath(blob, os.path.realpath(path.parent)))
        except OSError:
            shutil.copyfile(blob, new)
        os.replace(new, path)


def _leads_out(path: Path, real: object) -> UserError:
    return UserError(
        f"{path}: leads out of its repository's folder in the cache, to {real}; delete that link"
    )


def checked_revision(revision: str) -> str:
    """A revision that can be part of a path; `UserError` if git has no such names."""
    if len(revision) > 200 or not all(map(REVISION.fullmatch, revision.split("/"))):
        raise UserError(f"{revision!r:.80}: no name of a revision; give a branch, tag or commit")
    return revision


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` for files on their way, deleted afterwards.

    Folders that killed processes left there are deleted first.  A process locks its folder, so
    that nobody deletes it while the process lives; on Windows and on disks without locks, folders
    of killed processes stay.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(".fetching-*"):
        with suppress(BlockingIOError):
            if SCRATCH.fullmatch(path.name) and (lock := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
    folder, lock = _new_scratch_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _new_scratch_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=parent))
        # Before it is locked, another process may take it for one that was left, and delete it.
        with suppress(BlockingIOError):
            lock = _lock(folder)
            if folder.is_dir():
                return folder, lock
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None if there is no folder, or no locks.

    Raises `BlockingIOError` if another process holds it.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Let errors name the file."""
    try:
        yield
    except TransferError as error:
        error.reason = f"{escape_fields(name)[:80]}: {error.reason}"
        raise


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{folder} cannot be written: {error.strerror or error}",
            "free disk space, or set HF_HOME to another folder",
        ) from None


def _save(connection: Connection, path: str, announced: Announced, part: Path) -> None:
    """Fetch the file at a path of the hub into `part`, and check it.

    A connection that breaks is made again, and the file goes on where it broke.
    """
    size = announced.size
    limit = MAX_UNANNOUNCED if size is None else size
    furthest = failures = 0
    with open(part, "xb") as file:
        while True:
            done = file.tell()
            bar = ProgressBar(path.rpartition("/")[2], size, done, unit="B")
            try:
                for block in bar.over(connection.blocks(path, done, size=size, limit=limit), len):
                    if not block:  # the hub sends all of it again
                        file.truncate(0)
                        file.seek(0)
                    file.write(block)
                break
            except TransferError as error:
                failures = 1 if file.tell() - furthest >= PROGRESS_BYTES else failures + 1
                furthest = max(furthest, file.tell())
                wait_or_raise(error, failures)
                if size is None or error.status == 416:  # the hub cannot send the rest only
                    file.truncate(0)
                    file.seek(0)
    if (checksum := announced.checksum(part)) != announced.etag:
        kind = "sha256" if len(checksum) == 64 else "sha1 as a blob of git"
        raise TransferError(f"its {kind} is {checksum}, not {announced.etag} as announced")
    sync(part)


def make_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder in one step: `fill` writes a hidden folder beside it, which is renamed.

    If two processes do this at once, both end with the folder of the first.
    """
    with scratch_folder(folder.parent) as scratch:
        new = scratch / folder.name
        new.mkdir()
        fill(new)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder
