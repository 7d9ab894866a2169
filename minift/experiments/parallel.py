"""Several calls at the same time, each in a process and with a log of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from minift.errors import InputError


def call_all(
    function: Callable[..., object],
    calls: Sequence[tuple[Any, ...]],
    logs: Sequence[Path],
    jobs: int,
    finished: Callable[[int], None],
) -> None:
    """Call `function` with each tuple of arguments, `jobs` at a time.

    logs: for each call the file that takes what it prints.
    jobs: 1: the calls are made in this process, one after the other.
    finished: called with the index of each call that has returned.
    The first error, or Ctrl-C, ends all calls.  `InputError` if a process was killed from outside.
    """
    if jobs == 1:
        for i, (log, call) in enumerate(zip(logs, calls, strict=True)):
            call_logged(log, function, call)
            finished(i)
        return
    others, share = active_children(), max(1, torch.get_num_threads() // jobs)
    # New interpreters, since the fork of a process that has threads or a GPU may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), start_worker, (share,)) as pool:
        futures = {
            pool.submit(call_logged, log, function, call): i
            for i, (log, call) in enumerate(zip(logs, calls, strict=True))
        }
        try:
            for future in as_completed(futures):
                future.result()
                finished(futures[future])
        except BaseException as error:
            # Leaving the pool waits for all that was begun, which nobody wants any more.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()).difference(others):
                process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise InputError(
                f"--jobs is {jobs}, and one of the processes was killed, perhaps because memory "
                "ran out; give fewer"
            ) from None


def start_worker(threads: int) -> None:
    """Make this process compute with its share of the threads, and end when its parent does."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us

    def follow() -> None:
        parent_process().join()
        os._exit(1)  # a parent killed and started again would write where we still write

    Thread(target=follow, daemon=True).start()


def call_logged(log: Path, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Call a function that prints to a file.

    In the main process its progress bar stays on the terminal; several would disturb each other.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(file),
        redirect_stderr(file if parent_process() else sys.stderr),
    ):
        function(*arguments)
