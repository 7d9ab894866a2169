"""A long text in pieces whose tokens, one after the other, are those of the text.

    text    "... the old bridge was closed on Monday ..."
    pieces  "... the old bridge"  "was closed on Monday ..."       cut at a single blank

The library `tokenizers` takes some 400 bytes for each token of a text until it is done with the
text.  For ten million characters these are gigabytes, for a piece 40 MB at most.

A text is cut at a blank between two letters or digits of ASCII, and only for pipelines in which
nothing reaches across such a blank: their normalizers change characters, accents behind them, or
runs of blanks; they split words at each blank; and their models read word by word.
"""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers
from tokenizers import AddedToken

from minift.text.special_tokens import NONCHARACTER

PIECE = 100_000  # characters
CUT = re.compile("(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")

LOCAL_NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Strip", "StripAccents"),
}
# `Replace` by patterns that a blank between two letters meets in every text, or in none.
BLANKS = ({"Regex": r"\s+"}, {"Regex": " {2,}"})


def can_be_cut(backend: tokenizers.Tokenizer) -> bool:
    """Whether the tokens of the pieces of any text are those of the text."""
    parts = [backend.normalizer, backend.pre_tokenizer]
    normalizer, splitter = (part and json.loads(part.__getstate__()) for part in parts)
    if not all(map(_is_within_a_word, backend.get_added_tokens_decoder().values())):
        return False
    return all(map(_is_local, _leaves(normalizer))) and _splits_at_blanks(splitter)


def cut(text: str) -> list[str]:
    """The pieces, of `PIECE` characters and more: each up to the next blank that may be cut at."""
    pieces, start = [], 0
    while found := CUT.search(text, start + PIECE):
        pieces.append(text[start : found.start()])
        start = found.end()
    return [*pieces, text[start:]]


def _leaves(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The normalizers or splitters in a sequence of them."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [leaf for p in inner for leaf in _leaves(p)] if inner else [part]


def _is_within_a_word(token: AddedToken) -> bool:
    """Whether no text has an added token on both sides of a cut."""
    if token.content.startswith(f" {NONCHARACTER}") and not token.normalized:
        return True  # the name of a special token that is read as text (special_tokens.py)
    return token.content.isascii() and not re.search(r"\s", token.content)


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return normalizer["content"] == " " and normalizer["pattern"] in BLANKS
    return normalizer["type"] in LOCAL_NORMALIZERS


def _splits_at_blanks(splitter: dict[str, Any] | None) -> bool:
    first = next(iter(_leaves(splitter)), {"type": None})
    if any(p["type"] == "Metaspace" and p["prepend_scheme"] != "always" for p in _leaves(splitter)):
        return False
    if first["type"] == "Metaspace":
        return first["split"]
    return first["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
