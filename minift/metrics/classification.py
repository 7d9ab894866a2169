"""Scores for one label per text: accuracy, F1, Matthews correlation, the confusion matrix.

Predicted and reference labels go in, two sequences of the same length, integers or strings; numbers
come out, equal to scikit-learn's.  A quotient with nothing below the line counts as 0.

The example that the docstrings share, five texts:

    reference    1 1 1 0 0        of the three 1s two are found (recall 2/3),
    predicted    1 1 0 1 0        of the three predicted 1s two are right (precision 2/3)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

Labels = Sequence[Hashable]


def accuracy(predictions: Labels, references: Labels) -> float:
    """The share of labels that are right.

    >>> accuracy([1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    0.6
    """
    check(predictions, references)
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def f1(
    predictions: Labels, references: Labels, average: str = "binary", positive: Hashable = 1
) -> float:
    """Harmonic mean of precision and recall.

    average: binary: of the label `positive` alone; macro: the mean over the labels; weighted: the
        mean over the labels, each counted as often as it occurs in the references; micro: from the
        sums over all labels, which with one label for each text is the accuracy.

    >>> round(f1([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]), 3)
    0.667
    >>> round(f1([1, 1, 0, 1, 0], [1, 1, 1, 0, 0], average="macro"), 3)
    0.583
    """
    scores = precision_recall(predictions, references)
    if average == "binary":
        others = [label for label in scores if label != positive]
        if len(others) > 1 or positive not in scores:
            if len(others) < 2 and positive == 1 and isinstance(others[0], int):
                return 0.0  # only the label 0 occurs: nothing positive to find
            raise ValueError(
                f"f1 with average='binary' wants two labels, one of them {positive!r}, not "
                f"{list(scores)}; name the label with positive= or choose another average"
            )
        return scores[positive]["f1"]
    if average == "micro":
        return accuracy(predictions, references)
    if average == "macro":
        return sum(row["f1"] for row in scores.values()) / len(scores)
    if average == "weighted":
        return sum(row["f1"] * row["support"] for row in scores.values()) / len(references)
    raise ValueError(f"average is {average!r}; it must be binary, macro, micro or weighted")


def matthews_correlation(predictions: Labels, references: Labels) -> float:
    """Correlation of predicted and true labels, from -1 to 1; 0 where one side never varies.

    For any number of labels (Gorodkin 2004): with c texts right of s, p_k predicted and t_k true
    of label k, (c s - sum p_k t_k) / sqrt((s² - sum p_k²) (s² - sum t_k²)).

    >>> round(matthews_correlation([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]), 3)
    0.167
    """
    labels, matrix = count_pairs(predictions, references)
    s = len(references)
    c = sum(matrix[i][i] for i in range(len(labels)))
    true = [sum(row) for row in matrix]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    together = c * s - sum(p * t for p, t in zip(predicted, true, strict=True))
    spread = (s * s - sum(p * p for p in predicted)) * (s * s - sum(t * t for t in true))
    return together / math.sqrt(spread) if spread else 0.0


def confusion_matrix(
    predictions: Labels, references: Labels, labels: Labels | None = None
) -> dict[str, Any]:
    """How often each label was taken for each: rows are the true labels, columns the predicted.

    >>> confusion_matrix([1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    {'labels': [0, 1], 'matrix': [[1, 1], [1, 2]]}
    """
    names, matrix = count_pairs(predictions, references, labels)
    return {"labels": names, "matrix": matrix}


def precision_recall(predictions: Labels, references: Labels) -> dict[Hashable, dict[str, Any]]:
    """Precision, recall, F1 and support (how often it is true) of each label.

    >>> precision_recall(["a", "b"], ["a", "a"])["a"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    labels, matrix = count_pairs(predictions, references)
    scores = {}
    for i, label in enumerate(labels):
        hits = matrix[i][i]
        predicted, true = sum(row[i] for row in matrix), sum(matrix[i])
        scores[label] = {
            "precision": hits / predicted if predicted else 0.0,
            "recall": hits / true if true else 0.0,
            "f1": 2 * hits / (predicted + true),  # a label that is listed occurs on one side
            "support": true,
        }
    return scores


def count_pairs(
    predictions: Labels, references: Labels, labels: Labels | None = None
) -> tuple[list[Any], list[list[int]]]:
    """The labels in order, and for each true label how often each label was predicted."""
    check(predictions, references)
    occurring = set(predictions) | set(references)
    names = sorted(occurring) if labels is None else list(labels)
    if strangers := occurring - set(names):
        raise ValueError(f"the label {min(strangers)!r} is not one of {names}")
    place = {label: i for i, label in enumerate(names)}
    matrix = [[0] * len(names) for _ in names]
    for predicted, true in zip(predictions, references, strict=True):
        matrix[place[true]][place[predicted]] += 1
    return names, matrix


def check(predictions: Labels, references: Labels) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError("there is nothing to score")
