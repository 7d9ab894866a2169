"""What may be wrong with data that can be used: said before training, each with its count.

What cannot be used (an empty text, an id twice, a label that only dev has) is an error of the
reader or the task instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any


def overlaps(asked: Callable[[Any], Hashable], splits: Mapping[str, Sequence[Any]]) -> list[str]:
    """Records that are there twice: among those trained on, or there and in dev or test.

    asked: record -> what the model is asked of it.
    """
    first: dict[Hashable, Any] = {}
    for record in splits["train"]:
        first.setdefault(asked(record), record)
    doubts = []
    if repeated := len(splits["train"]) - len(first):
        doubts.append(
            f"{repeated} of {len(splits['train'])} training records ask what an earlier one asks"
        )
    for split in ("dev", "test"):
        shared = [record for record in splits.get(split, ()) if asked(record) in first]
        if shared:
            doubts.append(
                f"{len(shared)} of {len(splits[split])} {split} records are also trained on "
                f"({shared[0].where}: as {first[asked(shared[0])].where}), so their score "
                "says less of new ones"
            )
    return doubts


def rare(labels: Iterable[str]) -> list[str]:
    """Labels that are there only once, which is too seldom to be learned."""
    once = [label for label, count in Counter(labels).items() if count == 1]
    named = ", ".join(map(repr, once[:5])) + (", ..." if len(once) > 5 else "")
    return [f"there is one training example only of {named}"] if once else []


def all_cut(features: Sequence[Any], limit: int) -> list[str]:
    """Said where no text fits: perhaps --max-length was meant to be more."""
    if not all(feature.cut for feature in features):
        return []
    return [f"all training texts have more than {limit} tokens (--max-length), and are cut"]
