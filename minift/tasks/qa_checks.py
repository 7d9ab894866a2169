"""Warnings about questions and answers that are usable but doubtful; see data_checks.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from minift.data.squad import QuestionRecord
from minift.text.tokenizer import Tokenizer

Splits: TypeAlias = Mapping[str, Sequence[QuestionRecord]]  # "train", and "dev" and "test" if given


def moved_answers(splits: Splits) -> list[str]:
    """Answers that were not at their `answer_start`."""
    warnings = []
    for split, records in splits.items():
        moved = [record for record in records if record.moved]
        if moved:
            total = sum(len(record.answers) for record in records if record.answers)
            warnings.append(
                f"{sum(record.moved for record in moved)} of {total} {split} answers are not at "
                f"their 'answer_start' and were taken from the nearest place ({moved[0].where})"
            )
    return warnings


def unlike_kinds(splits: Splits) -> list[str]:
    """Questions without an answer in the training data only, or in dev or test only."""
    unanswerable = {s: sum(not r.answers for r in records) for s, records in splits.items()}
    if not unanswerable["train"]:
        return [
            f"{count} of {len(splits[split])} {split} questions have no answer, but all training "
            "questions have one, so the model always answers"
            for split, count in unanswerable.items()
            if count
        ]
    if unanswerable.get("dev") in (0, len(splits.get("dev", ()))):
        kind = "an" if unanswerable["dev"] == 0 else "no"
        return [
            f"every dev question has {kind} answer, so the null threshold is not tuned and stays "
            f"0; {unanswerable['train']} of {len(splits['train'])} training questions have no "
            "answer"
        ]
    return []


def long_answers(splits: Splits, tokenizer: Tokenizer, limit: int) -> list[str]:
    """Questions whose answers all have more than `limit` tokens, too many to be predicted."""
    warnings = []
    for split, records in splits.items():
        answerable = [record.answers for record in records if record.answers]
        texts = list({answer.text for answers in answerable for answer in answers})
        lengths = dict(zip(texts, map(len, tokenizer.ids(texts)), strict=True))
        long = sum(min(lengths[answer.text] for answer in a) > limit for a in answerable)
        if long:
            warnings.append(
                f"the answers of {long} of {len(answerable)} {split} questions have more than "
                f"{limit} tokens (--max-answer-length), so no prediction can equal them"
            )
    return warnings
