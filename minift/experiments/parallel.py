"""Running several calls at the same time, each in its own process and with its own log."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from minift.errors import UserError
from minift.files import open_to_append, read_bytes, write_atomically, writing
from minift.terminal import EscapingStream
from minift.training.signals import interrupts_blocked

SAVING_SECONDS = 1.0  # that the runs have for saving their state when a signal ends them


def call_all(
    function: Callable[..., object],
    calls: Sequence[tuple[Any, ...]],
    logs: Sequence[Path],
    jobs: int,
    finished: Callable[[int], None],
) -> None:
    """Call `function` with each tuple of arguments, `jobs` at a time.

    logs: for each call the file that its output is appended to.
    jobs: processes; with 1, the calls are made one after the other in this process.
    finished: called with the index of each call that has returned.
    The first error, or Ctrl-C, ends all calls.  `UserError` if a process was killed from outside.
    """
    if jobs == 1:
        for i, (log, call) in enumerate(zip(logs, calls, strict=True)):
            call_logged(log, function, call)
            finished(i)
        return
    others, threads = active_children(), max(1, torch.get_num_threads() // jobs)
    # New interpreters, because the fork of a process that has threads or a GPU may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), start_worker, (threads,)) as pool:
        with interrupts_blocked():
            futures = {
                pool.submit(call_logged, log, function, call): i
                for i, (log, call) in enumerate(zip(logs, calls, strict=True))
            }
        try:
            for future in as_completed(futures):
                future.result()
                finished(futures[future])
        except BaseException as error:
            # Leaving the pool would wait for the calls that have started, so end their processes.
            pool.shutdown(wait=False, cancel_futures=True)
            processes = set(active_children()).difference(others)
            for process in processes:
                process.terminate()
            if isinstance(error, KeyboardInterrupt):  # a signal ends everything within 2 seconds
                end = time.monotonic() + SAVING_SECONDS
                for process in processes:
                    process.join(max(0.0, end - time.monotonic()))
                    process.kill()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise UserError(
                f"--jobs is {jobs}, and one of the processes was killed, perhaps because memory "
                "ran out; give fewer jobs"
            ) from None


def start_worker(threads: int) -> None:
    """Set this process's number of threads, and let it end when its parent ends."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends us

    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)  # else a parent that is killed and restarted would share our files with us

    Thread(target=end_with_parent, daemon=True).start()


def call_logged(log: Path, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Call a function with its output appended to a file.

    In the main process its progress bar (stderr) stays on the terminal; several at once would
    overwrite each other.
    """
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():  # a new file, because other names of the old one are not ours
            earlier = read_bytes(log)
            write_atomically(log, lambda temporary: temporary.write_bytes(earlier))
        file = open_to_append(log)
    with (
        file,
        redirect_stdout(EscapingStream(file)),
        redirect_stderr(EscapingStream(file)) if parent_process() else nullcontext(),
    ):
        function(*arguments)
