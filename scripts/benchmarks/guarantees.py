"""What it costs that nothing is lost and everything is checked: seconds of each guarantee in a run.

The run is an ordinary one, with the flags given; the functions that keep the promises are timed in
it.  Saving a state is done every --save-every steps (100 if not given).
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from minift import files
from minift.tasks.registry import TASKS
from minift.training import checkpoint
from minift.training import run as loop
from minift.training.log import markdown_table

# What people get -> the functions that give it, as (module, name).
PROMISES = {
    "a state to go on from": [(loop, "save_state")],
    "the best model, whole or not there": [(loop, "save_model")],
    "data and weights are those it began with": [(loop, "digests")],
    "of these: hashes": [(files, "sha256"), (loop, "digests")],
    "of these: waiting for the disk": [(files, "sync"), (checkpoint, "sync")],
}


def guarantees(task, task_options, options, repeat):
    seconds = dict.fromkeys(PROMISES, 0.0)
    calls = dict.fromkeys(PROMISES, 0)

    def timed(promise, function):
        def call(*args, **settings):
            began = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                seconds[promise] += time.perf_counter() - began
                calls[promise] += 1

        return call

    options = replace(options, save_every=options.save_every or 100)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for promise, functions in PROMISES.items():
            for module, name in functions:
                wrapped = timed(promise, getattr(module, name))
                stack.enter_context(patch.object(module, name, wrapped))
        began = time.perf_counter()
        loop.run(TASKS[task][0], task_options, replace(options, output_dir=Path(folder)))
        whole = time.perf_counter() - began
    rows = [
        {
            "guarantee": promise,
            "times": calls[promise],
            "seconds": f"{seconds[promise]:.2f}",
            "share of the run": f"{seconds[promise] / whole:.1%}",
        }
        for promise in PROMISES
    ]
    print(f"\n{markdown_table(rows)}\n\nof a run of {whole:.0f} s")
