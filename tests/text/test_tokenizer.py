"""The tokenizer equals that of `transformers`: as recorded, and live on random texts."""

from __future__ import annotations

import json
import runpy

import pytest
import tokenizers
from support.running import ROOT

from minift import Tokenizer
from minift.errors import UserError

REFERENCES = ROOT / "tests" / "references"
recorder = runpy.run_path(str(REFERENCES / "record_tokenizer.py"))
RECORDED = json.loads((REFERENCES / "tokenizer.json").read_text())
SETTINGS, TEXTS, VOCAB = recorder["SETTINGS"], recorder["TEXTS"], recorder["VOCAB"]


def written(folder, **settings):
    return recorder["write_tokenizer"](folder, settings)


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    return Tokenizer.from_pretrained(written(tmp_path / "small", do_lower_case=True))


def tokens_of(tokenizer: Tokenizer, encoding) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(encoding.ids))


def as_recorded(encoding) -> dict:
    return {
        "ids": encoding.ids,
        "type_ids": encoding.type_ids,
        "offsets": [list(span) for span in encoding.offsets],
        "word_ids": encoding.word_ids,
    }


# ---- against transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_recorded_outputs_of_transformers(tmp_path, name):
    folder = written(tmp_path / "small", **SETTINGS[name])
    ours = Tokenizer.from_pretrained(folder, split_special_tokens=False)
    answers = [answer for answer in RECORDED["answers"] if answer["settings"] == name]
    assert len(answers) > 30
    for answer in answers:
        text, pair, limit = answer["text"], answer["pair"], answer["max_length"]
        words = isinstance(text, list)
        found = ours(text, pair, max_length=limit, is_split_into_words=words)
        assert as_recorded(found) == {key: answer[key] for key in as_recorded(found)}, answer


def test_transformers_still_gives_the_recorded_outputs():
    pytest.importorskip("transformers", reason="compares with transformers, which is not here")
    again = json.loads(json.dumps(recorder["record"]()))
    assert again["answers"] == RECORDED["answers"]


def assert_same(ours: Tokenizer, theirs, text, pair=None, limit=None) -> None:
    found = ours(text, pair, max_length=limit, truncation=limit is not None)
    # As lists of one, because their call for one text takes an empty second text for none.
    expected = theirs(
        [text],
        None if pair is None else [pair],
        max_length=limit,
        truncation=False if limit is None else "longest_first",
        return_offsets_mapping=True,
    )
    assert [found.ids] == expected["input_ids"]
    assert [found.type_ids] == expected["token_type_ids"]
    assert [found.offsets] == expected["offset_mapping"]
    assert found.word_ids == expected.word_ids(0)
    assert found.sequence_ids == expected.sequence_ids(0)
    assert ours.decode(found.ids) == theirs.decode(found.ids, skip_special_tokens=True)
    assert ours.decode(found.ids, skip_special_tokens=False) == theirs.decode(found.ids)


def check_on_random_texts(ours: Tokenizer, theirs, max_examples: int) -> None:
    hypothesis = pytest.importorskip("hypothesis", reason="draws texts with hypothesis, not here")
    st = hypothesis.strategies
    snippets = st.sampled_from([*TEXTS, *VOCAB, *"éÉı\u0301\u0327\xad\u200d\U000e0061 \n"])
    characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    texts = st.lists(snippets | characters, max_size=8).map("".join)
    limits = st.none() | st.integers(3, 30)

    @hypothesis.settings(max_examples=max_examples, deadline=None, database=None)
    @hypothesis.given(texts, st.none() | texts, limits)
    def check(text, pair, limit):
        assert_same(ours, theirs, text, pair, limit)

    check()


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_transformers_on_random_texts(tmp_path, name):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    folder = written(tmp_path / "small", **SETTINGS[name])
    for split in (False, True):
        theirs = transformers.BertTokenizer.from_pretrained(folder, split_special_tokens=split)
        ours = Tokenizer.from_pretrained(folder, split_special_tokens=split)
        check_on_random_texts(ours, theirs, 100 if not split else 50)


def test_equal_to_transformers_with_a_real_vocabulary(minilm):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    ours = Tokenizer.from_pretrained(minilm, split_special_tokens=False)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    assert (ours.vocab_size, ours.max_length) == (len(theirs), theirs.model_max_length)
    for text in TEXTS:
        for limit in (None, *range(3, 12)):
            assert_same(ours, theirs, text, limit=limit)
            assert_same(ours, theirs, text, TEXTS[2], limit)
    check_on_random_texts(ours, theirs, 100)


