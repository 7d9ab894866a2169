"""What folders of tokenizers mean: defaults, odd settings, tokenizers that are not read.

Compared with `transformers` where it agrees.
"""

from __future__ import annotations

import json
import random
import shutil

import pytest
from support.running import ROOT
from support.vocabulary import LETTERS, bert_folder, unigram_folder

from minift import Tokenizer
from minift.errors import UserError
from minift.text.special_tokens import WORDPIECE_SPECIAL_TOKENS

T5 = ROOT / "weights" / "minift-t5-mini"
TEXTS = ["the Council met, on Monday: 70 !", "a <extra_id_1> b [E1] [MASK] É", "", "  a  "]


def assert_as_transformers(folder, kind: str, **options) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder, **options)
    ours = Tokenizer.from_pretrained(folder, split_special_tokens=False)
    for text in TEXTS:
        assert ours(text).ids == theirs(text)["input_ids"]
        assert ours(text, "the a").ids == theirs(text, "the a")["input_ids"]
    names = ("pad_token_id", "unk_token_id", "eos_token_id", "cls_token_id", "mask_token_id")
    for name in names if kind == "bert" else names[:3]:
        assert getattr(ours, name) == getattr(theirs, name), name


# ---- files without settings --------------------------------------------------------------------


@pytest.mark.parametrize("config", [None, {"tokenizer_class": "T5Tokenizer"}, {}])
@pytest.mark.parametrize("source", ["small", "minift-t5-mini"])
def test_t5_without_settings_has_the_special_tokens_of_t5(tmp_path, source, config):
    """As t5-base, which has no tokenizer_config.json."""
    folder = unigram_folder(tmp_path / "t5")
    if source == "minift-t5-mini":
        shutil.copy(T5 / "tokenizer.json", folder)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(folder)
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2)
    assert tokenizer("the a").ids[-1] == 1
    if source == "minift-t5-mini":
        assert tokenizer(TEXTS[0]) == Tokenizer.from_pretrained(T5)(TEXTS[0])
    assert_as_transformers(folder, "t5")


@pytest.mark.parametrize("config", [None, {"tokenizer_class": "BertTokenizer"}, {}])
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_bert_without_settings_has_the_special_tokens_of_bert(tmp_path, minilm, file, config):
    shutil.copy(minilm / file, tmp_path)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, known = (Tokenizer.from_pretrained(folder) for folder in (tmp_path, minilm))
    for text in TEXTS:
        assert tokenizer(text, max_length=99) == known(text, max_length=99)
    for name in WORDPIECE_SPECIAL_TOKENS:
        assert getattr(tokenizer, f"{name}_id") == getattr(known, f"{name}_id")
    assert_as_transformers(tmp_path, "bert")


def test_a_t5_that_adds_no_end_token_gets_t5s(tmp_path):
    folder = unigram_folder(tmp_path / "t5")
    stored = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**stored, "post_processor": None}))
    assert Tokenizer.from_pretrained(folder)("the a", "a").ids == [4, 3, 1, 3, 1]
    assert_as_transformers(folder, "t5")


def test_a_cased_vocabulary_is_not_lower_cased(tmp_path):
    cased = bert_folder(tmp_path / "cased", [*LETTERS, *LETTERS.upper(), "The", "the"])
    tokenizer = Tokenizer.from_pretrained(cased)
    assert tokenizer.convert_ids_to_tokens(tokenizer("The A").ids) == ["[CLS]", "The", "A", "[SEP]"]
    tokenizer.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["do_lower_case"] is False
    # What the settings say holds; without capitals (but in special tokens) texts are lower-cased.
    (cased / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert "the" in (t := Tokenizer.from_pretrained(cased)).convert_ids_to_tokens(t("The").ids)
    small = bert_folder(tmp_path / "small", [*LETTERS, "the", "[unused1]", "[E1]"])
    assert "the" in (t := Tokenizer.from_pretrained(small)).convert_ids_to_tokens(t("The").ids)


@pytest.mark.parametrize(
    "config",
    [
        {
            "additional_special_tokens": [
                "[E1]",
                {"__type": "AddedToken", "content": "[E2]", "lstrip": True},
            ]
        },
        {"extra_special_tokens": ["[E1]"]},
        {"extra_special_tokens": {"marker_token": "[E1]"}},
        {"extra_special_tokens": {}, "additional_special_tokens": []},
        {"extra_special_tokens": None, "additional_special_tokens": None},
    ],
)
def test_tokens_that_were_added_beside_a_vocab_txt(tmp_path, config):
    """Named tokens are values, not keys."""
    folder = bert_folder(tmp_path / "bert", [*LETTERS, "[", "]", "1"], do_lower_case=True, **config)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.id_of("marker_token") is None
    assert (tokenizer.id_of("[E1]") is not None) is ("[E1]" in json.dumps(config))
    assert_as_transformers(folder, "bert")


# ---- tokenizers of another kind ----------------------------------------------------------------


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(
    ("config", "model_config", "words"),
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"},
            {},
            "BertJapaneseTokenizer with word_tokenizer_type 'mecab', which needs a program that",
        ),
        ({"word_tokenizer_type": "sudachi"}, {}, "of BERT with word_tokenizer_type 'sudachi', wh"),
        ({"subword_tokenizer_type": "character"}, {}, "with subword_tokenizer_type 'character'"),
        ({}, {"tokenizer_class": "BertJapaneseTokenizer"}, "is BertJapaneseTokenizer, which needs"),
        ({"tokenizer_class": "RoFormerTokenizerFast"}, {}, "is RoFormerTokenizerFast, which needs"),
        ({"tokenizer_class": "PhobertTokenizer"}, {}, "is PhobertTokenizer, which needs"),
    ],
)
def test_tokenizers_that_need_a_word_splitter_are_refused(
    tmp_path, config, model_config, words, json_too
):
    """Japanese words are not separated by blanks: BERT's pipeline would split every character."""
    folder = bert_folder(tmp_path / "bert", [*LETTERS, "日本"])
    if json_too:
        Tokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **model_config}))
    with pytest.raises(UserError, match=words) as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MPNetTokenizer", "EsmTokenizer", "MyTokenizer"])
