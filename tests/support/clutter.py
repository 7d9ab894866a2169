"""What people keep in folders, and listings that show what has changed in them.

A listing holds, for each path below a folder, its type, its mode, and the contents of a file or the
target of a link.  No link is followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Listing = dict[str, tuple[str, int, str]]  # path below a folder -> type, mode, contents

# Names that a run of some task writes.  In a run's folder a regular file of such a name is the
# run's, and so is a link, though not its target; a FIFO or a folder of that name, and anything in a
# folder without a run, is somebody else's.
RUN_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "manifest.json", "metrics.json", "log.jsonl", "failed.json"),
    *("predictions.dev.jsonl", "predictions.test.jsonl", "predictions.test.json", "tokens.bin"),
    *("null_odds.dev.json", "options.json", "state", "adapter"),
)
# And those of comparisons, of other programs, and names that a later version may write.
RUN_NAMES = (
    *(name for name in RUN_FILES if name not in ("options.json", "state")),
    *("results.json", "table.md", "plot.png", "README.md", "report.html", "vocab.txt"),
)
OTHER_NAMES = (
    *("notes.txt", "with blank.txt", "ünï.txt", "-rf", "*", "two\nlines", "train.tsv", "data.json"),
    *("state.json", "predictions.csv", "model.safetensors.bak", "config.json~", "caf\udce9.txt"),
    *("events.out.tfevents", "pip.py", "Makefile", "state.old", "options.json.orig"),
)
DOT_NAMES = (".env", ".gitkeep", ".gitignore", ".DS_Store", ".tmp", ".notes.txt.swp", ".dvc")
# Almost the names of temporary files, which end in a process id and .tmp.
NEAR_NAMES = (".config.json.tmp", ".model.safetensors.abc.tmp", ".cache.12.tmp", ".state", ".x.new")
# Names that are close to those of temporary files and folders, without being minift's.
TEMPORARY_NAMES = (".config.json.123.tmp", ".options.json.4711.tmp", ".log.jsonl.1.tmp")
TEMPORARY_FOLDERS = (".state.new", ".state.old", ".state.123.new")


def is_temporary(path: str) -> bool:
    """Whether a part of a path has a name of minift's temporary files and folders."""
    return any(part.startswith(".") for part in path.split("/"))


def listing(place: Path) -> Listing:
    """Everything below a folder."""
    found: Listing = {}
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind, contents = "other", ""
            if stat.S_ISLNK(status.st_mode):
                kind, contents = "link", os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                kind = "folder"
            elif stat.S_ISREG(status.st_mode):
                kind = "file"
                with open(path, "rb") as file:
                    contents = hashlib.sha1(file.read()).hexdigest()
            elif stat.S_ISFIFO(status.st_mode):
                kind = "FIFO"
            mode = stat.S_IMODE(status.st_mode)
            found[os.path.relpath(path, place)] = (kind, mode, contents)
    return found


def remove(place: Path) -> None:
    """Delete a folder of any kind, read-only ones inside included."""
    for folder, _, _ in os.walk(place):
        os.chmod(folder, 0o755)
    shutil.rmtree(place, ignore_errors=True)


def is_taken(path: Path) -> bool:
    """Whether there is anything, even a link that leads nowhere."""
    return os.path.lexists(path)


def put(path: Path, contents: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contents, encoding="utf-8")


def put_folder(path: Path, draw: Random) -> None:
    """A folder of somebody's, which may be empty or hold others."""
    path.mkdir()
    for name in draw.sample(OTHER_NAMES, draw.randrange(3)):
        (path / name).write_text(f"{draw.random()}\n")
    if draw.random() < 0.3:
        put(path / "deep" / "er" / ".keep", "")
    if draw.random() < 0.1:
        path.chmod(0o555)


def put_link(path: Path, draw: Random, elsewhere: Path) -> None:
    """A link to a file or a folder elsewhere, to nothing, or to itself."""
    target = elsewhere / draw.choice(("file.txt", "folder", "nothing"))
    path.symlink_to(draw.choice((target, os.path.relpath(target, path.parent), path.name)))


