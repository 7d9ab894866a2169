"""The cost of safe saves and checks: the seconds that each takes in an ordinary training run.

The functions that implement the guarantees are timed inside the run.  It saves a state every
--save-steps steps (100 if not given).
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from minift import files
from minift.reports.tables import markdown_table
from minift.tasks.registry import TASKS
from minift.terminal import print_line
from minift.training import checkpoint, evaluation, loop
from minift.training import run as training_run

# Guarantee -> the functions that implement it, as (module, name).
GUARANTEES = {
    "a state to resume from": [(loop, "save_state")],
    "the best model, written atomically": [(loop, "save_model"), (evaluation, "save_model")],
    "data and weights checked against those of the start": [(training_run, "digests")],
    "of these: hashes": [(files, "sha256"), (training_run, "digests")],
    "of these: waiting for the disk": [(files, "sync"), (checkpoint, "sync")],
}


def guarantees(task_name, task_options, options, repeat):
    """Train once and print the seconds, and the share of the run, of each guarantee."""
    seconds = dict.fromkeys(GUARANTEES, 0.0)
    calls = dict.fromkeys(GUARANTEES, 0)

    def timed(guarantee, function):
        def call(*args, **settings):
            began = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                seconds[guarantee] += time.perf_counter() - began
                calls[guarantee] += 1

        return call

    options = replace(options, save_steps=options.save_steps or 100)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for guarantee, functions in GUARANTEES.items():
            for module, name in functions:
                wrapped = timed(guarantee, getattr(module, name))
                stack.enter_context(patch.object(module, name, wrapped))
        began = time.perf_counter()
        training_run.run(TASKS[task_name], task_options, replace(options, output_dir=Path(folder)))
        total = time.perf_counter() - began
    rows = [
        {
            "guarantee": guarantee,
            "times": calls[guarantee],
            "seconds": f"{seconds[guarantee]:.2f}",
            "share of the run": f"{seconds[guarantee] / total:.1%}",
        }
        for guarantee in GUARANTEES
    ]
    print_line(f"\n{markdown_table(rows)}\n\nthe run took {total:.0f} s")
