"""Files in, lines out, whatever the file holds: bounded pieces, checked, decoded.

A file is a regular file in UTF-8, with or without a byte-order mark, its lines ended by LF, CRLF or
(old Macs) CR, plain or as `.gz`.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minift.errors import UserError, location
from minift.files import open_regular

MAX_LINE_BYTES = 10_000_000  # a longer line is a damaged file, not a text
MAX_LONG_LINE_BYTES = 2**31 - 1  # of a line that is read in pieces: a whole SQuAD file is often one
BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, max_line_bytes: int | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file in UTF-8, plain or gzipped.

    max_line_bytes: maximum number of bytes of a line; default: `MAX_LINE_BYTES`.

    Raises `UserError` for a longer line, a NUL byte, a byte-order mark after the first line, bytes
    that are not UTF-8, and a file that cannot be read.
    """
    max_line_bytes = MAX_LINE_BYTES if max_line_bytes is None else max_line_bytes
    for number, _, data in _checked_lines(path, max_line_bytes + 1, max_line_bytes):
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error, 0) from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def read_document(path: Path) -> str:
    """A text file as one text; `UserError` as `read_lines`, and for more than `MAX_LINE_BYTES`."""
    lines, size = [], 0
    for _, line in read_lines(path):
        lines.append(line)
        size += len(line) + 1
        if size > MAX_LINE_BYTES:
            raise UserError(
                f"{path}: is one text, and has more than {MAX_LINE_BYTES:,} characters; divide it"
            )
    return "\n".join(lines)


def read_pieces(path: Path, max_bytes: int = 2**20) -> Iterator[str]:
    """The text of a file, each line with its end; a line of more than `max_bytes` is in pieces.

    Raises `UserError` as `read_lines`; a line may have `MAX_LONG_LINE_BYTES`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for number, start, data in _checked_lines(path, max_bytes, MAX_LONG_LINE_BYTES):
        begun = len(decoder.getstate()[0])  # bytes of a character that began in the piece before
        try:
            yield decoder.decode(data)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error, start - begun) from None
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error, start + len(data) - len(error.object)) from None


def first_line(path: Path) -> str:
    """The first line that is not blank, or its first ten million bytes; "" if there is none."""
    lines = (
        piece.removesuffix("\n").removesuffix("\r") for piece in read_pieces(path, MAX_LINE_BYTES)
    )
    return next((line for line in lines if line.strip()), "")


def _too_long(path: Path, number: int, max_line_bytes: int) -> UserError:
    return UserError(
        f"{location(path, number)}: has more than {max_line_bytes:,} bytes; give a text file, or "
        "split the line"
    )


def _not_utf8(path: Path, number: int, error: UnicodeDecodeError, start: int) -> UserError:
    """start: bytes of the line before those that were decoded."""
    return UserError(
        f"{location(path, number)}: byte {start + error.start + 1} is "
        f"0x{error.object[error.start]:02X}, which is not UTF-8; convert the file to UTF-8"
    )


def _checked_lines(
    path: Path, max_bytes: int, max_line_bytes: int
) -> Iterator[tuple[int, int, bytes]]:
    """(number of the line, bytes of it before, bytes) of each line, in pieces of `max_bytes`."""
    number, start = 1, 0
    try:
        with _opened(path, max_line_bytes) as file:
            for data in _split_lines(file, max_bytes):
                if start + len(data) > max_line_bytes:
                    raise _too_long(path, number, max_line_bytes)
                if b"\0" in data:
                    raise UserError(
                        f"{location(path, number)}: byte {start + data.index(0) + 1} is NUL; give "
                        "a text file, converted to UTF-8"
                    )
                if start == 0 and data.startswith(BOM):
                    if number > 1:
                        raise UserError(
                            f"{location(path, number)}: begins with a byte-order mark, so another "
                            "file was joined here; remove the mark, and a header that follows it"
                        )
                    data = data.removeprefix(BOM)
                yield number, start, data
                ended = data.endswith(b"\n")
                number, start = number + ended, 0 if ended else start + len(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip ({error}); fetch or pack the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None


def _split_lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """The lines of a file, a long one in pieces of `max_bytes`.

    A file without any LF, as old Macs wrote it, is divided at its CRs, unless it is longer.
    """
    first = file.readline(max_bytes)
    if first.endswith(b"\n") or len(first) == max_bytes:
        yield first
        while data := file.readline(max_bytes):
            yield data
    elif first:
        *lines, last = first.removesuffix(b"\r").split(b"\r")
        yield from (line + b"\n" for line in lines)
        yield last


@contextmanager
def _opened(path: Path, max_line_bytes: int) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; a gzip only after checking its checksum, which is at its end.

    A damaged gzip may decompress to millions of lines of garbage.  The check reads a mebibyte at a
    time, and ends at a line that is too long.
    """
    with open_regular(path) as file:
        if not path.name.lower().endswith(".gz"):
            yield file
            return
        with gzip.open(file) as unpacked:
            number, length = 1, 0  # of the line
            while data := unpacked.read(2**20):
                first, last = data.find(b"\n"), data.rfind(b"\n")
                length += first + 1 if first >= 0 else len(data)
                if length > max_line_bytes:
                    raise _too_long(path, number, max_line_bytes)
                if last >= 0:
                    number, length = number + data.count(b"\n"), len(data) - last - 1
        file.seek(0)
        with gzip.open(file) as unpacked:
            yield unpacked