FOLDERS = {
    # tokenizer_config.json, other files, more lines of vocab.txt
    "plain": ({"do_lower_case": True}, {}, []),
    "cased": ({"do_lower_case": False, "model_max_length": 1e30}, {}, []),
    "own names": (
        {
            "do_lower_case": True,
            "cls_token": "<s>",
            "unk_token": "<u>",
            "sep_token": {"__type": "AddedToken", "content": "</s>"},
        },
        {},
        ["<s>", "</s>", "<u>"],
    ),
    "names in a file of their own": (
        {"do_lower_case": True},
        {"special_tokens_map.json": {"mask_token": {"content": "[MASK]", "lstrip": True}}},
        [],
    ),
    "settings of a token": (
        {
            "do_lower_case": True,
            "mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True},
        },
        {},
        [],
    ),
    "added tokens": (
        {
            "do_lower_case": True,
            "added_tokens_decoder": {
                str(len(VOCAB)): {"content": "<e1>", "special": True},
                str(len(VOCAB) + 1): {"content": "Foo", "normalized": True},
            },
        },
        {},
        [],
    ),
    "added tokens in a file of their own": (
        {"do_lower_case": True, "additional_special_tokens": ["<e1>"]},
        {"added_tokens.json": {"<e1>": len(VOCAB), "Foo": len(VOCAB) + 1}},
        [],
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_older_folders_mean_the_same_before_and_after_saving(tmp_path, name):
    config, files, more = FOLDERS[name]
    folder = written(tmp_path / "old", **config)
    with open(folder / "vocab.txt", "a") as file:
        file.writelines(f"{token}\n" for token in more)
    for file_name, value in files.items():
        (folder / file_name).write_text(json.dumps(value))
    ours = Tokenizer.from_pretrained(folder, split_special_tokens=False)
    ours.save_pretrained(tmp_path / "new")
    saved = Tokenizer.from_pretrained(tmp_path / "new", split_special_tokens=False)
    texts = ["a <e1>b foo Foo <s>x</s> the  [MASK]s ☃", *TEXTS]
    assert saved.encode(texts, texts[::-1]) == ours.encode(texts, texts[::-1])
    assert saved.max_length is ours.max_length is None

    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    (tmp_path / "new" / "config.json").write_text('{"model_type": "bert"}')
    reference = transformers.BertTokenizer.from_pretrained(folder)
    after = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert type(after) is transformers.BertTokenizer
    for text in texts:
        assert_same(ours, reference, text)
        assert_same(ours, after, text, TEXTS[2])


def test_settings_beside_a_tokenizer_json_win_and_are_saved(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "model_max_length": 99, "name_or_path": "/home/me/model"}'
    )
    cased = Tokenizer.from_pretrained(tmp_path)
    assert tokens_of(cased, cased("Quick É")) == "[CLS] Quick É [SEP]"
    cased.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), VOCAB, strict=False))
    assert config == {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": False,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": 99,
        "split_special_tokens": True,
        **{f"{name}_token": token for name, token in names.items()},
    }


# ---- by hand -----------------------------------------------------------------------------------


