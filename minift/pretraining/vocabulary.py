"""A vocabulary of our own: text in, a tokenizer of T5's or of BERT's kind out (Kudo 2018, "Subword
regularization"; Schuster and Nakajima 2012; both in the library `tokenizers`).

    text       "Red kites returned."
    unigram    ▁Red ▁ki tes ▁return ed . </s>         "▁" stands for the space before a word
    wordpiece  [CLS] red ki ##tes return ##ed . [SEP]   "##" for a piece that goes on

Unigram's ids: <pad> 0, </s> 1, <unk> 2, then the pieces, and at the end 100 sentinels for the gaps
that pre-training makes: <extra_id_99> ... <extra_id_0>, the first one last, as in T5.
Wordpiece's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the pieces, in lower case.
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

SENTINELS = 100
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def sentinel(number: int) -> str:
    """The token that stands for gap `number`.

    >>> sentinel(0)
    '<extra_id_0>'
    """
    return f"<extra_id_{number}>"


def train_unigram(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with `vocab_size` tokens, special ones and sentinels among them."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - SENTINELS,
        special_tokens=list(SPECIAL.values()),
        unk_token=SPECIAL["unk_token"],
        show_progress=False,
    )
    backend.train_from_iterator(documents, trainer)
    names = [sentinel(i) for i in reversed(range(SENTINELS))]
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    end = (SPECIAL["eos_token"], backend.token_to_id(SPECIAL["eos_token"]))
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end[0]], pair=["$A", end[0], "$B", end[0]], special_tokens=[end]
    )
    return backend


def save_unigram(backend: Tokenizer, folder: Path) -> None:
    """Write the files that `Tokenizer.from_pretrained` and the reference read."""
    names = [sentinel(i) for i in range(SENTINELS)]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIAL,
        "additional_special_tokens": names,
    }
    _save(backend, config, folder)


def train_wordpiece(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer like BERT's, lower-cased, with `vocab_size` tokens, special ones among them."""
    backend = Tokenizer(models.WordPiece(unk_token=BERT_SPECIAL["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = list(BERT_SPECIAL.values())
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=names, show_progress=False
    )
    backend.train_from_iterator(documents, trainer)
    start, end = (
        (BERT_SPECIAL[n], backend.token_to_id(BERT_SPECIAL[n])) for n in ("cls_token", "sep_token")
    )
    backend.post_processor = processors.TemplateProcessing(
        single=[start[0], "$A", end[0]],
        pair=[start[0], "$A", end[0], "$B:1", f"{end[0]}:1"],
        special_tokens=[start, end],
    )
    return backend


def save_wordpiece(backend: Tokenizer, folder: Path) -> None:
    """Write the files that `Tokenizer.from_pretrained` and the reference read."""
    _save(
        backend, {"tokenizer_class": "BertTokenizer", **BERT_SPECIAL, "do_lower_case": True}, folder
    )


def _save(backend: Tokenizer, config: dict[str, Any], folder: Path) -> None:
    write_text(folder / "tokenizer.json", backend.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)
