"""The output directory of a run: when it may be used, replaced or resumed, and its lock.

options.json   the resolved options, digests of the data and the initial weights, and the folder
               that the run was started in
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

from minift.errors import UserError
from minift.files import (
    check_output_dir,
    lock_folder,
    read_json,
    remove_left_overs,
    write_json,
    writing,
)
from minift.models.base import PretrainedModel
from minift.options import flag_of
from minift.training.checkpoint import STATE
from minift.training.log import LOG
from minift.training.options import TrainOptions
from minift.weights import WEIGHTS

OPTIONS, METRICS = "options.json", "metrics.json"
# Options that a resumed run may change, because they do not change the result.
MAY_DIFFER = {"output_dir", "resume", "overwrite", "save_steps", "accept_changes", "workers"}
# Options that --accept-changes does not cover, because the saved moments and weights mean something
# only with the same parameters.
FIXED = {
    *("optimizer", "freeze_encoder", "freeze_embeddings", "freeze_layers", "reinit_layers"),
    *("bitfit", "lora_rank", "lora_alpha", "lora_target_modules", "from_scratch", "pooling"),
}


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
        raise UserError(
            f"{folder}: this run is finished; to train its model further, start a new run with "
            f"--model {folder} and another --output-dir; to run it again, replace --resume by "
            "--overwrite"
        )
    return folder


@contextmanager
def run_lock(folder: Path, options: TrainOptions, resolved: Mapping[str, Any]) -> Iterator[None]:
    """Lock the output directory for this run; `UserError` if another run has locked it.

    A run that is not resumed empties the directory first; one that ends with a `UserError` before
    it has logged or saved anything leaves nothing in it.  The system releases the lock when the
    process ends, even if it is killed.
    """
    made = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = lock_folder(folder)
    try:
        remove_left_overs(folder)
        if not options.resume:
            _empty(folder)
            write_options(folder, resolved)
            (folder / LOG).touch()
        try:
            yield
        except UserError:
            if not options.resume and holds_nothing(folder):
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


def holds_nothing(folder: Path) -> bool:
    """Whether a run has written no line of its log, no state and no model."""
    logged = (folder / LOG).stat().st_size
    return not logged and not any((folder / name).exists() for name in (STATE, WEIGHTS))


def write_options(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Write options.json; its relative paths belong to the current directory, which it names."""
    write_json(folder / OPTIONS, {**resolved, "started_in": os.getcwd()})


def check_same_options(
    folder: Path, resolved: Mapping[str, Any], remedy: str, accept_changes: bool = False
) -> None:
    """`UserError` that names the first option in which the run in a folder differs.

    Two paths of one file are equal.
    accept_changes: check only those options that no run can continue without.
    """
    before = read_json(folder / OPTIONS)
    started_in = before.get("started_in", "")
    for name, value in resolved.items():
        if name in MAY_DIFFER or (accept_changes and name not in FIXED):
            continue
        if before.get(name) != value and not _same_files(before.get(name), value, started_in):
            raise UserError(
                f"{folder / OPTIONS}: the run has {flag_of(name)} {before.get(name)!r}, "
                f"not {value!r}; {remedy}"
            )


def _same_files(before: Any, value: Any, started_in: str) -> bool:
    """Whether two values are paths, or lists of paths, of the same files."""
    if isinstance(before, list) and isinstance(value, list) and len(before) == len(value):
        return all(_same_files(*pair, started_in) for pair in zip(before, value, strict=True))
    if not (isinstance(before, str) and isinstance(value, str) and os.path.exists(value)):
        return False
    return os.path.realpath(os.path.join(started_in, before)) == os.path.realpath(value)


def check_same_start(folder: Path, digests: Mapping[str, str], options: TrainOptions) -> None:
    """`UserError` if the data or the initial weights of a run have changed since it started.

    With --accept-changes only for changes with which no run can continue: of the labels, whose
    order is that of the head's rows; and of initial weights that the rest of the run needs.
    """
    before = read_json(folder / OPTIONS).get("digests", {})
    needed = {"labels"}
    if options.l2_sp or options.wise_ft_alpha < 1 or options.freeze_encoder:
        needed.add("weights")
    for name, value in digests.items():
        if before.get(name) != value and (name in needed or not options.accept_changes):
            remedy = "accept the change with --accept-changes"
            if name in needed:
                remedy = "start again with --overwrite"
            raise UserError(
                f"{folder / OPTIONS}: the {name} have changed since the run started; restore them, "
                f"or {remedy}"
            )


def records_digest(records: Sequence[Any]) -> str:
    """SHA-256 of the contents of records, wherever they were read."""
    digest = hashlib.sha256()
    for record in records:
        contents = {name: value for name, value in vars(record).items() if name != "where"}
        digest.update(repr(contents).encode())
    return digest.hexdigest()


def digests(splits: Mapping[str, Sequence[Any]], model: PretrainedModel) -> dict[str, str]:
    """SHA-256 of a run's inputs, by name: "train data", ..., "labels", "weights".

    The labels are in the order of the head's rows.
    """
    labels = hashlib.sha256(repr(model.config.labels).encode()).hexdigest()
    found = {}
    for split, records in splits.items():
        found[f"{split} data"] = records_digest(records)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    return {**found, "labels": labels, "weights": digest.hexdigest()}
