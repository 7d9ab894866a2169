"""Ending on a signal: SIGINT comes from Ctrl-C, SIGTERM from the system or a job scheduler.

    where                    first signal                            second signal
    loop of a training run   finishes the step, saves, ends          ends at once
    elsewhere in a script    ends at once                            -

"At once" is within two seconds.  Python runs a handler between two instructions of the main thread,
so a call of native code delays it (the training of a tokenizer, a large matrix product), and so
does a wait for a thread that does not end.  A script that is still there `GRACE_SECONDS` after the
signal is therefore ended by a thread.

Only scripts handle signals so.  Called from Python code, minift installs no handler but that of
`StopRequest`, while a run trains.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 1.5  # seconds that a script has for ending by itself


class Interrupted(KeyboardInterrupt):
    """A signal ends the script.

    signal: the signal's number.  A script exits with status 128 + signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


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
    A signal that came too late for the training loop raises `Interrupted` when `with` ends.
    Python delivers signals to the main thread only; in another thread nothing is recorded.
    """

    active: StopRequest | None = None  # of the main thread

    def __init__(self) -> None:
        self.requested: int | None = None
        self.granted = False  # whether the process has had its first signal, handled or not
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            StopRequest.active = self
            self._previous = _replace_handlers(self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            StopRequest.active = None
            _restore_handlers(self._previous)
            if kind is None and self.requested is not None:
                raise Interrupted(self.requested)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.requested = number
        _restore_handlers(self._previous)


@contextmanager
def ends_on_signals(show_end: Callable[[], None]) -> Iterator[None]:
    """Within `with`, a signal raises `Interrupted`, and ends the process `GRACE_SECONDS` later.

    show_end: called by the thread that ends the process; it may not wait for the main thread.
    Without effect outside the main thread, and in an interactive session, whose process stays.
    """
    if threading.current_thread() is not threading.main_thread() or hasattr(sys, "ps1"):
        yield
        return
    is_ending = False

    def interrupt(number: int, _: FrameType | None) -> None:
        # Once only, so that a second Ctrl-C does not cut off the cleaning up.
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise Interrupted(number)

    lock, has_ended = threading.Lock(), threading.Event()

    def watch() -> None:
        with reader:
            while received := reader.recv(1):
                number, request = received[0], StopRequest.active
                if number not in previous:
                    continue  # a signal that somebody else handles
                if request is not None and not request.granted:
                    request.granted = True  # the training loop ends by itself
                elif not has_ended.wait(GRACE_SECONDS):
                    with lock:
                        if not has_ended.is_set():
                            show_end()
                            os._exit(128 + number)

    # Python's handler in C writes the number of each signal at once, whatever the main thread does.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous = _replace_handlers(interrupt)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        is_ending = True
        with lock:
            has_ended.set()
        _restore_handlers(previous)
        signal.set_wakeup_fd(previous_fd)
        writer.close()


def end_quietly() -> None:
    """Let Ctrl-C end the process at once; Python's own handler would print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Within `with`, Ctrl-C waits; processes that are started there never hear it.

    A terminal sends Ctrl-C to them too, and while they import torch they would print a traceback.
    The process that started them ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _replace_handlers(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle `SIGNALS` by `handler`; the previous handlers.

    A signal that is ignored, as under nohup or in a worker, stays ignored.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, handler)
    return previous


def _restore_handlers(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
