"""Files of tagged words: several layouts, and errors that give file and line."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
from support.running import ROOT

from minift.data.columns import kind_of_file, read_tagged, read_words, untagged
from minift.data.read import builtin
from minift.errors import UserError
from minift.text.alignment import split_words

SHARED = ROOT.parent / "shared" / "data"

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
. . O O

Peter NNP I-NP I-PER
"""


def read(tmp_path, text, name="x.conll", require_tags=True, **options):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    if require_tags:
        return read_tagged(path, **options)
    return list(read_words(path, split_words, **options))


def pairs_of(records):
    return [list(zip(r.words, r.tags, strict=True)) for r in records]


def test_conll_2003(tmp_path):
    records = read(tmp_path, CONLL)
    assert {record.scheme for record in records} == {"iob1"}
    assert pairs_of(records) == [
        [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), (".", "O")],
        [("Peter", "B-PER")],
    ]
    assert records[0].where.endswith("x.conll, line 3")
    assert records[0].text == "EU rejects German ."
    assert records[0].offsets == ((0, 2), (3, 10), (11, 17), (18, 19))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("\n\n", "\n \n\t\n\n"),
        lambda text: "# id = 1\n" + text.replace("\n\nPeter", "\n\n# text = Peter X\nPeter"),
        lambda text: text.replace("I-NP I-ORG", "I-NP   I-ORG "),
    ],
)
def test_small_differences_do_not_matter(tmp_path, change):
    assert pairs_of(read(tmp_path, change(CONLL))) == pairs_of(read(tmp_path, CONLL))


def test_gzip_and_json(tmp_path):
    packed = tmp_path / "x.conll.gz"
    packed.write_bytes(gzip.compress(CONLL.encode()))
    expected = pairs_of(read(tmp_path, CONLL))
    assert pairs_of(read_tagged(packed)) == expected
    lines = [{"tokens": [w for w, _ in s], "tags": [t for _, t in s]} for s in expected]
    records = read(tmp_path, "\n".join(map(json.dumps, lines)), "x.jsonl")
    assert pairs_of(records) == expected
    assert records[0].scheme == "iob2"


def test_ontonotes(tmp_path):
    """Columns 3 and 10; how many there are differs from sentence to sentence."""
    text = (
        "#begin document (bc/x); part 000\n"
        "bc/x 0 0 Ada NNP (S* - - - spk (PERSON* *\n"
        "bc/x 0 1 Lovelace NNP * - - - spk *) *\n\n"
        "bc/x 0 0 Paris NNP (S* - - - spk (GPE) * *\n"
        "bc/x 0 1 # SYM * - - - spk * * *\n\n"
        "#end document\n"
    )
    records = read(tmp_path, text, token_column=3, tag_column=10)
    assert records[0].scheme == "brackets"
    assert pairs_of(records) == [
        [("Ada", "B-PERSON"), ("Lovelace", "I-PERSON")],
        [("Paris", "B-GPE"), ("#", "O")],
    ]


def test_a_hash_may_be_a_word(tmp_path):
    records = read(tmp_path, "#tag\tO\n#\tO\n# begin\n", require_tags=False)
    assert records[0].words == ("#tag", "#")
    records = read(tmp_path, "# NN O\nParis NN B-LOC\n")
    assert records[0].words == ("#", "Paris")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#\thttp://x.org/A\t[2009-10-17]\n1\tAda\tB-PER\tO\n2\tslept\tO\tO\n", ["1", "2"]),
        ("#\tsentence 7\nAda\tB-PER\nslept\tO\n", ["Ada", "slept"]),
        ("#id 7\nAda B-PER\nslept O\n\n#id 8\n#x = O\nIt O\n", ["Ada", "slept", "It"]),
        ("# text = Ada O\nAda O\n# a b\nslept O\n", ["Ada", "slept"]),
        ("# global.columns = FORM NER\n# sent_id = 1\n\nAda\tB-PER\n", ["Ada"]),
        ("Ada NNP B-PER\n# a O\n#7 CD O\nslept VBD O\n", ["Ada", "#", "#7", "slept"]),
        ("# O\n#tag O\nAda B-PER\n", ["#", "#tag", "Ada"]),
        ("# O\n#tag O\n", ["#", "#tag"]),
    ],
)
def test_comments_of_other_tools(tmp_path, text, words):
    """GermEval 2014, CoNLL-U; the first line without # tells how many columns a word has."""
    tag_column = 2 if "\t[2009" in text else -1
    records = read(tmp_path, text, tag_column=tag_column)
    assert [word for record in records for word in record.words] == words


