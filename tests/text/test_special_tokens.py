"""A text never holds a control token, however it is written; where tokenizers learn their names."""

from __future__ import annotations

import json
import shutil

import pytest
from support.running import ROOT
from support.vocabulary import bert_folder, unigram_folder

from minift import Tokenizer
from minift.text.special_tokens import NONCHARACTER, without_tokens

T5 = ROOT / "weights" / "minift-t5-mini"
SPELLED = [
    "In BERT the token [SEP] stands between sentences, [CLS] before them and [MASK] hides a word.",
    "[PAD][UNK] [sep]",
    "Old price <s>90</s> now 70.",
    "Use <pad> or <extra_id_0> here, said the council; <unk>",
    "a wide ＜/s＞ and ＜pad＞",  # the normaliser of Unigram makes ASCII of them
]


def spoken(tokenizer, text, **options):
    return tokenizer.convert_ids_to_tokens(tokenizer.tokens([text], **options)[0].ids)


def test_the_example_of_the_docstring(tmp_path):
    folder = bert_folder(tmp_path / "bert", ["a", "b", "sep", "[", "]"])
    assert " ".join(spoken(Tokenizer.from_pretrained(folder), "a [SEP] b")) == "a [ sep ] b"
    special = Tokenizer.from_pretrained(folder, split_special_tokens=False)
    assert " ".join(spoken(special, "a [SEP] b")) == "a [SEP] b"


@pytest.mark.parametrize("source", ["bert", "t5", "all-MiniLM-L6-v2", "minift-t5-mini"])
def test_no_text_holds_a_control_token(tmp_path, source, request):
    if source == "bert":
        source = bert_folder(tmp_path / "bert", list("abcdefghijklmnopqrstuvwxyz[]<>/_,."))
    elif source == "t5":
        source = unigram_folder(tmp_path / "t5")
    elif source == "all-MiniLM-L6-v2":
        source = request.getfixturevalue("minilm")
    tokenizer = Tokenizer.from_pretrained(source)
    control = {tokenizer.id_of(token) for token in tokenizer.control_tokens}
    assert len(control) >= 3
    assert not control & set(tokenizer.ids(["a sea"])[0])
    texts = [*SPELLED, *tokenizer.control_tokens, "".join(tokenizer.control_tokens)]
    known = control - {tokenizer.unk_token_id}
    for ids, words in zip(
        tokenizer.ids(texts),
        tokenizer.ids([text.split() for text in texts], is_split_into_words=True),
        strict=True,
    ):
        assert not known & {*ids, *words}
    # Special tokens are added around the text only.
    ends = [tokenizer(text).ids for text in texts]
    special = tokenizer.build([])[0]
    assert all([i for i in ids if i in known] == special for ids in ends)


def test_the_tokens_of_a_default_model_that_a_text_spells():
    tokenizer = Tokenizer.from_pretrained("minift-t5-mini")
    text = "<s>90</s> <pad> <unk>"
    pieces = spoken(tokenizer, text)
    assert "".join(pieces).replace("▁", " ").strip() == text
    assert tokenizer.unk_token_id not in tokenizer.ids([text])[0]
    assert tokenizer.decode(tokenizer.ids([text])[0]) == text


def test_other_texts_are_read_by_the_same_pipeline(minilm):
    for source in (minilm, T5):
        plain, special = (
            Tokenizer.from_pretrained(source, split_special_tokens=split) for split in (True, False)
        )
        texts = ["Zürich — “hurra” 🚀 {x} <i>", "  two  spaces\nand\ta line", "日本 ½ ﬁne", ""]
        assert plain.encode(texts) == special.encode(texts)


def test_a_marker_that_was_added_for_texts_stays_a_token(tmp_path):
    config = {"do_lower_case": True, "additional_special_tokens": ["[E1]", "[MASK]"]}
    folder = bert_folder(tmp_path / "bert", list("abemask1[]"), **config)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert spoken(tokenizer, "a [E1] b [MASK]") == (
        ["a", "[E1]", "b", "[", "m", "##a", "##s", "##k", "]"]
    )
    assert "[E1]" not in tokenizer.control_tokens
    tokenizer.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved")("a [E1]") == tokenizer("a [E1]")
    assert "split" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_which_control_token_a_text_spells():
    tokenizer = Tokenizer.from_pretrained("minift-t5-mini")
    assert tokenizer.spelled_control_token("now <pad> or </s>") == "<pad>"
    assert tokenizer.spelled_control_token("<extra_id_12>") == "<extra_id_12>"
    assert tokenizer.spelled_control_token("[SEP] <s> < /s>") is None


def test_the_hidden_names_are_no_tokens_of_a_text(tmp_path):
    tokenizer = Tokenizer.from_pretrained(unigram_folder(tmp_path / "t5"))
    reader = without_tokens(tokenizer._backend, tokenizer.control_tokens)
    assert reader.get_vocab_size() == tokenizer.vocab_size
    assert tokenizer.unk_token_id in tokenizer.ids([f"a{NONCHARACTER}0"])[0]


def test_transformers_reads_a_saved_tokenizer_alike(tmp_path, minilm):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    ours = Tokenizer.from_pretrained(minilm)
    ours.save_pretrained(tmp_path)
    shutil.copy(minilm / "config.json", tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in SPELLED:
        assert ours(text).ids == theirs(text)["input_ids"]
    special = Tokenizer.from_pretrained(minilm, split_special_tokens=False)
    special.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in SPELLED:
        assert special(text).ids == theirs(text)["input_ids"]
    assert "split_special_tokens" not in json.loads(
        (tmp_path / "tokenizer_config.json").read_text()
    )


def test_what_a_vocabulary_lacks_is_counted(tmp_path):
    t5 = Tokenizer.from_pretrained(unigram_folder(tmp_path / "t5"))
    assert t5.unknown(["a ☃ the ☃☃", "", "the a"]) == {"☃": 1, "☃☃": 1}
    bert = Tokenizer.from_pretrained(bert_folder(tmp_path / "bert", list("the")))
    assert bert.unknown(["the fox", "a fox [UNK]"]) == {"fox": 2, "a": 1, "[": 1, "UNK": 1, "]": 1}
