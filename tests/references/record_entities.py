"""Record the scores of seqeval for random tags, valid or not, in entities.json.

    python tests/references/record_entities.py

The tests compare with the recorded scores.  Where seqeval is installed, they also check that it
still gives these scores.
"""

from __future__ import annotations

import json
import random
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "LOC", "a-b"))]
BIOES = [*TAGS, *(f"{prefix}-{kind}" for prefix in "ES" for kind in ("PER", "LOC"))]


def random_sentences(seed: int, tags: list[str], sentences: int = 4):
    """Predictions that resemble their references, so that hits, misses and overlaps all occur."""
    draw = random.Random(seed)
    gold = [[draw.choice(tags) for _ in range(draw.randint(0, 9))] for _ in range(sentences)]
    guess = [[t if draw.random() < 0.7 else draw.choice(tags) for t in row] for row in gold]
    return guess, gold


def score(guess: list[list[str]], gold: list[list[str]], strict: bool) -> dict[str, Any]:
    """seqeval's report in the names of `minift.metrics.entity_f1`."""
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(gold, guess, output_dict=True, zero_division=0, **how)

    def row(name: str) -> dict[str, float]:
        values = report[name]
        found = {key: float(values[key]) for key in ("precision", "recall")}
        return {**found, "f1": float(values["f1-score"]), "support": int(values["support"])}

    micro = row("micro avg")
    del micro["support"]
    types = sorted(name for name in report if not name.endswith(" avg"))
    return {
        **micro,
        "macro_f1": float(report["macro avg"]["f1-score"]),
        "per_type": {name: row(name) for name in types},
    }


def record(count: int = 40) -> dict[str, Any]:
    cases = []
    for seed in range(count):
        strict = seed % 2 == 0
        guess, gold = random_sentences(seed, TAGS if strict else BIOES)
        cases.append({"strict": strict, "guess": guess, "gold": gold, **score(guess, gold, strict)})
    return {"versions": {"seqeval": version("seqeval")}, "cases": cases}


if __name__ == "__main__":
    path = Path(__file__).with_name("entities.json")
    path.write_text(json.dumps(record()) + "\n", encoding="utf-8")
