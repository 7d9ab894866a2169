"""Asked to stop by Ctrl-C or by the system, a run finishes its step, saves its state, and ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run that ended early as it was asked to; the message says how to go on.

    signal: the signal's number; a script exits with 128 + it.
    """

    def __init__(self, number: int, message: str):
        super().__init__(number, message)  # both, so that it passes from process to process
        self.signal, self.message = number, message

    def __str__(self) -> str:
        return self.message


def stopped_at(step: int, total: int, folder: Path) -> str:
    return (
        f"stopped after step {step} of {total}, and saved; the same command with --resume and "
        f"--output-dir {folder} goes on"
    )


class Stop:
    """Whether a signal asked to stop.  Within `with` the first is noted, a second ends at once.

    Signals reach the main thread alone; in another one nothing is noted.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            now = {number: signal.getsignal(number) for number in SIGNALS}
            # What is ignored, as under nohup or in a worker, stays ignored.
            self._before = {n: handler for n, handler in now.items() if handler != signal.SIG_IGN}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