def test_the_example_of_the_docstring(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "em", "##bed", "##ding", "##s", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    encoding = tokenizer("Embeddings!")
    assert tokens_of(tokenizer, encoding) == "[CLS] em ##bed ##ding ##s ! [SEP]"
    assert encoding.type_ids == [0] * 7
    assert encoding.offsets == [(0, 0), (0, 2), (2, 5), (5, 9), (9, 10), (10, 11), (0, 0)]
    assert encoding.word_ids == [None, 0, 0, 0, 0, 1, None]
    assert encoding.sequence_ids == [None, 0, 0, 0, 0, 0, None]
    assert tokenizer.decode(encoding.ids) == "embeddings!"


def test_tokens_without_special_tokens_and_how_to_add_them(tokenizer):
    first, second = tokenizer.tokens(["The fox!", "don't"])
    assert tokens_of(tokenizer, first) == "the fox !"
    assert first.offsets == [(0, 3), (4, 7), (7, 8)]
    assert tokenizer.ids(["The fox!", "don't"]) == [first.ids, second.ids]
    assert (tokenizer.num_special(pair=False), tokenizer.num_special(pair=True)) == (2, 3)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert tokenizer.build([7, 8]) == ([cls, 7, 8, sep], [0, 0, 0, 0])
    assert tokenizer.build([7, 8], [9]) == ([cls, 7, 8, sep, 9, sep], [0, 0, 0, 0, 1, 1])
    assert tokenizer.build([], []) == ([cls, sep, sep], [0, 0, 1])
    both = tokenizer("The fox!", "don't")
    assert tokenizer.build(first.ids, second.ids) == (both.ids, both.type_ids)


def test_the_number_of_truncated_tokens_is_known(tokenizer):
    whole, cut = tokenizer("the quick fox"), tokenizer("the quick fox", max_length=4)
    assert tokens_of(tokenizer, cut) == "[CLS] the quick [SEP]"
    assert (len(whole), whole.total, whole.cut) == (5, 5, 0)
    assert (len(cut), cut.total, cut.cut) == (4, 5, 1)
    pair = tokenizer("the quick fox", "the", max_length=6)
    assert tokens_of(tokenizer, pair) == "[CLS] the quick [SEP] the [SEP]"
    assert (pair.total, pair.cut) == (7, 1)
    assert tokens_of(tokenizer, tokenizer("the", "fox", max_length=3)) == "[CLS] [SEP] [SEP]"


def test_limits(tmp_path):
    folder = written(tmp_path / "small", model_max_length=4)
    assert Tokenizer.from_pretrained(folder).max_length == 4
    assert Tokenizer.from_pretrained(folder, max_length=3).max_length == 3
    assert Tokenizer.from_pretrained(folder, max_length=9).max_length == 4
    tokenizer = Tokenizer.from_pretrained(folder)
    lengths = [
        len(tokenizer("the the the the", **options))
        for options in ({}, {"truncation": False}, {"max_length": 5}, {})
    ]
    assert lengths == [4, 6, 5, 4]
    Tokenizer.from_pretrained(folder, max_length=3).save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved").max_length == 3


def test_truncation_and_padding_stored_in_a_tokenizer_json_are_off(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stored.enable_truncation(3)
    stored.enable_padding(length=9)
    stored.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_pretrained(tmp_path)
    assert tokens_of(again, again("the quick fox")) == "[CLS] the quick fox [SEP]"


def test_a_list_is_its_items_one_by_one(tokenizer):
    texts = [*TEXTS, "the"] * 80  # more than one chunk
    together = tokenizer.encode(texts, texts[::-1], max_length=12)
    assert together[:15] == [
        tokenizer(text, pair, max_length=12)
        for text, pair in zip(texts[:15], texts[::-1], strict=False)
    ]
    assert len(together) == len(texts)
    assert tokenizer.encode([]) == []


def test_words_keep_their_numbers(tokenizer):
    words = ["Don't", "foxes", "日本"]
    encoding = tokenizer(words, is_split_into_words=True)
    assert tokens_of(tokenizer, encoding) == "[CLS] don ' t fox ##e ##s 日 本 [SEP]"
    assert encoding.word_ids == [None, 0, 0, 0, 1, 1, 1, 2, 2, None]
    assert encoding.offsets[4:7] == [(0, 3), (3, 4), (4, 5)]
    assert tokenizer.ids([words], is_split_into_words=True) == [encoding.ids[1:-1]]


def test_the_vocabulary(tokenizer):
    ids = (
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.mask_token_id,
    )
    assert ids == (0, 1, 2, 3, 4)
    assert tokenizer.eos_token_id is None
    assert tokenizer.pad_token == "[PAD]"
    assert tokenizer.vocab_size == len(VOCAB)
    assert tokenizer.convert_ids_to_tokens([]) == []
    assert tokenizer.decode([2, 5, 3], skip_special_tokens=False) == "[CLS] un [SEP]"
    with pytest.raises(ValueError, match="9999 is not the id of any of the"):
        tokenizer.convert_ids_to_tokens([0, 9999])


def test_a_vocabulary_without_a_mask_has_none(tmp_path):
    folder = written(tmp_path / "small")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    tokenizer = Tokenizer.from_pretrained(folder)
    assert (tokenizer.mask_token_id, tokenizer.vocab_size) == (None, 5)


def test_other_families(tmp_path):
    """As T5's: tokens of a SentencePiece model, and one special token at the end."""
    tokens = ["<pad>", "</s>", "<unk>", "▁a", "b", "▁"]
    vocabulary = list(zip(tokens, [0.0, 0.0, 0.0, -1.0, -2.0, -3.0], strict=True))
    stored = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    stored.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    stored.decoder = tokenizers.decoders.Metaspace()
    stored.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    stored.add_special_tokens(["<pad>", "</s>", "<unk>"])
    stored.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer("a ab").ids == [3, 3, 4, 1]
    assert tokenizer("a", "ab").ids == [3, 1, 3, 4, 1]
    assert (tokenizer.num_special(False), tokenizer.num_special(True)) == (1, 2)
    assert (tokenizer.eos_token_id, tokenizer.cls_token_id) == (1, None)
    assert tokenizer.decode([3, 3, 4, 1]) == "a ab"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved")("a ab") == tokenizer("a ab")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_pipeline_that_adds_no_special_tokens_gets_those_of_bert(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**stored, "post_processor": None}))
    assert Tokenizer.from_pretrained(tmp_path)("the", "fox") == tokenizer("the", "fox")


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.txt": None}, "small: holds neither tokenizer.json nor vocab.txt; copy"),
        ({"vocab.txt": b"[PAD]\ncaf\xe9\n"}, "vocab.txt: not a vocabulary in UTF-8 .*; restore"),
        ({"vocab.txt": b""}, r"vocab.txt: its unk_token is '\[UNK\]', which is not in the voc"),
        ({"vocab.txt": b"[UNK]\n[CLS]\na\n"}, r"vocab.txt: its sep_token is '\[SEP\]', which"),
        ({"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\n"}, r"vocab.txt: its pad_token is '\[PAD\]', which"),
        ({"tokenizer.json": b"{}"}, r"tokenizer.json: not a tokenizer \(.*\); restore the file"),
        ({"tokenizer.json": b"\xff\xfe"}, "tokenizer.json: not a JSON file in UTF-8; restore"),
        ({"tokenizer_config.json": b"{"}, "tokenizer_config.json, line 1: not valid JSON"),
        ({"tokenizer_config.json": b"[]"}, "tokenizer_config.json: it is not a JSON object; rest"),
        (
            {"special_tokens_map.json": b"[]"},
            "special_tokens_map.json: it is not a JSON object; r",
        ),
        ({"added_tokens.json": b'{"x": 99999}'}, "'x' gets the id .* but should have 99999; rest"),
        ({"added_tokens.json": b'{"x": "1", "y": 2}'}, "the token 'x' has the id '1'; give an int"),
    ],
)
def test_damaged_folders_are_named(tmp_path, files, message):
    folder = written(tmp_path / "small")
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("do_lower_case", "yes", "do_lower_case is 'yes'; give true or false"),
        ("cls_token", 5, "cls_token is 5; give the token as a string"),
        ("cls_token", {"lstrip": True}, "cls_token is .*; give the token as a string"),
        ("cls_token", "<cls>", "its cls_token is '<cls>', which is not in the vocabulary"),
        ("model_max_length", "512", "model_max_length is '512'; give a number"),
        ("model_max_length", True, "model_max_length is True; give a number"),
        ("model_max_length", 0, "model_max_length is 0; give a number"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        Tokenizer.from_pretrained(written(tmp_path / "small", **{key: value}))


def test_a_tokenizer_json_that_is_a_folder(tmp_path):
    folder = written(tmp_path / "small")
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(UserError, match=r"tokenizer\.json: is a directory; give a file"):
        Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.encode("text"), TypeError, "texts is one str; give a list"),
        (lambda t: t.encode(["a", None]), TypeError, "text 1 is or holds NoneType None; give str"),
        (lambda t: t("a b", is_split_into_words=True), TypeError, "text 0 is a str; .* lists"),
        (lambda t: t(["a", 5], is_split_into_words=True), TypeError, "text 0 is or holds int 5"),
        (lambda t: t.encode(["a"], []), ValueError, "1 texts but 0 pairs"),
        (lambda t: t("a", max_length=1), ValueError, "max_length is 1; it must be at least 2"),
        (lambda t: t("a", "b", max_length=2), ValueError, "max_length is 2; it must be at least 3"),
        (lambda t: t("a\ud83d"), UserError, r"text 0: its character 1 is half .*U\+D83D.*remove"),
    ],
)
def test_wrong_calls_are_explained(tokenizer, call, error, message):
    with pytest.raises(error, match=message):
        call(tokenizer)


