"""Small question-answering data whose answers a tiny model can learn."""

from __future__ import annotations

import json
import random

from minift.data.squad import Answer, QuestionRecord, as_squad
from support.vocabulary import WORDS as VOCABULARY

NAMES = ["bo", "xy", "zz qq"]


FILLER = [
    word for word in VOCABULARY.split() if not word.startswith("##") and word not in ("so", "it")
]


def question(i: int, draw: random.Random, length: int = 12, answer: bool = True):
    """The answer is the one name in the context, if there is one."""
    words = draw.choices(FILLER, k=length)
    name = draw.choice(NAMES)
    place = draw.randrange(length)
    if answer:
        words[place] = name
    context = " ".join(words)
    answers = (Answer(name, len(" ".join(words[:place])) + bool(place)),) if answer else ()
    return QuestionRecord(str(i), "is it so", context, answers, f"input {i}")


def write(path, records):
    path.write_text(json.dumps({"version": "v2.0", "data": as_squad(records)}))
    return path
