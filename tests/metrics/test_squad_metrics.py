"""SQuAD's scores equal the official arithmetic, on nasty answers too; thresholds are exact."""

from __future__ import annotations

import json
import random

import pytest
from support import running
from support.running import ROOT

from minift.metrics import best_threshold, squad
from minift.metrics.squad import answer_gains, exact_match, normalize_answer, word_f1

REFERENCES = ROOT / "tests" / "references"
RECORDED = json.loads((REFERENCES / "squad.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorder():
    return running.recorder("record_squad")


def data_of(*questions: tuple[str, list[str]], second: bool = True) -> list[dict]:
    """A data list of (id, true answers); v2.0 or v1.1."""
    qas = [
        {
            "id": i,
            "answers": [{"text": text, "answer_start": 0} for text in answers],
            **({"is_impossible": not answers} if second else {}),
        }
        for i, answers in questions
    ]
    return [{"paragraphs": [{"context": "", "qas": qas}]}]


def by_hand(predictions: dict, data: list[dict], kind: int) -> float:
    """The rules in words, slowly: the share of shared words, counted one by one."""
    total, questions = 0.0, data[0]["paragraphs"][0]["qas"]
    for qa in questions:
        golds = [a["text"] for a in qa["answers"] if normalize_answer(a["text"])] or [""]
        scores = []
        for gold in golds:
            ours, theirs = (
                normalize_answer(predictions[qa["id"]]).split(),
                normalize_answer(gold).split(),
            )
            left, shared = list(theirs), 0
            for word in ours:
                if word in left:
                    left.remove(word)
                    shared += 1
            if kind == 0 or not ours or not theirs:
                scores.append(float(ours == theirs))
            elif not shared:
                scores.append(0.0)
            else:
                precision, recall = shared / len(ours), shared / len(theirs)
                scores.append(2 * precision * recall / (precision + recall))
        total += max(scores)
    return 100 * total / len(questions)


def test_equals_what_the_official_program_said():
    assert len(RECORDED["cases"]) == 60
    for case in RECORDED["cases"]:
        bare = squad(case["predictions"], case["data"])
        assert bare == pytest.approx({k: case["says"]["plain"][k] for k in bare})
        full = squad(case["predictions"], case["data"], case["margins"])
        assert full == pytest.approx(case["says"]["with margins"])


def test_the_official_program_still_says_so(recorder):
    pytest.importorskip(
        "transformers.data.metrics.squad_metrics",
        reason="re-derives what the official program says; transformers has it up to version 4",
    )
    for case in RECORDED["cases"]:
        now = json.loads(json.dumps(recorder.official(case)))
        assert now == pytest.approx(case["says"])


def test_equals_the_rules_in_words_on_thousands_of_predictions(recorder):
    for seed in range(1000, 3000):
        case = recorder.random_case(seed)
        found = squad(case["predictions"], case["data"])
        for kind, name in enumerate(("exact", "f1")):
            expected = by_hand(case["predictions"], case["data"], kind)
            assert found[name] == pytest.approx(expected), (seed, name)


@pytest.mark.slow
def test_equals_torchmetrics_on_version_1(recorder):
    functional = pytest.importorskip(
        "torchmetrics.functional.text", reason="compares with torchmetrics, not here"
    )
    compared = 0
    for seed in range(600):
        case = recorder.random_case(seed, version="v1.1")
        questions = case["data"][0]["paragraphs"][0]["qas"]
        if not all(normalize_answer(a["text"]) for qa in questions for a in qa["answers"]):
            continue  # torchmetrics follows v2.0 where nothing is left of an answer
        compared += 1
        preds = [{"id": i, "prediction_text": t} for i, t in case["predictions"].items()]
        target = [
            {
                "id": qa["id"],
                "answers": {"text": [a["text"] for a in qa["answers"]], "answer_start": [0]},
            }
            for qa in questions
        ]
        theirs = functional.squad(preds, target)
        ours = squad(case["predictions"], case["data"])
        assert ours["exact"] == pytest.approx(float(theirs["exact_match"]), abs=1e-4), seed
        assert ours["f1"] == pytest.approx(float(theirs["f1"]), abs=1e-4), seed
    assert compared > 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Norman  Conquest!", "norman conquest"),
        ("", ""),
        ("the a an", ""),
        ("...", ""),
        ("a.m.", "am"),
        ("A-B", "ab"),
        ("theatre", "theatre"),
        ("the\u00a0king", "king"),
        ("—", "—"),
        ("٣٤ １２", "٣٤ １２"),
        ("an' the", ""),
    ],
)
def test_what_is_left_of_a_text(text, expected):
    assert normalize_answer(text) == expected


def test_the_two_versions_differ_where_nothing_is_left():
    first = data_of(("q", ["!"]), second=False)
    assert squad({"q": "?"}, first) == {"exact": 100.0, "f1": 0.0, "total": 1}
    second = squad({"q": "?"}, data_of(("q", ["!"]), ("r", [])))
    assert (second["HasAns_exact"], second["HasAns_f1"]) == (100.0, 100.0)


