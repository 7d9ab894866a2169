"""A long text in pieces has the tokens of the whole text, or is not cut."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from minift import Tokenizer
from minift.pretraining.vocabulary import save_unigram, train_unigram
from minift.text import pieces, tokenizer
from minift.text.pieces import can_be_cut, cut

PARTS = [
    *("a", "b", "good", "Film", "7", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u200b", "\x00"),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "好",
        "好",
        "🙂",
        "👩\u200d👩",
        "¨",
        "ﬁ",
        "ſ",
        "İ",
        "\u3000",
        "\ufeff",
        "Σ",
    ),
    *("[SEP]", "</s>", "[", "##b", "▁", ".", "'s", "-", "\u2028", "א", "한", "\u1100", "½", "ﷺ"),
]


def texts(count: int) -> list[str]:
    draw = random.Random(7)
    parts = [*PARTS, *["a", "Good", "7", " "] * 15]
    return ["".join(draw.choices(parts, k=draw.choice([3, 40, 400]))) for _ in range(count)]


@pytest.fixture
def t5(tmp_path):
    save_unigram(
        train_unigram(["the good film was so bad", "summarize: it was"] * 20, 150), tmp_path
    )
    return Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("splits", [True, False])
def test_pieces_have_the_tokens_of_the_text(tiny_bert, t5, monkeypatch, name, splits):
    read = Tokenizer.from_pretrained(tiny_bert) if name == "bert" else t5
    object.__setattr__(read, "split_special_tokens", splits)
    assert can_be_cut(read._reader)
    whole = [e.ids for e in read._run(texts(300), False, fast=True)]
    for module in (pieces, tokenizer):
        monkeypatch.setattr(module, "PIECE", 3)
    assert sum(len(cut(text)) for text in texts(300)) > 2000
    assert read.ids(texts(300)) == whole


@pytest.mark.parametrize(
    ("normalizer", "splitter", "answer"),
    [
        (None, pre_tokenizers.WhitespaceSplit(), True),
        (normalizers.NFC(), pre_tokenizers.Metaspace(), True),
        (normalizers.Replace(Regex(" {2,}"), " "), pre_tokenizers.Metaspace(), True),
        (normalizers.Replace("a b", "c"), pre_tokenizers.WhitespaceSplit(), False),
        (normalizers.Sequence([normalizers.Prepend("▁")]), pre_tokenizers.Metaspace(), False),
        (None, pre_tokenizers.Metaspace(prepend_scheme="first"), False),
        (None, pre_tokenizers.Metaspace(split=False), False),
        (None, pre_tokenizers.ByteLevel(), False),
        (None, None, False),
    ],
)
def test_other_pipelines_are_read_at_once(normalizer, splitter, answer):
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if normalizer is not None:
        backend.normalizer = normalizer
    if splitter is not None:
        backend.pre_tokenizer = splitter
    assert can_be_cut(backend) is answer
    backend.add_tokens(["two words"])
    assert not can_be_cut(backend)


def test_a_cut_is_at_a_single_blank_between_letters(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 2)
    assert cut("ab cd  ef. gh é ij kl") == ["ab", "cd  ef. gh é ij", "kl"]
    assert cut("") == [""]
