"""What each field of a tokenizer's files may hold: its type and range, in tables.

    SETTINGS    tokenizer_config.json and special_tokens_map.json
    PARTS       tokenizer.json: its model, normalizer, pre-tokenizer, post-processor and decoder,
                each by its "type"

Every file is held against them before anything uses it.  The Rust library checks less: a number out
of range makes it panic in the middle of a text, some values end the process, and others keep it
busy for hours, when Python does not hear Ctrl-C.

The limits are far above what tokenizers in use have: BERT's WordPiece, whose time is quadratic in
the length of a word, gives up at 100 characters; here it may go to 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minift.text.special_tokens import NAMES

MAX_ID = 10_000_000
MAX_WORD_CHARS = 1_000
MAX_AFFIX_CHARS = 100  # "##"
MAX_PATTERN_CHARS = 10_000
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Field:
    """wants: the end of "give ...", for the message.  accepts_item: of a list, what it may hold."""

    wants: str
    accepts: Callable[[Any], bool]
    accepts_item: Callable[[Any], bool] | None = None

    def told(self, value: Any) -> str:
        """A value that is refused; of a list, its first item that is."""
        if self.accepts_item is not None and isinstance(value, list):
            at = next(i for i, item in enumerate(value) if not self.accepts_item(item))
            return f"{value[at]!r:.80} in place {at}"
        return f"{value!r:.80}"


def integer(low: int, high: int) -> Field:
    wants = f"an integer from {low:,} to {high:,}"
    return Field(wants, lambda value: type(value) is int and low <= value <= high)


def text(max_chars: int, min_chars: int = 0) -> Field:
    wants = f"a string of {min_chars} to {max_chars:,} characters"
    return Field(
        wants, lambda value: isinstance(value, str) and min_chars <= len(value) <= max_chars
    )


def one_of(*words: str) -> Field:
    return Field(
        f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words
    )


def optional(field: Field) -> Field:
    return Field(f"{field.wants}, or null", lambda value: value is None or field.accepts(value))


def list_of(wants: str, accepts: Callable[[Any], bool]) -> Field:
    return Field(
        f"a list of {wants}",
        lambda value: isinstance(value, list) and all(map(accepts, value)),
        accepts,
    )


def is_token(value: Any) -> bool:
    """A token, or the token with its settings."""
    if isinstance(value, dict):
        flags = (value[name] for name in FLAGS if name in value)
        return isinstance(value.get("content"), str) and all(isinstance(f, bool) for f in flags)
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_tokens(value: Any) -> bool:
    """A list of tokens or, with a name for each, an object."""
    tokens = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and all(map(is_token, tokens))


def _is_decoder(value: Any) -> bool:
    """{"0": token, "1": token, ...}"""
    ids = isinstance(value, dict) and all(
        i.isascii() and i.isdecimal() and len(i) <= len(str(MAX_ID)) and int(i) <= MAX_ID
        for i in value
    )
    return ids and all(isinstance(token, dict) and is_token(token) for token in value.values())


FLAG = Field("true or false", lambda value: isinstance(value, bool))
TEXT = text(MAX_PATTERN_CHARS)
AFFIX = text(MAX_AFFIX_CHARS)
CHARACTER = Field("one character", text(1, 1).accepts)
WORD = Field("a string", lambda value: isinstance(value, str))
TOKEN = Field("the token as a string", is_token)
TOKENS = Field("a list of tokens", _are_tokens)

SETTINGS: dict[str, Field] = {
    **dict.fromkeys(NAMES, TOKEN),
    "do_lower_case": FLAG,
    "strip_accents": optional(FLAG),
    "tokenize_chinese_chars": FLAG,
    "split_special_tokens": FLAG,
    "model_max_length": Field(
        "a number of tokens, or remove it", lambda value: is_number(value) and value >= 1
    ),
    "model_input_names": list_of("names", lambda value: isinstance(value, str)),
    "additional_special_tokens": TOKENS,
    "extra_special_tokens": TOKENS,
    "added_tokens_decoder": Field("an object of ids and tokens", _is_decoder),
    "tokenizer_class": Field("the name of a class", WORD.accepts),
    "word_tokenizer_type": WORD,
    "subword_tokenizer_type": WORD,
    "padding_side": one_of("left", "right"),
    "truncation_side": one_of("left", "right"),
}


# ---- tokenizer.json ----------------------------------------------------------------------------


def _is_added(value: Any) -> bool:
    """{"id": 102, "content": "[SEP]", "special": true, ...}"""
    return (
        isinstance(value, dict)
        and is_token(value)
        and value["content"] != ""
        and ID.accepts(value.get("id"))
    )


def _is_pattern(value: Any) -> bool:
    """{"String": "a"} or {"Regex": "a+"}"""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and (value.keys() <= {"String", "Regex"})
        and all(map(TEXT.accepts, value.values()))
    )


def _is_piece(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and is_number(value[1])
    )


def _is_merge(value: Any) -> bool:
    """ "a b" or ["a", "b"]"""
    pair = value.split(" ") if isinstance(value, str) else value
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)


def _is_special(value: Any) -> bool:
    """["[SEP]", 102]"""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and ID.accepts(value[1])
    )


def _is_template(value: Any) -> bool:
    """{"Sequence": {"id": "A", "type_id": 0}} or {"SpecialToken": {"id": "[SEP]", "type_id": 0}}"""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((kind, entry),) = value.items()
    if kind not in ("Sequence", "SpecialToken") or not isinstance(entry, dict):
        return False
    names = ("A", "B") if kind == "Sequence" else (entry.get("id"),)
    return (
        isinstance(entry.get("id"), str)
        and entry["id"] in names
        and TYPE_ID.accepts(entry.get("type_id"))
    )


def _are_specials(value: Any) -> bool:
    """{"[SEP]": {"id": "[SEP]", "ids": [102], "tokens": ["[SEP]"]}}"""
    return isinstance(value, dict) and all(
        isinstance(entry, dict)
        and entry.get("id") == name
        and list_of("", ID.accepts).accepts(entry.get("ids"))
        and list_of("", WORD.accepts).accepts(entry.get("tokens"))
        and len(entry["ids"]) == len(entry["tokens"]) > 0
        for name, entry in value.items()
    )


ID, TYPE_ID = integer(0, MAX_ID), integer(0, 1)
ADDED_TOKENS = list_of("tokens with their ids", _is_added)
PATTERN = Field('{"String": ...} or {"Regex": ...}', _is_pattern)
VOCAB = Field("an object of tokens and ids", lambda value: isinstance(value, dict))
PIECES = list_of("pieces and their scores", _is_piece)
SPECIAL = Field("a token and its id", _is_special)
TEMPLATE = list_of("texts and special tokens, of type 0 or 1", _is_template)
SPLITS = one_of(*("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
REPLACE = {"pattern": PATTERN, "content": TEXT}
METASPACE = {
    "replacement": CHARACTER,
    "str_rep": CHARACTER,
    "prepend_scheme": one_of("always", "never", "first"),
    "split": FLAG,
    "add_prefix_space": FLAG,
}
BYTE_LEVEL = {"add_prefix_space": FLAG, "trim_offsets": FLAG, "use_regex": FLAG}
AROUND = {"sep": SPECIAL, "cls": SPECIAL, "trim_offsets": FLAG, "add_prefix_space": FLAG}

# Part -> type -> field.  Some may be absent: the library has defaults.
PARTS: dict[str, dict[str, dict[str, Field]]] = {
    "model": {
        "WordPiece": {
            "vocab": VOCAB,
            "unk_token": WORD,
            "continuing_subword_prefix": AFFIX,
            "max_input_chars_per_word": integer(0, MAX_WORD_CHARS),
        },
        "WordLevel": {"vocab": VOCAB, "unk_token": WORD},
        "Unigram": {"vocab": PIECES, "unk_id": optional(ID), "byte_fallback": FLAG},
        "BPE": {
            "vocab": VOCAB,
            "merges": list_of("pairs", _is_merge),
            "dropout": optional(Field("a share", lambda v: is_number(v) and 0 <= v <= 1)),
            "unk_token": optional(WORD),
            "continuing_subword_prefix": optional(AFFIX),
            "end_of_word_suffix": optional(AFFIX),
            "fuse_unk": FLAG,
            "byte_fallback": FLAG,
            "ignore_merges": FLAG,
        },
    },
    "normalizer": {
        "BertNormalizer": {
            "clean_text": FLAG,
            "handle_chinese_chars": FLAG,
            "strip_accents": optional(FLAG),
            "lowercase": FLAG,
        },
        "Strip": {"strip_left": FLAG, "strip_right": FLAG},
        "Replace": REPLACE,
        "Prepend": {"prepend": AFFIX},
        "Precompiled": {"precompiled_charsmap": WORD},
        **{kind: {} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase")},
        **{kind: {} for kind in ("StripAccents", "ByteLevel")},
    },
    "pre_tokenizer": {
        "ByteLevel": BYTE_LEVEL,
        "Metaspace": METASPACE,
        "CharDelimiterSplit": {"delimiter": CHARACTER},
        "Split": {"pattern": PATTERN, "behavior": SPLITS, "invert": FLAG},
        "Punctuation": {"behavior": SPLITS},
        "Digits": {"individual_digits": FLAG},
        "FixedLength": {"length": integer(1, 10**6)},
        **{kind: {} for kind in ("BertPreTokenizer", "UnicodeScripts")},
        **{kind: {} for kind in ("Whitespace", "WhitespaceSplit")},
    },
    "post_processor": {
        "TemplateProcessing": {
            "single": TEMPLATE,
            "pair": TEMPLATE,
            "special_tokens": Field("an object of special tokens", _are_specials),
        },
        "BertProcessing": AROUND,
        "RobertaProcessing": AROUND,
        "ByteLevel": BYTE_LEVEL,
    },
    "decoder": {
        "WordPiece": {"prefix": AFFIX, "cleanup": FLAG},
        "BPEDecoder": {"suffix": AFFIX},
        "CTC": {"pad_token": WORD, "word_delimiter_token": WORD, "cleanup": FLAG},
        "Replace": REPLACE,
        "Strip": {"content": CHARACTER, "start": integer(0, 100), "stop": integer(0, 100)},
        "Metaspace": METASPACE,
        "ByteLevel": BYTE_LEVEL,
        "Fuse": {},
        "ByteFallback": {},
    },
}
# The key of the list in a part of the type "Sequence".
SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
REQUIRED = {
    *("vocab", "merges", "pattern", "content", "prepend", "precompiled_charsmap"),
    *("single", "pair", "special_tokens", "sep", "cls"),
}
