"""Text -> the ids that a model reads, and back: a thin wrapper of the Rust library `tokenizers`.

In: texts, pairs of texts, or texts already split into words.  Out: one `Encoding` for each, which
says of every token where it comes from.  With the vocabulary of BERT:

    text          Embeddings!
    ids           [CLS]  em     ##bed  ##ding  ##s     !        [SEP]     as numbers: 101, 7861, ...
    type_ids      0      0      0      0       0       0        0
    offsets       (0,0)  (0,2)  (2,5)  (5,9)   (9,10)  (10,11)  (0,0)     text[0:2] == "Em"
    word_ids      None   0      0      0       0       1        None
    sequence_ids  None   0      0      0       0       0        None

A pair reads [CLS] first [SEP] second [SEP]; the second text and its [SEP] have type 1.

Nothing about a call is remembered: the Rust object only ever splits texts into pieces.  Truncation
and special tokens are done here, on lists, and padding belongs to the batch (`data.batch.pad`).
So truncation and padding that a tokenizer.json switches on (that of all-MiniLM-L6-v2 cuts at 128
tokens) never apply.

A special token that is spelled out inside a text, such as "[SEP]", becomes that special token, as
in the reference.  WordPiece: Schuster and Nakajima 2012; in BERT: Devlin et al. 2018.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minift import hub
from minift.errors import InputError
from minift.files import read_json, write_json, write_text
from minift.text.windows import shares

CHUNK = 1024  # texts that Rust works on at once: parallel, yet its bulky results are soon released
NO_LIMIT = 10**9  # a model_max_length above this (1e30 is common) means that there is none

BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
# A setting of tokenizer_config.json -> the field of the normalizer that it means.
BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Keys of tokenizer_config.json that are not written again: they speak of another machine or of code
# to run, or say what tokenizer.json says.
DROPPED_KEYS = {
    *("name_or_path", "tokenizer_file", "special_tokens_map_file", "auto_map"),
    "added_tokens_decoder",
}


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text or pair; the lists have one item for each token.

    offsets: (start, end) in characters of the text, or of the word if words were given.
    word_ids: number of the word within its text; None for special tokens that were added.
    sequence_ids: 0 in the first text, 1 in the second, None for special tokens that were added.
    total: tokens there would have been without truncation.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    total: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def cut(self) -> int:
        """How many tokens truncation took away."""
        return self.total - len(self.ids)


class Tokenizer:
    """See the module's docstring.  Made by `from_pretrained`; its methods never change it.

    max_length: tokens that the model reads at most, special ones included; None: no limit.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: dict[str, Any], max_length: int | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._config = config
        self.max_length = max_length
        self._layouts = [_layout(backend, pair) for pair in (False, True)]

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, max_length: int | None = None
    ) -> Tokenizer:
        """The tokenizer in a folder, or of a name or hub id (see `minift.hub`).

        Reads tokenizer.json, or else builds BERT's from vocab.txt.  `max_length` is the model's
        own limit; the smaller of it and the tokenizer's counts.
        """
        folder = hub.resolve(source)
        config = _read_config(folder)
        if (path := folder / "tokenizer.json").exists():
            backend = _read_tokenizer_json(path, config)
        elif (path := folder / "vocab.txt").exists():
            backend = _build_bert(path, config)
        else:
            raise InputError(
                f"{folder}: holds neither tokenizer.json nor vocab.txt; copy the tokenizer's files "
                "there, or save it as tokenizer.json with the library that it comes from"
            )
        if isinstance(backend.model, models.WordPiece):
            config = {**BERT_TOKENS, **config}
            if backend.post_processor is None:
                backend.post_processor = _bert_template(path, backend, config)
        _token_id(path, backend, config, "pad_token")  # batches cannot do without
        limits = [limit for limit in (max_length, _stored_limit(folder, config)) if limit]
        return cls(backend, config, min(limits, default=None))

    # ---- text -> tokens ------------------------------------------------------------------------

    def __call__(self, text: Any, pair: Any = None, **options: Any) -> Encoding:
        """One text, or one pair; the options are those of `encode`."""
        return self.encode([text], None if pair is None else [pair], **options)[0]

    def encode(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = True,
        is_split_into_words: bool = False,
    ) -> list[Encoding]:
        """Texts, or `texts` paired with `pairs`, with special tokens: one `Encoding` for each.

        What has more than `max_length` tokens (by default the tokenizer's own limit) is cut at the
        end; of a pair the longer text loses first, until both are equally long (`shares`).
        With `is_split_into_words` a text is a list of words, and `word_ids` count those.

        The work is done a thousand texts at a time, on all cores.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; give one for each text")
        limit = self.max_length if max_length is None else max_length
        special = self.num_special(pair=pairs is not None)
        if limit is not None and limit < special:
            raise ValueError(f"max_length is {limit}, but the special tokens alone are {special}")
        room = limit - special if truncation and limit is not None else None
        firsts = self.tokens(texts, is_split_into_words=is_split_into_words)
        if pairs is None:
            return [self._join(first, None, room) for first in firsts]
        seconds = self.tokens(pairs, is_split_into_words=is_split_into_words)
        return [self._join(a, b, room) for a, b in zip(firsts, seconds, strict=True)]

    def tokens(self, texts: Sequence[Any], *, is_split_into_words: bool = False) -> list[Encoding]:
        """The texts' own tokens: no special ones added, nothing cut."""
        return [
            Encoding(e.ids, e.type_ids, e.offsets, e.word_ids, e.sequence_ids, len(e.ids))
            for e in self._run(texts, is_split_into_words)
        ]

    def ids(self, texts: Sequence[Any], *, is_split_into_words: bool = False) -> list[list[int]]:
        """The ids of `tokens` and nothing else: twice as fast, a fraction of the memory."""
        return [e.ids for e in self._run(texts, is_split_into_words, fast=True)]

    def num_special(self, pair: bool) -> int:
        """How many special tokens a text or a pair gets.  BERT: 2 or 3."""
        return sum(sequence is None for sequence, _, _ in self._layouts[pair])

    def build(
        self, ids_a: Sequence[int], ids_b: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of one text or two, as from `tokens`, with special tokens; and the type ids.

        With BERT's 101 for [CLS] and 102 for [SEP]: build([7, 8], [9]) is
        ([101, 7, 8, 102, 9, 102], [0, 0, 0, 0, 1, 1]).
        """
        ids: list[int] = []
        type_ids: list[int] = []
        for sequence, special_id, type_id in self._layouts[ids_b is not None]:
            piece = [special_id] if sequence is None else (ids_a, ids_b)[sequence]
            ids += piece
            type_ids += [type_id] * len(piece)
        return ids, type_ids

    def _join(self, first: Encoding, second: Encoding | None, room: int | None) -> Encoding:
        """One text or two, cut to `room` tokens together, between their special tokens."""
        parts = [first] if second is None else [first, second]
        lengths = [len(part) for part in parts]
        total = sum(lengths) + self.num_special(pair=second is not None)
        if room is not None:
            lengths = shares(*lengths, room) if second is not None else [min(lengths[0], room)]
        ids, type_ids = self.build(*(p.ids[:n] for p, n in zip(parts, lengths, strict=True)))
        offsets: list[tuple[int, int]] = []
        word_ids: list[int | None] = []
        sequence_ids: list[int | None] = []
        for sequence, _, _ in self._layouts[second is not None]:
            if sequence is None:
                offsets.append((0, 0))
                word_ids.append(None)
                sequence_ids.append(None)
            else:
                n = lengths[sequence]
                offsets += parts[sequence].offsets[:n]
                word_ids += parts[sequence].word_ids[:n]
                sequence_ids += [sequence] * n
        return Encoding(ids, type_ids, offsets, word_ids, sequence_ids, total)

    def _run(
        self, texts: Sequence[Any], words: bool, fast: bool = False
    ) -> Iterator[tokenizers.Encoding]:
        """The Rust encoding of each text; `fast` ones have no offsets."""
        if isinstance(texts, str):
            raise TypeError("texts is one str; give a list, or call the tokenizer for one text")
        encode = self._backend.encode_batch_fast if fast else self._backend.encode_batch
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            for i, text in enumerate(chunk, start):
                _check_text(text, i, words)
            yield from encode(chunk, is_pretokenized=words, add_special_tokens=False)

    # ---- tokens -> text ------------------------------------------------------------------------

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        found = [self._backend.id_to_token(i) for i in ids]
        if None in found:
            unknown = ids[found.index(None)]
            raise ValueError(f"{unknown} is not the id of any of the {self.vocab_size} tokens")
        return found

    # ---- the vocabulary ------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def pad_token(self) -> str:
        return _content(self._config["pad_token"])

    @property
    def pad_token_id(self) -> int:
        return self._backend.token_to_id(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        return self._special_id("unk_token")

    @property
    def cls_token_id(self) -> int | None:
        return self._special_id("cls_token")

    @property
    def sep_token_id(self) -> int | None:
        return self._special_id("sep_token")

    @property
    def mask_token_id(self) -> int | None:
        return self._special_id("mask_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    def _special_id(self, name: str) -> int | None:
        token = self._config.get(name)
        return None if token is None else self._backend.token_to_id(_content(token))

    # ---- to disk -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json so that the reference reads them alike.

        The reference builds BERT's tokenizer from the settings in tokenizer_config.json, whatever
        tokenizer.json says; so they are written out, even where they are the defaults.
        """
        kept = {
            key: _content(value) if key.endswith("_token") else value
            for key, value in self._config.items()
            if key not in DROPPED_KEYS
        }
        settings = {}
        if isinstance(self._backend.normalizer, normalizers.BertNormalizer):
            settings = {
                key: getattr(self._backend.normalizer, field)
                for key, field in BERT_SETTINGS.items()
            }
        name = "BertTokenizer" if settings else "PreTrainedTokenizerFast"
        limit = {} if self.max_length is None else {"model_max_length": self.max_length}
        config = {"tokenizer_class": name, **kept, **settings, **limit}
        write_text(Path(folder, "tokenizer.json"), self._backend.to_str(pretty=True))
        write_json(Path(folder, "tokenizer_config.json"), config)


def _layout(backend: tokenizers.Tokenizer, pair: bool) -> list[tuple[int | None, int, int]]:
    """Where special tokens stand: (sequence or None for a special token, its id, type id) in order.

    BERT's for a pair, read off what the library makes of one letter each:
        [(None, 101, 0), (0, _, 0), (None, 102, 0), (1, _, 1), (None, 102, 1)]
    """
    probe = backend.encode("a", "a" if pair else None)
    layout: list[tuple[int | None, int, int]] = []
    for entry in zip(probe.sequence_ids, probe.ids, probe.type_ids, strict=True):
        if entry[0] is None or not layout or layout[-1][0] != entry[0]:
            layout.append(entry)
    return layout


def _check_text(text: Any, index: int, words: bool) -> None:
    """Refuse what Rust would refuse, in words that say which text and why."""
    if words and isinstance(text, str):
        raise TypeError(f"text {index} is a str; with is_split_into_words give lists of words")
    for part in text if words else [text]:
        if not isinstance(part, str):
            raise TypeError(f"text {index} is or holds {type(part).__name__} {part!r}; give str")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {index}: its character {error.start} is half of a surrogate pair "
                f"(U+{ord(part[error.start]):04X}), which is not text; remove it"
            ) from None


