"""Entity scores equal seqeval's, legal tags or not; the error analysis adds up."""

from __future__ import annotations

import random
import warnings

import pytest

from minift.metrics import entities, entity_errors, entity_f1, token_accuracy

TAGS = ["O", *(f"{p}-{t}" for p in "BI" for t in ("PER", "LOC", "a-b"))]
BIOES = [*TAGS, *(f"{p}-{t}" for p in "ES" for t in ("PER", "LOC"))]


def random_sentences(seed: int, tags: list[str], sentences: int = 4):
    """Predictions that resemble their references, so that hits, misses and overlaps all occur."""
    draw = random.Random(seed)
    gold = [[draw.choice(tags) for _ in range(draw.randint(0, 9))] for _ in range(sentences)]
    guess = [[t if draw.random() < 0.7 else draw.choice(tags) for t in row] for row in gold]
    return guess, gold


@pytest.mark.parametrize("strict", [False, True])
def test_equals_seqeval_on_thousands_of_sequences(strict):
    metrics = pytest.importorskip("seqeval.metrics", reason="compares with seqeval, not here")
    from seqeval.scheme import IOB2

    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    for seed in range(1500):
        guess, gold = random_sentences(seed, TAGS if strict or seed % 2 else BIOES)
        ours = entity_f1(guess, gold, strict=strict)
        if not ours["per_type"]:  # seqeval does not score nothing at all
            assert (ours["precision"], ours["recall"], ours["f1"]) == (0, 0, 0)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = metrics.classification_report(
                gold, guess, output_dict=True, zero_division=0, **how
            )
        micro = report.pop("micro avg")
        macro = report.pop("macro avg")
        report.pop("weighted avg")
        for name in ("precision", "recall"):
            assert ours[name] == pytest.approx(micro[name])
        assert ours["f1"] == pytest.approx(micro["f1-score"])
        assert ours["macro_f1"] == pytest.approx(macro["f1-score"])
        assert set(ours["per_type"]) == set(report)
        for kind, row in report.items():
            mine = ours["per_type"][kind]
            assert mine["support"] == row["support"]
            assert mine["f1"] == pytest.approx(row["f1-score"])
            assert mine["precision"] == pytest.approx(row["precision"])
            assert mine["recall"] == pytest.approx(row["recall"])


def test_errors_add_up():
    for seed in range(300):
        guess, gold = random_sentences(seed, TAGS)
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
