"""Opening files that others made, JSON, atomic writes, and checksums.

A saved folder has a manifest.json with the size and the SHA-256 of its files.  Reading refuses a
file that differs from its entry, because a disk failed or a process died between two files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from safetensors import SafetensorError

from minift.errors import UserError
from minift.strict_json import MAX_VALUES, parse_json
from minift.terminal import escape_json, json_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MANIFEST = "manifest.json"
SHA256 = re.compile("[0-9a-f]{64}")
MAX_BYTES = 500_000_000  # of a file that is read whole; the largest tokenizer.json in use has 35 MB
MAX_JSON_BYTES = 20_000_000
MAX_SHARDS = 1000  # of one model
MAX_NAME = 255  # characters of a file's name, on most systems
TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{16}\.[a-z]+")  # of `temporary_name`
LONGEST_NAME = "n" * 150  # more than the path of any file that is written in an output folder


def is_present(path: Path) -> bool:
    """Whether a saved folder holds a name, be it a file, a folder, or a link to nowhere.

    `Path.exists` takes a dangling link, or a file that may not be read, for absence, and the reader
    would go on without it.  Here it is present, and `open_regular` says what is wrong.
    Raises `UserError` if the name is absent, but the manifest lists it.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        if _manifest_entry(path) is not None:
            raise UserError(
                f"{path}: is missing, but {MANIFEST} lists it; restore the file, or delete "
                f"{MANIFEST} if it is meant to be gone"
            ) from None
        return False
    except (OSError, ValueError):
        pass
    return True


def open_regular(path: Path, max_bytes: int | None = None) -> BinaryIO:
    """Open a file that somebody else made, for reading bytes.

    Every such file is opened here.  A FIFO would wait for a writer for ever, and a device such as
    /dev/zero has no end, so only regular files are read.

    max_bytes: the largest size; None: no limit.
    Raises `UserError` for anything that is not a readable regular file of at most that size.
    """
    try:
        # Without O_NONBLOCK the opening of a FIFO would wait.  Windows has neither.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        remedy = "its link points nowhere" if os.path.islink(path) else "check the path"
        raise UserError(f"{path}: no such file; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from None
    status = os.fstat(descriptor)
    problem = None
    if stat.S_ISDIR(status.st_mode):
        problem = "is a directory; give a file"
    elif not stat.S_ISREG(status.st_mode):
        problem = "is a pipe or a device, not a file; write its contents to a file, and give that"
    elif max_bytes is not None and status.st_size > max_bytes:
        problem = f"has {status.st_size:,} bytes, more than the {max_bytes:,} that minift reads"
        problem += "; give another file"
    if problem is not None:
        os.close(descriptor)
        raise UserError(f"{path}: {problem}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The contents of a file that somebody else made; `UserError` as `open_regular`."""
    with open_regular(path, max_bytes) as file:
        try:
            return file.read(max_bytes)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the disk") from None


def read_saved(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The contents of a file of a saved folder; `UserError` if they differ from the manifest's."""
    entry = _manifest_entry(path)
    data = read_bytes(path, max_bytes)
    if entry not in (None, (len(data), hashlib.sha256(data).hexdigest())):
        raise _differs(path)
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_VALUES) -> Any:
    """The value in a JSON file of a saved folder; see strict_json.py.

    Raises `UserError`, which names the file (and line), as `read_saved` and for invalid JSON.
    """
    data = read_saved(path, max_bytes)
    try:
        return parse_json(data, max_values)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); restore the file"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a JSON file in UTF-8; restore the file") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; restore the file") from None


def read_json_object(
    path: Path, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_VALUES
) -> dict[str, Any]:
    """As `read_json`, and `UserError` for anything but an object."""
    value = read_json(path, max_bytes, max_values)
    if not isinstance(value, dict):
        raise UserError(f"{path}: it is not a JSON object; restore the file")
    return value


def shard_names(index: Path) -> list[str]:
    """The files that a model.safetensors.index.json names; `UserError` if they are no plain names.

    Their names are free: model-00001-of-00002.safetensors, pytorch_model-00001.safetensors, ...
    """
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index}: has no 'weight_map'; restore the file")
    names = set()
    for name in shards.values():
        plain = isinstance(name, str) and Path(name).name == name and len(name) <= MAX_NAME
        if not plain or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: names the shard {name!r:.80}, which is no safetensors file; "
                "restore the file"
            )
        names.add(name)
    if len(names) > MAX_SHARDS:
        raise UserError(
            f"{index}: names {len(names):,} shards; minift reads {MAX_SHARDS:,}; give another model"
        )
    return sorted(names)


def temporary_name(path: Path) -> Path:
    """An unguessable name beside `path`, `.NAME.PID-RANDOM.tmp`; `remove_left_overs` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in one step: `write` fills a temporary file, which then takes the name `path`.

    Readers of `path`, even after a crash, see the old file or the new one, never a part.  A link of
    that name is replaced, and its target stays.  The temporary file is in a new folder that only
    this user may enter, so that nobody can plant a link for it.
    Raises `UserError` if the file cannot be written.
    """
    private = temporary_name(path)
    temporary = private / path.name
    with writing(path):
        private.mkdir(mode=0o700)
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # the umask's; some libraries set another mode
            write(temporary)
            temporary.chmod(mode)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            shutil.rmtree(private, ignore_errors=True)


