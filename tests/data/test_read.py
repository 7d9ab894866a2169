"""Every kind of file gives the same records, and errors name the line."""

from __future__ import annotations

import codecs
import doctest
import gzip
import json
from pathlib import Path

import pytest

from minift.data import lines, read
from minift.data.read import TextRecord, builtin, read_classification, records_of
from minift.errors import UserError

ROWS = [
    ('a "quoted" start, it\'s', "pos"),
    ("  spaces stay  ", "neg"),
    ("日本 👩‍👩‍👧 e\u0301 \u2028 \x85 \x0b one line", "3"),
]
AS_FILE = {
    "x.tsv": "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "x.txt": "".join(f"{text}\t {label} \n" for text, label in ROWS),
    "x.csv": "text,label\n"
    + "".join(f'"{t.replace(chr(34), chr(34) * 2)}",{y}\n' for t, y in ROWS),
    "x.jsonl": "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in ROWS),
    "x.json": "".join(
        json.dumps({"label": int(y) if y.isdecimal() else y, "more": [], "text": t}) + "\n"
        for t, y in ROWS
    ),
}


def write(path: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def pairs_of(records: list[TextRecord]) -> list[tuple[str, str | None]]:
    return [(record.text, record.label) for record in records]


def test_docstring_examples_run():
    assert doctest.testmod(read).failed == 0


@pytest.mark.parametrize("name", AS_FILE)
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_every_format_gives_the_same_records(tmp_path, name, zipped):
    path = write(tmp_path / (name + zipped), AS_FILE[name])
    records = read_classification(path)
    assert pairs_of(records) == ROWS
    assert [record.id for record in records] == ["0", "1", "2"]
    first_line = 2 if name == "x.csv" else 1
    assert records[1].where == f"{path}, line {first_line + 1}"
    assert {record.text_pair for record in records} == {None}


@pytest.mark.parametrize("name", AS_FILE)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode().replace(b"\n", b"\r\n"),
        lambda text: text.encode().removesuffix(b"\n"),
        lambda text: text.encode() + b"\n\r\n\n",
        lambda text: text.encode().replace(b"\n", b"\r"),
        lambda text: codecs.BOM_UTF8 + text.encode().replace(b"\n", b"\r").removesuffix(b"\r"),
    ],
    ids=[
        "byte-order mark",
        "CRLF",
        "no end of line at the end",
        "blank lines at the end",
        "CR, as on old Macs",
        "CR, a mark, no end of line at the end",
    ],
)
def test_variants_of_the_same_file_give_the_same_records(tmp_path, name, change):
    path = write(tmp_path / name, change(AS_FILE[name]))
    assert pairs_of(read_classification(str(path))) == ROWS


def test_pairs(tmp_path):
    expected = [("a", "b", "0"), ("c", "d", "1")]
    for name, content in {
        "x.tsv": "a\tb\t0\nc\td\t1\n",
        "x.csv": "label,text_pair,text\n0,b,a\n1,d,c\n",
        "x.jsonl": '{"text": "a", "text_pair": "b", "label": 0}\n'
        '{"text": "c", "text_pair": "d", "label": 1}\n',
    }.items():
        records = read_classification(write(tmp_path / name, content))
        assert [(r.text, r.text_pair, r.label) for r in records] == expected


def test_other_columns_by_number_or_name(tmp_path):
    cola = write(tmp_path / "cola.tsv", "gj04\t1\t\tThey left.\ngj04\t0\t*\tThey it.\n")
    records = read_classification(cola, text_column="3", label_column="1")
    assert pairs_of(records) == [("They left.", "1"), ("They it.", "0")]
    rte = write(tmp_path / "rte.tsv", "0\tone\ttwo\tyes\n")
    (record,) = read_classification(rte, text_column="1", pair_column="2", label_column="3")
    assert (record.text, record.text_pair, record.label) == ("one", "two", "yes")
    named = write(tmp_path / "x.csv", "id,sentence,klass\n1,a,b\n")
    records = read_classification(named, text_column="sentence", label_column="klass")
    assert pairs_of(records) == [("a", "b")]