def put_special(path: Path, draw: Random, elsewhere: Path) -> None:
    """Something that is no regular file: a link, a FIFO or a folder."""
    kind = draw.choice(("link", "link", "FIFO", "folder"))
    if kind == "link":
        put_link(path, draw, elsewhere)
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        put_folder(path, draw)


def put_anything(path: Path, draw: Random, elsewhere: Path) -> None:
    """A file, which may be read-only or have another name elsewhere, or something special."""
    kind = draw.choice(("file", "file", "file", "read-only", "hard link", "special", "special"))
    if kind == "hard link":
        os.link(elsewhere / "file.txt", path)
    elif kind == "special":
        put_special(path, draw, elsewhere)
    else:
        path.write_text(draw.choice(("", "{}", "[1]\n", "some text\n", f"{draw.random()}\n")))
        if kind == "read-only":
            path.chmod(draw.choice((0o400, 0o444)))


def put_backup(folder: Path, backup: Path) -> None:
    """Hard links to all files of a folder, as `cp -al` makes them."""
    shutil.copytree(folder, backup, symlinks=True, copy_function=os.link)


def put_repository(folder: Path) -> None:
    put(folder / ".git" / "HEAD", "ref: refs/heads/main\n")
    put(folder / ".git" / "objects" / "4b" / "825dc642cb6eb9a060e54bf8d69288fbee4904", "x")


def put_dots(folder: Path, draw: Random, elsewhere: Path) -> None:
    """Dot files and folders whose names no run needs."""
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(("repository", "environment", "name", "name", "near"))
        names = NEAR_NAMES if kind == "near" else DOT_NAMES
        name = draw.choice(names)
        if kind == "repository" and not is_taken(folder / ".git"):
            put_repository(folder)
        elif kind == "environment" and not is_taken(folder / ".venv"):
            (folder / ".venv" / "bin").mkdir(parents=True)
            (folder / ".venv" / "bin" / "python").symlink_to("/usr/bin/env")
        elif not is_taken(folder / name):
            put_anything(folder / name, draw, elsewhere)


def put_clutter(folder: Path, draw: Random, elsewhere: Path, beside_run: bool = False) -> None:
    """Somebody's files, some of them with names that a run writes.

    beside_run: the folder is a run's, so regular files of those names would be taken for its own.
    """
    for _ in range(draw.randint(1, 4)):
        kind = draw.choice(("other", "other", "run", "folder", "dots", "temporary"))
        if kind == "other":
            name, make = draw.choice(OTHER_NAMES), put_anything
        elif kind == "run":
            name, make = draw.choice(RUN_NAMES), put_special if beside_run else put_anything
        elif kind == "temporary":
            name = draw.choice(TEMPORARY_NAMES + TEMPORARY_FOLDERS)
            make = put_special if name in TEMPORARY_FOLDERS else put_anything
        elif kind == "dots":
            put_dots(folder, draw, elsewhere)
            continue
        else:
            name = draw.choice(("state", "logs", "data", "classification-seed1", "tables"))
            if name == "state" and not is_taken(folder / name):
                inner = "notes.txt" if beside_run else draw.choice(("notes.txt", "state.json"))
                put(folder / name / inner, "mine\n")
            make = put_special
        if not is_taken(folder / name):
            make(folder / name, draw, elsewhere)


def put_foreign_options(folder: Path, draw: Random, elsewhere: Path, of_a_run: Path) -> None:
    """An options.json that no run wrote; of_a_run: one that a run wrote, elsewhere."""
    path = folder / "options.json"
    fields: dict[str, Any] = {"theme": "dark", "seed": 1, "output_dir": "build", "epochs": 3}
    for name in draw.sample(sorted(fields), 2):
        del fields[name]
    texts = ("", "{}", "[]", '"text"', "{", "null", "1" * 5000, "[" * 5000, json.dumps(fields))
    makers: list[Callable[[], object]] = [
        *(lambda text=text: path.write_text(text) for text in (*texts, json.dumps(fields))),
        lambda: path.write_bytes(b"\xff\xfe{\x00}\x00"),
        lambda: put_special(path, draw, elsewhere),
        lambda: path.symlink_to(shutil.copy(of_a_run, elsewhere / "options.json")),
    ]
    draw.choice(makers)()
    if draw.random() < 0.8:
        put_clutter(folder, draw, elsewhere)