def test_a_hashtag_with_a_wrong_tag_is_no_comment(tmp_path):
    for text in ("Ada B-PER\n\n#tag PER\n", "Ada B-PER\n\n#tag\n", "Ada O\n\n#tag NN O\n"):
        with pytest.raises(UserError, match="line 3"):
            read(tmp_path, text)


@pytest.mark.parametrize("header", ["token ner_tag", "Word\tTag"])
def test_a_header_is_an_error(tmp_path, header):
    with pytest.raises(UserError, match=r"line 3: looks like a header, because '.*ag' is no tag"):
        read(tmp_path, f"# global\n\n{header}\nAda B-PER\nslept O\n")


def test_files_without_tags(tmp_path):
    records = read(tmp_path, "Ada\nsleeps\n\nParis\n", require_tags=False)
    assert [(r.words, r.tags) for r in records] == [(("Ada", "sleeps"), None), (("Paris",), None)]
    records = read(tmp_path, '{"tokens": ["", "a b"]}', "x.jsonl", require_tags=False)
    assert records[0].words == ("", "a b")
    # A file of one column holds words, also where the training data had them in another column.
    columns = {"token_column": 3, "tag_column": 10, "require_tags": False}
    assert read(tmp_path, "Ada\nsleeps\n", **columns)[0].words == ("Ada", "sleeps")


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Ada _\nslept _\n", None),  # dummies
        ("Ada NNP\nslept VBD\n", None),  # another layout
        ("the O\nLovelace I-PER\nAda B-PER\nOslo B-LOC\n", None),  # a stray I-
        ("Ada B-XYZ\nslept O\n", ("B-XYZ", "O")),  # a type that no model needs to know
    ],
)
def test_prediction_needs_no_tags_that_can_be_read(tmp_path, text, tags):
    (record,) = read(tmp_path, text, require_tags=False)
    assert record.words == tuple(line.split()[0] for line in text.splitlines())
    assert record.tags == tags


def test_half_of_the_sentences_may_have_tags(tmp_path):
    records = read(tmp_path, "Ada B-PER\ngrew O\n\nParis\n", require_tags=False)
    assert [r.tags for r in records] == [("B-PER", "O"), None]
    rows = ({"tags": ["B-PER"]}, {"tags": None}, {"tags": [3]}, {"tags": ["O", "O"]}, {})
    lines = "\n".join(json.dumps({"tokens": ["Ada"], **row}) for row in rows)
    records = read(tmp_path, lines, "x.jsonl", require_tags=False)
    assert [r.tags for r in records] == [("B-PER",), None, None, None, None]


@pytest.mark.parametrize("name", ["x.txt", "x.conll", "x.jsonl", "x", "x.txt.gz"])
def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path, name):
    path = tmp_path / name
    pack = gzip.compress if name.endswith(".gz") else bytes
    path.write_bytes(pack(CONLL.encode()))
    assert kind_of_file(path) == "columns"
    assert pairs_of(read_tagged(path)) == pairs_of(read(tmp_path, CONLL, "same.conll"))
    assert [r.words[0] for r in read_words(path, split_words)] == ["EU", "Peter"]
    path.write_bytes(pack(b'\n{"tokens": ["EU"], "tags": ["B-ORG"]}\n'))
    assert [r.tags for r in read_tagged(path)] == [("B-ORG",)]
    assert [r.tags for r in read_words(path, split_words)] == [("B-ORG",)]


