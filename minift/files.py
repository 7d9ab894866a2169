"""JSON in and out, and writes that are either whole or not there at all.

A folder that was saved has a manifest.json: the size and the SHA-256 of its files.  A file that is
no longer what was saved, because a disk failed or a process died between two files, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from minift.errors import InputError

MANIFEST = "manifest.json"


def read_json(path: Path) -> Any:
    """The value in a JSON file; an `InputError` that names the file (and line) if it has none."""
    check_whole(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); restore the file"
        ) from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError(f"{path}: not a JSON file in UTF-8; restore the file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then put it in place in one step.

    Whoever looks at `path`, even after a crash, sees the old file or the new one, never a part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # as new files have here; not every library keeps to it
            write(temporary)
            temporary.chmod(mode)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong within, a full disk above all, becomes an `InputError` naming the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be written ({reason}); make room for it, or choose another folder; "
            "what was saved before stays"
        ) from None


def require_space(folder: Path, size: int) -> None:
    """`InputError` if the disk of a folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(
            f"{folder}: {size / 1e6:.0f} MB are to be written, but {free / 1e6:.0f} MB are free; "
            "make room for it, or choose another folder; what was saved before stays"
        )


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_left_overs(folder: Path) -> None:
    """Temporary files of processes that were killed while they wrote here."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Say in manifest.json what these files of the folder are; written last."""
    files = {}
    for name in names:
        path = folder / name
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MANIFEST, {"files": files})


def check_whole(path: Path) -> None:
    """`InputError` if the manifest beside a file says that something else was saved."""
    manifest = path.with_name(MANIFEST)
    if path.name == MANIFEST or not manifest.is_file() or not path.is_file():
        return
    value = read_json(manifest)
    files = value.get("files") if isinstance(value, dict) else None
    saved = files.get(path.name) if isinstance(files, dict) else None
    if not isinstance(saved, dict):
        return  # not one of the files that were saved together
    if saved.get("bytes") != path.stat().st_size or saved.get("sha256") != sha256(path):
        raise InputError(
            f"{path}: is not what was saved, as {MANIFEST} beside it says; the run that wrote it "
            f"was interrupted, which --resume mends, or the file is damaged: restore it (if the "
            f"change is meant, delete {MANIFEST})"
        )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
