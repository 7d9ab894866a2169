"""The built-in reviews: enough of them, balanced, and no two alike."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from minift.data.read import builtin, read_classification
from minift.data.squad import read_squad

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def records():
    return {name: read_classification(builtin(f"reviews.{name}.tsv")) for name in SPLITS}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_enough_and_balanced(records):
    assert sum(map(len, records.values())) >= 480
    assert all(len(part) >= 100 for part in records.values())
    for part in records.values():
        counts = Counter(record.label for record in part)
        assert set(counts) == {"negative", "positive"}
        assert min(counts.values()) / len(part) > 0.45


def test_no_near_duplicates_anywhere(records):
    texts = [record.text for part in records.values() for record in part]
    sets = [set(words(text)) for text in texts]
    runs: dict[tuple[str, ...], int] = {}
    for i, text in enumerate(texts):
        sequence = words(text)
        for j in range(len(sequence) - 6):
            run = tuple(sequence[j : j + 7])
            assert runs.setdefault(run, i) == i, (texts[runs[run]], text)
        for k in range(i):
            if len(sets[i] & sets[k]) > 4:
                share = len(sets[i] & sets[k]) / len(sets[i] | sets[k])
                assert share < 0.5, (texts[k], text)


def test_hard_ones_are_among_them(records):
    texts = [record.text.lower() for part in records.values() for record in part]
    for pattern in (r"\bnot\b|n't\b|\bnever\b|\bnothing\b", r"\bbut\b|\byet\b|though"):
        assert sum(bool(re.search(pattern, text)) for text in texts) > len(texts) / 20


@pytest.fixture(scope="module")
def questions():
    return {name: read_squad(builtin(f"qa.{name}.json")) for name in SPLITS}


def test_enough_questions_of_both_kinds(questions):
    everything = [record for part in questions.values() for record in part]
    assert len({record.context for record in everything}) >= 40
    assert len(everything) >= 240
    assert len({(record.question, record.context) for record in everything}) == len(everything)
    for part in questions.values():
        assert 0.25 <= sum(not record.answers for record in part) / len(part) <= 0.35
        assert sum(record.moved for record in part) == 0
    contexts = [{record.context for record in part} for part in questions.values()]
    assert not contexts[0] & contexts[1] | contexts[0] & contexts[2] | contexts[1] & contexts[2]


def test_answers_are_whole_words_that_occur_once(questions):
    for record in (record for part in questions.values() for record in part):
        for text, start in record.answers:
            assert record.context.count(text) == 1
            around = record.context[max(0, start - 1) : start + len(text) + 1]
            assert re.fullmatch(rf"\W?{re.escape(text)}\W?", around), (text, around)


def test_unanswerable_questions_are_plausible(questions):
    """Each shares words with its passage, and names a wrong answer of the passage."""
    for name in SPLITS:
        for article in json.loads(builtin(f"qa.{name}.json").read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    if qa["is_impossible"]:
                        (plausible,) = qa["plausible_answers"]
                        text, start = plausible["text"], plausible["answer_start"]
                        assert paragraph["context"].startswith(text, start)
                        shared = {*words(qa["question"])} & {*words(paragraph["context"])}
                        assert len(shared - {"the", "a", "of", "in"}) >= 1, qa["question"]