def test_raw_text_is_no_file_of_columns(tmp_path):
    """Each line has two words; the second is no tag."""
    records = read(tmp_path, "Grace Hopper\n\nAlan Turing\n", "x.txt", require_tags=False)
    assert [r.words for r in records] == [("Grace", "Hopper"), (), ("Alan", "Turing")]
    text = "Grace NNP\n\nAlan NNP\n"
    records = read(tmp_path, text, "x.txt", require_tags=False, has_columns=True)
    assert [r.words for r in records] == [("Grace",), ("Alan",)]
    (record,) = read(tmp_path, '{"id": 7, "text": "Ada  slept."}', "x.jsonl", require_tags=False)
    assert (record.text, record.words, record.extra) == (
        "Ada  slept.",
        ("Ada", "slept", "."),
        {"id": 7},
    )


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, ["holds no sentence"]),
        ("-DOCSTART- O\n\n", {}, ["holds no sentence"]),
        ("Ada NNP O\nsleeps O\n", {}, ["line 2", "2", "line 1", "3"]),
        ("Ada O\nsleeps\n", {}, ["line 2", "'sleeps'", "1 column"]),
        ("Ada PER\n", {}, ["line 1", "'PER'", "--tag-column"]),
        ("Ada O\nsleeps O\n\ufeffBo O\n", {}, ["line 3", "byte-order mark"]),
        ("Ada B-PER\n\nsleeps X-Y\n", {}, ["line 3", "'X-Y'"]),
        ("Ada B-PER\nsleeps O\nParis I-LOC\n", {}, ["line 3", "'I-LOC'"]),
        ("Ada B-PER\nL E-PER\nParis B-LOC\n\n", {}, ["line 3", "'B-LOC'"]),
        ("Ada O O\n", {"tag_column": 5}, ["line 1", "column 5"]),
        ("Ada E-PER\n", {"scheme": "iob2"}, ["line 1", "'E-PER'", "--scheme"]),
    ],
)
def test_bad_columns(tmp_path, text, options, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, text, **options)
    assert "x.conll" in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"words": []}', ["'tokens'", "words"]),
        ('{"tokens": ["a"]}', ["'tags'"]),
        ('{"tokens": [], "tags": []}', ["empty"]),
        ('{"tokens": ["a"], "tags": ["O", "O"]}', ["1 tokens", "2 tags"]),
        ('{"tokens": "a", "tags": ["O"]}', ["list of strings"]),
        ('{"tokens": ["a"], "tags": [0]}', ["list of strings"]),
        ('{"tokens": ["a"], "tags": ["Q"]}', ["'Q'"]),
        ('{"tokens": ["a"], "tags": ["O"], "tags": ["B-X"]}', ["'tags' occurs twice"]),
        ('{"tokens": ["\\ud83d"], "tags": ["O"]}', ["surrogate"]),
    ],
)
def test_bad_json(tmp_path, line, words):
    good = '{"tokens": ["a"], "tags": ["O"]}\n'
    with pytest.raises(UserError, match=r"x\.jsonl, line 2") as error:
        read(tmp_path, good + line, "x.jsonl")
    assert all(word in str(error.value) for word in words), error.value


def test_raw_text():
    (record,) = untagged(["Ada  sleeps"], split_words)
    assert record.words == ("Ada", "sleeps")
    assert (record.text, record.offsets, record.tags) == ("Ada  sleeps", ((0, 3), (5, 11)), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "sentences", "scheme", "entities"),
    [
        (
            "conll2003/train.txt",
            14041,
            "iob1",
            {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600},
        ),
        ("conll2003/valid.txt", 3250, "iob1", {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}),
        ("wnut17/dev.conll", 1009, "iob2", {"person": 470, "product": 114, "location": 74}),
    ],
)
def test_real_files_hold_what_is_published(file, sentences, scheme, entities):
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not here")
    records = read_tagged(SHARED / file)
    counts = Counter(t[2:] for r in records for t in r.tags if t.startswith("B-"))
    assert (len(records), records[0].scheme) == (sentences, scheme)
    assert {kind: counts[kind] for kind in entities} == entities


def test_the_built_in_sentences():
    splits = {s: read_tagged(builtin(f"ner.{s}.conll")) for s in ("train", "dev", "test")}
    assert sum(map(len, splits.values())) >= 300
    for records in splits.values():
        kinds = Counter(t[2:] for r in records for t in r.tags if t.startswith("B-"))
        assert set(kinds) == {"LOC", "MISC", "ORG", "PER"}
        assert min(kinds.values()) >= 40
        assert any(r.text.isupper() for r in records)
        assert any(r.text.islower() for r in records)
    texts = [r.text for records in splits.values() for r in records]
    assert len(set(texts)) == len(texts)
    tagged = {}
    for record in (r for records in splits.values() for r in records):
        for word, tag in zip(record.words, record.tags, strict=True):
            tagged.setdefault(word, set()).add(tag[2:])
    ambiguous = [word for word, kinds in tagged.items() if len(kinds - {""}) > 1]
    assert len(ambiguous) >= 20, ambiguous
    assert {"Jordan", "Paris", "Bank"} <= tagged.keys()
    assert any("-" in word and tagged[word] != {""} for word in tagged)


def test_questions_and_dashes_at_the_end_of_lines_are_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("Où est Ada ?\nQui est Bob ?\n", encoding="utf-8")
    assert kind_of_file(path) == "text"
    path.write_text("Ada B-PER\nBob B-PER\n")
    assert kind_of_file(path) == "columns"
    assert kind_of_file(path, token_column=1, tag_column=2) == "columns"  # too few, to be said
    table = tmp_path / "x.csv"
    table.write_text("text\nAda went to Rome\n")
    with pytest.raises(UserError, match="not read from CSV"):
        kind_of_file(table)
