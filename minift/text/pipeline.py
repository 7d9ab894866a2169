"""A tokenizer's files -> the pipeline of the library `tokenizers` that they describe.

tokenizer.json                     the whole pipeline
vocab.txt                          BERT's vocabulary: one token a line, ids in order from 0
tokenizer_config.json              settings, which override those in tokenizer.json
special_tokens_map.json,           further settings of older checkpoints
added_tokens.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minift.errors import UserError
from minift.files import is_present, read_json_object, read_saved
from minift.text.checks import check_ids, check_settings, check_tokenizer_json
from minift.text.fields import FLAGS, ID, MAX_ID
from minift.text.library import library_errors
from minift.text.special_tokens import (
    NONCHARACTER,
    WORDPIECE_SPECIAL_TOKENS,
    content,
    default_tokens,
    unknown_token,
)

NO_LIMIT = 10**9  # a model_max_length above this (1e30 is common) means no limit
MAX_BYTES, MAX_VALUES = 100_000_000, 5_000_000  # of tokenizer.json; the largest in use: 35 MB
RUST_SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)

# Tokenizers that build BERT's pipeline from a vocab.txt.
BERT_CLASSES = {
    f"{name}Tokenizer"
    for name in ("Bert", "ConvBert", "DistilBert", "Electra", "Lxmert", "MobileBert", "SqueezeBert")
}
# Those that split texts into words by a program or a dictionary, before subword tokens.
WORD_SPLITTERS = {
    *("BertJapaneseTokenizer", "BertweetTokenizer", "CpmTokenizer", "FlaubertTokenizer"),
    *("FSMTTokenizer", "PhobertTokenizer", "RoFormerTokenizer", "XLMTokenizer"),
}
# The settings of BertJapaneseTokenizer with which it would be BERT's.
BERT_SPLITS = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}
# A setting of tokenizer_config.json -> the field of the normalizer that it sets.
BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

MAX_HOLES = 100_000  # ids without a token
MANY_CAPITALS = 0.05  # share of the tokens; that of bert-base-cased is 0.4
ADDED_TOKENS = ("additional_special_tokens", "extra_special_tokens")


def read_pipeline(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The pipeline in a folder, and its settings, BERT's defaults filled in.

    Reads tokenizer.json, or else builds BERT's pipeline from vocab.txt.  `UserError` if neither
    exists, if a file is damaged or unreadable (a link to nowhere is no missing file), if a field
    is out of range, or if the padding token is missing.
    """
    config = read_config(folder)
    has_pipeline = is_present(path := folder / "tokenizer.json")
    _check_class(folder, config, has_pipeline)
    if has_pipeline:
        backend = _read_tokenizer_json(path, config)
    elif is_present(path := folder / "vocab.txt"):
        backend = _build_bert(path, config)
    else:
        raise UserError(
            f"{folder}: holds neither tokenizer.json nor vocab.txt; copy the tokenizer's files "
            "there, or save it as tokenizer.json with the library that it comes from"
        )
    config = {**default_tokens(backend), **config}
    if backend.post_processor is None:
        if isinstance(backend.model, models.WordPiece):
            backend.post_processor = _bert_template(path, backend, config)
        elif isinstance(backend.model, models.Unigram) and "eos_token" in config:
            backend.post_processor = _t5_template(path, backend, config)
    token_id(path, backend, config, "pad_token")  # every batch needs it
    named, found = config.get("unk_token"), unknown_token(backend)
    if named is not None and found is not None and content(named) != found:
        raise UserError(
            f"{path}: maps unknown subwords to {found!r:.80}, but unk_token is "
            f"{content(named)!r:.80}; correct unk_token in tokenizer_config.json"
        )
    return backend, config


