"""The labels of classification: found in the data, checked, ordered, weighted, and scored.

Labels are names.  "1" and "01", or "Good" and "good", are two labels; a warning says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from minift.data.read import TextRecord
from minift.errors import UserError
from minift.tasks.data_checks import (
    missing_labels,
    rare_labels,
    shortlist,
    similar_labels,
    spelling_key,
)

FEW_RECORDS = 8  # below this, as many labels as records are no sign of a wrong column


def labels_in(splits: Mapping[str, Sequence[TextRecord]], training_data: str) -> tuple[str, ...]:
    """The labels of the training records, in the order of the logits.

    training_data: names the files in errors.

    Raises `UserError` for a single label, for single texts among pairs, and for columns that look
    swapped: more labels than texts, and about as many labels as records.
    """
    records = splits["train"]
    _check_pairs(splits)
    labels = sort_labels({record.label for record in records})
    if len(labels) < 2:
        raise UserError(
            f"{training_data}: every label is {labels[0]!r}; give examples of two or more"
        )
    columns = [{r.text for r in records}, {r.text_pair for r in records if r.text_pair}]
    texts = min(len(column) for column in columns if column)
    if _too_many(len(labels), len(records)) and texts < len(labels):
        raise UserError(
            f"{training_data}: {len(records)} records have {len(labels)} different labels, such as "
            f"{labels[0]!r:.40}, but only {texts} different texts, so the columns look swapped; "
            "choose them with --text-column and --label-column (by numbers from 0, or by name)"
        )
    return labels


def doubtful_labels(labels: Sequence[str]) -> list[str]:
    """Warnings about the labels of the training data.  labels: one for each record."""
    different = len(set(labels))
    warnings = [*rare_labels(labels), *similar_labels(labels), *missing_labels(labels)]
    if _too_many(different, len(labels)):
        warnings.append(
            f"{len(labels)} training records have {different} different labels; if the labels are "
            "in another column, choose it with --label-column"
        )
    return warnings


def _too_many(labels: int, records: int) -> bool:
    """Whether there is more than one label for two records."""
    return records >= FEW_RECORDS and labels * 2 > records


def _check_pairs(splits: Mapping[str, Sequence[TextRecord]]) -> None:
    first = splits["train"][0]
    names = {True: "a single text", False: "a pair of texts"}
    for records in splits.values():
        for record in records:
            single = record.text_pair is None
            if single != (first.text_pair is None):
                raise UserError(
                    f"{record.where}: the record is {names[single]}, but {first.where} is "
                    f"{names[not single]}; give either pairs or single texts"
                )


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Integers by value, other labels alphabetically, so that the order is reproducible.

    >>> sort_labels({"10", "9"}), sort_labels({"pos", "neg"}), sort_labels({"1", "01"})
    (('9', '10'), ('neg', 'pos'), ('01', '1'))
    """
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def check_labels(records: Sequence[TextRecord], labels: Sequence[str]) -> None:
    """`UserError` for a record whose label is not among `labels`."""
    known = set(labels)
    for record in records:
        if record.label not in known:
            similar = [x for x in labels if spelling_key(x) == spelling_key(record.label)]
            remedy = f"write {similar[0]!r}" if similar else "correct it or add examples of it"
            raise UserError(
                f"{record.where}: the label {record.label!r:.60} does not occur in the training "
                f"data ({', '.join(labels):.80}); {remedy}"
            )


def balanced_weights(labels: Sequence[str], records: Sequence[TextRecord]) -> tuple[float, ...]:
    """N / (C * n) for a label with n of the N training records."""
    counts = Counter(record.label for record in records)
    # A label of the checkpoint may not occur in the data; its weight is never used.
    return tuple(len(records) / (len(labels) * max(1, counts[label])) for label in labels)


def positive_label(labels: Sequence[str], given: str | None) -> str | None:
    """The label whose F1 is the metric `f1`; None if that is the average over the labels.

    Of two labels it is the one given, or else the second.  Raises `UserError` for another.

    >>> positive_label(("ham", "spam"), None), positive_label(("a", "b", "c"), None)
    ('spam', None)
    """
    if given is not None and (len(labels) != 2 or given not in labels):
        raise UserError(
            f"--positive-label is {given!r}; it must be one of exactly two labels, but the labels "
            f"are {shortlist(labels)}"
        )
    return (given or labels[1]) if len(labels) == 2 else None


def f1_of(positive: str | None) -> str:
    """The label that the metric `f1` scores, as text, or the mean over all labels."""
    if positive is None:
        return "the mean over the labels"
    return f"that of the label {positive!r} (--positive-label)"
