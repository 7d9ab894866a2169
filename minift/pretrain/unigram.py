"""A vocabulary of our own: text in, T5's kind of tokenizer out (Kudo 2018, "Subword
regularization", in the library `tokenizers`).

    text     "Red kites returned."
    pieces   ▁Red ▁ki tes ▁return ed . </s>        "▁" stands for the space before a word

Ids: <pad> 0, </s> 1, <unk> 2, then the pieces, and at the end 100 sentinels for the gaps that
pre-training makes: <extra_id_99> ... <extra_id_0>, the first one last, as in T5.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
    write_text(folder / "tokenizer.json", backend.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)
