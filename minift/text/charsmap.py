"""SentencePiece's `precompiled_charsmap`: the replacements of a normalizer, checked before use.

    bytes 0 to 3     size of the trie in bytes, a little-endian integer
    the trie         a double array (Aoe 1989) of 32-bit units: its keys are UTF-8 bytes of a text
    the rest         the replacements, each ended by a NUL; a key's value is where its own begins

The library follows the trie without checking where it points, and would panic in the middle of a
text.  `charsmap_growth` visits every unit that some text can reach.

Dimensions: U units, N nodes of one depth, L leaves.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np

MAX_CHARS = 4_000_000  # of the map in base64; that of T5 and XLM-R has 316,000
MAX_KEY_BYTES = 100
KEY_BYTES = np.arange(1, 256)
NODES = 4096  # visited at once, to bound the memory


def charsmap_growth(encoded: str) -> float:
    """By what factor a replacement is longer than its key, in bytes, at most; at least 1.

    encoded: the map in base64.  Raises `ValueError` for a damaged one.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not in base64") from None
    size = int.from_bytes(data[:4], "little")
    trie, texts = data[4 : 4 + size], data[4 + size :]
    if len(encoded) > MAX_CHARS or not 0 < size == len(trie) or size % 4:
        raise ValueError("has no trie of the size that it announces")
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise ValueError("holds replacements that are not UTF-8") from None
    units = np.frombuffer(trie, dtype="<u4").astype(np.int64)  # (U,)
    replacements = np.frombuffer(texts, dtype=np.uint8)
    is_leaf = (units >> 8) & 1 == 1
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    growth, seen = 1.0, np.zeros(len(units), dtype=bool)
    bases = offsets[:1]
    for depth in range(1, MAX_KEY_BYTES + 1):
        nodes = _children(units, bases)
        nodes = nodes[~seen[nodes]]
        if not len(nodes):
            return growth
        seen[nodes] = True
        bases = _within(nodes ^ offsets[nodes], units)
        values = units[bases[is_leaf[nodes]]] & 0x7FFFFFFF  # (L,)
        growth = max(growth, _longest(values, replacements) / depth)
    raise ValueError(f"has keys of more than {MAX_KEY_BYTES} bytes")


def _children(units: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """The units below these nodes: for the byte c the one at base XOR c, if its label is c."""
    found = []
    for start in range(0, len(bases), NODES):
        at = _within(bases[start : start + NODES, None] ^ KEY_BYTES, units)  # (N, 255)
        found.append(at[units[at] & 0x800000FF == KEY_BYTES])
    return np.unique(np.concatenate(found))


def _within(places: np.ndarray, units: np.ndarray) -> np.ndarray:
    if places.size and places.max() >= len(units):
        raise ValueError("has a trie that points beyond its end")
    return places


def _longest(starts: np.ndarray, replacements: np.ndarray) -> int:
    """The number of bytes of the longest replacement that begins at one of these places."""
    if not len(starts):
        return 0
    ends = np.append(np.flatnonzero(replacements == 0), len(replacements))
    first_bytes = np.append(replacements, 0)
    # A byte 10xxxxxx continues a character.
    if starts.max() > len(replacements) or (first_bytes[starts] & 0xC0 == 0x80).any():
        raise ValueError("has a replacement that begins nowhere")
    return int((ends[np.searchsorted(ends, starts)] - starts).max())
