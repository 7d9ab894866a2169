"""Everything that minift prints: lines on stdout and stderr, and progress.

No other file prints (a test checks it), so that no control character of somebody's data reaches a
terminal: file names, labels, texts and the messages of a hub are escaped here.  Colours are the
only control characters that minift prints itself, and `coloured` the only function that makes them.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from minift.errors import CONTROL_CHARS, UserError, escape_controls, escape_fields

T = TypeVar("T")

LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal


class Escaped(str):
    """Text for a terminal whose control characters are minift's own colours.

    Only the functions below make it.  Joined with other text by + or an f-string it is an ordinary
    string, which `print_line` escapes: a colour may be lost so, but no character of data gets out.
    """

    __slots__ = ()


def coloured(text: str, colour: int) -> Escaped:
    """Data in bold and a colour, such as 31 for red: a parameter of ECMA-48's SGR."""
    return Escaped(f"\x1b[1;{colour:d}m{escape_controls(text)}\x1b[0m")


def joined(parts: Iterable[str]) -> Escaped:
    """Parts, some of them coloured, as one text; the others are escaped."""
    return Escaped("".join(p if isinstance(p, Escaped) else escape_controls(p) for p in parts))


def shows_colours() -> bool:
    """Whether stdout is a terminal, and the user has not turned colours off (no-color.org)."""
    return _is_terminal(sys.stdout) and "NO_COLOR" not in os.environ


def print_line(text: object = "", *, to_stderr: bool = False) -> None:
    """Print a line on stdout, or on stderr, above a progress bar if there is one."""
    line = text if isinstance(text, Escaped) else escape_controls(str(text))
    _write_line(line, sys.stderr if to_stderr else sys.stdout)


def print_record(line: str) -> None:
    """Print a record for another program: unchanged into a pipe or a file.

    On a terminal, which would obey its control characters, it is one line and escaped.
    """
    _write_line(escape_fields(line) if _is_terminal(sys.stdout) else line, sys.stdout)


def flush_stdout() -> None:
    """Write what stdout holds back; `OSError` if that is not possible."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """Drop what stdout still holds, which nobody reads; Python would report it at its end."""
    if sys.stdout is not None:
        with open(os.devnull, "wb") as nowhere, suppress(OSError):  # no descriptor: a test's stream
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def warn(message: str) -> None:
    """Print a warning on stderr, on one line."""
    print_line(f"warning: {' '.join(message.split())}", to_stderr=True)


def print_last_line(text: str) -> None:
    """Print a line on stderr without waiting, though another thread may hold the stream."""
    line = f"{escape_fields(text)}\n".encode("ascii", "backslashreplace")
    with suppress(OSError):
        if os.name == "nt" or select.select([], [2], [], 0)[1]:  # Windows selects sockets only
            os.write(2, (b"\n" if os.isatty(2) else b"") + line)


def json_line(value: Any) -> str:
    r"""A value as JSON on one line, without a control character that a terminal would obey.

    >>> print(json_line({"label": "good\x9b2Jbad"}))
    {"label": "good\u009b2Jbad"}
    """
    return escape_json(json.dumps(value, ensure_ascii=False))


def escape_json(text: str) -> str:
    """JSON with its control characters escaped; its value is the same."""
    # Within JSON such characters occur in strings only, where the escape means the same.
    return CONTROL_CHARS.sub(lambda found: json.dumps(found[0])[1:-1], text)


# ---- streams -------------------------------------------------------------------------------------


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("minift.json", _escape_unencodable)


class EscapingStream:
    """A text stream that escapes the control characters in what anybody writes to it.

    Python itself and libraries write help texts, tracebacks, warnings and log lines, which may
    contain data.
    """

    def __init__(self, stream: Any):
        self.unescaped = stream

    def write(self, text: str) -> int:
        self.unescaped.write(_encodable(escape_controls(text), self.unescaped))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextmanager
def escaping_streams() -> Iterator[None]:
    """Within `with`, stdout and stderr are `EscapingStream`s, also for libraries that log."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (s if s is None else EscapingStream(s) for s in streams)
    # Libraries that were imported before, such as torch, log to the stream of that time.
    handlers = [handler for handler in _log_handlers() if handler.stream is streams[1]]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for handler in handlers:
            handler.setStream(streams[1])


def _log_handlers() -> list[logging.StreamHandler]:
    """All handlers that log to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    return [handler for handler in found if isinstance(handler, logging.StreamHandler)]


def _unescaped(stream: Any) -> Any:
    return stream.unescaped if isinstance(stream, EscapingStream) else stream


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _encodable(text: str, stream: Any) -> str:
    """A text in which the characters that the stream's encoding lacks are escaped as in JSON."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "minift.json").decode(encoding)


def _write_line(line: str, stream: Any) -> None:
    if stream is None:  # closed, as by >&- in a shell
        return
    stream, above_bars = _unescaped(stream), nullcontext()
    if _is_terminal(sys.stderr):
        # Imported here because only a terminal needs it; huggingface-hub installs it.
        from tqdm import tqdm

        above_bars = tqdm.external_write_mode(_unescaped(sys.stderr))
    try:
        with above_bars:
            stream.write(_encodable(f"{line}\n", stream))
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"the output cannot be written ({error.strerror})") from None


# ---- progress ------------------------------------------------------------------------------------


def progress_bar(
    items: Iterable[T], label: str, total: int | None = None, start: int = 0
) -> Iterator[T]:
    """Yield the items and show the progress on stderr; see `ProgressBar`."""
    return ProgressBar(label, total, start).over(items)


class ProgressBar:
    """How far something has come: a bar in a terminal, elsewhere a line a minute on stderr."""

    def __init__(self, label: str, total: int | None = None, start: int = 0, unit: str = ""):
        """total: items in all, None if it is not known; start: items that were done before.

        unit: "B" if the items count bytes, which are shown in MB.
        """
        self.label, self.total, self.start, self.unit = escape_fields(label), total, start, unit
        self.shown = ""  # after the bar, such as the loss
        self.bar: Any = None  # tqdm's

    def over(self, items: Iterable[T], size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """Yield the items and show the progress.

        size: how much an item counts.
        """
        if _is_terminal(sys.stderr):
            # Imported here because only a terminal needs it; huggingface-hub installs it.
            from tqdm import tqdm

            unit = {"unit": self.unit, "unit_scale": True} if self.unit else {}
            shown = {"desc": self.label, "total": self.total, "initial": self.start}
            with tqdm(**shown, **unit, leave=False, file=_unescaped(sys.stderr)) as bar:
                self.bar = bar
                for item in items:
                    yield item
                    bar.update(size(item))
            return
        began = last = time.monotonic()
        done = 0
        for item in items:
            if (now := time.monotonic()) - last >= LINE_SECONDS:
                seconds = (now - began) / max(1, done)
                print_line(self._line(self.start + done, seconds), to_stderr=True)
                last = now
            yield item
            done += size(item)

    def note(self, text: str) -> None:
        """Show a text after the bar."""
        self.shown = escape_fields(text)
        if self.bar is not None:
            self.bar.set_postfix_str(self.shown, refresh=False)

    def _line(self, done: int, seconds: float) -> str:
        """seconds: for each item so far."""
        scale, unit = (1_000_000, " MB") if self.unit else (1, "")
        of = unit
        if self.total:
            left = _clock(seconds * max(0, self.total - done))
            of = f" of {round(self.total / scale)}{unit}, {left} left"
        return f"{self.label}  {round(done / scale)}{of}" + (
            f"  {self.shown}" if self.shown else ""
        )


def _clock(seconds: float) -> str:
    """
    >>> _clock(59.6), _clock(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
