"""Entity scores equal seqeval's, legal tags or not; the error analysis adds up."""

from __future__ import annotations

import json

import pytest
from support import running
from support.running import ROOT

from minift.metrics import entities, entity_errors, entity_f1, token_accuracy

REFERENCES = ROOT / "tests" / "references"
RECORDED = json.loads((REFERENCES / "entities.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorder():
    return running.recorder("record_entities")


def assert_same_scores(ours: dict, theirs: dict) -> None:
    for name in ("precision", "recall", "f1", "macro_f1"):
        assert ours[name] == pytest.approx(theirs[name]), name
    assert ours["per_type"].keys() == theirs["per_type"].keys()
    for kind, row in theirs["per_type"].items():
        assert ours["per_type"][kind] == pytest.approx(row), kind


def test_equals_what_seqeval_said():
    assert len(RECORDED["cases"]) == 40
    for case in RECORDED["cases"]:
        assert_same_scores(entity_f1(case["guess"], case["gold"], case["strict"]), case)


@pytest.mark.slow
def test_seqeval_still_says_so(recorder):
    pytest.importorskip("seqeval", reason="re-derives what seqeval said")
    now = recorder.record()["cases"]
    for before, after in zip(RECORDED["cases"], now, strict=True):
        assert before["gold"] == after["gold"]
        assert_same_scores(after, before)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_equals_seqeval_on_thousands_of_sequences(recorder, strict):
    pytest.importorskip("seqeval", reason="compares with seqeval, not here")
    for seed in range(1500):
        tags = recorder.TAGS if strict or seed % 2 else recorder.BIOES
        guess, gold = recorder.random_sentences(seed, tags)
        ours = entity_f1(guess, gold, strict=strict)
        if ours["per_type"]:  # seqeval does not score nothing at all
            assert_same_scores(ours, recorder.score(guess, gold, strict))
        else:
            assert (ours["precision"], ours["recall"], ours["f1"]) == (0, 0, 0)


def test_errors_add_up(recorder):
    for seed in range(300):
        guess, gold = recorder.random_sentences(seed, recorder.TAGS)
        counts = entity_errors(guess, gold)
        true = sum(len(entities(row)) for row in gold)
        assert sum(counts.values()) - counts["invented"] == true
        score = entity_f1(guess, gold)
        assert counts["right"] == pytest.approx(score["recall"] * true)


@pytest.mark.parametrize(
    ("guess", "gold", "fate"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", "right"),
        ("B-LOC I-LOC O", "B-PER I-PER O", "wrong_type"),
        ("B-PER O O", "B-PER I-PER O", "wrong_boundary"),
        ("B-LOC O O", "B-PER I-PER O", "wrong_both"),
        ("O O B-PER", "B-PER I-PER O", "missed"),
        ("B-PER O O", "O O O", "invented"),
    ],
)
def test_each_kind_of_error(guess, gold, fate):
    assert entity_errors([guess.split()], [gold.split()])[fate] == 1


def test_strict_and_forgiving():
    tags = ["I-PER", "I-PER", "I-LOC", "O", "B-LOC", "I-PER"]
    assert [tuple(e) for e in entities(tags)] == [
        ("PER", 0, 2),
        ("LOC", 2, 3),
        ("LOC", 4, 5),
        ("PER", 5, 6),
    ]
    assert [tuple(e) for e in entities(tags, strict=True)] == [("LOC", 4, 5)]


def test_accuracy_counts_words():
    assert token_accuracy([["O"], ["O", "O", "B-X"]], [["O"], ["O", "B-X", "B-X"]]) == 0.75
    assert token_accuracy([], []) == 0


@pytest.mark.parametrize(
    ("guess", "gold", "words"),
    [
        ([["O"]], [], "1 predictions for 0"),
        ([["O"]], [["O", "O"]], "sentence 0 has 2 words"),
        (["O"], ["O"], "list of tags"),
        ([["X-PER"]], [["O"]], "'X-PER'"),
        ([[""]], [["O"]], "''"),
    ],
)
def test_bad_arguments(guess, gold, words):
    with pytest.raises(ValueError, match=words):
        entity_f1(guess, gold)


def test_strict_does_not_know_bioes():
    with pytest.raises(ValueError, match="'E-PER'"):
        entity_f1([["B-PER", "E-PER"]], [["O", "O"]], strict=True)
