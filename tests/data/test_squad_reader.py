"""SQuAD files of both versions; errors name article, paragraph and question."""

from __future__ import annotations

import copy
import gzip
import json

import pytest

from minift.data.squad import Answer, as_squad, read_squad
from minift.errors import UserError

CONTEXT = "Zoë 😀 met Bo in Paris. Bo left Paris in 1887."


def file_of(**changes) -> dict:
    """A whole v2.0 file with one question that has an answer and one that has none."""
    first = {
        "id": "q1",
        "question": "Where did they meet?",
        "answers": [{"text": "Paris", "answer_start": CONTEXT.index("Paris")}],
        "is_impossible": False,
        **changes,
    }
    second = {"id": "q2", "question": "Who died?", "answers": [], "is_impossible": True}
    paragraph = {"context": CONTEXT, "qas": [first, second]}
    return {"version": "v2.0", "data": [{"title": "Bo", "paragraphs": [paragraph]}]}


def write(tmp_path, value, name="x.json"):
    path = tmp_path / name
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_reads_version_2(tmp_path, name):
    first, second = read_squad(write(tmp_path, file_of(), name))
    assert (first.id, first.question, first.context) == ("q1", "Where did they meet?", CONTEXT)
    assert first.answers == (Answer("Paris", CONTEXT.index("Paris")),)
    assert first.moved == 0
    assert second.answers == ()
    assert second.where.endswith(f"{name}, article 'Bo', paragraph 1, question 'q2'")


def test_reads_version_1_and_numbers_as_ids(tmp_path):
    value = file_of(id=7)
    for qa in value["data"][0]["paragraphs"][0]["qas"]:
        qa.pop("is_impossible")
    del value["data"][0]["paragraphs"][0]["qas"][1]
    (record,) = read_squad(write(tmp_path, value))
    assert record.id == "7"


def test_prediction_needs_no_answers(tmp_path):
    value = file_of()
    del value["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    path = write(tmp_path, value)
    assert [r.answers for r in read_squad(path, require_answers=False)] == [None, ()]
    with pytest.raises(UserError, match="'answers' is null"):
        read_squad(path)


def test_writing_and_reading_gives_the_same_records(tmp_path):
    records = read_squad(write(tmp_path, file_of()))
    again = read_squad(write(tmp_path, {"data": as_squad(records)}, "again.json"))
    assert [(r.id, r.question, r.context, r.answers) for r in again] == [
        (r.id, r.question, r.context, r.answers) for r in records
    ]
    (only,) = as_squad(records[:1])[0]["paragraphs"]
    assert "is_impossible" not in only["qas"][0]  # v1.1


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("Zoë", 3),
        ("Paris. Bo", CONTEXT.encode().index(b"Paris")),  # bytes
        ("met Bo", len("Zoë 😀 ".encode("utf-16-le")) // 2),  # UTF-16 units, as JavaScript counts
        ("in 1887.", 0),
    ],
)
def test_an_answer_that_occurs_once_nearby_is_moved(tmp_path, text, start):
    answers = [{"text": text, "answer_start": start}]
    record = read_squad(write(tmp_path, file_of(answers=answers)))[0]
    assert record.moved == 1
    assert record.answers == (Answer(text, CONTEXT.index(text)),)


def test_an_answer_too_far_away_is_refused(tmp_path):
    value = file_of(answers=[{"text": "needle", "answer_start": 0}])
    paragraph = value["data"][0]["paragraphs"][0]
    paragraph["context"] = "x" * 64 + "needle"
    assert read_squad(write(tmp_path, value))[0].moved == 1
    paragraph["context"] = "x" * 65 + "needle"
    with pytest.raises(UserError, match="does not occur nearby"):
        read_squad(write(tmp_path, value))


def spoiled(what):
    value = file_of()
    article = value["data"][0]
    paragraph = article["paragraphs"][0]
    spoil, question = {}, paragraph["qas"][0]
    if what == "two articles":
        value["data"].append(copy.deepcopy(article))
    elif isinstance(what, tuple):
        name, content = what
        target = {"context": paragraph, "qas": paragraph, "paragraphs": article}.get(name, question)
        target = value if name == "data" else target
        spoil[name] = content
        target.update(spoil)
    return value


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (("data", {}), ["x.json", "'data'", "list"]),
        (("data", []), ["x.json", "no question"]),
        (("data", [3]), ["x.json, article 1", "'paragraphs'"]),
        (("paragraphs", None), ["article 'Bo'", "'paragraphs' is null"]),
        (("paragraphs", ["text"]), ["article 'Bo', paragraph 1", "'context' is null"]),
        (("context", ""), ["article 'Bo', paragraph 1", "'context' is empty"]),
        (("context", " \n"), ["paragraph 1", "'context' is empty"]),
        (("context", "Nothing of it."), ["question 'q1'", "'Paris'", "answer_start"]),
        (("qas", {}), ["paragraph 1", "'qas'"]),
        (("qas", ["why?"]), ["paragraph 1", '"why?"']),
        (("id", None), ["paragraph 1", "id null"]),
        (("id", "q2"), ["question 'q2'", "also that of", "its own"]),
        (("question", "  "), ["question 'q1'", "'question' is empty"]),
        (("question", ["?"]), ["question 'q1'", "'question'", "string"]),
        (("is_impossible", "no"), ["question 'q1'", "boolean"]),
        (("is_impossible", True), ["question 'q1'", "'Paris'", "remove one"]),
        (("answers", []), ["question 'q1'", "'answers' is empty"]),
        (("answers", {"text": []}), ["question 'q1'", "list"]),
        (("answers", ["Paris"]), ["question 'q1'", "'text'"]),
        (("answers", [{"text": "", "answer_start": 0}]), ["question 'q1'", "'text' is empty"]),
        (("answers", [{"text": "Paris"}]), ["question 'q1'", "'answer_start' is null"]),
        (("answers", [{"text": "Paris", "answer_start": -1}]), ["question 'q1'", "-1"]),
        (("answers", [{"text": "Paris", "answer_start": "5"}]), ["question 'q1'", '"5"']),
        (("answers", [{"text": "Bo", "answer_start": 1}]), ["'q1'", "'Bo'", "more than once"]),
        (("answers", [{"text": "\ud83d", "answer_start": 4}]), ["'q1'", "surrogate"]),
        ("two articles", ["article 'Bo', paragraph 1, question 'q1'", "also that of"]),
    ],
)
def test_errors_name_their_place(tmp_path, what, words):
    with pytest.raises(UserError) as error:
        read_squad(write(tmp_path, spoiled(what)))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["x.json", "JSON"]),
        ('{\n"data": [}', ["x.json, line 2", "JSON"]),
        ("[" * 100_000, ["x.json", "JSON"]),
        ("text\tlabel\n", ["x.json, line 1", "JSON"]),
        ('"data"', ["x.json", "'data'"]),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read_squad(write(tmp_path, text))
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
        read_squad(tmp_path)
