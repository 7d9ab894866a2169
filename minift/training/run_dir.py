"""The output folder: what a run may write there, when it may begin, and what it may delete.

`FILES` lists every file that a run writes.  Nothing else in the folder is ever changed or deleted:
no dot file, no file of the user's, no target of a link.

    the folder holds                       no flag    --resume     --overwrite
    EMPTY       nothing, dot files (*)     begins     refused      begins
    FOREIGN     other files, but no run    refused    refused      refused
    UNFINISHED  a run without metrics.json refused    continues    replaces the run's files
    FINISHED    a run with metrics.json    refused    refused      replaces the run's files

(*) and `lost+found`, which a new disk holds.

A folder holds a run if its options.json has the keys that every run writes, whatever its name says.

    run_lock   makes and locks the folder, and asks this table; a folder without a name is new
    started    asks it again when the inputs have been read, deletes a run that is to be replaced,
               and writes options.json
    experiment the same for a folder of many runs: a comparison, a sweep, a range test
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from minift.errors import UserError
from minift.files import (
    check_output_dir,
    lock_folder,
    read_bytes,
    remove_left_overs,
    write_json,
    writing,
)
from minift.hub import lasting_name
from minift.options import flag_of
from minift.terminal import print_line
from minift.training.checkpoint import STATE, STATE_FILES, finish_save
from minift.training.log import LOG
from minift.weights import WEIGHTS

OPTIONS, METRICS, FAILED = "options.json", "metrics.json", "failed.json"
ADAPTER = "adapter"  # folder of the LoRA adapter
FILES = (
    # of the run; metrics.json says that it is finished, so it is the first to be deleted
    *(METRICS, FAILED, LOG),
    # the model
    *("config.json", WEIGHTS, "generation_config.json", "manifest.json"),
    *("tokenizer.json", "tokenizer_config.json"),
    *(f"{ADAPTER}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")),
    # predictions, those of question answering also as the official script reads them
    *("predictions.dev.jsonl", "predictions.test.jsonl"),
    *("predictions.dev.json", "nbest_predictions.dev.json", "null_odds.dev.json"),
    *("predictions.test.json", "nbest_predictions.test.json", "null_odds.test.json"),
    # what a run continues from; the tokens of pre-training
    *(f"{STATE}/{name}" for name in STATE_FILES),
    "tokens.bin",
    OPTIONS,  # the last to be deleted, because it makes the folder a run's
)
# Of compare_decoding.py, in the folder of a summarizer; the first says that the others are ours.
DECODING_FILES = ("decoding.json", "decoding.md", "examples.md", "plot.png")
LOGS = "logs"  # folder of the printed output of each run of a sweep
# In the folder of a comparison, a sweep or a range test, beside the folders of its runs.
EXPERIMENT_FILES = (
    *("results.json", "table.md", "plot.png", "heatmap.png", "curves.png"),
    *("windows.md", "thresholds.md", "range.json", OPTIONS),
)
RUN_KEYS = {"output_dir", "seed", "learning_rate", "batch_size", "device", "started_in"}
MAX_OPTIONS_BYTES = 10_000_000

EMPTY, FOREIGN, UNFINISHED, FINISHED = "empty", "foreign", "unfinished", "finished"
REFUSED: Mapping[tuple[str, str], str] = {
    (EMPTY, "--resume"): "{folder}: holds no run to resume; leave --resume out",
    **dict.fromkeys(
        ((FOREIGN, flag) for flag in ("", "--resume", "--overwrite")),
        "{folder}: holds {found}, and no run of minift that could be replaced or continued; choose "
        "another --output-dir",
    ),
    **dict.fromkeys(
        ((UNFINISHED, ""), (FINISHED, "")),
        "{folder}: already holds a run; add --resume to continue it, --overwrite to replace it, or "
        "choose another --output-dir",
    ),
    (FINISHED, "--resume"): (
        "{folder}: this run is finished; to train its model further, start a new run with --model "
        "{folder} and another --output-dir; to run it again, replace --resume by --overwrite"
    ),
}


# ---- the state of a folder -----------------------------------------------------------------------


def state_of(folder: Path) -> str:
    """EMPTY, FOREIGN, UNFINISHED or FINISHED; a folder that is missing is EMPTY."""
    if not _visible(folder):
        return EMPTY
    options = read_options(folder)
    is_run = options.keys() >= RUN_KEYS and isinstance(options.get("digests", {}), dict)
    if not is_run:
        return FOREIGN
    return FINISHED if (folder / METRICS).is_file() else UNFINISHED


def read_options(folder: Path) -> dict[str, Any]:
    """The contents of options.json if it is a file that minift may have written; else {}."""
    path = folder / OPTIONS
    if path.is_symlink():
        return {}
    try:
        value = json.loads(read_bytes(path, MAX_OPTIONS_BYTES))
    except (UserError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(value, dict) and isinstance(value.get("started_in"), str)
    return value if is_ours else {}


def _visible(folder: Path) -> list[str]:
    """The names in a folder, without dot files and a new disk's; none if the folder is missing."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if not name.startswith(".") and name != "lost+found")