def _content(token: str | dict[str, Any]) -> str:
    """A special token's name, which may be stored together with its settings."""
    return token["content"] if isinstance(token, dict) else token


def _token_id(
    path: Path, backend: tokenizers.Tokenizer, config: dict[str, Any], name: str
) -> tuple[str, int]:
    """A special token that is needed, and its id."""
    token = config.get(name)
    token_id = None if token is None else backend.token_to_id(_content(token))
    if token is None or token_id is None:
        raise InputError(
            f"{path}: its {name} is {token!r}, which is not in the vocabulary; restore the file, "
            "or name another token in tokenizer_config.json"
        )
    return _content(token), token_id


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not an object; restore the file")
    return value


def _read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the special tokens that older checkpoints store beside it."""
    path = folder / "tokenizer_config.json"
    config = _read_object(path)
    if "added_tokens_decoder" not in config:
        config = {**config, **_read_object(folder / "special_tokens_map.json")}
    unset = {name for name, value in config.items() if value is None} - {"strip_accents"}
    config = {name: value for name, value in config.items() if name not in unset}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and not isinstance(value, bool) and not isinstance(content, str):
            raise InputError(f"{path}: {name} is {value!r}; give the token as a string")
        if name in BERT_SETTINGS and not isinstance(value, bool | None):
            raise InputError(f"{path}: {name} is {value!r}; give true or false")
    return config


def _stored_limit(folder: Path, config: dict[str, Any]) -> int | None:
    limit = config.get("model_max_length", NO_LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {limit!r}; give a number of "
            "tokens, or remove it"
        )
    return int(limit) if limit < NO_LIMIT else None


def _read_tokenizer_json(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The pipeline in a tokenizer.json.

    As in the reference, BERT's settings in tokenizer_config.json win over those in the file.
    """
    try:
        backend = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    except Exception as error:  # the library raises ValueError or bare Exception
        raise InputError(f"{path}: not a tokenizer ({_line(error)}); restore the file") from None
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        fields = json.loads(backend.normalizer.__getstate__())
        del fields["type"]
        fields |= {field: config[key] for key, field in BERT_SETTINGS.items() if key in config}
        backend.normalizer = normalizers.BertNormalizer(**fields)
    return backend


