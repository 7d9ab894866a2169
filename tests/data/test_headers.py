"""A header is used, or is an error that says how to use it; it never becomes a record."""

from __future__ import annotations

import shlex

import pytest

from minift.data.read import read_classification
from minift.errors import UserError

TEXTS = [
    "a clever, moving film",
    "a stupid, boring film",
    "i loved every minute",
    "the plot is awful",
]
LABELS = ["pos", "neg", "pos", "neg"]
TABLE = "".join(f"{text}\t{label}\n" for text, label in zip(TEXTS, LABELS, strict=True))
PAIRS = "".join(f"{i % 2}\t{text}\tthe film\n" for i, text in enumerate(TEXTS))


def read(tmp_path, text, name="x.tsv", **columns):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return [(r.text, r.label) for r in read_classification(path, **columns)]


def flags(message: str) -> dict[str, str]:
    """The columns that an error's remedy names: option -> value."""
    words = shlex.split(message.split("choose its columns (")[1].split("), or remove")[0])
    return {
        f.removeprefix("--").replace("-", "_"): v for f, v in zip(*[iter(words)] * 2, strict=True)
    }


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("review\tsentiment\n" + TABLE, {}),
        ("sentence\tlabel\n" + TABLE, {}),
        ("Sentence \tLABEL\n" + TABLE, {}),
        ("sentence\tlabel\na\t1\n", {}),
        ("#1 String\tscore\n" + TABLE.replace("pos", "4.13").replace("neg", "1.85"), {}),
        (
            "Quality\t#1 String\t#2 String\n" + PAIRS,
            {"text_column": "1", "pair_column": "2", "label_column": "0"},
        ),
    ],
)
def test_an_unused_header_is_an_error_whose_remedies_work(tmp_path, text, columns):
    with pytest.raises(UserError, match=r"x\.tsv, line 1: looks like a header") as error:
        read(tmp_path, text, **columns)
    body = text.split("\n", 1)[1]
    assert read(tmp_path, text, **flags(str(error.value))) == read(tmp_path, body, **columns)


def test_a_header_with_the_usual_names_or_with_given_ones_is_used(tmp_path):
    expected = list(zip(TEXTS, LABELS, strict=True))
    assert read(tmp_path, "text\tlabel\n" + TABLE) == expected
    columns = {"text_column": "review", "label_column": "sentiment"}
    assert read(tmp_path, "\n review\tsentiment\n" + TABLE, **columns) == expected
    turned = "sentiment\tid\treview\n" + "".join(f"{y}\t7\t{t}\n" for t, y in expected)
    assert read(tmp_path, turned, **columns) == expected
    unlabelled = "id\treview\n" + "".join(f"7\t{t}\n" for t in TEXTS)
    found = read(tmp_path, unlabelled, **columns, require_label=False)
    assert found == [(text, None) for text in TEXTS]
    with pytest.raises(UserError, match="line 2: has no 'sentiment', only 'id, review'"):
        read(tmp_path, unlabelled, **columns)
    with pytest.raises(UserError, match="line 1: two columns are called 'review'; rename one"):
        read(tmp_path, "review\treview\n" + TABLE, **columns)


@pytest.mark.parametrize(
    "text",
    [
        "really great acting\tgood\n" + TABLE,  # a label of its own, but as long as the others
        "great\tpos\n" + TABLE,  # short, but its label recurs
        "review\tsentiment\nhello there\tgreet\nwhat is left\tbalance\n",  # too few to tell
        "It was good.\tgood\n" + TABLE * 2,  # a sentence
        "5 of 5\t5\n" + TABLE,  # a label without a letter
    ],
)
def test_a_first_record_is_no_header(tmp_path, text):
    assert len(read(tmp_path, text)) == text.count("\n")


@pytest.mark.parametrize(
    ("name", "text", "line", "columns"),
    [
        ("x.csv", "text,label\na,pos\nb,neg\ntext,label\nc,pos\n", 4, {}),
        ("x.csv", "id,review,y\n1,a,pos\n id , review ,y\n", 3, ("review", "y")),
        ("x.tsv", "review\ty\na\tpos\nreview\ty\n", 3, ("review", "y")),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text": "text", "label": "label"}\n', 2, {}),
    ],
)
def test_a_repeated_header_is_an_error(tmp_path, name, text, line, columns):
    columns = dict(zip(("text_column", "label_column"), columns, strict=False))
    with pytest.raises(UserError, match=f"line {line}: repeats the names of the columns"):
        read(tmp_path, text, name, **columns)


def test_an_array_of_objects_is_read_on_one_line_or_on_many(tmp_path):
    rows = '[{"text": "a", "label": "x"}, {"text": "b", "more": [1, {"text": "c"}],\n "label": 2}]'
    assert read(tmp_path, rows, "x.json") == [("a", "x"), ("b", "2")]
    pretty = "\n [\n  {\n    'text': 'a',\n 'label': 1\n  },\n\n  {'text': 'b', 'label': 1}\n]\n\n"
    path = tmp_path / "y.json"
    path.write_text(pretty.replace("'", '"'))
    assert [record.where for record in read_classification(path)] == [
        f"{path}, line 3",
        f"{path}, line 8",
    ]
