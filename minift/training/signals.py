"""Stopping on a signal: a run finishes its step, saves its state and ends.

SIGINT comes from Ctrl-C, SIGTERM from the system or a job scheduler.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal stopped the run after its state was saved; the message says how to resume.

    signal: the signal's number.  A script exits with status 128 + signal.
    """

    def __init__(self, number: int, message: str):
        super().__init__(number, message)  # both, so that it can be pickled
        self.signal, self.message = number, message

    def __str__(self) -> str:
        return self.message


def stopped_at(step: int, total: int, folder: Path) -> str:
    return (
        f"stopped after step {step} of {total}, and saved; to continue, run the same command with "
        f"--resume and --output-dir {folder}"
    )


class StopRequest:
    """Within `with`, records the first signal to stop; a second one has its usual effect.

    requested: the number of the signal, or None.
    Python delivers signals to the main thread only; in another thread nothing is recorded.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # A signal that is ignored, as under nohup or in a worker, stays ignored.
            self._previous = {n: h for n, h in handlers.items() if h != signal.SIG_IGN}
            for number in self._previous:
                signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, number: int, _: FrameType | None) -> None:
        self.requested = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
