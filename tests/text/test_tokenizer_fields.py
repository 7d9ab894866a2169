"""Tokenizer folders that somebody else made: odd fields are refused by name before they are used.

Unchecked, most of these values make the library panic, end the process, or stay busy for hours.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import tracemalloc

import pytest
import tokenizers
from support.running import run_script
from support.tokenizer_mutations import byte_pairs, charsmap
from support.vocabulary import LETTERS, bert_folder, unigram_folder

from minift import Tokenizer
from minift.errors import UserError
from minift.text.charsmap import charsmap_growth
from minift.text.checks import MAX_GROWTH, MAX_PIECE_CHARS
from minift.text.fields import MAX_ID, MAX_WORD_CHARS
from minift.text.pipeline import _read_vocab

TEXT_A, TEXT_B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
SEP = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}


def folder_of(place, kind: str):
    """A folder with a tokenizer.json of this kind of model."""
    if kind == "WordPiece":
        Tokenizer.from_pretrained(bert_folder(place / "vocab", list(LETTERS))).save_pretrained(
            place / kind
        )
        return place / kind
    return unigram_folder(place / kind) if kind == "Unigram" else byte_pairs(place / kind)


def change(folder, **parts):
    """Replace parts of a tokenizer.json; of the model, only these fields."""
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    model = {**state["model"], **parts.pop("model", {})}
    path.write_text(json.dumps({**state, "model": model, **parts}))
    return folder


def template(single, pair, **ids):
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special,
        }
    }


def sequence(part: str, items: list) -> dict:
    return {part: {"type": "Sequence", f"{part}s": items}}


# ---- values that are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        # Ids.
        (
            "WordPiece",
            {"model": {"vocab": {"a": 2**32 - 1}}},
            r"'a' has the id 4294967295; give",
        ),
        (
            "WordPiece",
            {"model": {"vocab": {"a": -1}}},
            r"'a' has the id -1; give an integer",
        ),
        ("WordPiece", {"model": {"vocab": {"a": True}}}, r"the token 'a' has the id True; give an"),
        (
            "WordPiece",
            {"model": {"vocab": {"a": 1, "b": 1}}},
            "'a' and 'b' have one id, 1; rest",
        ),
        ("WordPiece", {"model": {"vocab": []}}, r"vocab of its WordPiece is \[\]; give an object"),
        (
            "WordPiece",
            {"model": {"unk_token": "xy"}},
            "unk_token of its WordPiece is 'xy', whi",
        ),
        ("Unigram", {"model": {"unk_id": -1}}, "unk_id of its Unigram is -1; give an integer"),
        (
            "Unigram",
            {"model": {"unk_id": 999}},
            r"not a tokenizer \(.*UnkIdNotInVoc.*restore",
        ),
        (
            "BPE",
            {"added_tokens": [{"id": 900, "content": "[E1]", **ADDED}]},
            r"token '\[E1\]' has the id 900, but 267 by the vocabulary; restore the file",
        ),
        (
            "BPE",
            {"added_tokens": [{"id": 2, "content": "", **ADDED}]},
            r"added_tokens of the tokenizer is .* in place 0; give a list of tokens with their ids",
        ),
        # Special tokens and templates.
        (
            "WordPiece",
            template([TEXT_A, SEP], [TEXT_A, SEP, TEXT_B], **{"[SEP]": 9}),
            r"token '\[SEP\]' has the id 9, but 3 by the vocabulary",
        ),
        (
            "WordPiece",
            template([TEXT_A, SEP], [TEXT_A, TEXT_B]),
            r"the template for a single uses '\[SEP\]', for which special_tokens has no id",
        ),
        (
            "WordPiece",
            template([TEXT_A], [TEXT_A, TEXT_A]),
            r"the template for a pair has the texts \['A', 'A'\], not \['A', 'B'\]",
        ),
        (
            "WordPiece",
            template([{"Sequence": {"id": "A", "type_id": 7}}], []),
            r"single of its TemplateProcessing is .*'type_id': 7.* in place 0; give a list of text",
        ),
        (
            "BPE",
            {
                "post_processor": {
                    "type": "RobertaProcessing",
                    "sep": ["</s>", 9],
                    "cls": ["<s>", 0],
                }
            },
            "token '</s>' has the id 9, but 2 by the vocabulary",
        ),
        # Time.
        (
            "WordPiece",
            {"model": {"max_input_chars_per_word": 10**9}},
            "max_input_chars_per_word of its WordPiece is 1000000000; give an integer from 0 to 1",
        ),
        (
            "Unigram",
            {"model": {"vocab": [["<unk>", 0.0], ["a" * (MAX_PIECE_CHARS + 1), -1.0]]}},
            "a piece has 1,001 characters, and all have 1,006; minift reads 1,000 and 20,000,000",
        ),
        # Memory.
        (
            "WordPiece",
            sequence("normalizer", [DOUBLED] * 60),
            "a text 1.*e.18 times longer",
        ),
        (
            "WordPiece",
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 12}},
            "its normalizers or decoders can make a text 8192 times longer; minift accepts 1,000",
        ),
        ("WordPiece", sequence("decoder", [DOUBLED] * 60), "a text 1.*e.18 times longer"),
        ("WordPiece", sequence("normalizer", [{"type": "NFC"}] * 101), "more than 100 normalizers"),
        # Panics, and the end of the process.
        (
            "BPE",
            {"model": {"continuing_subword_prefix": "##"}},
            r"the merge \['a', 'b'\] continues a word without the prefix '##'; restore the file",
        ),
        (
            "BPE",
            {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
            "is 0; give an int",
        ),
        (
            "Unigram",
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
            "precompiled_charsmap has no trie of the size that it announces; restore the file",
        ),
        # Other types and kinds.
        ("BPE", {"model": {"dropout": 1.5}}, "dropout of its BPE is 1.5; give a share, or null"),
        (
            "BPE",
            {"model": {"merges": [["a", "b", "c"]]}},
            r"merges of its BPE is \['a', 'b', 'c'\]",
        ),
        (
            "BPE",
            {"model": {"type": "Magic"}},
            "its model has the type 'Magic', which minift",
        ),
        (
            "BPE",
            {"pre_tokenizer": "ByteLevel"},
            "its pre-tokenizer is 'ByteLevel', which minift",
        ),
        (
            "BPE",
            {"decoder": {"type": ["Fuse"]}},
            r"its decoder has the type \['Fuse'\], which",
        ),
        (
            "BPE",
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed"}},
            r"not a tokenizer \(.*",
        ),
    ],
)
def test_a_tokenizer_json_with_an_odd_value_is_refused_by_name(tmp_path, kind, parts, message):
    folder = change(folder_of(tmp_path, kind), **parts)
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{message}") as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tokenizer_config.json", {"eos_token": 1}, "eos_token is 1; give the token as a string"),
        ("tokenizer_config.json", {"padding_side": "up"}, "padding_side is 'up'; give one of left"),
        (
            "tokenizer_config.json",
            {"cls_token": {"content": "[CLS]", "lstrip": "yes"}},
            "cls_token is .*'yes'.*; give the token as a string",
        ),
        (
            "tokenizer_config.json",
            {"model_input_names": ["a", 5]},
            "model_input_names is 5 in place 1; give a",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"-1": {"content": "a"}}},
            "added_tokens_decoder is .*; give an object of ids and tokens",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}},
            "added_tokens_decoder is .*; give an object of ids and tokens",
        ),
        (
            "tokenizer_config.json",
            {"model_max_length": 2},
            "model_max_length is 2, and every text gets 2 special tokens; give a greater",
        ),
        (
            "special_tokens_map.json",
            {"unk_token": []},
            r"unk_token is \[\]; give the token",
        ),
        (
            "added_tokens.json",
            {"x": MAX_ID + 1},
            "the token 'x' has the id 10000001; give an",
        ),
    ],
)
def test_settings_of_another_type_name_their_own_file(tmp_path, name, settings, message):
    folder = bert_folder(tmp_path / "bert", list(LETTERS))
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        Tokenizer.from_pretrained(folder)


# ---- files that are no files -------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "config.json"),
    ],
)
def test_what_is_no_regular_file_is_never_taken_for_absent(tmp_path, name):
    """A folder whose tokenizer_config.json is a link to nowhere had other ids before."""
    path = bert_folder(tmp_path / "bert", list(LETTERS)) / name
    kinds = {
        "no such file; its link points nowhere": lambda: path.symlink_to("nowhere"),
        "cannot be read .*; check the path": lambda: path.symlink_to(path.name),
        "is a directory; give a file": path.mkdir,
        "is a pipe or a device, not a file": lambda: os.mkfifo(path),
        "is a pipe or a device, not a f": lambda: path.symlink_to("/dev/zero"),
    }
    for message, make in kinds.items():
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        make()
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            Tokenizer.from_pretrained(path.parent)


# ---- values that are read ----------------------------------------------------------------------


def test_the_limits_themselves_are_accepted(tmp_path):
    folder = folder_of(tmp_path, "WordPiece")
    assert MAX_WORD_CHARS == 1000
    change(folder, model={"max_input_chars_per_word": MAX_WORD_CHARS})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert len(tokenizer("a" * MAX_WORD_CHARS)) == MAX_WORD_CHARS + 2
    assert tokenizer("a" * (MAX_WORD_CHARS + 1)).ids[1:-1] == [tokenizer.unk_token_id]
    # 512 times longer; one more would be 1,024 times.
    change(folder, **sequence("normalizer", [DOUBLED] * 9))
    assert Tokenizer.from_pretrained(folder)("a b").ids[1:-1] == [
        tokenizer.id_of("a"),
        *[tokenizer.id_of("##a")] * 511,
        tokenizer.id_of("b"),
    ]
    change(folder, **sequence("normalizer", [DOUBLED] * 10))
    with pytest.raises(UserError, match=f"accepts {MAX_GROWTH:,}"):
        Tokenizer.from_pretrained(folder)


def test_what_a_replacement_expands_to_in_a_normal_form_counts(tmp_path):
    """ "ﷺ" has 18 letters in NFKD, one of which is "ا": alternated, they grow without end."""
    insert = {"type": "Replace", "pattern": {"String": "ا"}, "content": "ﷺ"}
    folder = folder_of(tmp_path, "WordPiece")
    change(folder, **sequence("normalizer", [insert, {"type": "NFKD"}] * 3))
    with pytest.raises(UserError, match="can make a text 4492 times longer"):
        Tokenizer.from_pretrained(folder)
    # The normal form itself, however often, is not counted: the second changes nothing.
    change(folder, **sequence("normalizer", [{"type": "NFKD"}] * 50))
    assert Tokenizer.from_pretrained(folder)("a").ids[1:-1] == [5]


def test_truncation_and_padding_of_any_kind_are_ignored(tmp_path):
    folder = folder_of(tmp_path, "BPE")
    expected = Tokenizer.from_pretrained(folder)("ab the")
    change(folder, truncation={"max_length": -1}, padding=5)
    assert Tokenizer.from_pretrained(folder)("ab the") == expected


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
def test_a_model_without_a_type_is_read_by_its_fields(tmp_path, kind):
    folder = folder_of(tmp_path, kind)
    expected = Tokenizer.from_pretrained(folder)("ab the")
    state = json.loads((folder / "tokenizer.json").read_text())
    del state["model"]["type"]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    assert Tokenizer.from_pretrained(folder)("ab the") == expected


def test_a_text_that_the_tokenizer_knows_no_letter_of_keeps_its_place(tmp_path):
    """The layout of special tokens was found with the letter "a", which BPE may drop."""
    folder = folder_of(tmp_path, "BPE")
    state = json.loads((folder / "tokenizer.json").read_text())
    model, parts = state["model"], {"pre_tokenizer": None, "decoder": None}
    vocab = {token: i for token, i in model["vocab"].items() if "a" not in token[:2]}
    merges = [merge for merge in model["merges"] if not any("a" in part for part in merge)]
    kept = [token for token in state["added_tokens"] if token["content"] in vocab]
    change(folder, model={"vocab": vocab, "merges": merges}, added_tokens=kept, **parts)
    (folder / "tokenizer_config.json").write_text('{"pad_token": "</s>"}')
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.ids(["a", "the"]) == [[], [vocab["the"]]]
    assert tokenizer("the").ids == [0, vocab["the"], 2]


def test_ids_with_holes_count_up_to_the_greatest(tmp_path, capfd):
    folder = folder_of(tmp_path, "WordPiece")
    state = json.loads((folder / "tokenizer.json").read_text())
    vocab = {**state["model"]["vocab"], "rare": 5000}
    added = [*state["added_tokens"], {"id": 5001, "content": "[E1]", **ADDED}]
    tokenizer = Tokenizer.from_pretrained(
        change(folder, model={"vocab": vocab}, added_tokens=added)
    )
    assert tokenizer("rare [E1]").ids[1:-1] == [5000, 5001]
    assert tokenizer.vocab_size == 5002
    assert len(set(tokenizer.convert_ids_to_tokens(range(5002)))) == 5002
    tokenizer.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved")("rare [E1]") == tokenizer("rare [E1]")
    assert capfd.readouterr() == ("", "")  # the library prints a line about holes

    change(folder, model={"vocab": {**vocab, "rare": 200_000}})
    with pytest.raises(UserError, match="'rare' has the id 200000, but there are 58 tokens; rest"):
        Tokenizer.from_pretrained(folder)
    change(folder, model={"vocab": {**vocab, "rare": MAX_ID}})
    tracemalloc.start()
    with pytest.raises(UserError, match=f"'rare' has the id {MAX_ID}, but"):
        Tokenizer.from_pretrained(folder)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**8  # the buffer to read a file has 10**8
    tracemalloc.stop()


def test_equal_lines_of_a_vocab_txt_leave_a_hole(tmp_path, capfd):
    folder = bert_folder(tmp_path / "bert", ["a", "b"])
    lines = (folder / "vocab.txt").read_text().split()
    (folder / "vocab.txt").write_text("\n".join([*lines, "a"]))
    (folder / "added_tokens.json").write_text(json.dumps({"[E1]": len(lines) + 1}))
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer("a [E1] b").ids[1:-1] == [len(lines), len(lines) + 1, lines.index("b")]
    assert capfd.readouterr() == ("", "")


def test_a_control_token_that_merges_would_make_is_text(tmp_path):
    """ "<s>" was found in a text, or the reading tokenizer could not be made at all."""
    folder = folder_of(tmp_path, "BPE")
    state = json.loads((folder / "tokenizer.json").read_text())
    vocab = {**state["model"]["vocab"], "<p": 500, "<pa": 501, "<pad": 502}
    merges = [["<", "p"], ["<p", "a"], ["<pa", "d"], ["<pad", ">"]]
    assert vocab["<pad>"] == 1
    added = [token for token in state["added_tokens"] if token["content"] != "[E1]"]
    parts = {"pre_tokenizer": None, "decoder": None, "added_tokens": added}
    change(folder, model={"vocab": vocab, "merges": merges}, **parts)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer.ids(["<pad>"])[0]) == ["<pad", ">"]


def test_vocab_txt_is_read_as_the_library_reads_it(tmp_path):
    path = tmp_path / "vocab.txt"
    lines = [
        "[PAD]",
        "a \t",
        " b",
        "c\r",
        "",
        "d\x1c",
        "e\u3000",
        "f\x85",
        "a",
        "\u200b",
        "g\ud7ff",
    ]
    for end in ("", "\n", "\n\n", "\r\n"):
        path.write_bytes(("\n".join(lines) + end).encode())
        assert _read_vocab(path) == tokenizers.models.WordPiece.read_file(str(path))


# ---- errors while a text is read ---------------------------------------------------------------


def test_a_pattern_without_end_is_one_line(tmp_path):
    """The library gives up after ten million steps, by a panic, which is no `Exception`."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+[b-d]"}, "behavior": "Isolated"}
    folder = change(folder_of(tmp_path, "WordPiece"), pre_tokenizer={**split, "invert": False})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.ids(["the"])
    with pytest.raises(UserError, match=r"cannot read a text .*; use another") as caught:
        tokenizer(["a" * 3000 + " d"], is_split_into_words=True)
    assert str(folder) in str(caught.value)


