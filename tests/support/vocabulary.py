"""The vocabulary of the tiny models in the tests, and small tokenizers on disk."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

WORDS = "good bad film food very not the a is was great awful slow fast dull fine ok so it ##s ##ly"

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def bert_folder(folder: Path, tokens: list[str], **config) -> Path:
    """A vocab.txt of special tokens, these tokens, and each of them as a continuation."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = list(dict.fromkeys([*special, *tokens, *(f"##{token}" for token in tokens)]))
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def unigram_folder(folder: Path, **config) -> Path:
    """A tokenizer.json of T5's kind, with three sentinels in its vocabulary, as t5-base has them.

    config: the contents of tokenizer_config.json; without any there is no such file.
    """
    characters = f"▁{LETTERS}<>/_0123456789[].,"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.5), ("▁the", -2.0)]
    pieces += [(character, -4.0) for character in characters]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in (2, 1, 0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.normalizer = tokenizers.normalizers.NFKC()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.WhitespaceSplit(),
            tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    backend.add_special_tokens(
        ["<pad>", "</s>", "<unk>", "<extra_id_2>", "<extra_id_1>", "<extra_id_0>"]
    )
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
