"""Scores for one label per text: accuracy, F1, Matthews correlation, the confusion matrix.

In: predicted and reference labels, two lists, arrays or tensors of the same length, of integers or
of strings.  Out: the same numbers as scikit-learn's.  A quotient with denominator 0 is 0.

The docstrings share one example of five texts:

    reference    1 1 1 0 0        two of the three 1s are found (recall 2/3),
    predicted    1 1 0 1 0        two of the three predicted 1s are right (precision 2/3)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

Labels = Sequence[Hashable]


def accuracy(predictions: Labels, references: Labels) -> float:
    """The share of predicted labels that are right.

    >>> accuracy([1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    0.6
    """
    pairs = _count(predictions, references)
    return sum(n for (p, r), n in pairs.items() if p == r) / pairs.total()


def f1(
    predictions: Labels, references: Labels, average: str = "binary", positive: Hashable = 1
) -> float:
    """Harmonic mean of precision and recall: 2 hits / (times predicted + times true).

    average: binary: F1 of the label `positive`; macro: the mean over the labels; weighted: the mean
        over the labels, weighted by their frequency in the references; micro: computed from the
        sums over all labels, which for one label per text equals the accuracy.

    Raises `ValueError` for an unknown average, and for binary if there are more than two labels or
    if neither of two is `positive`.

    Label 1 above: 2 * 2 / (3 + 3); label 0: 2 * 1 / (2 + 2).

    >>> round(f1([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]), 4)
    0.6667
    >>> round(f1([1, 1, 0, 1, 0], [1, 1, 1, 0, 0], average="macro"), 4)
    0.5833
    >>> f1(["pos", "neg"], ["pos", "neg"], positive="pos")
    1.0
    """
    rows = precision_recall(predictions, references)
    if average == "binary":
        return _binary_f1(rows, positive)
    if average == "micro":
        return accuracy(predictions, references)
    if average == "macro":
        return sum(row["f1"] for row in rows.values()) / len(rows)
    if average == "weighted":
        total = sum(row["support"] for row in rows.values())
        return sum(row["f1"] * row["support"] for row in rows.values()) / total
    raise ValueError(f"average is {average!r}; it must be binary, macro, micro or weighted")


def _binary_f1(rows: dict[Any, dict[str, Any]], positive: Hashable) -> float:
    labels = list(rows)
    if len(labels) > 2:
        raise ValueError(
            f"there are {len(labels)} labels ({labels[0]!r}, {labels[1]!r}, ...), but "
            "average='binary' is for two; choose average='macro', 'micro' or 'weighted'"
        )
    if positive in rows:
        return rows[positive]["f1"]
    if len(labels) == 2:
        raise ValueError(
            f"the labels are {labels[0]!r} and {labels[1]!r}, and neither is the positive label "
            f"{positive!r}; say which one is with positive="
        )
    return 0.0  # the positive label is neither predicted nor true


def matthews_correlation(predictions: Labels, references: Labels) -> float:
    """Correlation of predicted and true labels, from -1 to 1; 0 if either side is constant.

    For any number of labels (Gorodkin 2004): with c of s texts right, label k predicted p_k times
    and true t_k times, it is

        (c s - sum p_k t_k) / sqrt((s² - sum p_k²) (s² - sum t_k²))

    For the example: (3 * 5 - (3 * 3 + 2 * 2)) / sqrt((25 - 13) * (25 - 13)) = 2 / 12.

    >>> round(matthews_correlation([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]), 4)
    0.1667
    """
    pairs = _count(predictions, references)
    s = pairs.total()
    c = sum(n for (p, r), n in pairs.items() if p == r)
    predicted, true = _totals(pairs)
    together = c * s - sum(n * true[label] for label, n in predicted.items())
    spread_p = s * s - sum(n * n for n in predicted.values())
    spread_t = s * s - sum(n * n for n in true.values())
    return together / math.sqrt(spread_p * spread_t) if spread_p and spread_t else 0.0


def confusion_matrix(
    predictions: Labels, references: Labels, labels: Labels | None = None
) -> dict[str, list]:
    """Counts of (true, predicted) labels: a row for each true label, a column for each predicted.

    labels: the order of rows and columns, with at least the labels that occur; default: sorted.

    >>> confusion_matrix([1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    {'labels': [0, 1], 'matrix': [[1, 1], [1, 2]]}
    """
    pairs = _count(predictions, references)
    occurring = _sorted_labels(pairs)
    names = occurring if labels is None else _as_list(labels)
    if missing := [label for label in occurring if label not in names]:
        raise ValueError(f"the label {missing[0]!r} is not one of labels={names}; add it")
    return {"labels": names, "matrix": [[pairs[p, r] for p in names] for r in names]}


def precision_recall(predictions: Labels, references: Labels) -> dict[Any, dict[str, Any]]:
    """Precision, recall, F1 and support (frequency in the references) of each label that occurs.

    >>> precision_recall(["a", "b"], ["a", "a"])["a"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    pairs = _count(predictions, references)
    predicted, true = _totals(pairs)
    return {
        label: {
            "precision": pairs[label, label] / predicted[label] if predicted[label] else 0.0,
            "recall": pairs[label, label] / true[label] if true[label] else 0.0,
            "f1": 2 * pairs[label, label] / (predicted[label] + true[label]),
            "support": true[label],
        }
        for label in _sorted_labels(pairs)
    }


def _count(predictions: Labels, references: Labels) -> Counter[tuple[Any, Any]]:
    """(predicted, true) -> number of texts."""
    predicted, true = _as_list(predictions), _as_list(references)
    if len(predicted) != len(true):
        raise ValueError(
            f"{len(predicted)} predictions for {len(true)} references; give one for each"
        )
    if not true:
        raise ValueError("there are no labels to score; give at least one")
    try:
        pairs = Counter(zip(predicted, true, strict=True))
    except TypeError:
        raise ValueError("give one label, an integer or a string, for each text") from None
    _sorted_labels(pairs)
    return pairs


def _as_list(labels: Labels) -> list[Any]:
    """A list of Python values, because equal items of a tensor are different keys of a dict."""
    if hasattr(labels, "tolist"):
        return labels.tolist()
    return [label.item() if hasattr(label, "item") else label for label in labels]


def _sorted_labels(pairs: Counter[tuple[Any, Any]]) -> list[Any]:
    """All labels that occur; `ValueError` for invalid labels and for mixed types."""
    labels = {label for pair in pairs for label in pair}
    for label in labels:
        if label is None or (isinstance(label, float) and not label.is_integer()):
            raise ValueError(f"{label} is not a label; give integers or strings")
    if len({isinstance(label, str) for label in labels}) == 2:
        text = min(label for label in labels if isinstance(label, str))
        other = min(label for label in labels if not isinstance(label, str))
        raise ValueError(f"strings and numbers are mixed ({text!r}, {other!r}); convert one side")
    return sorted(labels)


def _totals(pairs: Counter[tuple[Any, Any]]) -> tuple[Counter[Any], Counter[Any]]:
    """How often each label is predicted, and how often it is true."""
    predicted: Counter[Any] = Counter()
    true: Counter[Any] = Counter()
    for (p, r), n in pairs.items():
        predicted[p] += n
        true[r] += n
    return predicted, true
