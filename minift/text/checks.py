"""A tokenizer's files held against the tables of text/fields.py, and against each other.

`check_settings` and `check_tokenizer_json` read JSON only; `check_ids` asks the loaded pipeline.
Each raises `UserError`, which names the file, the field, its value and what to give.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from minift.errors import UserError
from minift.text.charsmap import charsmap_growth
from minift.text.fields import (
    ADDED_TOKENS,
    ID,
    PARTS,
    REQUIRED,
    SEQUENCES,
    SETTINGS,
    TOKEN,
    Field,
)

MAX_PARTS = 100  # normalizers, pre-tokenizers, ... in all sequences together
MAX_GROWTH = 1_000  # of a text; T5's and XLM-R's could make one 132 times longer
MAX_PIECE_CHARS = 1_000  # of a Unigram piece: time is linear in it; SentencePiece's default is 16
MAX_PIECES_CHARS = 20_000_000  # of all pieces: the library needs some 100 bytes for each
# Part -> by what factor it can make a text longer, in bytes of UTF-8.
GROWTH = {"Metaspace": 3.0, "ByteLevel": 2.0, "BertNormalizer": 2.0}
OTHERWISE = "restore the file, or use another tokenizer"


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """The settings of tokenizer_config.json or special_tokens_map.json; null is absence."""
    for name, value in settings.items():
        field = SETTINGS.get(name)
        if field is None and name.endswith("_token") and not isinstance(value, bool):
            field = TOKEN  # such as image_token; add_bos_token is true or false
        if field is not None and value is not None and not field.accepts(value):
            raise UserError(f"{path}: {name} is {field.told(value)}; give {field.wants}")


def check_tokenizer_json(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a tokenizer.json for the library.

    Without truncation and padding, which minift does itself.  A model has a "type", which the
    first versions of the library did not write.
    """
    model = value.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{path}: not a tokenizer (its model is {model!r:.80}); restore the file")
    if "type" not in model:
        model = {"type": _model_type(model), **model}
    value = {**value, "model": model, "truncation": None, "padding": None}
    if "added_tokens" in value:
        _check_field(path, value, "added_tokens", ADDED_TOKENS, "the tokenizer")
    leaves = {part: list(_leaves(path, part, value.get(part))) for part in PARTS}
    if sum(map(len, leaves.values())) > MAX_PARTS:
        raise UserError(f"{path}: has more than {MAX_PARTS} normalizers and the like; {OTHERWISE}")
    _check_model(path, model)
    for processor in leaves["post_processor"]:
        if processor["type"] == "TemplateProcessing":
            _check_template(path, processor)
    _check_growth(path, [*leaves["normalizer"], *leaves["pre_tokenizer"]])
    _check_growth(path, leaves["decoder"])
    return value


def check_ids(path: Path, value: Mapping[str, Any], backend: tokenizers.Tokenizer) -> None:
    """The ids in a tokenizer.json are those of the pipeline that the library made of it.

    The library counts the added tokens after the vocabulary, whatever ids the file has for them,
    and adds a template's ids to a text without a look at the vocabulary.
    """
    expected = [(token["content"], token["id"]) for token in value.get("added_tokens", [])]
    for processor in _leaves(path, "post_processor", value.get("post_processor")):
        expected += [tuple(processor[name]) for name in ("sep", "cls") if name in processor]
        for special in processor.get("special_tokens", {}).values():
            expected += zip(special["tokens"], special["ids"], strict=True)
    for token, i in expected:
        if (found := backend.token_to_id(token)) != i:
            raise UserError(
                f"{path}: the special or added token {token!r:.80} has the id {i}, but "
                f"{'none' if found is None else found} by the vocabulary; {OTHERWISE}"
            )


def _leaves(path: Path, part: str, value: Any) -> Iterator[dict[str, Any]]:
    """The parts in a part of the type "Sequence", each checked; or the part itself."""
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    name = part.replace("_", "-")
    if kind == "Sequence" and part in SEQUENCES:
        inner = value.get(SEQUENCES[part])
        if not isinstance(inner, list):
            raise UserError(f"{path}: its {name} is a Sequence without a list; {OTHERWISE}")
        for item in inner:
            yield from _leaves(path, part, item)
        return
    if not isinstance(kind, str) or kind not in PARTS[part]:
        told = f"has the type {kind!r:.80}" if isinstance(value, dict) else f"is {value!r:.80}"
        raise UserError(f"{path}: its {name} {told}, which minift does not know; {OTHERWISE}")
    for key, field in PARTS[part][kind].items():
        if key in value or key in REQUIRED:
            _check_field(path, value, key, field, f"its {kind}")
    yield value


