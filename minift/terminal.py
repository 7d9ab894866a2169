"""Everything that minift prints: lines on stdout and stderr, and progress.

No other file prints (a test checks it), so that no control character of somebody's data reaches a
terminal: file names, labels, texts and the messages of a hub are escaped here.
"""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from minift.errors import CONTROL_CHARS, LINE_ENDS, escape_controls

T = TypeVar("T")

LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal


def print_line(text: object = "", *, to_stderr: bool = False, escape: bool = True) -> None:
    """Print a line on stdout, or on stderr, above a progress bar if there is one.

    escape: show control characters as escape sequences; False: the text is escaped already, and
        its control characters are minift's own, such as colours.
    """
    line = escape_controls(str(text)) if escape else str(text)
    file = sys.stderr if to_stderr else sys.stdout
    if sys.stderr.isatty():
        # Imported here because only a terminal needs it; huggingface-hub installs it.
        from tqdm import tqdm

        tqdm.write(line, file=file)
        file.flush()
    else:
        print(line, file=file, flush=True)


def warn(message: str) -> None:
    """Print a warning on stderr, on one line."""
    print_line(f"warning: {' '.join(message.split())}", to_stderr=True)


def json_line(value: Any) -> str:
    r"""A value as JSON on one line, without a control character that a terminal would obey.

    >>> print(json_line({"label": "good\x9b2Jbad"}))
    {"label": "good\u009b2Jbad"}
    """
    # Within JSON such characters occur in strings only, where the escape means the same.
    text = json.dumps(value, ensure_ascii=False)
    for pattern in (CONTROL_CHARS, LINE_ENDS):
        text = pattern.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text


def escape_unencodable(stream: Any) -> None:
    """Let a stream escape, as JSON does, the characters that its encoding lacks."""
    codecs.register_error("json", lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="json")


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
        self.label, self.total, self.start, self.unit = label, total, start, unit
        self.shown = ""  # after the bar, such as the loss
        self.bar: Any = None  # tqdm's

    def over(self, items: Iterable[T], size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """Yield the items and show the progress.

        size: how much an item counts.
        """
        if sys.stderr.isatty():
            # Imported here because only a terminal needs it; huggingface-hub installs it.
            from tqdm import tqdm

            unit = {"unit": self.unit, "unit_scale": True} if self.unit else {}
            shown = {"desc": self.label, "total": self.total, "initial": self.start}
            with tqdm(**shown, **unit, leave=False) as bar:
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
        self.shown = text
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

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