def _check_state(folder: Path, options: Any) -> None:
    """`UserError` if a run with these options may not begin in the folder."""
    flag = "--resume" if options.resume else "--overwrite" if options.overwrite else ""
    state = state_of(folder)
    if (state, flag) in REFUSED:
        found = _listed(_visible(folder))
        raise UserError(REFUSED[state, flag].format(folder=folder, found=found))
    _check_kinds(folder, FILES)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name:.60}" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _check_kinds(folder: Path, files: Collection[str]) -> None:
    """`UserError` for a folder in the place of a file that a run writes, or the other way round."""
    for path in (folder / name for name in files):
        parent = path.parent
        if parent != folder and parent.exists() and not (parent.is_dir() or parent.is_symlink()):
            raise UserError(f"{parent}: is a file, where a run has a folder; move it")
        if path.exists() and not (path.is_file() or path.is_symlink()):
            raise UserError(f"{path}: is no file, but a run writes a file there; move it")


# ---- taking a folder -----------------------------------------------------------------------------


@contextmanager
def run_lock(name: str, options: Any, *more: Any) -> Iterator[Path]:
    """Make and lock the folder of a run: --output-dir, or the first new runs/NAME-N.

    options, more: dataclasses of options, of which the first has `output_dir`, `resume` and
        `overwrite`, and all may have inputs.
    The system releases the lock when the process ends, even if it is killed.  A folder that was
    made and is still empty at the end is removed.
    `UserError` if another run has the folder, if the table above refuses it, and if an input is a
    file that the run may write.
    """
    files = (*FILES, *DECODING_FILES)
    with made(options.output_dir, name) as folder:
        _check_state(folder, options)  # first without the lock, which would hold up another run
        with locked(folder):
            check_inputs(folder, files, options, *more)
            _check_state(folder, options)
            yield folder


@contextmanager
def made(given: Path | None, name: str) -> Iterator[Path]:
    """Make a folder, the first new runs/NAME-N if none is given; if it stays empty, remove it."""
    check_output_dir(Path("runs") if given is None else given)
    new: list[Path] = []
    try:
        folder = _make(given, name, new)
        yield folder
    finally:
        for path in new:
            with suppress(OSError, UserError), locked(path):  # unless another run has it by now
                path.rmdir()