def _check_field(path: Path, values: Mapping[str, Any], name: str, field: Field, of: str) -> None:
    if not field.accepts(value := values.get(name)):
        raise UserError(
            f"{path}: {name} of {of} is {field.told(value)}; give {field.wants}, or use another "
            "tokenizer"
        )


def _model_type(model: Mapping[str, Any]) -> str:
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _check_model(path: Path, model: Mapping[str, Any]) -> None:
    kind, vocab = model["type"], model["vocab"]
    if kind == "Unigram":
        lengths = [len(piece) for piece, _ in vocab]
        if max(lengths, default=0) > MAX_PIECE_CHARS or sum(lengths) > MAX_PIECES_CHARS:
            raise UserError(
                f"{path}: a piece has {max(lengths):,} characters, and all have {sum(lengths):,}; "
                f"minift reads {MAX_PIECE_CHARS:,} and {MAX_PIECES_CHARS:,}; use another tokenizer"
            )
        return
    for token, i in vocab.items():
        if not ID.accepts(i):
            raise UserError(
                f"{path}: the token {token!r:.80} has the id {i!r:.80}; give {ID.wants}"
            )
    if len(set(vocab.values())) < len(vocab):
        ((i, _),) = Counter(vocab.values()).most_common(1)
        first, second = [token for token, other in vocab.items() if other == i][:2]
        raise UserError(
            f"{path}: the tokens {first!r:.80} and {second!r:.80} have one id, {i}; {OTHERWISE}"
        )
    if kind != "BPE" and model.get("unk_token") not in vocab:
        raise UserError(
            f"{path}: unk_token of its {kind} is {model.get('unk_token')!r:.80}, which is not in "
            f"the vocabulary; {OTHERWISE}"
        )
    # The library cuts the prefix off the second part of a merge, and ends the process if it cannot.
    if prefix := model.get("continuing_subword_prefix") if kind == "BPE" else None:
        for merge in model["merges"]:
            second = (merge.split(" ") if isinstance(merge, str) else merge)[1]
            if not second.startswith(prefix):
                raise UserError(
                    f"{path}: the merge {merge!r:.80} continues a word without the prefix "
                    f"{prefix!r}; {OTHERWISE}"
                )


def _check_template(path: Path, processor: Mapping[str, Any]) -> None:
    """Each text occurs once, and every special token of a template has its ids."""
    for name, texts in (("single", ["A"]), ("pair", ["A", "B"])):
        entries = [entry for piece in processor[name] for entry in piece.items()]
        found = sorted(entry["id"] for kind, entry in entries if kind == "Sequence")
        used = {entry["id"] for kind, entry in entries if kind == "SpecialToken"}
        if found != texts:
            raise UserError(
                f"{path}: the template for a {name} has the texts {found}, not {texts}; {OTHERWISE}"
            )
        if missing := used - processor["special_tokens"].keys():
            raise UserError(
                f"{path}: the template for a {name} uses {min(missing)!r:.80}, for which "
                f"special_tokens has no id; {OTHERWISE}"
            )


def _check_growth(path: Path, leaves: Sequence[Mapping[str, Any]]) -> None:
    """Refuse normalizers that together can make a text more than `MAX_GROWTH` times longer.

    Sixty times "a" replaced by "aa" would fill any memory.
    """
    growth = 1.0
    for leaf in leaves:
        if leaf["type"] == "Replace":
            growth *= _replace_growth(leaf)
        elif leaf["type"] == "Precompiled":
            try:
                growth *= charsmap_growth(leaf["precompiled_charsmap"])
            except ValueError as error:
                raise UserError(f"{path}: precompiled_charsmap {error}; {OTHERWISE}") from None
        else:
            growth *= GROWTH.get(leaf["type"], 1.0)
    if growth > MAX_GROWTH:
        raise UserError(
            f"{path}: its normalizers or decoders can make a text {growth:.4g} times longer; "
            f"minift accepts {MAX_GROWTH:,}; use another tokenizer"
        )


def _replace_growth(replace: Mapping[str, Any]) -> float:
    """The growth by a Replace, counted in bytes of the compatibility decomposition (NFKD).

    So a Unicode normal form, which expands "ﷺ" to 18 letters, counts once however often it is
    applied, and its expansion of the inserted text counts here.
    """
    ((kind, pattern),) = replace["pattern"].items()
    inserted = len(unicodedata.normalize("NFKD", replace["content"]).lower().encode())
    if kind == "String" and pattern:
        return max(1.0, inserted / len(pattern.encode()))
    return 1.0 + inserted  # it may match between any two characters
