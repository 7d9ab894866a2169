"""Warnings about data that is usable but doubtful: printed before training, each with its count.

Unusable data (an empty text, a duplicate id, a label that occurs only in dev) is an error of the
reader or of the task instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from minift.text.tokenizer import Tokenizer


def overlaps(
    input_key: Callable[[Any], Hashable], splits: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Duplicates within the training data, and dev or test records that also occur in it.

    input_key: record -> the model's input, without the label.
    """
    first: dict[Hashable, Any] = {}  # input -> the first training record with it
    for record in splits["train"]:
        first.setdefault(input_key(record), record)
    warnings = []
    if repeated := len(splits["train"]) - len(first):
        warnings.append(
            f"{repeated} of {len(splits['train'])} training records have the same input as an "
            "earlier one"
        )
    for split in ("dev", "test"):
        shared = [record for record in splits.get(split, ()) if input_key(record) in first]
        if shared:
            warnings.append(
                f"{len(shared)} of {len(splits[split])} {split} records also occur in the training "
                f"data ({shared[0].where}: the same input as {first[input_key(shared[0])].where}), "
                f"so the {split} score overstates performance on new data"
            )
    return warnings


def spelled_special_tokens(tokenizer: Tokenizer, splits: Mapping[str, Sequence[Any]]) -> list[str]:
    """Records in which somebody wrote a special token: the model reads it as other text."""
    warnings = []
    for split, records in splits.items():
        found = []
        for record in records:
            texts = [v for name, v in vars(record).items() if name not in ("id", "where")]
            if token := _spelled(tokenizer, texts):
                found.append((record, token))
        if found:
            record, token = found[0]
            warnings.append(
                f"{len(found)} of {len(records)} {split} records spell a special token of the "
                f"model ({record.where}: {token}); it is read as text"
            )
    return warnings


def _spelled(tokenizer: Tokenizer, value: Any) -> str | None:
    """The first special token in a text, or in a list of texts."""
    if isinstance(value, str):
        return tokenizer.spelled_control_token(value)
    parts = value if isinstance(value, list | tuple) else ()
    return next((token for part in parts if (token := _spelled(tokenizer, part))), None)


def rare_labels(labels: Iterable[str]) -> list[str]:
    """Labels with one example only, too few to train on.  labels: one for each example."""
    once = [label for label, count in Counter(labels).items() if count == 1]
    named = ", ".join(map(repr, once[:5])) + (", ..." if len(once) > 5 else "")
    return [f"there is only one training example of {named}"] if once else []


def constant_labels(splits: Mapping[str, Sequence[Any]]) -> list[str]:
    """Dev or test sets in which all records have the same label."""
    warnings = []
    for split in ("dev", "test"):
        labels = {record.label for record in splits.get(split, ())}
        if len(labels) == 1 and len(splits[split]) > 1:
            warnings.append(
                f"every {split} record has the label {labels.pop()!r}, so f1 and "
                "matthews_correlation mean nothing there"
            )
    return warnings


def all_truncated(features: Sequence[Any], limit: int) -> list[str]:
    """Whether every text is truncated, so that `--max-length` may be too small."""
    if not all(feature.truncated for feature in features):
        return []
    return [f"all training texts have more than {limit} tokens (--max-length) and are truncated"]