def test_a_missing_prediction_is_wrong():
    data = data_of(("q", ["x"]), ("r", []), ("s", []))
    scores = squad({"q": "x", "r": ""}, data)
    assert scores["total"] == 3
    assert scores["exact"] == pytest.approx(200 / 3)
    assert scores["NoAns_f1"] == 50.0


def test_of_several_true_answers_the_best_counts():
    assert squad({"q": "b c"}, data_of(("q", ["x", "b d", "b"]), second=False))["f1"] == (
        pytest.approx(100 * 2 / 3)
    )


def test_a_prediction_that_is_surely_none_counts_as_empty():
    data = data_of(("q", ["x"]), ("r", []))
    scores = squad({"q": "x", "r": "y"}, data, {"q": 1.5, "r": 1.5})
    assert (scores["exact"], scores["HasAns_exact"], scores["NoAns_exact"]) == (50.0, 0.0, 100.0)


def official_best(predictions, scores, probs, has_answer):
    """The best score and threshold of the official program of v2.0, written from its rules."""
    score = best = sum(not answer for answer in has_answer.values())
    threshold = 0.0
    for i in sorted(probs, key=lambda i: probs[i]):  # stable: equal ones in the order of the file
        if i not in scores:
            continue
        score += scores[i] if has_answer[i] else (-1 if predictions[i] else 0)
        if score > best:
            best, threshold = score, probs[i]
    return 100.0 * best / len(scores), threshold


def test_equal_probabilities_keep_the_order_of_their_file(recorder):
    for seed in range(400):
        case = recorder.random_case(seed)
        draw = random.Random(seed)
        qas = case["data"][0]["paragraphs"][0]["qas"]
        ids = [qa["id"] for qa in qas]
        draw.shuffle(ids)
        probs = {i: draw.choice([0.0, 0.25, 0.5]) for i in ids}
        probs = {**probs, "a question of another file": 0.25}
        found = squad(case["predictions"], case["data"], probs)
        has_answer = {qa["id"]: bool(qa["answers"]) for qa in qas}
        for name in ("exact", "f1"):
            scores = {
                qa["id"]: squad(case["predictions"], [{"paragraphs": [{"qas": [qa]}]}])[name] / 100
                for qa in qas
            }
            best, threshold = official_best(case["predictions"], scores, probs, has_answer)
            assert found[f"best_{name}"] == pytest.approx(best), seed
            assert found[f"best_{name}_thresh"] == threshold, seed


def test_of_equal_probabilities_the_first_in_the_file_is_answered_first():
    data = data_of(("right", ["x"]), ("wrong", []))
    predictions = {"right": "x", "wrong": "x"}
    for ids, best in ((("right", "wrong"), 100.0), (("wrong", "right"), 50.0)):
        assert squad(predictions, data, dict.fromkeys(ids, 0.5))["best_exact"] == best


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no question"):
        squad({}, [])


def test_symmetry_and_range():
    draw = random.Random(3)
    words = ["a", "b", "c", "the", "d"]
    for _ in range(500):
        one, other = (" ".join(draw.choices(words, k=draw.randint(0, 5))) for _ in range(2))
        assert word_f1(one, other) == word_f1(other, one)
        assert 0 <= word_f1(one, other) <= 1
        assert exact_match(one, other) <= word_f1(one, other)


def test_the_best_threshold_is_the_best_of_all():
    draw = random.Random(1)
    for _ in range(2000):
        count = draw.randint(1, 8)
        margins = [float(draw.choice([-2, -1, 0, 0, 1, 2])) for _ in range(count)]
        gains = [draw.choice([-1.0, 0.0, 0.5, 1.0]) for _ in range(count)]

        def gained(threshold, margins=margins, gains=gains):
            return sum(g for m, g in zip(margins, gains, strict=True) if m <= threshold)

        found = best_threshold(margins, gains)
        everywhere = [t / 4 for t in range(-16, 17)]
        assert gained(found) == max(map(gained, everywhere))
        assert found not in margins  # so that rounding decides nothing


def test_the_best_threshold_of_questions_without_a_span():
    assert best_threshold([], []) == 0.0
    assert best_threshold([float("inf")], [0.0]) == 0.0
    assert 1.0 < best_threshold([1.0, float("inf")], [1.0, 0.0]) < 3.0


def test_gains_are_over_saying_no_answer():
    data = data_of(("q", ["b c"]), ("r", []), ("s", []))
    gains = answer_gains({"q": "b", "r": "b", "s": ""}, data)
    assert gains["q"] == (0.0, pytest.approx(2 / 3))
    assert gains["r"] == (-1.0, -1.0)
    assert gains["s"] == (0.0, 0.0)
