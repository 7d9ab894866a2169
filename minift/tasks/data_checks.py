"""Warnings about data that is usable but doubtful: printed before training, each with its count.

Unusable data (an empty text, a duplicate id, a label that occurs only in dev) is an error of the
reader or of the task instead.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
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
    """Records whose text contains a special token; the model reads it as text."""
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


def contradictions(
    input_key: Callable[[Any], Hashable],
    label_of: Callable[[Any], Hashable],
    splits: Mapping[str, Sequence[Any]],
) -> list[str]:
    """Records with the same input but different labels, in training or between the splits.

    input_key, label_of: record -> the model's input; the label, or the tags.
    """
    known: dict[Hashable, dict[Hashable, Any]] = defaultdict(dict)  # input -> label -> a record
    for record in splits["train"]:
        known[input_key(record)].setdefault(label_of(record), record)
    warnings = []
    if several := [list(labels.values()) for labels in known.values() if len(labels) > 1]:
        count = sum(len(known[input_key(record)]) > 1 for record in splits["train"])
        warnings.append(
            f"{count} of {len(splits['train'])} training records contradict each other: the same "
            f"input has different labels ({several[0][0].where} and {several[0][1].where})"
        )
    for split in ("dev", "test"):
        other = [
            (record, labels)
            for record in splits.get(split, ())
            if (labels := known.get(input_key(record))) and label_of(record) not in labels
        ]
        if other:
            record, labels = other[0]
            warnings.append(
                f"{len(other)} of {len(splits[split])} {split} records contradict the training "
                f"data: the same input has another label there ({record.where} and "
                f"{next(iter(labels.values())).where})"
            )
    return warnings


def spelling_key(label: str) -> str:
    """Equal for labels that people read as one: case, blanks, Unicode form, form of a number.

    >>> spelling_key("Very  good") == spelling_key("very good"), spelling_key("01")
    (True, '1.0')
    """
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    try:
        number = float(text)
    except ValueError:
        return text
    return str(number) if math.isfinite(number) else text


def similar_labels(labels: Iterable[str]) -> list[str]:
    """Labels that differ in their spelling only.  labels: one for each example."""
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for label, count in sorted(Counter(labels).items()):
        groups[spelling_key(label)].append((label, count))
    warnings = []
    for group in groups.values():
        if len(group) > 1:
            # Two Unicode forms look the same; ASCII shows the difference.
            alike = len({unicodedata.normalize("NFC", label) for label, _ in group}) < len(group)
            show = ascii if alike else repr
            names = ", ".join(f"{show(label)} ({count})" for label, count in group)
            warnings.append(
                f"{names} are different labels that differ in spelling only; if they mean the "
                "same, write them alike"
            )
    return warnings


def missing_labels(labels: Iterable[str]) -> list[str]:
    """Labels such as "nan", which programs write where the label is missing."""
    counts = Counter(label for label in labels if label.lower() in ("nan", "null", "<na>", "?"))
    return [
        f"{count} training records have the label {label!r}; if that means that their label is "
        "missing, remove them"
        for label, count in counts.items()
    ]


def unknown_tokens(features: Mapping[str, Sequence[Any]], tokenizer: Any) -> list[str]:
    """Splits in which more than one token of twenty is unknown to the tokenizer."""
    unknown = tokenizer.unk_token_id
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id}
    warnings = []
    for split, name in (("train", "training"), ("dev", "dev"), ("test", "test")):
        ids = [feature.input_ids for feature in features.get(split, ())]
        total = sum(map(len, ids)) - sum(part.count(token) for part in ids for token in special)
        count = sum(part.count(unknown) for part in ids)
        if count > 0.05 * total:
            warnings.append(
                f"{count / total:.1%} of the tokens of the {name} data are unknown: the model's "
                "vocabulary lacks their characters or words, and reads all of them as one token; "
                "use a model for this language and script"
            )
    return warnings


def rare_labels(labels: Iterable[str]) -> list[str]:
    """Labels with one example only, too few to train on.  labels: one for each example."""
    once = [label for label, count in Counter(labels).items() if count == 1]
    return [f"there is only one training example of {shortlist(once)}"] if once else []


def shortlist(names: Sequence[str]) -> str:
    """The first five names, quoted.

    >>> shortlist("abcdef")
    "'a', 'b', 'c', 'd', 'e', ..."
    """
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


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
