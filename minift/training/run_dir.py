"""The output directory of a run: when it may be used, replaced or resumed, and its lock.

options.json   the resolved options, and digests of the data and the initial weights
log.jsonl      a line for each logged step and evaluation
metrics.json   the scores; present only if the run is finished
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from minift.errors import UserError
from minift.files import (
    check_output_dir,
    lock_folder,
    read_json,
    remove_left_overs,
    write_json,
    writing,
)
from minift.options import flag_of
from minift.training.log import LOG
from minift.training.options import TrainOptions

OPTIONS, METRICS = "options.json", "metrics.json"
# Options that a resumed run may change, because they do not change the result.
MAY_DIFFER = {"output_dir", "resume", "overwrite", "save_steps", "accept_changes", "workers"}


def choose_output_dir(options: TrainOptions, task: str) -> Path:
    """The output directory: --output-dir, or the first runs/TASK-N that does not exist.

    `UserError` for a folder that holds a run, without --resume or --overwrite; for --overwrite of a
    folder that is not a run's; and for --resume without an unfinished run.
    """
    folder = options.output_dir
    if folder is None:
        candidates = (Path("runs") / f"{task}-{i}" for i in range(1, 10**6))
        return next(path for path in candidates if not path.exists())
    check_output_dir(folder)
    # A killed process may leave temporary files, whose names begin with a dot.
    used = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    if used and not (options.resume or options.overwrite):
        raise UserError(
            f"{folder}: already holds a run; add --resume to continue it, --overwrite to replace "
            "it, or choose another --output-dir"
        )
    if used and options.overwrite and not (folder / OPTIONS).exists():
        raise UserError(
            f"{folder}: is not the output of a run ({OPTIONS} is missing), so --overwrite does not "
            "delete it; choose another --output-dir"
        )
    if options.resume and not (folder / OPTIONS).exists():
        raise UserError(f"{folder}: holds no run to resume; leave --resume out")
    if options.resume and (folder / METRICS).exists():
        raise UserError(f"{folder}: this run is finished; add --overwrite to run it again")
    return folder


@contextmanager
def run_lock(folder: Path, options: TrainOptions, resolved: Mapping[str, Any]) -> Iterator[None]:
    """Lock the output directory for this run; `UserError` if another run has locked it.

    A run that is not resumed empties the directory first; one that ends with a `UserError` before
    its first logged step leaves nothing in it.  The system releases the lock when the process ends,
    even if it is killed.
    """
    made = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = lock_folder(folder)
    try:
        remove_left_overs(folder)
        if not options.resume:
            _empty(folder)
            write_json(folder / OPTIONS, resolved)
            (folder / LOG).touch()
        try:
            yield
        except UserError:
            if not options.resume and not (folder / LOG).stat().st_size:
                _empty(folder)
                if made:
                    folder.rmdir()
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _empty(folder: Path) -> None:
    # options.json is deleted last, because it marks the folder as a run's.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == OPTIONS):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_same_options(folder: Path, resolved: Mapping[str, Any], remedy: str) -> None:
    """`UserError` that names the first option in which the run in a folder differs."""
    before = read_json(folder / OPTIONS)
    for name, value in resolved.items():
        if name not in MAY_DIFFER and before.get(name) != value:
            raise UserError(
                f"{folder / OPTIONS}: the run has {flag_of(name)} {before.get(name)!r}, "
                f"not {value!r}; {remedy}"
            )


def check_same_start(folder: Path, digests: Mapping[str, str]) -> None:
    """`UserError` if the data or the initial weights of a run have changed since it started."""
    before = read_json(folder / OPTIONS).get("digests", {})
    for name, value in digests.items():
        if before.get(name) != value:
            raise UserError(
                f"{folder / OPTIONS}: the {name} have changed since the run started; restore them, "
                "or accept the change with --accept-changes"
            )


def digests(splits: Mapping[str, Sequence[Any]], model: nn.Module) -> dict[str, str]:
    """SHA-256 of a run's inputs, by name: "train data", ..., "weights"."""
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
