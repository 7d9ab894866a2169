"""SQuAD files of both versions; errors name article, paragraph and question."""

from __future__ import annotations

import gzip
import json

import pytest

from minift.data.squad import Answer, as_squad, check_ids, read_squad, with_own_ids
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


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": None},
        {"answers": [], "is_impossible": None},
        {"answers": []},
        {"answers": [{"text": "Paris, France", "answer_start": 15}]},
        {"answers": {"text": ["Paris"], "answer_start": [15]}},
        {"answers": [{"text": "", "answer_start": -1}]},
        {"is_impossible": 1},
    ],
)
def test_prediction_needs_no_answers(tmp_path, changes):
    path = write(tmp_path, file_of(**changes))
    assert [r.answers for r in read_squad(path, require_answers=False)] == [None, ()]
    with pytest.raises(UserError, match="question 'q1'"):
        read_squad(path)


def test_prediction_reads_keys_that_are_missing_and_answers_that_are_there(tmp_path):
    value = file_of()
    first, second = value["data"][0]["paragraphs"][0]["qas"]
    del second["answers"], second["is_impossible"]
    path = write(tmp_path, value)
    kept = (Answer("Paris", first["answers"][0]["answer_start"]),)
    assert [r.answers for r in read_squad(path, require_answers=False)] == [kept, None]


def test_two_questions_may_have_one_id_and_get_ids_of_their_own(tmp_path):
    records = read_squad(write(tmp_path, file_of(id="q2")))
    assert [record.id for record in records] == ["q2", "q2"]
    assert [record.id for record in with_own_ids(records * 2)] == [
        *("q2", "q2 (2)", "q2 (3)", "q2 (4)")
    ]
    with pytest.raises(UserError, match=r"the id 'q2' is also that of .*its own"):
        check_ids(records)


def test_a_bad_question_can_be_skipped_and_is_counted(tmp_path, capsys):
    path = write(tmp_path, file_of(answers=[{"text": "nowhere", "answer_start": 0}]))
    assert [record.id for record in read_squad(path, skip_bad=True)] == ["q2"]
    shown = capsys.readouterr().out
    assert shown.startswith(f"warning: {path}: 1 of 2 records are skipped; ")
    assert "'nowhere' is not at character 0" in shown
    both_bad = file_of(id=None)
    both_bad["data"][0]["paragraphs"][0]["context"] = " "
    with pytest.raises(UserError, match="holds no question"):
        read_squad(write(tmp_path, both_bad), skip_bad=True)
    assert "2 of 2 records" in capsys.readouterr().out
    read_squad(write(tmp_path, file_of()), skip_bad=True)
    assert capsys.readouterr().out == ""


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


@pytest.mark.parametrize(
    ("context", "text", "start", "place"),
    [
        # Three occurrences nearby, one character away.
        ("of Pure Land, or Pure Land teaching, of a Pure Land school", "Pure Land", 4, 3),
        ("in Pure Land, or Pure Land teaching, of a Pure Land school", "Pure Land", 16, 17),
        # UTF-16 units: three characters of two units before it.
        ("🚀🚀 Team A took the cup 🏆 after 12 penalties, 12 minutes", "12", 34, 31),
        # The nearest occurrence is not the one that was meant, in UTF-16 units and in bytes.
        ("🚀🚀🚀🚀 12 and 12", "12", 9, 5),
        ("ééééé 12 12", "12", 11, 6),
        ("a b a", "b", 1, 2),
        ("b a b", "b", 2, 0),  # as near on both sides: the first
    ],
)
def test_an_answer_that_occurs_several_times_nearby_is_moved_to_the_nearest(
    tmp_path, context, text, start, place
):
    value = file_of(answers=[{"text": text, "answer_start": start}])
    value["data"][0]["paragraphs"][0]["context"] = context
    record = read_squad(write(tmp_path, value))[0]
    assert record.answers == (Answer(text, place),)
    assert record.moved == 1


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
    question = paragraph["qas"][0]
    name, content = what
    target = {"context": paragraph, "qas": paragraph, "paragraphs": article}.get(name, question)
    target = value if name == "data" else target
    target[name] = content
    return value


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (("data", {}), ["x.json", "'data'", "list"]),
        (("data", []), ["x.json", "no question"]),
        (("data", [3]), ["x.json, article 1", "'paragraphs'"]),
        (("paragraphs", None), ["article 'Bo'", "'paragraphs' is null"]),
        (("paragraphs", ["text"]), ["article 'Bo', paragraph 1", "'qas'"]),
        (("context", ""), ["article 'Bo', paragraph 1", "'context' is empty"]),
        (("context", " \n"), ["paragraph 1", "'context' is empty"]),
        (("context", "Nothing of it."), ["question 'q1'", "'Paris'", "answer_start"]),
        (("qas", {}), ["paragraph 1", "'qas'"]),
        (("qas", ["why?"]), ["paragraph 1", '"why?"']),
        (("id", None), ["paragraph 1", "id null"]),
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
        (("answers", [{"text": "\ud83d", "answer_start": 4}]), ["'q1'", "surrogate"]),
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
        ("text\tlabel\n", ["x.json, line 1", "JSON", "SQuAD's layout"]),
        ('"data"', ["x.json", "'data'"]),
        # Layouts of other programs: each is refused with the one that is read.
        ('[{"context": "a", "qas": []}]', ["x.json", "'data'", "SQuAD's layout"]),
        ('{"id": "1", "question": "?", "context": "a"}', ["'data' is null", "SQuAD's layout"]),
        ('{"data": [{"id": "1", "context": "a"}]}', ["'paragraphs' is null", "SQuAD's layout"]),
        ("id,context,question\n1,a,b\n", ["x.json, line 1", "JSON", "SQuAD's layout"]),
        (json.dumps(file_of(is_impossible=1)), ["'is_impossible' is 1", "boolean"]),
        (json.dumps(file_of(answers={"text": ["Paris"]})), ["'answers' is {", "SQuAD's layout"]),
        (json.dumps(file_of(answers=[{"text": "Bo", "answer_start": 10.0}])), ["10.0", "number"]),
        (json.dumps(file_of(answers=[{"text": "", "answer_start": -1}])), ["'text' is empty"]),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read_squad(write(tmp_path, text))
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
        read_squad(tmp_path)