def test_a_vocab_txt_of_another_tokenizer_is_refused(tmp_path, name):
    folder = bert_folder(tmp_path / "bert", list(LETTERS), tokenizer_class=name)
    with pytest.raises(UserError, match=f"is {name}, for which minift needs tokenizer.json; save"):
        Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizer"])
def test_names_of_berts_tokenizer(tmp_path, name):
    folder = bert_folder(tmp_path / "bert", list(LETTERS), tokenizer_class=name)
    assert len(Tokenizer.from_pretrained(folder)("a b")) == 4


# ---- odd values --------------------------------------------------------------------------------

ODD = [
    *(None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "\ud800", "[PAD]"),
    *([], [1], ["[E1]"], [["[E1]"]], [None], {}, {"a": 1}, {"content": None}, {"content": ""}),
    *({"content": "[E1]", "lstrip": "yes"}, {"0": {"content": "[X]"}}, {"content": {"content": 1}}),
]
KEYS = [
    *("tokenizer_class", "do_lower_case", "strip_accents", "model_max_length", "pad_token"),
    *("unk_token", "cls_token", "mask_token", "eos_token", "additional_special_tokens"),
    *("extra_special_tokens", "added_tokens_decoder", "word_tokenizer_type", "auto_map"),
    *("subword_tokenizer_type", "add_bos_token", "split_special_tokens", "image_token"),
]


def error_of(folder, values) -> str:
    """The `UserError` of a folder with these settings; empty if they are accepted."""
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    try:
        tokenizer = Tokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder / "saved")
        saved = Tokenizer.from_pretrained(folder / "saved")
    except UserError as error:
        return str(error)
    for text in (*TEXTS, "[E1] [PAD] </s>"):
        assert saved(text, max_length=9) == tokenizer(text, max_length=9)
    return ""


@pytest.mark.parametrize(
    "text", ["9" * 5000, '{"a": ' + "9" * 5000 + "}", "[" * 10**5, "{", "\x00"]
)
def test_settings_that_are_no_settings_end_in_one_line(tmp_path, text):
    folder = bert_folder(tmp_path / "bert", list(LETTERS))
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer_config\.json.* restore the file$") as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vocab.txt", "BERT's tokenizer.json", "T5's tokenizer.json"])
def test_odd_settings_end_in_one_line(tmp_path, kind):
    draw = random.Random(0)
    if kind.startswith("T5"):
        folder = unigram_folder(tmp_path / "t5")
    else:
        folder = bert_folder(tmp_path / "bert", [*LETTERS, "[", "]", "1"])
    if kind.startswith("BERT"):
        Tokenizer.from_pretrained(folder).save_pretrained(folder)
    cases = [{key: value} for key in KEYS for value in ODD]
    cases += [{key: draw.choice(ODD) for key in draw.sample(KEYS, 3)} for _ in range(100)]
    errors = [error_of(folder, values) for values in cases]
    assert all(str(folder) in error and "\n" not in error for error in errors if error)
    accepted = [values for values, error in zip(cases, errors, strict=True) if not error]
    assert len(cases) / 10 < len(accepted) < len(cases) / 2
    assert all({key: None} in accepted for key in KEYS)