def test_blank_lines_do_not_shift_the_count(tmp_path):
    path = write(tmp_path / "x.tsv", "\na\tb\n  \n\nc\td\n")
    assert [record.where for record in read_classification(path)] == [
        f"{path}, line 2",
        f"{path}, line 5",
    ]


def test_a_csv_field_over_several_lines(tmp_path):
    path = write(tmp_path / "x.csv", 'text,label\r\n"one\r\ntwo, ""three""",a\r\nfour,b\r\n')
    records = read_classification(path)
    assert pairs_of(records) == [('one\ntwo, "three"', "a"), ("four", "b")]
    assert [record.where[-1] for record in records] == ["2", "4"]


def test_prediction_needs_no_labels(tmp_path):
    for name, content, labels in [
        ("x.txt", "a\nb\n", [None, None]),
        ("x.tsv", "a\t1\nb\t2\n", ["1", "2"]),
        ("x.csv", "text\na\nb\n", [None, None]),
        ("y.csv", "text,label\na,\nb,1\n", [None, "1"]),
        ("x.jsonl", '{"text": "a", "label": null}\n{"text": "b"}\n', [None, None]),
        ("x.jsonl", '{"text": "a", "label": NaN}\n{"text": "b", "label": [1]}\n', [None, None]),
        ("x.jsonl", '{"text": "a", "label": -1}\n{"text": "b", "label": 1.0}\n', ["-1", "1.0"]),
    ]:
        records = read_classification(write(tmp_path / name, content), require_label=False)
        assert [(r.text, r.label) for r in records] == list(zip("ab", labels, strict=True))
    path = write(tmp_path / "pairs.tsv", "a\tb\n")
    (record,) = read_classification(path, text_column="0", pair_column="1", require_label=False)
    assert (record.text, record.text_pair, record.label) == ("a", "b", None)


def test_a_name_of_a_column_needs_a_header(tmp_path):
    path = write(tmp_path / "x.tsv", "a\t1\nb\t2\n")
    with pytest.raises(UserError, match="is 'sentence', but the line is not a header"):
        read_classification(path, text_column="sentence")


def test_lines_typed_in():
    one, two, blank, half = records_of(["good\n", "first\tsecond\r\n", " \n", "a\t"])
    assert one == TextRecord("0", "good", None, None, "input 1")
    assert two == TextRecord("1", "first", None, "second", "input 2")
    assert [r.is_blank for r in (one, two, blank, half)] == [False, False, True, True]


def test_builtin_names_a_file_of_the_package():
    assert builtin("reviews.train.tsv").parent.parent == Path(read.__file__).parent


