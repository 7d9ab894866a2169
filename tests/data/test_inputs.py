"""Texts and pairs for prediction: columns saved or given, pairs as on standard input."""

from __future__ import annotations

import pytest

from minift.data.inputs import count_unknown_labels, read_texts
from minift.errors import UserError

DEFAULT = {"text_column": "text", "pair_column": "text_pair", "label_column": "label"}
NAMED = {"text_column": "sentence", "pair_column": "text_pair", "label_column": "klass"}
NUMBERED = {"text_column": "3", "pair_column": "text_pair", "label_column": "1"}


def read(tmp_path, content, columns=DEFAULT, name="x.tsv", given=None, pairs=None, labels=()):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return list(read_texts(path, columns, given or {}, pairs, labels))


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("x.tsv", "a\t1\nb\t2\n", NAMED),
        ("x.txt", "a\nb\n", NAMED),
        ("y.tsv", "a\nb\n", NUMBERED),
        ("x.csv", "text,label\na,1\nb,2\n", NUMBERED),
        ("z.tsv", "i\t1\tx\ta\nj\t0\tx\tb\n", NUMBERED),
        ("z.csv", "klass,sentence\n1,a\n2,b\n", NAMED),
    ],
)
def test_saved_columns_are_used_where_a_file_can_have_them(tmp_path, name, content, columns):
    records = read(tmp_path, content, columns, name)
    assert [r.text for r in records] == ["a", "b"]


def test_given_columns_replace_the_saved_ones(tmp_path):
    csv = "headline,sentence,klass\na,x,1\nb,y,2\n"
    records = read(tmp_path, csv, NAMED, "x.csv", given={"text_column": "headline"})
    assert [r.text for r in records] == ["a", "b"]
    records = read(tmp_path, "7\ta\n8\tb\n", NUMBERED, given={"text_column": "1"})
    assert [(r.text, r.label, r.extra) for r in records] == [
        ("a", None, {"column_0": "7"}),
        ("b", None, {"column_0": "8"}),
    ]
    with pytest.raises(UserError, match="is 'sentence', but the line is not a header"):
        read(tmp_path, "a\t1\n", given={"text_column": "sentence"})
    with pytest.raises(UserError, match="has no 'sentence', only 'text, label'"):
        read(tmp_path, "text,label\na,1\n", NAMED, "x.csv")


@pytest.mark.parametrize("columns", [DEFAULT, NAMED])
def test_a_model_of_pairs_reads_pairs_in_a_file_as_on_standard_input(tmp_path, columns):
    content = "a\tb\n\nc d\te\n"
    from_file = read(tmp_path, content, columns, pairs=True)
    typed = list(read_texts(content.splitlines(), columns, {}, True, ()))
    for records in (from_file, typed):
        assert [(r.text, r.text_pair) for r in records][::2] == [("a", "b"), ("c d", "e")]
        assert [r.is_blank for r in records] == [False, True, False]
    with_labels = read(tmp_path, "a\tb\tyes\n", columns, pairs=True, labels=("no", "yes"))
    assert [(r.text_pair, r.label) for r in with_labels] == [("b", "yes")]
    with_labels = read(tmp_path, "a\tyes\n", columns, pairs=False, labels=("no", "yes"))
    assert [(r.text_pair, r.label) for r in with_labels] == [(None, "yes")]


def test_single_texts_for_a_model_of_pairs_are_refused_and_the_reverse(tmp_path):
    labels = ("no", "yes")
    for content in ("a\nb\n", "a\tyes\nb\tno\n"):
        with pytest.raises(UserError, match=r"x\.tsv.*--pair-column"):
            read(tmp_path, content, pairs=True, labels=labels)
    with pytest.raises(UserError, match=r"x\.tsv, line 1.*single texts"):
        read(tmp_path, "a\tb\tyes\n", pairs=False, labels=labels)
    for line, pairs in (("a", True), ("a\tb", False)):
        with pytest.raises(UserError, match="input 1"):
            list(read_texts([line], DEFAULT, {}, pairs, labels))
    records = read(tmp_path, "a\tyes\n", given={"text_column": "0"}, pairs=False)
    assert [r.text_pair for r in records] == [None]


def test_labels_that_the_model_does_not_know_are_counted(tmp_path):
    records = read(tmp_path, "a\tis it good ?\nb\tyes\nc\t\n", pairs=False)
    warnings = []
    stream = count_unknown_labels(records, ("no", "yes"), warnings.append)
    assert next(stream) is records[0]
    assert not warnings  # before the end
    assert list(stream) == records[1:]
    (warning,) = warnings
    assert warning.startswith("1 of 3 records")
    assert "'is it good ?'" in warning
    assert list(count_unknown_labels(records[1:], ("no", "yes"), warnings.append)) == records[1:]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("name", "content", "blank"),
    [
        ("x.txt", "a\n\n b\n\n", [False, True, False, True]),
        ("x.tsv", "\na\tpos\n\t\n", [True, False, True]),
        ("x.csv", "text,label\na,pos\n,neg\n", [False, True]),
        ("x.jsonl", '{"text": "a"}\n\n{"text": " "}\n{"text": null}\n', [False, True, True]),
        ("x.txt", '{"text": "a"}\n\n{"text": ""}\n', [False, True]),  # JSON, whatever its name
    ],
)
def test_every_line_or_record_is_read_also_a_blank_one(tmp_path, name, content, blank):
    assert [r.is_blank for r in read(tmp_path, content, name=name)] == blank


def test_other_columns_are_kept(tmp_path):
    (record,) = read(tmp_path, '{"id": 7, "text": "a", "label": "x", "year": [1]}', name="x.jsonl")
    assert record.extra == {"id": 7, "year": [1]}
    (record,) = read(tmp_path, "id,text,label,year\nr0,a,x,1999\n", name="x.csv")
    assert record.extra == {"id": "r0", "year": "1999"}


def test_columns_that_are_not_given_are_those_of_the_training_data(tmp_path):
    named = {"text_column": "a", "pair_column": "b", "label_column": "y"}
    csv = "id,a,b,other\n1,x,y,z\n"
    (record,) = read(tmp_path, csv, named, "x.csv", given={"pair_column": "other"}, pairs=True)
    assert (record.text, record.text_pair) == ("x", "z")
    # A headed TSV with the default names, for a model whose columns have others.
    for content in ("text\ttext_pair\na\tb\n", "text\ttext_pair\tlabel\na\tb\t1\n"):
        (record,) = read(tmp_path, content, named, pairs=True)
        assert (record.text, record.text_pair) == ("a", "b")


def test_a_header_before_labels_does_not_make_them_second_texts(tmp_path):
    with pytest.raises(UserError, match="the second column holds labels"):
        read(tmp_path, "review\tkind\nso\tpos\nbad\tneg\n", pairs=True, labels=("neg", "pos"))
