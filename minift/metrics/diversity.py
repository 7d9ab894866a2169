"""Diversity, repetition and novelty of generated texts, from 0 to 1.

All three count n-grams, n words in a row.  Words are runs of letters and digits of any script, in
lower case; unlike in ROUGE they are not stemmed.  An n-gram lies within one text, and an n-gram
that occurs twice counts twice.  The bigrams (n = 2) of an example:

    text      The cat saw the cat, and the cat left.                   9 words, 8 bigrams
    source    A dog and the cat left; the dog came back.

    the-cat  cat-saw  saw-the  the-cat  cat-and  and-the  the-cat  cat-left

    distinct      6 of 8 are different                                 over all texts together
    repetition    2 of 8 occurred before: the-cat, twice               the mean over the texts
    novelty       3 of 8 are not in the source: cat-saw, saw-the,      the mean over the texts
                  cat-and

A text of fewer than n words has no n-gram, so the means leave it out.  If no text has an n-gram,
the result is 0.

Longer texts, and more texts, repeat more words, so `distinct` falls with their length and number.
Compare it only between texts about the same sources.

Papers: Li et al. 2016, "A diversity-promoting objective function for neural conversation models"
(distinct); See et al. 2017, "Get to the point" (repeated and novel n-grams).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]


def distinct(texts: Sequence[str], n: int) -> float:
    """The number of different n-grams over that of all n-grams, of all texts together.

    >>> distinct(["The cat saw the cat, and the cat left."], 2)
    0.75
    >>> distinct(["the cat", "the cat", "the dog", "cat"], 2)
    0.6666666666666666

    Raises `ValueError` for a string instead of texts and for an n below 1.
    """
    everything = [ngram for text in ngrams(texts, n) for ngram in text]
    return len(set(everything)) / max(1, len(everything))


def repetition(texts: Sequence[str], n: int) -> float:
    """The share of a text's n-grams that occurred earlier in it, the mean over the texts.

    >>> repetition(["The cat saw the cat, and the cat left."], 2)
    0.25
    >>> repetition(["it is it is it is", "it is not", "it"], 2)
    0.3

    Raises `ValueError` as `distinct` does.
    """
    return _mean(1 - len(set(text)) / len(text) for text in ngrams(texts, n) if text)


def novelty(texts: Sequence[str], sources: Sequence[str], n: int) -> float:
    """The share of a text's n-grams that do not occur in its source, the mean over the texts.

    A text copied from its source has 0, and a text that shares no n-gram with it has 1.

    >>> source = "A dog and the cat left; the dog came back."
    >>> novelty(["The cat saw the cat, and the cat left."], [source], 2)
    0.375

    Raises `ValueError` as `distinct` does, and for different numbers of texts and sources.
    """
    own, theirs = ngrams(texts, n), ngrams(sources, n)
    if len(own) != len(theirs):
        raise ValueError(f"{len(own)} texts for {len(theirs)} sources; give one for each")
    pairs = zip(own, map(set, theirs), strict=True)
    return _mean(
        sum(ngram not in source for ngram in text) / len(text) for text, source in pairs if text
    )


def ngrams(texts: Sequence[str], n: int) -> list[list[Ngram]]:
    """All n-grams of each text, in order.

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
    """Runs of letters and digits, in lower case; all other characters separate words.

    >>> words("The King's 12 HORSES—naïve_all!")
    ['the', 'king', 's', '12', 'horses', 'naïve', 'all']
    """
    return re.findall(r"[^\W_]+", text.lower())


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / max(1, len(numbers))