FAULTS = {
    # name: (file name, content, what the message says after the file's name)
    "empty": ("x.tsv", "", ": holds no record; give"),
    "only blank": ("x.tsv", "\n \n", ": holds no record; give"),
    "only a mark": ("x.tsv", codecs.BOM_UTF8, ": holds no record; give"),
    "only a header": ("x.csv", "text,label\n", ": holds no record; give"),
    "ending": ("x.xlsx", "a", ": the ending '.xlsx' is not one that minift reads; give"),
    "no ending": ("x", "a", ": the ending '' is not"),
    "latin-1": ("x.tsv", b"a\t1\ncaf\xe9\t1\n", ", line 2: byte 4 is 0xE9, which is not UTF-8;"),
    "latin-1 and mark": ("x.tsv", codecs.BOM_UTF8 + b"\xe9\t1\n", ", line 1: byte 1 is 0xE9"),
    "utf-16": ("x.tsv", "a\t1\n".encode("utf-16"), ", line 1: byte 4 is NUL; give a text file"),
    "NUL": ("x.jsonl", b'{"text": "\0"}', ", line 1: byte 11 is NUL; give a text file"),
    "not gzip": ("x.tsv.gz", b"plain", ": damaged gzip"),
    "no tab": ("x.tsv", "a 1\n", ", line 1: has no 'label', only 'text'; add it"),
    "stray tab": ("x.tsv", "a\t1\nb\tc\t1\n", ", line 2: the number of columns is 3, on line 1"),
    "lost tab": ("x.tsv", "\na\t1\nb\n", ", line 3: the number of columns is 1, on line 2 it is 2"),
    "four columns": ("x.tsv", "a\tb\tc\td\n", ", line 1: the number of columns is 4; write text<"),
    "header": ("x.tsv", "sentence\tlabel\na\t1\n", r", line 1: looks like a header, because"),
    "empty text": ("x.tsv", "a\t1\n \t1\n", ", line 2: 'text' is empty; fill it in"),
    "empty label": ("x.tsv", "a\t1\nb\t \n", ", line 2: 'label' is empty; every"),
    "empty pair": ("x.tsv", "a\tb\t1\na\t\t1\n", ", line 2: 'text_pair' is empty; fill"),
    "csv names": ("x.csv", "a,b\n1,2\n", ", line 2: has no 'text', only 'a, b'; add it"),
    "csv label": ("x.csv", "text,y\n1,2\n", ", line 2: has no 'label', only 'text, y'; add it"),
    "csv twice": ("x.csv", "text,text,label\n", ", line 1: two columns are called 'text'; rename"),
    "csv fields": ("x.csv", "text,label\na,b,c\n", ", line 2: the number of fields is 3, in the"),
    "csv open quote": (
        "x.csv",
        'text,label\na,1\n"b,1\nc,1\n',
        ", line 3: not valid CSV .* correct",
    ),
    "csv bad quote": ("x.csv", 'text,label\n"a" b,1\n', ", line 2: not valid CSV .* correct"),
    "csv huge": ("x.csv", "text,label\n" + "a" * 200_000 + ",1", ", line 2: not valid.*jsonl file"),
    "csv label empty": ("x.csv", "text,label\na,\n", ", line 2: 'label' is empty"),
    "not json": ("x.jsonl", "{'text': 1}\n", r', line 1: "\{\'text\': 1\}" is not JSON .*; write'),
    "pretty json": ("x.json", '{\n  "text": "a"}', r", line 1: '\{' is not JSON"),
    "array of arrays": ("x.json", '[\n["a", 1]]', r', line 2: \["a", 1\] is not a JSON object; w'),
    "array item": ("x.json", '[{"text": "a",\n"label": 1},\n{"text": "b"}]', ", line 3: has no 'l"),
    "array open": ("x.json", '[{"text": "a",\n"label": 1},\n\n', r", line 3: '' is not JSON \(Exp"),
    "array and more": ("x.json", '[]\n{"text": "a"}', r", line 2: .* is not JSON \(Extra data"),
    "empty array": ("x.json", "\n[ ]\n", ": holds no record; give"),
    "array after object": ("x.json", '{"text": "a", "label": 1}\n[]', r", line 2: \[\] is not a"),
    "key twice": ("x.jsonl", '{"text": "a", "text": "b"}', r", line 1: .* key 'text' occurs twice"),
    "label NaN": ("x.jsonl", '{"text": "a", "label": NaN}', ", line 1: 'label' is NaN; it must"),
    "text NaN": ("x.jsonl", '{"text": NaN, "label": 1}', ", line 1: 'text' is NaN; it must"),
    "csv twice label": ("x.csv", "label,text,label\n", ", line 1: two columns are called 'label'"),
    "csv CR": ("x.csv", "text,label\na\rb,1\n", r", line 2: not valid CSV \(a carriage .* quotes"),
    "mark in the middle": (
        "x.tsv",
        b"a\t1\n" + codecs.BOM_UTF8 + b"b\t1\n",
        ", line 2: begins with a byte-order mark, so another file was joined here; remove",
    ),
    "huge number": (
        "x.jsonl",
        '{"text": "a", "label": ' + "9" * 9999 + "}",
        ", line 1: .* too large",
    ),
    "deep": ("x.jsonl", "[" * 200_000, ", line 1: .* is not JSON .*nested too deeply"),
    "no text": ("x.jsonl", '{"label": 1, "t": ""}', ", line 1: has no 'text', only 'label, t'"),
    "no label": ("x.jsonl", '{"text": "a"}', ", line 1: has no 'label', only 'text'"),
    "text 5": ("x.jsonl", '{"text": 5, "label": 1}', ", line 1: 'text' is 5; it must be a string"),
    "label true": ("x.jsonl", '{"text": "a", "label": true}', ", line 1: 'label' is true; it must"),
    "label null": ("x.jsonl", '{"text": "a", "label": null}', ", line 1: 'label' is null; it must"),
    "label 0.5": ("x.jsonl", '{"text": "a", "label": 0.5}', ", line 1: 'label' is 0.5; it must be"),
    "surrogate": ("x.jsonl", r'{"text": "a\ud83d", "label": 1}', r", line 1: 'text' holds U\+D83D"),
    "sometimes a pair": (
        "x.jsonl",
        '{"text": "a", "label": 1}\n{"text": "a", "text_pair": "b", "label": 1}',
        ", line 2: has a 'text_pair', but the first record has none; give",
    ),
    "lost pair": (
        "x.jsonl",
        '{"text": "a", "text_pair": "b", "label": 1}\n{"text": "a", "label": 1}',
        ", line 2: has no 'text_pair', but the first record has one; give",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_one_line(tmp_path, fault):
    name, content, message = FAULTS[fault]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_classification(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 220


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"none\.tsv: no such file; check the path"):
        read_classification(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="is a directory; give a file"):
        read_classification(tmp_path)
    with pytest.raises(UserError, match=r"x\.tsv: cannot be read \(Not a directory\)"):
        read_classification(write(tmp_path / "y.tsv", "a\t1\n") / "x.tsv")


def test_a_damaged_gzip(tmp_path):
    path = tmp_path / "x.tsv.gz"
    whole = gzip.compress("".join(f"text {i * i}\t{i}\n" for i in range(9000)).encode())
    for damaged in (whole[: len(whole) // 2], whole[:-8] + bytes(8)):  # cut; wrong checksum
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.tsv\.gz: damaged gzip"):
            read_classification(path)


def test_a_line_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "x.tsv", "a" * 97 + "\t1\n" + "a" * 98 + "\t1")
    assert len(read_classification(path)) == 2
    path = write(tmp_path / "x.tsv", "b\t1\n" + "a" * 99 + "\t1")
    with pytest.raises(UserError, match="line 2: has more than 100 bytes; give"):
        read_classification(path)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("x.tsv", {"text_column": "sentence"}, "column of the text is 'sentence', but the line"),
        ("x.tsv", {"label_column": "1"}, "column of the text is 'text', but"),
        ("x.tsv", {"text_column": "0", "label_column": "klass"}, "of the label is 'klass', but"),
        ("x.tsv", {"text_column": "0", "label_column": "-1"}, "of the label is '-1', but"),
        ("x.tsv", {"text_column": "0", "label_column": "7"}, "is 2, so there is no column 7"),
        ("x.tsv", {"text_column": "0"}, "line 1: has no 'label', only 'text'"),
        ("x.csv", {"pair_column": "other"}, "line 2: has no 'other', only 'text, label'"),
        ("x.jsonl", {"pair_column": "other"}, "line 1: has no 'other', only 'text, label'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, name, columns, message):
    with pytest.raises(UserError, match=message):
        read_classification(write(tmp_path / name, AS_FILE[name]), **columns)


@pytest.mark.slow
def test_any_text_survives_every_format(tmp_path):
    hypothesis = pytest.importorskip("hypothesis", reason="draws texts with hypothesis, not here")
    st = hypothesis.strategies
    texts = st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\t\ufeff"), min_size=1
    ).filter(str.strip)

    @hypothesis.settings(max_examples=100, deadline=None, database=None)
    @hypothesis.given(st.lists(texts, min_size=1, max_size=4))
    def check(texts):
        rows = [(text, str(i)) for i, text in enumerate(texts)]
        tsv = "".join(f"{text}\t{label}\n" for text, label in rows)
        jsonl = "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows)
        table = "".join(f'"{t.replace(chr(34), chr(34) * 2)}",{y}\n' for t, y in rows)
        for name, content in [
            ("x.tsv", tsv),
            ("x.jsonl", jsonl),
            ("x.csv", "text,label\n" + table),
        ]:
            assert pairs_of(read_classification(write(tmp_path / name, content))) == rows

    check()
