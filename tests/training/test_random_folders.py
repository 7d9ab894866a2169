"""Thirty random output folders; `python tests/folders.py` tries two thousand."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from folders import check_changes, fuzz
from support.clutter import listing
from support.starts import Wrong
from support.worlds import Inputs, World

pytestmark = pytest.mark.skipif(
    sys.platform != "linux",
    reason="forks a process that has imported torch, and makes FIFOs and links: only on Linux",
)


@pytest.mark.slow
def test_runs_in_random_folders_change_nothing_of_anybody_elses_and_finish_whole():
    # Other folders each day; a failure names the seed that reproduces its case.
    first = int(time.time()) // 86_400 * 1_000
    found, failures = fuzz(first, 30)
    assert not failures, "\n\n".join(f"seed {seed}, {row}:\n{why}" for seed, row, why in failures)
    outcomes = [outcome for (row, outcome) in found.elements() if row.startswith("folder: ")]
    assert outcomes.count("refused") > 3
    assert outcomes.count("finished") > 3
    assert outcomes.count("killed") > 1
    assert outcomes.count("together") > 1


def retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


CHANGES: dict[str, Callable[[Path], object]] = {
    "deletes a file": lambda out: (out / "notes.txt").unlink(),
    "rewrites a file": lambda out: (out / "notes.txt").write_text("others"),
    "makes a file writable": lambda out: (out / "read-only").chmod(0o644),
    "retargets a link": lambda out: retarget(out / "link"),
    "replaces a link by a file": lambda out: os.replace(out / "notes.txt", out / "link"),
    "writes through a link": lambda out: (out / "link").write_text("others"),
    "writes through a hard link": lambda out: (out / "hard link").write_text("others"),
    "deletes a FIFO": lambda out: (out / "pipe").unlink(),
    "deletes an empty folder": lambda out: (out / "empty").rmdir(),
    "writes into a folder": lambda out: (out / "empty" / "new").write_text("x"),
    "writes beside the folder": lambda out: out.with_name("new").write_text("x"),
    "deletes a file of a run": lambda out: (out / "config.json").unlink(),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A folder with one file of a run and files of somebody's."""
    out = tmp_path / "work" / "out"
    (out / "empty").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("somebody's")
    for name in ("notes.txt", "read-only", "config.json"):
        (out / name).write_text("somebody's")
    (out / "read-only").chmod(0o444)
    (out / "link").symlink_to(tmp_path / "outside.txt")
    os.link(tmp_path / "outside.txt", out / "hard link")
    os.mkfifo(out / "pipe")
    inputs = Inputs(tmp_path, tmp_path, tmp_path)
    made = World(tmp_path, "finished", Random(0), "train", inputs, Path("out"))
    made.ours.add("work/out/config.json")
    return made


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_changes_something_is_found_out(world, change):
    before = listing(world.place)
    CHANGES[change](world.folder)
    with pytest.raises(Wrong):
        check_changes(world, before, strict=False, may_replace=False)


def test_a_run_may_replace_its_own_files_and_add_others(world):
    before = listing(world.place)
    (world.folder / "config.json").write_text("new")
    (world.folder / "metrics.json").write_text("new")
    assert check_changes(world, before, strict=False, may_replace=True)
    assert world.holds("metrics.json")


def test_a_refused_run_may_add_nothing(world):
    before = listing(world.place)
    (world.folder / "metrics.json").write_text("new")
    with pytest.raises(Wrong, match="left behind"):
        check_changes(world, before, strict=True, may_replace=True)
