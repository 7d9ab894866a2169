"""Record the scores of rouge-score for random texts and the stems of nltk in rouge.json.

    python tests/references/record_rouge.py

The tests compare with the recorded numbers.  Where rouge-score is installed, they also check that
it still gives these numbers.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

KINDS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
WORDS = (
    "the the The a of in king king kings Kings' queen died dies dying walking walked walks relate "
    "related relational nation nationally national happy happily sky skies news 1066 1990s 10th "
    "1,200 U.S. well-known naïve café Straße İstanbul ΣΟΦΟΣ 王 ١٢ — ... ! x_y it's \u212aelvin"
)
# The endings in nltk's rules; the random words below are made of these.
ENDINGS = (
    "s es ies sses ss ied eed ed ing ated bled ized tting lling y ly ally ational tional ency "
    "ancy izer bly alli ently ely ously ization ation ator alism iveness fulness ousness ality "
    "ivity bility fully logy logi icate ative alize icity ical ful ness al ance ence er ic able "
    "ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll le"
)
RULES = (
    "sky skies dying lying tying news innings inning outings outing cannings canning howe proceed "
    "exceed succeed ties dies flies ponies sses caresses caress cats abs gas died spied tied "
    "agreed feed bleed plastered bled motoring sing conflated troubled sized hopping tanned "
    "falling hissing fizzed failing filing rating aing oed owed boxed happy sky enjoy spy by bys "
    "bying cry saying played boxing showed relational conditional rational valency hesitancy "
    "digitizer conformably radically nationally differently vilely analogously vietnamization "
    "predication operator feudalism decisiveness hopefulness callousness formality sensitivity "
    "sensibility gratefully geology theology pedagogy logi yogi triplicate formative formalize "
    "electricity electrical hopeful goodness revival allowance inference airliner gyroscopic "
    "adjustable defensible irritant replacement adjustment dependent adoption champion dimension "
    "mention onion homologou communism activate angularity homologous effective bowdlerize "
    "probate rate cease like controlling roll rolled yy yyyy ayying syzygy toy 1990s 3d a ab abc "
    "the as s ss sss ed ing eds"
)


def random_text(draw: random.Random, longest: int = 24) -> str:
    """Few different words, so that texts share and repeat many; several lines, some empty.

    Only a line feed ends a sentence; a carriage return or a line separator does not.
    """
    few = draw.choices(WORDS.split(), k=draw.randint(1, 12))
    picked = draw.choices(few, k=draw.randint(0, longest))
    return "".join(word + draw.choice([*"\n\n\r\t\u2028", "\n\n", *" " * 12]) for word in picked)


def random_case(seed: int) -> dict[str, Any]:
    """A text and one to three references that resemble it, more or less."""
    draw = random.Random(seed)
    prediction = random_text(draw)
    references = []
    for _ in range(draw.choice([1, 1, 2, 3])):
        words = draw.choice([prediction.split(" "), prediction.split("\n"), []])
        draw.shuffle(words)
        kept = [word for word in words if draw.random() < 0.8]
        references.append(draw.choice([" ", "\n"]).join([*kept, random_text(draw, 8)]))
    return {"prediction": prediction, "references": references, "use_stemmer": seed % 2 == 0}


def random_words(seed: int, count: int) -> list[str]:
    """Short beginnings, some with a y or a digit, and up to three endings."""
    draw = random.Random(seed)
    endings, letters = ENDINGS.split(), "aaeeiioouuyybcdfghlllmnprrsssttvwxz1"
    return [
        "".join(draw.choices(letters, k=draw.randint(0, 5)) + draw.choices(endings, k=k))
        for k in draw.choices([0, 1, 1, 2, 2, 3], k=count)
    ]


@lru_cache
def scorer(use_stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer)
    if use_stemmer:  # the cache changes no stem and saves nine tenths of the time
        tokenizer._stemmer.stem = lru_cache(maxsize=None)(tokenizer._stemmer.stem)
    return RougeScorer(KINDS, tokenizer=tokenizer)


def score(prediction: str, references: list[str], use_stemmer: bool) -> dict[str, list[float]]:
    """For each kind precision, recall and F1 with the reference that has the best F1."""
    scores = scorer(use_stemmer).score_multi(references, prediction)
    return {kind: [float(value) for value in scores[kind]] for kind in KINDS}


def stems(words: list[str]) -> dict[str, str]:
    from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()
    return {word: stemmer.stem(word) for word in words}


def record(count: int = 60) -> dict[str, Any]:
    cases = [random_case(seed) for seed in range(count)]
    return {
        "versions": {name: version(name) for name in ("rouge-score", "nltk")},
        "cases": [{**case, "says": score(**case)} for case in cases],
        "stems": stems(RULES.split() + random_words(0, 600)),
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("rouge.json")
    path.write_text(json.dumps(record()) + "\n", encoding="utf-8")
