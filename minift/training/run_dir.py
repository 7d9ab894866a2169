"""The output directory of a run: whose it is, and which run may go on in it.

options.json   what was asked for, and digests of the data and the weights that it began with
log.jsonl      while it runs, then
metrics.json   when it is finished
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from minift.errors import InputError
from minift.files import read_json, remove_left_overs, write_json
from minift.training.log import LOG
from minift.training.options import TrainOptions, as_dict

OPTIONS, METRICS = "options.json", "metrics.json"
# Options that may differ between a run and its resumption: they do not change the result.
FREE = {"output_dir", "resume", "overwrite", "save_every", "accept_changes", "workers"}


def output_folder(options: TrainOptions, task: str) -> Path:
    """Where the run goes; refused if a run is there that nobody asked to resume or replace."""
    folder = options.output_dir
    if folder is None:
        candidates = (Path("runs") / f"{task}-{i}" for i in range(1, 10**6))
        return next(path for path in candidates if not path.exists())
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give --output-dir a folder")
    # A killed process may leave temporary files, whose names begin with a dot.
    used = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    if used and not (options.resume or options.overwrite):
        raise InputError(
            f"{folder}: already holds a run; add --resume to go on with it, --overwrite to replace "
            "it, or choose another --output-dir"
        )
    if used and options.overwrite and not (folder / OPTIONS).exists():
        raise InputError(
            f"{folder}: is not the output of a run ({OPTIONS} is missing), so --overwrite does not "
            "delete it; choose another --output-dir"
        )
    if options.resume and not (folder / OPTIONS).exists():
        raise InputError(f"{folder}: holds no run to resume; leave --resume out")
    if options.resume and (folder / METRICS).exists():
        raise InputError(f"{folder}: this run is finished; add --overwrite to run it again")
    return folder


@contextmanager
def claimed(folder: Path, options: TrainOptions, resolved: Mapping[str, Any]) -> Iterator[None]:
    """Within, the output directory is this run's alone; `InputError` if another one works there.

    The system gives the folder free when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder}: another run works there now; wait for it, or choose another "
                "--output-dir"
            ) from None
        remove_left_overs(folder)
        if not options.resume:
            # options.json last: until then the folder is known as a run's.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == OPTIONS):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            write_json(folder / OPTIONS, resolved)
            (folder / LOG).touch()
        yield
    finally:
        os.close(descriptor)


def resolve(task_options: Any, options: TrainOptions) -> dict[str, Any]:
    """All options of a run, as they are printed and stored, the rate that it takes included."""
    return as_dict(task_options, options.with_rate(task_options.usual_rate))


def check_same_options(folder: Path, resolved: Mapping[str, Any], remedy: str) -> None:
    """`InputError` naming an option if the run in a folder was another one."""
    before = read_json(folder / OPTIONS)
    for name, value in resolved.items():
        if name not in FREE and before.get(name) != value:
            raise InputError(
                f"{folder / OPTIONS}: the run has --{name.replace('_', '-')} {before.get(name)!r}, "
                f"not {value!r}; {remedy}"
            )


def check_same_start(folder: Path, digests: Mapping[str, str]) -> None:
    """`InputError` if the data or the weights that a run began with are not what they were."""
    before = read_json(folder / OPTIONS).get("digests", {})
    for name, value in digests.items():
        if before.get(name) != value:
            raise InputError(
                f"{folder / OPTIONS}: the {name} of the run had another content than now; restore "
                "it, or say with --accept-changes that the change is meant"
            )


def digests(splits: Mapping[str, Sequence[Any]], model: nn.Module) -> dict[str, str]:
    """What a run begins with -> SHA-256 of its content: "train data", ..., "weights"."""
    found = {}
    for split, records in splits.items():
        digest = hashlib.sha256()
        for record in records:
            digest.update(repr(record).encode())
        found[f"{split} data"] = digest.hexdigest()
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    return {**found, "weights": digest.hexdigest()}