def _check_class(folder: Path, config: dict[str, Any], has_pipeline: bool) -> None:
    """Refuse a tokenizer that is not the pipeline in its tokenizer.json, or BERT's.

    has_pipeline: whether there is a tokenizer.json; a vocab.txt says less about its use.
    """
    name = config.get("tokenizer_class") or read_object(folder / "config.json").get(
        "tokenizer_class"
    )
    if not isinstance(name, str | None):
        path = folder / "config.json"
        raise UserError(f"{path}: tokenizer_class is {name!r:.80}; give the name of a class")
    family = (name or "BertTokenizer").removesuffix("Fast")
    other = [key for key, usual in BERT_SPLITS.items() if config.get(key, usual) != usual]
    if family in WORD_SPLITTERS or other:
        told = "".join(f" with {key} {config[key]!r:.80}" for key in other)
        raise UserError(
            f"{folder}: its tokenizer is {name or 'of BERT'}{told}, which needs a program that "
            "splits texts into words, and minift has none; use a checkpoint with another tokenizer"
        )
    if not has_pipeline and is_present(folder / "vocab.txt") and family not in BERT_CLASSES:
        raise UserError(
            f"{folder}: its tokenizer is {name}, for which minift needs tokenizer.json; save it "
            "with the library that it comes from"
        )


def token_id(
    path: Path, backend: tokenizers.Tokenizer, config: dict[str, Any], name: str
) -> tuple[str, int]:
    """The text and the id of a required special token; `UserError` if it is missing."""
    token = config.get(name)
    text = content(token)
    number = backend.token_to_id(text) if isinstance(text, str) else None
    if number is None:
        raise UserError(
            f"{path}: its {name} is {token!r:.80}, which is not in the vocabulary; restore the "
            "file, or name another token in tokenizer_config.json"
        )
    return text, number


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    return read_json_object(path) if is_present(path) else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in tokenizer_config.json and, of older checkpoints, special_tokens_map.json."""
    config: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if "added_tokens_decoder" not in config:
            settings = read_object(folder / name)
            check_settings(folder / name, settings)
            config |= settings
    unset = {name for name, value in config.items() if value is None} - {"strip_accents"}
    return {name: value for name, value in config.items() if name not in unset}


def stored_limit(config: dict[str, Any]) -> int | None:
    """The tokenizer's `model_max_length` in tokens; None if there is no limit."""
    limit = config.get("model_max_length", NO_LIMIT)
    return int(limit) if limit < NO_LIMIT else None


def _read_tokenizer_json(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The pipeline in a tokenizer.json.

    As in `transformers`, BERT's settings in tokenizer_config.json override those in the file.
    """
    value = check_tokenizer_json(path, read_json_object(path, MAX_BYTES, MAX_VALUES))
    if isinstance(vocab := value["model"]["vocab"], dict):
        value["model"] = {**value["model"], "vocab": _without_holes(path, vocab)}
    with library_errors(f"{path}: not a tokenizer", "restore the file"):
        # Written again, so that the library reads what was checked.
        backend = tokenizers.Tokenizer.from_str(json.dumps(value, ensure_ascii=False))
    check_ids(path, value, backend)
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        fields = json.loads(backend.normalizer.__getstate__())
        del fields["type"]
        fields |= {field: config[key] for key, field in BERT_SETTINGS.items() if key in config}
        backend.normalizer = normalizers.BertNormalizer(**fields)
    return backend


def _build_bert(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's pipeline around a vocab.txt.

    Without `do_lower_case` in tokenizer_config.json the vocabulary decides (`_is_cased`).

    Clean, lower-case, strip accents -> words and punctuation -> WordPiece: at each position the
    longest subword token that matches; a word of more than 100 characters becomes [UNK].
    """
    config = {**WORDPIECE_SPECIAL_TOKENS, "strip_accents": None, **config}
    vocab = _without_holes(path, _read_vocab(path))
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=content(config["unk_token"])))
    token_id(path, backend, config, "unk_token")
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", not _is_cased(vocab)),
        strip_accents=config["strip_accents"],
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = _bert_template(path, backend, config)
    token_id(path, backend, config, "pad_token")
    _add_tokens(path.parent, backend, config)
    return backend


def _read_vocab(path: Path) -> dict[str, int]:
    """The tokens in a vocab.txt and their ids, read as the library and `transformers` read it.

    White space at the end of a line does not count; of equal lines the last has the id.
    """
    try:
        lines = read_saved(path, MAX_BYTES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a vocabulary in UTF-8 ({error.reason} at byte {error.start}); restore "
            "the file"
        ) from None
    if lines[-1] == "":
        del lines[-1]
    if len(lines) > MAX_ID:
        raise UserError(f"{path}: has {len(lines):,} tokens; minift reads {MAX_ID:,}")
    return {line.rstrip(RUST_SPACES): i for i, line in enumerate(lines)}


