"""Scores by hand, as the docstrings tell them, and against scikit-learn."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
import torch

from minift import metrics
from minift.metrics import classification

PREDICTED, TRUE = [1, 1, 0, 1, 0], [1, 1, 1, 0, 0]


def test_docstring_examples_run():
    assert doctest.testmod(classification).failed == 0


def test_by_hand():
    assert metrics.accuracy(PREDICTED, TRUE) == 3 / 5
    assert metrics.f1(PREDICTED, TRUE) == pytest.approx(4 / 6)
    assert metrics.f1(PREDICTED, TRUE, positive=0) == 2 / 4
    assert metrics.f1(PREDICTED, TRUE, average="macro") == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert metrics.f1(PREDICTED, TRUE, average="weighted") == pytest.approx(3 / 5 * 4 / 6 + 1 / 5)
    assert metrics.f1(PREDICTED, TRUE, average="micro") == 3 / 5
    assert metrics.matthews_correlation(PREDICTED, TRUE) == pytest.approx(2 / 12)
    assert metrics.precision_recall(PREDICTED, TRUE) == {
        0: {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2},
        1: {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3},
    }


def test_confusion_matrix_has_a_row_for_each_true_label():
    predicted, true = ["cat", "dog", "dog"], ["cat", "cat", "dog"]
    assert metrics.confusion_matrix(predicted, true) == {
        "labels": ["cat", "dog"],
        "matrix": [[1, 1], [0, 1]],
    }
    assert metrics.confusion_matrix(predicted, true, ["owl", "dog", "cat"]) == {
        "labels": ["owl", "dog", "cat"],
        "matrix": [[0, 0, 0], [0, 1, 0], [0, 1, 1]],
    }


def test_a_label_that_is_never_predicted_or_never_true_counts_as_zero():
    rows = metrics.precision_recall(["a", "a", "c"], ["a", "b", "a"])
    assert rows["b"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert rows["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert metrics.f1([0, 0], [0, 0]) == 0.0
    assert metrics.f1(["neg"], ["neg"], positive="pos") == 0.0
    assert metrics.matthews_correlation([1, 1], [0, 1]) == 0.0


@pytest.mark.parametrize(
    "convert",
    [tuple, np.array, torch.tensor, lambda x: list(np.array(x)), lambda x: [*map(torch.tensor, x)]],
)
def test_arrays_and_tensors_count_like_lists(convert):
    scores = metrics.confusion_matrix(convert(PREDICTED), convert(TRUE), convert([1, 0]))
    assert json.dumps(scores) == '{"labels": [1, 0], "matrix": [[2, 1], [1, 1]]}'


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: metrics.accuracy([1], [1, 0]), "1 predictions for 2 references"),
        (lambda: metrics.accuracy([], []), "no labels"),
        (lambda: metrics.accuracy([[1]], [[1]]), "one label"),
        (lambda: metrics.accuracy([0.3, 0.9], [0, 1]), "not a label"),
        (lambda: metrics.accuracy([1, 0], [None, None]), "None is not a label"),
        (lambda: metrics.accuracy([1, 0], ["1", "0"]), r"mixed \('0', 0\); convert"),
        (lambda: metrics.f1(["a", "b"], ["a", "a"]), r"'a' and 'b'.*positive="),
        (lambda: metrics.f1([0, 1, 2], [0, 1, 2]), "average='macro'"),
        (lambda: metrics.f1([0, 1], [0, 1], average="mean"), "'mean'.*macro"),
        (lambda: metrics.confusion_matrix([0, 2], [0, 1], [0, 1]), "label 2 is not one of"),
    ],
)
def test_what_cannot_be_scored_says_why(score, message):
    with pytest.raises(ValueError, match=message):
        score()


# ---- live --------------------------------------------------------------------------------------


def pairs_of_labels(alphabet):
    from hypothesis import strategies as st

    return st.lists(st.tuples(*[st.sampled_from(alphabet)] * 2), min_size=1, max_size=60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of a label that is missing
@pytest.mark.parametrize("alphabet", [[0, 1], [-3, 0, 7, 12], ["no", "yes"], list("abcde")])
def test_equal_to_scikit_learn(alphabet):
    sklearn = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn, not here")
    hypothesis = pytest.importorskip("hypothesis", reason="draws labels with hypothesis, not here")

    @hypothesis.settings(max_examples=150, deadline=None, database=None)
    @hypothesis.given(pairs_of_labels(alphabet))
    def check(pairs):
        predicted, true = map(list, zip(*pairs, strict=True))
        close = {"abs": 1e-12}
        assert metrics.accuracy(predicted, true) == pytest.approx(
            sklearn.accuracy_score(true, predicted), **close
        )
        for average in ("macro", "micro", "weighted"):
            expected = sklearn.f1_score(true, predicted, average=average, zero_division=0)
            assert metrics.f1(predicted, true, average) == pytest.approx(expected, **close)
        if len(alphabet) == 2:
            for positive in alphabet:
                expected = sklearn.f1_score(true, predicted, pos_label=positive, zero_division=0)
                found = metrics.f1(predicted, true, positive=positive)
                assert found == pytest.approx(expected, **close)
        assert metrics.matthews_correlation(predicted, true) == pytest.approx(
            sklearn.matthews_corrcoef(true, predicted), **close
        )
        matrix = metrics.confusion_matrix(predicted, true, alphabet)["matrix"]
        assert matrix == sklearn.confusion_matrix(true, predicted, labels=alphabet).tolist()
        rows = metrics.precision_recall(predicted, true)
        columns = sklearn.precision_recall_fscore_support(
            true, predicted, labels=list(rows), zero_division=0
        )
        found = [list(row.values()) for row in rows.values()]
        assert np.allclose(found, np.transpose(columns), atol=1e-12)

    check()


@pytest.mark.slow
def test_refuses_where_scikit_learn_refuses():
    sklearn = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn, not here")
    for predicted, true in [
        (["a", "b"], ["a", "a"]),
        ([2, 3], [2, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ([0.5, 1.0], [1, 0]),
    ]:
        for score in (metrics.f1, sklearn.f1_score):
            with pytest.raises(ValueError):  # noqa: PT011
                score(predicted, true)
