"""ROUGE equals rouge-score to the last digits, and every stem is nltk's."""

from __future__ import annotations

import json
import lzma
import random
import re

import pytest
from support import running
from support.running import ROOT

from minift.metrics.rouge import KINDS, lcs_positions, porter_stem, rouge, rouge_pair, words

SHARED = ROOT.parent / "shared" / "data"
REFERENCES = ROOT / "tests" / "references"
RECORDED = json.loads((REFERENCES / "rouge.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorder():
    return running.recorder("record_rouge")


def exactly(value):
    return pytest.approx(value, abs=1e-9, rel=0)


def assert_same_scores(case: dict, says: dict) -> None:
    """says: for each kind precision, recall and F1 with the best reference."""
    prediction, references = case["prediction"], case["references"]
    found = rouge([prediction], [references], case["use_stemmer"])
    for kind, (_, _, f1) in says.items():
        assert abs(found[kind] - f1) < 1e-9, (kind, case)
    if len(references) == 1:
        for kind, score in rouge_pair(prediction, references[0], case["use_stemmer"]).items():
            assert score == exactly(tuple(says[kind])), (kind, case)


def by_table(reference: list[str], candidate: list[str]) -> set[int]:
    """The longest common subsequence by the table in full, and rouge-score's backtracking."""
    length = [[0] * (len(candidate) + 1) for _ in range(len(reference) + 1)]
    for i, a in enumerate(reference):
        for j, b in enumerate(candidate):
            best = max(length[i][j + 1], length[i + 1][j])
            length[i + 1][j + 1] = length[i][j] + 1 if a == b else best
    i, j, taken = len(reference), len(candidate), set()
    while i and j:
        if reference[i - 1] == candidate[j - 1]:
            i, j = i - 1, j - 1
            taken.add(i)
        elif length[i][j - 1] > length[i - 1][j]:
            j -= 1
        else:
            i -= 1
    assert len(taken) == length[-1][-1]
    return taken


def test_equals_what_rouge_score_said():
    assert len(RECORDED["cases"]) == 60
    for case in RECORDED["cases"]:
        assert_same_scores(case, case["says"])


def test_stems_are_what_nltk_said():
    assert len(RECORDED["stems"]) > 700
    assert {word: porter_stem(word) for word in RECORDED["stems"]} == RECORDED["stems"]


def test_rouge_score_and_nltk_still_say_so(recorder):
    pytest.importorskip("rouge_score", reason="re-derives what rouge-score and nltk said")
    now = recorder.record()
    assert now["stems"] == RECORDED["stems"]
    for before, after in zip(RECORDED["cases"], now["cases"], strict=True):
        assert after.pop("says") == {k: exactly(v) for k, v in before["says"].items()}
        assert after == {key: before[key] for key in after}


@pytest.mark.slow
@pytest.mark.parametrize("use_stemmer", [True, False])
def test_equals_rouge_score_on_thousands_of_texts(recorder, use_stemmer):
    pytest.importorskip("rouge_score", reason="compares with rouge-score, not here")
    cases = [{**recorder.random_case(s), "use_stemmer": use_stemmer} for s in range(1000, 2200)]
    assert sum(len(case["references"]) for case in cases) > 2000
    for case in cases:
        assert_same_scores(case, recorder.score(**case))


def test_the_mean_over_pairs_is_that_of_what_rouge_score_said():
    cases = [case for case in RECORDED["cases"] if case["use_stemmer"]]
    found = rouge([case["prediction"] for case in cases], [case["references"] for case in cases])
    for kind in KINDS:
        f1 = [case["says"][kind][2] for case in cases]
        assert found[kind] == exactly(sum(f1) / len(cases))


@pytest.mark.slow
def test_stems_of_random_words_are_those_of_nltk(recorder):
    pytest.importorskip("nltk", reason="compares with nltk's stemmer, not here")
    theirs = recorder.stems(recorder.random_words(1, 25_000))
    assert {word: porter_stem(word) for word in theirs} == theirs


@pytest.mark.slow
def test_stems_of_real_words_are_those_of_nltk(recorder):
    pytest.importorskip("nltk", reason="compares with nltk's stemmer, not here")
    path = SHARED / "corpus" / "docs.txt.xz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        found = set(re.findall("[a-z0-9]+", file.read().lower()))
    assert len(found) > 10_000
    theirs = recorder.stems(sorted(found))
    assert {word: porter_stem(word) for word in theirs} == theirs


@pytest.mark.parametrize(
    ("prediction", "reference", "overlaps"),
    [
        (
            "on the mat a big cat slept",
            "The cat sat on the mat.",
            {"rouge1": (4, 7, 6), "rouge2": (2, 6, 5), "rougeL": (3, 7, 6), "rougeLsum": (3, 7, 6)},
        ),
        (
            "in spring\nthe king died",
            "the old king died in the spring\nhis son died too",
            {
                "rouge1": (5, 5, 11),
                "rouge2": (1, 4, 10),
                "rougeL": (3, 5, 11),
                "rougeLsum": (5, 5, 11),
            },
        ),
    ],
)
def test_worked_examples(prediction, reference, overlaps):
    for kind, (precision, recall, f1) in rouge_pair(prediction, reference).items():
        hits, ours, theirs = overlaps[kind]
        assert (precision, recall) == (hits / ours, hits / theirs)
        assert f1 == exactly(2 * hits / (ours + theirs))


@pytest.mark.parametrize(
    ("text", "expected", "plain"),
    [
        ("The King's 12 HORSES", "the king s 12 hors", "the king s 12 horses"),
        ("naïve", "na ve", "na ve"),
        ("does goes", "doe goe", "does goes"),
        ("was his", "was his", "was his"),  # at most three characters are left alone
        ("x_y\t1,200\r\nU.S.", "x y 1 200 u s", "x y 1 200 u s"),
        ("\u212aelvin", "kelvin", "kelvin"),  # the sign for kelvin, a k in lower case
        (" —…王 ", "", ""),
        ("", "", ""),
    ],
)
def test_words_of_a_text(text, expected, plain):
    assert words(text) == expected.split()
    assert words(text, use_stemmer=False) == plain.split()


def test_the_common_subsequence_is_that_of_the_table():
    draw = random.Random(4)
    for _ in range(3000):
        letters = "abcdefgh"[: draw.randint(1, 8)]
        one, other = (draw.choices(letters, k=draw.randint(0, 12)) for _ in range(2))
        assert lcs_positions(one, other) == by_table(one, other), (one, other)
    one, other = (draw.choices("abcdefghijklmnop", k=300) for _ in range(2))  # wider than a word
    assert lcs_positions(one, other) == by_table(one, other)


def test_of_several_references_the_best_counts_for_each_kind():
    prediction, same_words, same_order = "a b c d", "d c b a", "a b x x x"
    scores = rouge([prediction], [[same_words, same_order]])
    first, second = (rouge_pair(prediction, text) for text in (same_words, same_order))
    assert scores["rouge1"] == first["rouge1"].f1 == 1 > second["rouge1"].f1
    assert scores["rouge2"] == second["rouge2"].f1 > first["rouge2"].f1 == 0
    assert scores["rougeL"] == second["rougeL"].f1 > first["rougeL"].f1
    assert rouge([prediction], [(same_order,)]) == rouge([prediction], [same_order])


def test_swapping_the_texts_swaps_precision_and_recall(recorder):
    draw = random.Random(5)
    for _ in range(500):
        one, other = recorder.random_text(draw), recorder.random_text(draw)
        if draw.random() < 0.5:  # the union is one-sided, except for single sentences
            one, other = one.replace("\n", " "), other.replace("\n", " ")
        there, back = rouge_pair(one, other), rouge_pair(other, one)
        for kind in KINDS if "\n" not in one + other else KINDS[:3]:
            precision, recall, f1 = there[kind]
            assert back[kind] == (recall, precision, f1), kind


def test_range_and_order_of_the_kinds(recorder):
    draw = random.Random(6)
    for _ in range(500):
        scores = rouge_pair(recorder.random_text(draw), recorder.random_text(draw))
        for precision, recall, f1 in scores.values():
            assert 0 <= min(precision, recall) <= f1 + 1e-9
            assert f1 - 1e-9 <= max(precision, recall) <= 1
        assert max(scores["rougeL"].f1, scores["rougeLsum"].f1) <= scores["rouge1"].f1


def test_a_text_equals_itself_unless_it_is_empty(recorder):
    draw = random.Random(7)
    sizes = set()
    for _ in range(300):
        text = recorder.random_text(draw, 4)
        count = len(words(text))
        sizes.add(min(count, 2))
        expected = dict.fromkeys(KINDS, float(count > 0)) | {"rouge2": float(count > 1)}
        assert rouge([text], [text]) == expected
    assert sizes == {0, 1, 2}


def test_the_order_of_the_pairs_is_irrelevant(recorder):
    draw = random.Random(8)
    pairs = [(recorder.random_text(draw), recorder.random_text(draw)) for _ in range(50)]
    scores = rouge(*zip(*pairs, strict=True))
    draw.shuffle(pairs)
    assert rouge(*zip(*pairs, strict=True)) == exactly(scores)
    singly = [rouge([one], [other])["rougeLsum"] for one, other in pairs]
    assert scores["rougeLsum"] == exactly(sum(singly) / len(singly))


def test_the_interval_is_reproducible_and_holds_the_mean(recorder):
    draw = random.Random(9)
    ours, theirs = ([recorder.random_text(draw) for _ in range(60)] for _ in range(2))
    scores = rouge(ours, theirs, bootstrap=2000, seed=1)
    assert scores == rouge(ours, theirs, bootstrap=2000, seed=1)
    assert scores["interval"] != rouge(ours, theirs, bootstrap=2000, seed=2)["interval"]
    interval = scores.pop("interval")
    assert scores == rouge(ours, theirs)
    for kind in KINDS:
        low, high = interval[kind]
        assert low < scores[kind] < high
        # On each side the standard error of the mean 1.96 times, as for a normal distribution.
        each = [rouge_pair(one, other)[kind].f1 for one, other in zip(ours, theirs, strict=True)]
        error = (sum((f1 - scores[kind]) ** 2 for f1 in each) / len(each) ** 2) ** 0.5
        assert (high - low) / error == pytest.approx(2 * 1.96, rel=0.1)


def test_the_interval_of_equal_scores_is_a_point():
    scores = rouge(["a b"] * 5, ["a c"] * 5, bootstrap=10)
    assert scores["interval"]["rouge1"] == exactly((0.5, 0.5))


@pytest.mark.parametrize(
    ("predictions", "references", "bootstrap", "message"),
    [
        (["a"], ["a", "b"], 0, "1 predictions for 2 references; give one for each"),
        ("a", ["a"], 0, "predictions is one string; give a list"),
        (["a"], "a", 0, "references is one string; give a list"),
        (["a", "b"], ["a", []], 0, "pair 1 has an empty list of references"),
        ([], [], 0, "no pair of texts"),
        (["a"], ["a"], -1, "bootstrap is -1; give 0"),
        (["a"], ["a"], 1, "bootstrap is 1; give 0"),
    ],
)
def test_bad_arguments(predictions, references, bootstrap, message):
    with pytest.raises(ValueError, match=message):
        rouge(predictions, references, bootstrap=bootstrap)
