"""Train a tokenizer on text, with the library `tokenizers`.

T5's kind is Unigram (Kudo 2018, "Subword regularization"), BERT's is WordPiece (Schuster and
Nakajima 2012, "Japanese and Korean voice search").

    text       "Red kites returned."
    Unigram    ▁Red ▁ki tes ▁return ed . </s>           "▁": the space before a word
    WordPiece  [CLS] red ki ##tes return ##ed . [SEP]   "##": continues a word

Unigram's ids: <pad> 0, </s> 1, <unk> 2, then the subword tokens, and last the 100 sentinels of span
corruption in T5's order: <extra_id_99> ... <extra_id_0>.
WordPiece's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the lower-cased subword tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from minift.files import write_json, write_text
from minift.text.special_tokens import UNIGRAM_SPECIAL_TOKENS, WORDPIECE_SPECIAL_TOKENS

SENTINELS = 100


def sentinel(number: int) -> str:
    """The token that replaces noise span `number` of a text.

    >>> sentinel(0)
    '<extra_id_0>'
    """
    return f"<extra_id_{number}>"


def train_unigram(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A Unigram tokenizer of `vocab_size` tokens, special tokens and sentinels included."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - SENTINELS,
        special_tokens=list(UNIGRAM_SPECIAL_TOKENS.values()),
        unk_token=UNIGRAM_SPECIAL_TOKENS["unk_token"],
        show_progress=False,
    )
    backend.train_from_iterator(documents, trainer)
    names = [sentinel(i) for i in reversed(range(SENTINELS))]
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    eos_token = UNIGRAM_SPECIAL_TOKENS["eos_token"]
    end = (eos_token, backend.token_to_id(eos_token))
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end[0]], pair=["$A", end[0], "$B", end[0]], special_tokens=[end]
    )
    return backend


def save_unigram(backend: Tokenizer, folder: Path) -> None:
    """Write the files that `Tokenizer.from_pretrained` and `transformers` read."""
    names = [sentinel(i) for i in range(SENTINELS)]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **UNIGRAM_SPECIAL_TOKENS,
        "additional_special_tokens": names,
    }
    _save(backend, config, folder)


def train_wordpiece(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer of `vocab_size` tokens, special tokens included."""
    backend = Tokenizer(models.WordPiece(unk_token=WORDPIECE_SPECIAL_TOKENS["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = list(WORDPIECE_SPECIAL_TOKENS.values())  # their ids are 0 to 4 in this order
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=names, show_progress=False
    )
    backend.train_from_iterator(documents, trainer)
    start, end = (
        (WORDPIECE_SPECIAL_TOKENS[n], backend.token_to_id(WORDPIECE_SPECIAL_TOKENS[n]))
        for n in ("cls_token", "sep_token")
    )
    backend.post_processor = processors.TemplateProcessing(
        single=[start[0], "$A", end[0]],
        pair=[start[0], "$A", end[0], "$B:1", f"{end[0]}:1"],
        special_tokens=[start, end],
    )
    return backend


def save_wordpiece(backend: Tokenizer, folder: Path) -> None:
    """Write the files that `Tokenizer.from_pretrained` and `transformers` read."""
    config = {"tokenizer_class": "BertTokenizer", **WORDPIECE_SPECIAL_TOKENS, "do_lower_case": True}
    _save(backend, config, folder)


def _save(backend: Tokenizer, config: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", backend.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)
