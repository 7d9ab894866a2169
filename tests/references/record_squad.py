"""Record the scores of the official SQuAD program for random and difficult predictions.

    pip install 'transformers<5' && python tests/references/record_squad.py

v2.0: the official program as `transformers` contained it until its version 4
(`transformers.data.metrics.squad_metrics`); v1.1 differs from it in three rules, which
tests/metrics/test_squad_metrics.py checks by hand and, where it is installed, with torchmetrics.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

WORDS = [
    "the",
    "a",
    "an",
    "The",
    "An",
    "norman",
    "Norman",
    "conquest",
    "U.S.",
    "1,200",
    "٣٤",
    "１２",
    "naïve",
    "naïve",
    "...",
    "!",
    "-",
    "—",
    "’s",
    "'s",
    "the.",
    "well-known",
    "£5",
    "\xa0",
    "\u2009x",
    "ß",
    "SS",
    "İ",
    "а_b",
    "(1066)",
    "a.m.",
    "theatre",
    "an'",
    "10th",
    "century",
    "king",
    "of",
]


def random_case(seed: int, version: str = "v2.0") -> dict:
    """Data with one to eight questions, predictions for all, and margins."""
    draw = random.Random(seed)

    def text(longest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(0, longest)))

    qas, predictions, margins = [], {}, {}
    for i in range(draw.randint(1, 8)):
        impossible = version == "v2.0" and draw.random() < 0.4
        answers = [] if impossible else [text(4) or "x" for _ in range(draw.randint(1, 3))]
        identity = f"q{i}"
        qa = {"id": identity, "answers": [{"text": a, "answer_start": 0} for a in answers]}
        if version == "v2.0":
            qa["is_impossible"] = impossible
        qas.append(qa)
        near = draw.choice(answers) if answers else text(2)
        options = [near, f"{near} {text(1)}", near.upper(), f"the {near}!", text(4), "", text(1)]
        predictions[identity] = draw.choice(options)
        margins[identity] = draw.uniform(-3, 3)
    data = [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]
    return {"data": data, "predictions": predictions, "margins": margins}


def official(case: dict) -> dict:
    """The output of the official program of v2.0, with and without margins."""
    from transformers.data.metrics.squad_metrics import squad_evaluate

    examples = [
        SimpleNamespace(qas_id=qa["id"], answers=qa["answers"])
        for qa in case["data"][0]["paragraphs"][0]["qas"]
    ]
    return {
        "plain": dict(squad_evaluate(examples, case["predictions"])),
        "with margins": dict(squad_evaluate(examples, case["predictions"], case["margins"])),
    }


def record() -> dict:
    import transformers

    cases = [random_case(seed) for seed in range(60)]
    return {
        "made by": {"transformers": transformers.__version__},
        "cases": [{**case, "says": official(case)} for case in cases],
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("squad.json")
    path.write_text(json.dumps(record(), ensure_ascii=False) + "\n", encoding="utf-8")