def open_to_append(path: Path) -> TextIO:
    """Open a file of our own for appending text, but no link, whose target may be somebody's."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", buffering=1)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of writing, such as a full disk, into a `UserError` that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be written ({reason}); free disk space or choose another folder; "
            "files saved before are kept"
        ) from None


def check_output_dir(folder: Path) -> None:
    """Raise `UserError` unless a folder exists and is writable, or can be made.

    Called before a run starts, so that an unusable folder does not end it hours later.
    """
    shown = f"{str(folder)!r:.200}"
    try:
        str(folder).encode()
        _is_there(folder / LONGEST_NAME)
        existing = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
    except UnicodeEncodeError:
        raise UserError(f"{shown}: is not UTF-8; choose another --output-dir") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{shown}: is no usable --output-dir ({reason}); choose another") from None
    if not existing.is_dir():
        what = "is a file" if existing.exists() else "is a link that points nowhere"
        where = what if existing == folder else f"{existing} {what}"
        raise UserError(f"{folder}: {where}; give --output-dir a folder")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{existing}: is not readable and writable; choose another --output-dir")


def _is_there(path: Path) -> bool:
    """Whether a path exists, a link that points nowhere included; `OSError` for a bad name."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def require_space(folder: Path, size: int) -> None:
    """Raise `UserError` if the disk of a folder has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{folder}: saving takes {size / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free; "
            "free disk space or choose another folder; files saved before are kept"
        )


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the descriptor that is returned is closed, or the process ends.

    None where folders cannot be locked, as on Windows and some network drives.
    Raises `UserError` if another process has the lock.
    """
    if fcntl is None:
        return None
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    is_free = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another run may have made it, failed, and removed it just before it was locked here.
        is_free = folder.exists() and os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except BlockingIOError:
        is_free = False
    except OSError:
        os.close(descriptor)
        return None
    if not is_free:
        os.close(descriptor)
        raise UserError(
            f"{folder}: another run is using it now; wait for that run, or choose another "
            "--output-dir"
        )
    return descriptor


def sync(path: Path) -> None:
    """Flush a file or folder to the disk (fsync); on Windows nothing is flushed."""
    if fcntl is None:  # Windows opens no folders, and flushes only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_overs(folder: Path, names: Collection[str], kind: str = "tmp") -> list[Path]:
    """The temporary folders for files of these names that processes left when they were killed.

    kind: the end of their names.  Only names that `temporary_name` makes count, and no links.
    """
    found = []
    for path in sorted(folder.glob(f".*.{kind}")):
        match = TEMPORARY.fullmatch(path.name)
        if match and match["name"] in names and path.is_dir() and not path.is_symlink():
            found.append(path)
    return found


def remove_left_overs(folder: Path, names: Collection[str]) -> None:
    """Delete the `left_overs` of killed processes."""
    for path in left_overs(folder, names):
        shutil.rmtree(path, ignore_errors=True)


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write manifest.json with the sizes and checksums of these files; call it last."""
    files = {}
    for name in names:
        path = folder / name
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MANIFEST, {"files": files})


def check_whole(path: Path) -> None:
    """Raise `UserError` if a file differs from its entry in the manifest beside it."""
    entry = _manifest_entry(path)
    if entry is None or not is_present(path):
        return
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if entry[0] != size or entry[1] != sha256(path):
        raise _differs(path)


def _manifest_entry(path: Path) -> tuple[int, str] | None:
    """The size and the SHA-256 of a file by the manifest beside it; None if it is not listed.

    Raises `UserError` for a damaged manifest, which would otherwise switch the check off.
    """
    manifest = path.with_name(MANIFEST)
    if path.name == MANIFEST or not os.path.lexists(manifest):
        return None
    files = read_json_object(manifest).get("files")
    if not isinstance(files, dict):
        raise UserError(
            f"{manifest}: has no 'files'; restore it, or delete it if it is not minift's"
        )
    if path.name not in files:
        return None
    entry = files[path.name]
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (0, 0)
    # A bool is an int, but no size.
    if type(size) is not int or not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise UserError(
            f"{manifest}: its entry of {path.name!r} has no size and SHA-256; restore it, or "
            "delete it to go without the check"
        )
    return size, digest


def _differs(path: Path) -> UserError:
    return UserError(
        f"{path}: differs from the checksum in {MANIFEST}: either its run was interrupted, or "
        f"the file was damaged or edited; continue the run with --resume, restore the file, or "
        f"delete {MANIFEST} if the edit is intended"
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    r"""Write a file in UTF-8; half of a surrogate pair, as in an odd file name, becomes \udcff."""
    data = text.encode("utf-8", "backslashreplace")  # in JSON the escape means the same
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    write_text(path, escape_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json_line(row) + "\n" for row in rows))