def test_a_tokenizer_for_a_model_names_the_inputs_and_the_limit(tiny_bert, tmp_path):
    both = ["input_ids", "token_type_ids", "attention_mask"]
    plain = Tokenizer.from_pretrained(tiny_bert)
    assert plain("good", "film").type_ids == [0, 0, 0, 1, 1]
    plain.for_model(both, 12).save_pretrained(tmp_path / "bert")
    saved = json.loads((tmp_path / "bert" / "tokenizer_config.json").read_text())
    assert (saved["model_input_names"], saved["model_max_length"]) == (both, 12)
    assert Tokenizer.from_pretrained(tmp_path / "bert")("good", "film").type_ids == [0, 0, 0, 1, 1]

    # Without token types, the second text has type 0 too, as transformers gives it.
    plain.for_model(["input_ids", "attention_mask"]).save_pretrained(tmp_path / "distilbert")
    again = Tokenizer.from_pretrained(tmp_path / "distilbert")
    assert again("good", "film").type_ids == [0, 0, 0, 0, 0]
    assert again.max_length == plain.max_length == 64
    assert again.for_model(both)("good", "film").type_ids == [0, 0, 0, 0, 0]  # its own names hold

    path = tmp_path / "distilbert" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": "input_ids"}))
    with pytest.raises(UserError, match="model_input_names is 'input_ids'; give a list of names"):
        Tokenizer.from_pretrained(tmp_path / "distilbert")
