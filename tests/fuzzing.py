"""Folders of models, changed at random: each loads and computes, or is refused with one line.

    python tests/fuzzing.py --count 20000          by hand; prints the outcomes by kind of folder

Tiny models of all families and tasks, adapters, shards, and the tokenizer files of old checkpoints.
A case changes a file or two: bytes; JSON values of odd types and absurd sizes, keys twice or gone;
the header of the weights; or the name is a link to nowhere, a FIFO, a device, a folder, unreadable,
empty, 10 GB of nothing.  Then it takes the path of a script: the task of the folder, its model, a
prediction, or the start of a run.

A case fails if it raises anything but a `UserError` of one line that names the folder, if a model
that was accepted cannot compute, if a file that is none or that differs from the manifest was
accepted, and beyond two seconds or 500 MB (`support.fuzzes.run_apart`).  Every case has its own
seed, which repeats it: `--first SEED --count 1`.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import tempfile
import traceback
from pathlib import Path

# Before the imports that read them: a fork must find no threads.
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import torch
from support.fuzzes import Outcomes, command_line, run_apart, tally
from support.model_folders import Folder, change, make_folders, may_not_read

from minift.errors import UserError

NOBODY = 65534
LONGEST_MESSAGE = 1000


def try_folder(target: Folder, folder: Path, draw: random.Random) -> tuple[str, str]:
    """("accepted" | "refused" | "failed", message) of a folder that was changed."""
    if may_not_read(folder) and os.getuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)  # root may read everything
    try:
        target.use(folder, draw)
    except UserError as error:
        message = str(error)
        # A folder that can be used may leave no room for one of the inputs.
        says_where = str(folder) in message or message.startswith("input ")
        if "\n" in message or not says_where or len(message) > LONGEST_MESSAGE:
            return "failed", f"does not name the folder in one short line: {message[:500]}"
        return "refused", message
    except BaseException:
        return "failed", traceback.format_exc()
    return "accepted", ""


def try_case(seed: int, targets: list[Folder], place: Path) -> tuple[str, str, str]:
    """(kind of folder, outcome, message) of one case."""
    draw = random.Random(seed)
    target = draw.choice(targets)
    case = place / "case"
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    case.chmod(0o777)
    folder = case / "model"
    shutil.copytree(place / target.name, folder)
    told, must_be_refused = change(folder, target.files, draw)
    outcome, why = run_apart(lambda: try_folder(target, folder, draw), place / "stderr")
    if outcome == "accepted" and must_be_refused:
        outcome, why = "failed", "accepted"
    return target.name, outcome, f"{told}\n{why}"


def fuzz(first: int, count: int) -> Outcomes:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        place.chmod(0o755)
        targets = make_folders(place)
        for target in targets:  # the valid folders are used, and everything is imported
            for seed in range(5):
                target.use(place / target.name, random.Random(seed))
        gc.collect()
        gc.freeze()  # the children need not copy what the parent has
        return tally(range(first, first + count), lambda seed: try_case(seed, targets, place))


if __name__ == "__main__":
    command_line(__doc__, fuzz, 20_000, ("accepted", "refused", "panicked", "failed"))