def _build_bert(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's pipeline around a vocab.txt: one token a line, the line's number its id.

    Clean, lower-case, strip accents -> words and punctuation -> longest pieces first; a word of
    more than 100 characters is [UNK].
    """
    config = {**BERT_TOKENS, "strip_accents": None, **config}
    try:
        model = models.WordPiece.from_file(str(path), unk_token=_content(config["unk_token"]))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"{path}: not a vocabulary in UTF-8 ({_line(error)}); restore the file"
        ) from None
    backend = tokenizers.Tokenizer(model)
    _token_id(path, backend, config, "unk_token")
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config["strip_accents"],
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = _bert_template(path, backend, config)
    _token_id(path, backend, config, "pad_token")
    try:
        _add_tokens(path.parent, backend, config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path.parent}: the added tokens in tokenizer_config.json or added_tokens.json are "
            f"damaged ({_line(error)}); restore these files"
        ) from None
    return backend


def _bert_template(
    path: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]
) -> processors.TemplateProcessing:
    """[CLS] first [SEP] second [SEP], with types 0 0 0 1 1."""
    start, end = (_token_id(path, backend, config, name) for name in ("cls_token", "sep_token"))
    single = [f"{start[0]}:0", "$A:0", f"{end[0]}:0"]
    pair = [*single, "$B:1", f"{end[0]}:1"]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[start, end])


def _add_tokens(folder: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Tell the pipeline which tokens are never split: special ones, and those that users added.

    Added ones (in tokenizer_config.json, or in added_tokens.json of older checkpoints) have ids
    behind those of the vocabulary.
    """
    special = [config[name] for name in BERT_TOKENS]
    if backend.token_to_id(_content(config["mask_token"])) is None:
        special.remove(config["mask_token"])  # nothing to mask, and no row in the embedding
    for key in ("additional_special_tokens", "extra_special_tokens"):
        special += config.get(key, [])
    added = [(i, token) for token, i in _read_object(folder / "added_tokens.json").items()]
    added += [(int(i), token) for i, token in config.get("added_tokens_decoder", {}).items()]
    added.sort(key=lambda entry: entry[0])
    names = {_content(token) for token in special}
    for token in [*(token for _, token in added), *special]:
        settings = dict(token) if isinstance(token, dict) else {"content": token}
        settings.pop("__type", None)
        if settings["content"] in names:
            backend.add_special_tokens([AddedToken(**{**settings, "special": True})])
        else:
            backend.add_tokens([AddedToken(**settings)])
    for i, token in added:
        if (found := backend.token_to_id(_content(token))) != i:
            raise InputError(
                f"{folder}: the added token {_content(token)!r} gets the id {found}, but "
                f"should have {i}; restore vocab.txt"
            )


def _line(error: Exception) -> str:
    """What the library says, as one line that is not too long."""
    return " ".join(str(error).split())[:200]
