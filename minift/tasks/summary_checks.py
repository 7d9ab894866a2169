"""Warnings about documents and summaries that are usable but doubtful; see data_checks.py.

summary "Team 🚀 won:\\n3-1"    without 🚀 in the vocabulary, and with a tokenizer that has no
generated "Team won: 3-1"      line breaks
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from minift import metrics
from minift.data.read import SummaryRecord
from minift.tasks.data_checks import shortlist
from minift.text.line_breaks import LINE_BREAK, keeps_line_breaks
from minift.text.tokenizer import Tokenizer

Splits: TypeAlias = Mapping[str, Sequence[SummaryRecord]]  # "train", and "dev" and "test" if given
MAX_TEXTS = 1000  # texts in which the unknown characters are looked up


def truncated_documents(
    splits: Splits, features: Mapping[str, Sequence[Any]], limit: int
) -> list[str]:
    """Documents of which the model reads only the first tokens."""
    warnings = []
    for split, records in splits.items():
        long = len({feature.record for feature in features[split] if feature.truncated})
        if long:
            warnings.append(
                f"{long} of {len(records)} {split} documents have more than {limit} tokens "
                "(--max-length) and are truncated"
            )
    return warnings


def missing_characters(
    features: Mapping[str, Sequence[Any]],
    targets: Sequence[str],
    tokenizer: Tokenizer,
    newline: str | None,
) -> list[str]:
    """Line breaks without a stand-in, and characters that the vocabulary lacks.

    targets: the summaries that the model is trained on, one for each training feature.
    newline: the token that stands for a line break, if any.
    """
    warnings = []
    several = sum(bool(LINE_BREAK.search(text.strip())) for text in targets)
    if several and newline is None and not keeps_line_breaks(tokenizer):
        warnings.append(
            f"{several} of {len(targets)} training summaries have several lines, but the tokenizer "
            "reads a line break as a space, so generated summaries have one line"
        )
    unk, pairs = tokenizer.unk_token_id, zip(features["train"], targets, strict=True)
    unknown = [text for feature, text in pairs if unk in feature.labels]
    if unknown:
        warnings.append(
            f"{len(unknown)} of {len(targets)} training summaries hold characters that the "
            f"vocabulary lacks ({unknown_characters(unknown, tokenizer)}); generated summaries are "
            "without them"
        )
    return warnings


def unknown_characters(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    """The most frequent characters of the unknown tokens, as a warning names them."""
    found: Counter[str] = Counter()
    for part, count in tokenizer.unknown(texts[:MAX_TEXTS]).items():
        found.update(dict.fromkeys(set(part) - {" "}, count))
    most_frequent = sorted(found, key=lambda character: (-found[character], character))
    return shortlist(most_frequent)


def unread_by_rouge(splits: Splits) -> list[str]:
    """Dev and test summaries in a script that ROUGE ignores."""
    warnings = []
    for split in ("dev", "test"):
        unread = [record for record in splits.get(split, ()) if is_unread(record)]
        if unread:
            warnings.append(
                f"ROUGE reads only the letters a-z and digits, which are less than half of the "
                f"letters in {len(unread)} of {len(splits[split])} {split} summaries "
                f"({unread[0].where}), so their scores mean nothing"
            )
    return warnings


def is_unread(record: SummaryRecord) -> bool:
    """Whether ROUGE ignores most letters of all reference summaries of a document."""
    return all(metrics.readable_share(summary) < 0.5 for summary in record.summaries)