def test_a_character_without_a_token_is_one_line(tmp_path):
    folder = change(folder_of(tmp_path, "Unigram"), model={"unk_id": None})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer("the a").ids[-1] == 1
    with pytest.raises(UserError, match=r"cannot read a text \(.*unk_id.*\); use another"):
        tokenizer("☃")


def test_a_decoder_that_fails_is_one_line(tmp_path):
    strip = {"type": "Strip", "content": "a", "start": 0, "stop": 5}
    tokenizer = Tokenizer.from_pretrained(change(folder_of(tmp_path, "WordPiece"), decoder=strip))
    with pytest.raises(UserError, match="its tokenizer cannot write a text"):
        tokenizer.decode(tokenizer.ids(["a"])[0])


def test_a_user_reads_one_line_and_no_traceback(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    Tokenizer.from_pretrained(folder).save_pretrained(folder)
    change(folder, model={"max_input_chars_per_word": 10**9})
    done = run_script(
        "train_classification", "--model", folder, "--output-dir", tmp_path / "out", check=False
    )
    assert done.returncode == 2
    assert "tokenizer.json: max_input_chars_per_word of its" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


# ---- SentencePiece's replacements --------------------------------------------------------------


def test_a_charsmap_of_replacements(tmp_path):
    made = charsmap({"ﬁ": "fi", "É": "e", "x": "the"})
    assert charsmap_growth(made) == 3.0  # "x", one byte, becomes three
    folder = folder_of(tmp_path, "Unigram")
    change(folder, normalizer={"type": "Precompiled", "precompiled_charsmap": made})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer("xÉ").ids == tokenizer("thee").ids


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (slice(0, 4), (10**9).to_bytes(4, "little"), "no trie of the size"),
        (slice(0, 4), (7).to_bytes(4, "little"), "no trie of the size"),
        (slice(4, 8), (2**32 - 1).to_bytes(4, "little"), "points beyond its end"),
        (slice(-2, -1), b"\xff", "not UTF-8"),
    ],
)
def test_a_charsmap_that_would_make_the_library_panic(place, value, message):
    data = bytearray(base64.b64decode(charsmap({"a": "bc"})))
    data[place] = value
    with pytest.raises(ValueError, match=message):
        charsmap_growth(base64.b64encode(bytes(data)).decode())


def test_a_replacement_that_begins_in_the_middle_of_a_character():
    data = base64.b64decode(charsmap({"a": "é"}))
    leaf = struct.pack("<I", 1 << 31)
    assert data.count(leaf) == 1
    data = data.replace(leaf, struct.pack("<I", 1 << 31 | 1))
    with pytest.raises(ValueError, match="begins nowhere"):
        charsmap_growth(base64.b64encode(data).decode())