def _make(given: Path | None, name: str, new: list[Path]) -> Path:
    """The folder; those that were made are appended to `new`, the innermost first."""
    parent = Path("runs") if given is None else given
    with writing(parent):
        new += [path for path in (parent, *parent.parents) if not path.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        if given is not None:
            return given
        for number in count(1):
            folder = parent / f"{name}-{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                new.insert(0, folder)
                return folder
    raise AssertionError("there is always another number")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder; `UserError` if another process has locked it."""
    descriptor = lock_folder(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def started(folder: Path, options: Any, resolved: Mapping[str, Any]) -> Iterator[None]:
    """Begin or continue the run in a folder that is locked.

    resolved: the contents of options.json.
    A run that ends with a `UserError` or a signal before it has logged or saved anything leaves
    nothing.
    """
    _check_state(folder, options)
    finish_save(folder)
    _remove_left_overs(folder, (*FILES, STATE))
    if (folder / ADAPTER).is_symlink():
        (folder / ADAPTER).unlink()
    if not options.resume:
        _delete_run(folder, keep_options=True)
        write_options(folder, resolved)
    try:
        yield
    except (UserError, KeyboardInterrupt):
        if not options.resume and _holds_nothing(folder):
            _delete_run(folder)
        raise


def write_options(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Write options.json; its relative paths belong to the current directory, which it names."""
    write_json(folder / OPTIONS, {**resolved, "started_in": os.getcwd()})


def _holds_nothing(folder: Path) -> bool:
    """Whether a run has written no line of its log, no state and no model."""
    log = folder / LOG
    logged = log.exists() and log.stat().st_size
    return not logged and not any((folder / name).exists() for name in (STATE, WEIGHTS))


def _delete_run(folder: Path, keep_options: bool = False) -> None:
    """Delete the files of a run, but nothing else.

    keep_options: for options.json that will be replaced, so that the folder stays a run's even if
        the process is killed.
    """
    files = [name for name in FILES if not (keep_options and name == OPTIONS)]
    if (folder / DECODING_FILES[0]).is_file():
        files += DECODING_FILES
    _delete(folder, files)


def _remove_left_overs(folder: Path, files: Sequence[str]) -> None:
    """Delete the temporary files for these files, which killed processes left."""
    for parent in {(folder / name).parent for name in files}:
        if parent == folder or not parent.is_symlink():
            remove_left_overs(parent, {name.rpartition("/")[2] for name in files})


def _delete(folder: Path, files: Sequence[str]) -> None:
    """Delete files by their names, and the folders that held them, if they are empty then."""
    inner = {name.partition("/")[0] for name in files if "/" in name}
    with writing(folder):
        for name in inner:
            if (folder / name).is_symlink():
                (folder / name).unlink()
        for name in files:
            with suppress(FileNotFoundError, NotADirectoryError):
                (folder / name).unlink()
        for name in inner:
            with suppress(OSError):
                (folder / name).rmdir()


@contextmanager
def decoding_results(folder: Path, task_options: Any) -> Iterator[None]:
    """Lock the folder of a run whose `DECODING_FILES` are to be written.

    `UserError` if some of them are there without the first, so that they are somebody's, and if an
    input is one of them.
    """
    with locked(folder):
        check_inputs(folder, DECODING_FILES, task_options)
        _check_kinds(folder, DECODING_FILES)
        there = [name for name in DECODING_FILES if os.path.lexists(folder / name)]
        if there and there[0] != DECODING_FILES[0]:
            raise UserError(
                f"{folder / there[0]}: is not minift's and would be replaced; move it, or choose "
                "another --output-dir"
            )
        _remove_left_overs(folder, DECODING_FILES)
        yield


# ---- inputs --------------------------------------------------------------------------------------


def check_inputs(folder: Path, files: Sequence[str], *options: Any) -> None:
    """`UserError` if an input lies in the folder under a name that a run may write or delete.

    options: dataclasses of options.
    """
    bases = {Path(os.path.abspath(folder)), Path(os.path.realpath(folder))}
    written = {base / name for base in bases for name in files}
    folders = {path.parent for path in written}  # a model in one of these has such files
    for flag, path in (pair for one in options for pair in _inputs(one)):
        inside: list[Path] = []
        with suppress(OSError):  # a file, or a name that is no usable one; its reader refuses it
            inside = sorted(path.iterdir())
        hit = any(place in written or place in folders for place in _places(path))
        if hit or any(place in written for file in inside for place in _places(file)):
            raise UserError(
                f"{flag} {path}: lies in {folder} under a name that a run writes there, and would "
                "be lost; move it, or choose another --output-dir"
            )


def _inputs(options: Any) -> Iterator[tuple[str, Path]]:
    """The flags and paths of all files and models that options name."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "model" and value:
            yield flag_of(field.name), Path(lasting_name(value)[0])
        elif field.name != "output_dir":
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path):
                    yield flag_of(field.name), path


def _places(path: Path) -> Iterator[Path]:
    """Where a path leads: its own place, and those of the links that it goes through."""
    yield Path(os.path.abspath(path))
    for _ in range(40):  # more links in a row are no usable path
        path = Path(os.path.realpath(path.parent), path.name)
        yield path
        if not os.path.islink(path):
            return
        path = path.parent / os.readlink(path)


# ---- folders of many runs ------------------------------------------------------------------------


@contextmanager
def experiment(given: Path | None, name: str, runs: Sequence[str], *options: Any) -> Iterator[Path]:
    """Make and lock the folder of an experiment; each of its runs claims a folder in it.

    name: what options.json calls the experiment; without --output-dir the folder is runs/NAME-N.
    runs: the names of its runs' folders.
    options: dataclasses of options, which name the inputs.
    An experiment continues in its own folder.  It leaves no folder without a run or a result.
    `UserError` for a folder with anything else in it, or in the place of a run.
    """
    with made(given, name) as folder, locked(folder):
        inner = [f"{run}/{file}" for run in runs for file in FILES]
        logs = [f"{LOGS}/{run}.log" for run in runs]
        check_inputs(folder, [*EXPERIMENT_FILES, *logs, *inner], *options)
        found = _visible(folder)
        if found and read_options(folder).get("experiment") != name:
            raise UserError(
                f"{folder}: holds {_listed(found)}, and nothing of {name} that could be continued; "
                "choose another --output-dir"
            )
        _check_kinds(folder, [*EXPERIMENT_FILES, *logs])
        if (folder / LOGS).is_symlink():
            raise UserError(
                f"{folder / LOGS}: is a link; remove it, or choose another --output-dir"
            )
        for run in (folder / run for run in runs):
            check_output_dir(run)
            if run.is_symlink() or state_of(run) == FOREIGN:
                what = "is a link" if run.is_symlink() else f"holds {_listed(_visible(run))}"
                raise UserError(
                    f"{run}: {what}, and is not the run that belongs there; move it, or choose "
                    "another --output-dir"
                )
        _remove_left_overs(folder, [*EXPERIMENT_FILES, *logs])
        write_options(folder, {"experiment": name})
        if given is None and runs:
            print_line(f"to continue after an interruption, repeat with --output-dir {folder}")
        try:
            yield folder
        finally:
            for run in {*runs}.difference(found):
                with suppress(OSError):
                    (folder / run).rmdir()  # of a process that was ended before it wrote anything
            if not found and not {*_visible(folder)} - {OPTIONS, LOGS}:
                _delete(folder, [*logs, OPTIONS])


def record_failure(folder: Path, resolved: Mapping[str, Any], reason: str) -> None:
    """Write failed.json into the folder of a run, so that a comparison does not run it again."""
    with made(folder, folder.name), locked(folder):
        if state_of(folder) == EMPTY:  # it failed before it had logged anything
            write_options(folder, resolved)
        write_json(folder / FAILED, {"error": reason})