def _without_holes(path: Path, vocab: dict[str, int]) -> dict[str, int]:
    """The vocabulary with a token that no text has for each id below the greatest without one.

    The library would count added tokens from the number of tokens, not after the greatest id, and
    print a line about holes to standard output, in the middle of the user's results.
    """
    used = set(vocab.values())
    count = max(used, default=-1) + 1
    if count - len(used) > MAX_HOLES:  # counted first: a list of all ids could fill the memory
        raise UserError(
            f"{path}: the token {max(vocab, key=vocab.get)!r:.80} has the id "
            f"{max(vocab.values())}, but there are {len(vocab)} tokens; restore the file"
        )
    return vocab | {f" {NONCHARACTER}[unused{i}]": i for i in range(count) if i not in used}


def _is_cased(tokens: Iterable[str]) -> bool:
    """Whether a vocabulary has capital letters, which a lower-cased text could never reach.

    A few may be tokens that somebody added; special and unused tokens are in brackets.
    """
    words = [token for token in tokens if not token.startswith("[")]
    return sum(token != token.lower() for token in words) > MANY_CAPITALS * len(words)


def _bert_template(
    path: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]
) -> processors.TemplateProcessing:
    """[CLS] first [SEP] second [SEP], with token types 0 0 0 1 1."""
    start, end = (token_id(path, backend, config, name) for name in ("cls_token", "sep_token"))
    single = [f"{start[0]}:0", "$A:0", f"{end[0]}:0"]
    pair = [*single, "$B:1", f"{end[0]}:1"]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[start, end])


def _t5_template(
    path: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]
) -> processors.TemplateProcessing:
    """first </s> second </s>."""
    end = token_id(path, backend, config, "eos_token")
    single = ["$A", end[0]]
    pair = [*single, "$B", end[0]]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[end])


def _add_tokens(folder: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Register the tokens that are never split: special tokens, and tokens that users added.

    Added tokens (in tokenizer_config.json, or in added_tokens.json of older checkpoints) have the
    ids after those of the vocabulary.
    """
    special = [config[name] for name in WORDPIECE_SPECIAL_TOKENS]
    if backend.token_to_id(content(config["mask_token"])) is None:
        special.remove(config["mask_token"])  # the embedding has no row for it
    for key in ADDED_TOKENS:
        tokens = config.get(key, [])
        special += tokens.values() if isinstance(tokens, dict) else tokens
    path = folder / "added_tokens.json"
    added = [(i, token) for token, i in read_object(path).items()]
    for i, token in added:
        if not ID.accepts(i):
            raise UserError(
                f"{path}: the token {token!r:.80} has the id {i!r:.80}; give {ID.wants}"
            )
    added += [(int(i), token) for i, token in config.get("added_tokens_decoder", {}).items()]
    added.sort(key=lambda entry: entry[0])
    names = {content(token) for token in special}
    tokens = []
    for token in [*(token for _, token in added), *special]:
        settings = token if isinstance(token, dict) else {}
        settings = {name: settings[name] for name in FLAGS if name in settings}
        if content(token) in names:
            settings["special"] = True
        tokens.append(AddedToken(content(token), **settings))
    backend.add_tokens(tokens)
    for i, token in added:
        if (found := backend.token_to_id(content(token))) != i:
            raise UserError(
                f"{folder}: the added token {content(token)!r:.80} gets the id {found}, but "
                f"should have {i}; restore vocab.txt"
            )


def template(backend: tokenizers.Tokenizer, pair: bool) -> list[tuple[int | None, int, int]]:
    """Texts and special tokens in order: (sequence, or None for a special token; id; type id).

    Found by giving the post-processor a token, or a pair.  The token is another tokenizer's, since
    this one may know no letter.  BERT's layout of a pair:
        [(None, 101, 0), (0, _, 0), (None, 102, 0), (1, _, 1), (None, 102, 1)]
    """
    token = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
    probe = backend.post_process(token, token if pair else None)
    layout: list[tuple[int | None, int, int]] = []
    for entry in zip(probe.sequence_ids, probe.ids, probe.type_ids, strict=True):
        if entry[0] is None or not layout or layout[-1][0] != entry[0]:
            layout.append(entry)
    return layout
