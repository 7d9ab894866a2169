"""How varied generated texts are, how much they repeat, how much of them is new: from 0 to 1.

All three count n-grams, n words in a row.  Words are runs of letters and digits of any script, in
lower case; unlike ROUGE's they are not cut down to their stems.  No n-gram reaches from one text
into the next, and one that occurs twice counts twice.  Pairs of neighbours, n = 2:

    text      The cat saw the cat, and the cat left.                   9 words, 8 pairs
    source    A dog and the cat left; the dog came back.

    the-cat  cat-saw  saw-the  the-cat  cat-and  and-the  the-cat  cat-left

    distinct      6 of 8 are different                                 over all texts together
    repetition    2 of 8 were there before: the-cat, twice             the mean over the texts
    novelty       3 of 8 are not in the source: cat-saw, saw-the,      the mean over the texts
                  cat-and

A text of fewer than n words has no n-gram, so nothing can be said of it: the means leave it out.
Where no text has one, the result is 0.

Longer texts, and more of them, say the same words again, so `distinct` falls with their length and
number: compare it for texts about the same things only.

Papers: Li et al. 2016, "A diversity-promoting objective function for neural conversation models"
(distinct); See et al. 2017, "Get to the point" (repeated and novel n-grams).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams, of all texts together.

    >>> distinct(["The cat saw the cat, and the cat left."], 2)
    0.75
    >>> distinct(["the cat", "the cat", "the dog", "cat"], 2)
    0.6666666666666666

    Raises `ValueError` for a string instead of texts and for an n below 1.
    """
    everything = [ngram for text in ngrams(texts, n) for ngram in text]
    return len(set(everything)) / max(1, len(everything))


def repetition(texts: Sequence[str], n: int) -> float:
    """The share of a text's n-grams that stood in the same text before, the mean over the texts.

    >>> repetition(["The cat saw the cat, and the cat left."], 2)
    0.25
    >>> repetition(["it is it is it is", "it is not", "it"], 2)
    0.3

    Raises `ValueError` as `distinct` does.
    """
    return _mean(1 - len(set(text)) / len(text) for text in ngrams(texts, n) if text)


def novelty(texts: Sequence[str], sources: Sequence[str], n: int) -> float:
    """The share of a text's n-grams that its source does not hold, the mean over the texts.

    A text copied out of its source has 0, one that shares no n-gram with it 1.

    >>> source = "A dog and the cat left; the dog came back."
    >>> novelty(["The cat saw the cat, and the cat left."], [source], 2)
    0.375

    Raises `ValueError` as `distinct` does, and where texts and sources do not pair up.
    """
    own, theirs = ngrams(texts, n), ngrams(sources, n)
    if len(own) != len(theirs):
        raise ValueError(f"{len(own)} texts for {len(theirs)} sources; give as many")
    pairs = zip(own, map(set, theirs), strict=True)
    return _mean(
        sum(ngram not in source for ngram in text) / len(text) for text, source in pairs if text
    )


def ngrams(texts: Sequence[str], n: int) -> list[list[Ngram]]:
    """All n-grams of each text, in its order.

    >>> ngrams(["Rain fell again.", "Rain!"], 2)
    [[('rain', 'fell'), ('fell', 'again')], []]
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of texts")
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    found = []
    for text in texts:
        own = words(text)
        found.append(list(zip(*(own[i:] for i in range(n)), strict=False)))
    return found


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; whatever else there is parts them.

    >>> words("The King's 12 HORSES—naïve_all!")
    ['the', 'king', 's', '12', 'horses', 'naïve', 'all']
    """
    return re.findall(r"[^\W_]+", text.lower())


def _mean(shares: Iterable[float]) -> float:
    values = list(shares)
    return sum(values) / max(1, len(values))
