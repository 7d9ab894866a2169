"""Corruptions: of bytes, of JSON, of a safetensors header, and of what a name in a folder is."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

VALUES = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 1.0, 1e999, -1e999, float("nan"), 1e-300, 1e300),
    *(2**31, 2**63, 10**6, 10**30, -(10**30), "", "a", "0", "\x00", "é" * 50, "\ud800", "\x1b[2J"),
    *([], {}, [[]], {"a": {}}, [0], ["x"], ["x"] * 1000, {"0": "a"}, {"content": 3}, [None], "\n"),
]
# A number that Python's json cannot write stands in the text instead.
LONG_NUMBER, DEEP = "@long number@", "@deep@"
MANY_LABELS = {str(i): f"L{i}" for i in range(1_000_000)}


def corrupt_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few changes of bytes, whatever the format."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice([1, 2, 8, 100]))
        kind = draw.randrange(9)
        if kind == 0 and at < len(data):  # a bit
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 1:  # cut the end off
            data = data[:at]
        elif kind == 2:  # cut a part out
            data = data[:at] + data[end:]
        elif kind == 3:  # repeat a part
            data = data[:end] + data[at:end] + data[end:]
        elif kind == 4:
            data = data[:at] + draw.randbytes(draw.choice([1, 4, 64])) + data[at:]
        elif kind == 5:
            odd = [b"\x00", b"\xff\xfe", b"\r", b"\n", b"\t", b'"', b"[" * 3000, b"\xef\xbb\xbf"]
            data = data[:at] + draw.choice(odd) + data[at:]
        elif kind == 6:
            numbers = [b"-1", b"9" * 30, b"1e999", b"NaN", b"null"]
            data = data[:at] + draw.choice(numbers) + data[end:]
        elif kind == 7:  # one very long line
            data = data[:at] + draw.choice([b"a", b"\xc3\xa9", b" "]) * 1_000_000 + data[at:]
        else:
            data = data.replace(b"\n", draw.choice([b"\r\n", b"", b"\n\n", b"\r"]))
    return data


def corrupt_value(value: object, draw: random.Random) -> object:
    """Replace, delete or extend one node of a JSON value."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = draw.choice(list(keys))
        changed = dict(value) if isinstance(value, dict) else list(value)
        fate = draw.random()
        if fate < 0.15:
            del changed[key]
        elif fate < 0.25 and isinstance(changed, dict):
            changed[draw.choice(["", "a", "model_type", "weight_map"])] = draw.choice(VALUES)
        elif fate < 0.3 and isinstance(changed, list):
            changed.append(draw.choice([changed[key], draw.choice(VALUES)]))
        else:
            changed[key] = corrupt_value(value[key], draw)
        return changed
    fate = draw.random()
    if fate < 0.05:
        return draw.choice([LONG_NUMBER, DEEP])
    if fate < 0.06:
        return MANY_LABELS
    if fate < 0.2 and isinstance(value, int | float) and not isinstance(value, bool):
        return draw.choice([-value, value + 1, value * 2, value * 1000, float(value), str(value)])
    return draw.choice(VALUES)


def corrupt_json(data: bytes, draw: random.Random) -> bytes:
    lines = data.decode().splitlines() if b"\n{" in data[:-1] and data[:1] == b"{" else None
    if lines and all(line.startswith("{") for line in lines):  # JSON lines
        at = draw.randrange(len(lines))
        lines[at] = dumps(corrupt_value(json.loads(lines[at]), draw), draw)
        return "\n".join(lines).encode(errors="surrogatepass")
    value = json.loads(data)
    for _ in range(draw.choice([1, 1, 1, 2])):
        value = corrupt_value(value, draw)
    text = dumps(value, draw)
    if isinstance(value, dict) and value and draw.random() < 0.05:  # a key twice
        name = draw.choice(list(value))
        text = f"{{{json.dumps(name)}: {json.dumps(draw.choice(VALUES))}, {text[1:]}"
    return text.encode(errors="surrogatepass")


def dumps(value: object, draw: random.Random) -> str:
    text = json.dumps(value)
    depth = draw.choice([50, 101, 5000, 100_000])
    deep = "[" * depth + "]" * depth
    return text.replace(f'"{LONG_NUMBER}"', "9" * 5000).replace(f'"{DEEP}"', deep)


def corrupt_header(data: bytes, draw: random.Random) -> bytes:
    """A wrong safetensors header: its shapes, offsets, dtypes, names or its own length."""
    size = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = draw.choice([name for name in header if name != "__metadata__"])
    entry = dict(header[name])
    fate = draw.randrange(9)
    if fate == 0:
        odd = [[], [-1], [2**62, 4], [0], [10**9, 0], [10**9, 10**9], "x", [1.5], [[1]], None]
        entry["shape"] = draw.choice(odd)
        if draw.random() < 0.5:  # at the end, with no bytes: such a shape may be consistent
            entry["data_offsets"] = [len(tensors)] * 2
    elif fate == 1:
        entry["data_offsets"] = draw.choice([[0, 10**12], [-4, 4], [8, 0], [0, 4], [2**64, 2**65]])
    elif fate == 2:
        others = ["F64", "I64", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "XX", 3, "BF16", "F16"]
        entry["dtype"] = draw.choice(others)
    if fate < 3:
        header[name] = entry
    elif fate == 3:
        header[draw.choice(["", "../x", name + ".x", "\x00"])] = header.pop(name)
    elif fate == 4:
        header = corrupt_value(header, draw)
    elif fate == 5:  # tensors that belong to nothing
        stem = draw.choice(["x", "cls.predictions.x", "embeddings.position_ids", name])
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(tensors)] * 2}
        header |= {f"{stem}.{i}": empty for i in range(draw.choice([1, 50, 50_000]))}
    elif fate == 6:  # not numbers
        at = draw.randrange(len(tensors) // 4) * 4
        odd = draw.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"])
        tensors = tensors[:at] + odd + tensors[at + 4 :]
    text = dumps(header, draw).encode(errors="surrogatepass")
    if fate == 7:  # two entries of one name
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}".encode()
    size = draw.choice([0, 10, 2**63, 10**9]) if fate == 8 else len(text)
    return size.to_bytes(8, "little") + text + tensors


# ---- a name that is no regular file ------------------------------------------------------------

NO_FILES = (
    *("dangling link", "link to itself", "link to a folder", "link to /dev/zero", "link to a FIFO"),
    *("FIFO", "folder", "unreadable", "empty", "sparse"),
)


def replace_file(path: Path, kind: str) -> None:
    """Put something in the place of a file that cannot be read as that file."""
    path.unlink(missing_ok=True)
    if kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "link to a folder":
        path.symlink_to(path.parent)
    elif kind == "link to /dev/zero":
        path.symlink_to("/dev/zero")
    elif kind == "link to a FIFO":
        os.mkfifo(path.with_name("fifo"))
        path.symlink_to("fifo")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "unreadable":
        path.write_text("{}")
        path.chmod(0)
    elif kind == "empty":
        path.touch()
    else:
        with open(path, "wb") as file:
            file.truncate(10 * 10**9)
