"""Text -> token ids, and back: a thin wrapper of the Rust library `tokenizers`.

In: texts, pairs of texts, or texts already split into words.  Out: one `Encoding` for each, which
holds the id and the origin of every token.  With the vocabulary of BERT:

    text          Embeddings!
    ids           [CLS]  em     ##bed  ##ding  ##s     !        [SEP]     as numbers: 101, 7861, ...
    type_ids      0      0      0      0       0       0        0
    offsets       (0,0)  (0,2)  (2,5)  (5,9)   (9,10)  (10,11)  (0,0)     text[0:2] == "Em"
    word_ids      None   0      0      0       0       1        None
    sequence_ids  None   0      0      0       0       0        None

A pair becomes [CLS] first [SEP] second [SEP]; the second text and its [SEP] have type 1.

A call leaves no state behind: the Rust object only splits texts into subword tokens.  This module
truncates and adds special tokens, on lists, and `data.batching.pad` pads batches.  Truncation and
padding that a tokenizer.json switches on (that of all-MiniLM-L6-v2 truncates at 128 tokens) never
apply.

A special token that is written out in a text, such as "[SEP]", is text (text/special_tokens.py),
unless `split_special_tokens` is False, which is the default of `transformers`.

WordPiece: Schuster and Nakajima 2012, "Japanese and Korean voice search"; in BERT: Devlin et al.
2018.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers

from minift import hub
from minift.errors import UserError
from minift.files import write_json, write_text
from minift.text.library import check_text, library_errors
from minift.text.pieces import PIECE, can_be_cut, cut
from minift.text.pipeline import BERT_SETTINGS, read_pipeline, stored_limit, template
from minift.text.special_tokens import content, control_tokens, spelled_in, without_tokens
from minift.text.windows import truncate_pair

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # written by `save_pretrained`
CHUNK = 1024  # texts for one call of Rust: enough to run in parallel, few enough to save memory
# Keys of tokenizer_config.json that are not saved: they name files of another machine or code to
# run, repeat tokenizer.json, or are set by `Tokenizer`.
DROPPED_KEYS = {
    *("name_or_path", "tokenizer_file", "special_tokens_map_file", "auto_map"),
    *("added_tokens_decoder", "split_special_tokens"),
}


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text or pair; the lists have one item for each token.

    offsets: (start, end) in characters of the text, or of the word if words were given.
    word_ids: number of the word within its text; None for special tokens that were added.
    sequence_ids: 0 in the first text, 1 in the second, None for special tokens that were added.
    total: number of tokens before truncation.
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
        """Number of tokens that truncation removed."""
        return self.total - len(self.ids)


class Tokenizer:
    """Splits texts into subword tokens; made by `from_pretrained`, not changed by its methods.

    max_length: maximum number of tokens of an encoding, special tokens included; None: no limit.
    split_special_tokens: whether a control token that a text spells, such as "[SEP]", is text.
    control_tokens: the special tokens that stand for no text.
    source: the folder, for error messages.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any],
        max_length: int | None = None,
        split_special_tokens: bool = True,
        source: str | os.PathLike = "",
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._config = config
        self.max_length = max_length
        self.split_special_tokens = split_special_tokens
        self.source = source
        self.control_tokens = control_tokens(backend, config)
        self._layouts = [template(backend, pair) for pair in (False, True)]
        # As in `transformers`: a tokenizer that does not name token types gives type 0 to all.
        if "token_type_ids" not in config.get("model_input_names", ("token_type_ids",)):
            self._layouts = [[(s, i, 0) for s, i, _ in layout] for layout in self._layouts]

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        max_length: int | None = None,
        split_special_tokens: bool = True,
    ) -> Tokenizer:
        """Load the tokenizer of a folder, a checkpoint name or a hub id (see `minift.hub`).

        Reads tokenizer.json, or else builds BERT's pipeline from vocab.txt.  max_length: the
        model's limit; the smaller one of it and the tokenizer's limit applies.
        split_special_tokens: see `Tokenizer`; what the folder's settings say of it is ignored.
        Raises `UserError` for missing or damaged files.
        """
        folder = hub.find_checkpoint(source)
        backend, config = read_pipeline(folder)
        stored = stored_limit(config)
        limits = [limit for limit in (max_length, stored) if limit]
        tokenizer = cls(backend, config, min(limits, default=None), split_special_tokens, folder)
        if stored is not None and stored <= (special := tokenizer.num_special(pair=False)):
            raise UserError(
                f"{folder / TOKENIZER_FILES[1]}: model_max_length is {stored}, and every text gets "
                f"{special} special tokens; give a greater number, or remove it"
            )
        return tokenizer

    def for_model(self, input_names: Sequence[str], max_length: int | None = None) -> Tokenizer:
        """The same tokenizer with a model's inputs and limit, which `save_pretrained` writes.

        input_names: the inputs of the model, as `transformers` names them, such as
            "token_type_ids".  Those that the tokenizer's own model_input_names lack stay out.
        max_length: the limit; None: the tokenizer's own.
        """
        own = self._config.get("model_input_names", input_names)
        names = [name for name in input_names if name in own]
        config = {**self._config, "model_input_names": names}
        limit = max_length or self.max_length
        return Tokenizer(self._backend, config, limit, self.split_special_tokens, self.source)

    @cached_property
    def _reader(self) -> tokenizers.Tokenizer:
        """Reads texts, while `_backend` knows the names of all tokens."""
        if not self.split_special_tokens:
            return self._backend
        with self._errors("cannot read special tokens as text"):
            return without_tokens(self._backend, self.control_tokens)

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

        An encoding of more than `max_length` tokens (default: the tokenizer's limit) is truncated
        at the end; of a pair, the longer text is truncated first (`truncate_pair`).  With
        `is_split_into_words` a text is a list of words, which `word_ids` number.

        Works on a thousand texts at a time, on all cores.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; give one for each text")
        limit = self.max_length if max_length is None else max_length
        special = self.num_special(pair=pairs is not None)
        if limit is not None and limit < special:
            raise ValueError(
                f"max_length is {limit}; it must be at least {special}, the number of special "
                "tokens"
            )
        max_tokens = limit - special if truncation and limit is not None else None
        firsts = self.tokens(texts, is_split_into_words=is_split_into_words)
        if pairs is None:
            return [self._join(first, None, max_tokens) for first in firsts]
        seconds = self.tokens(pairs, is_split_into_words=is_split_into_words)
        return [self._join(a, b, max_tokens) for a, b in zip(firsts, seconds, strict=True)]

    def tokens(self, texts: Sequence[Any], *, is_split_into_words: bool = False) -> list[Encoding]:
        """The tokens of the texts, without special tokens and without truncation."""
        return [
            Encoding(e.ids, e.type_ids, e.offsets, e.word_ids, e.sequence_ids, len(e.ids))
            for e in self._run(texts, is_split_into_words)
        ]

    def ids(self, texts: Sequence[Any], *, is_split_into_words: bool = False) -> list[list[int]]:
        """Only the ids of `tokens`: twice as fast, with a fraction of the memory.

        A long text is read in pieces where that changes nothing (pieces.py).
        """
        long = not is_split_into_words and any(len(text) > PIECE for text in texts)
        if not long or not can_be_cut(self._reader):
            return [e.ids for e in self._run(texts, is_split_into_words, fast=True)]
        parts = ((e.ids for p in cut(t) for e in self._run([p], False, fast=True)) for t in texts)
        return [list(chain.from_iterable(part)) for part in parts]

    def unknown(self, texts: Sequence[str]) -> Counter[str]:
        """The texts of the unknown tokens, and how often each occurs.

        With T5's vocabulary these are runs of characters, with BERT's whole words.
        """
        found: Counter[str] = Counter()
        for text, encoding in zip(texts, self.tokens(texts), strict=True):
            for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                if i == self.unk_token_id:
                    found[text[start:end]] += 1
        return found

    def num_special(self, pair: bool) -> int:
        """Number of special tokens that a text or a pair gets.  BERT: 2 or 3."""
        return sum(sequence is None for sequence, _, _ in self._layouts[pair])

    def build(
        self, ids_a: Sequence[int], ids_b: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Add special tokens to the ids of one text or two: ids and type ids.

        With BERT's 101 for [CLS] and 102 for [SEP]: build([7, 8], [9]) is
        ([101, 7, 8, 102, 9, 102], [0, 0, 0, 0, 1, 1]).
        """
        ids: list[int] = []
        type_ids: list[int] = []
        for sequence, special_id, type_id in self._layouts[ids_b is not None]:
            part = [special_id] if sequence is None else (ids_a, ids_b)[sequence]
            ids += part
            type_ids += [type_id] * len(part)
        return ids, type_ids

    def _join(self, first: Encoding, second: Encoding | None, max_tokens: int | None) -> Encoding:
        """Truncate one text or two to `max_tokens` tokens together and add special tokens."""
        parts = [first] if second is None else [first, second]
        lengths = [len(part) for part in parts]
        total = sum(lengths) + self.num_special(pair=second is not None)
        if max_tokens is not None:
            lengths = (
                truncate_pair(*lengths, max_tokens)
                if second is not None
                else [min(lengths[0], max_tokens)]
            )
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
        """The Rust encoding of each text; without offsets if `fast`."""
        if isinstance(texts, str):
            raise TypeError("texts is one str; give a list, or call the tokenizer for one text")
        encode = self._reader.encode_batch_fast if fast else self._reader.encode_batch
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            for i, text in enumerate(chunk, start):
                check_text(text, i, words)
            with self._errors("cannot read a text"):
                encodings = encode(chunk, is_pretokenized=words, add_special_tokens=False)
            yield from encodings

    def _errors(self, problem: str) -> AbstractContextManager[None]:
        """Errors that a stranger's tokenizer shows only when it has a text."""
        return library_errors(f"{self.source}: its tokenizer {problem}", "use another tokenizer")

    # ---- tokens -> text ------------------------------------------------------------------------

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        with self._errors("cannot write a text"):
            return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        found = [self._backend.id_to_token(i) for i in ids]
        if None in found:
            unknown = ids[found.index(None)]
            raise ValueError(f"{unknown} is not the id of any of the {self.vocab_size} tokens")
        return found

    # ---- the vocabulary ------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """The greatest id plus 1, added tokens included: the rows that an embedding needs."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def check_fits(self, num_embeddings: int) -> None:
        """Raise `UserError` if a model with so many embeddings has no row for one of the ids.

        Call it before a tokenizer and a model of your own choice meet (`model.config.vocab_size`).
        """
        if self.vocab_size > num_embeddings:
            raise UserError(
                f"{self.source}: the tokenizer has ids up to {self.vocab_size - 1}, but the model "
                f"only {num_embeddings} embeddings; use the tokenizer that belongs to the model"
            )

    @property
    def pad_token(self) -> str:
        return content(self._config["pad_token"])

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

    def spelled_control_token(self, text: str) -> str | None:
        """The first control token that a text spells, such as "[SEP]"; None without one."""
        found = self._control_pattern.search(text)
        return found and found[0]

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        return spelled_in(self.control_tokens)

    def id_of(self, token: str) -> int | None:
        """The id of a token; None if there is no such token."""
        return self._backend.token_to_id(token)

    def _special_id(self, name: str) -> int | None:
        token = self._config.get(name)
        return None if token is None else self._backend.token_to_id(content(token))

    # ---- to disk -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json; `transformers` then tokenizes alike.

        `transformers` takes the settings of BERT's tokenizer from tokenizer_config.json and ignores
        those in tokenizer.json, so they are written even where they are the defaults.
        """
        kept = {
            key: content(value) if key.endswith("_token") else value
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
        # `transformers` would split markers too, which are special tokens but not control tokens.
        special = {
            t.content for t in self._backend.get_added_tokens_decoder().values() if t.special
        }
        splits = self.split_special_tokens and special <= set(self.control_tokens)
        split = {"split_special_tokens": True} if splits else {}
        config = {"tokenizer_class": name, **kept, **settings, **limit, **split}
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder, TOKENIZER_FILES[0]), self._backend.to_str(pretty=True))
        write_json(Path(folder, TOKENIZER_FILES[1]), config)
