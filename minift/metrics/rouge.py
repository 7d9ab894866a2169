"""Scores for summaries: ROUGE, the overlap of a text with a reference, from 0 to 1.

In: predicted texts and references.  Out: precision (the share of the predicted text that is in the
reference), recall (the share of the reference that is in the predicted text) and F1, for four
measures of overlap (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").  The
numbers are equal to those of the package rouge-score.

Both texts are first split into words: lower case, only a-z and 0-9, and words of more than three
characters are stemmed, so that "horses" and "horse" are the same.

    reference    the cat sat on the mat            6 words, 5 bigrams
    predicted    on the mat a big cat slept        7 words, 6 bigrams

    rouge1       words                             on the mat cat      4 of 7 and of 6:  F1 8/13
    rouge2       bigrams                           on-the the-mat      2 of 6 and of 5:  F1 4/11
    rougeL       longest common subsequence:       on the mat          3 of 7 and of 6:  F1 6/13
                 words in the same order, others
                 may be between them

rougeL treats a text as one long sentence, so it penalises sentences in another order.  rougeLsum
does not: it compares each reference sentence with every predicted sentence, and counts a word if it
is in the longest common subsequence with any of them, that is, in their union.  A sentence is a
line of the text.

    reference    the old king died in the spring   \n   his son died too        11 words
    predicted    in spring   \n   the king died                                  5 words

    the old king died in the spring
                      in     spring    with "in spring"
    the     king died                  with "the king died"
    the     king died in     spring    union: 5
    his son died too
            died                       union: 1, but the predicted text has no second "died"

    rougeLsum  5 of 5 and of 11:  F1 10/16         rougeL  3 of 5 and of 11:  F1 6/16
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from statistics import quantiles
from typing import Any, NamedTuple

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Score(NamedTuple):
    """Overlap / predicted, overlap / reference, and F1; 0 for a denominator of 0."""

    precision: float
    recall: float
    f1: float


def rouge(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    use_stemmer: bool = True,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The mean F1 over all pairs: rouge1, rouge2, rougeL, rougeLsum.

    references: for each prediction a text or several.  Of several, the best F1 counts, for each of
        the four scores separately.
    use_stemmer: whether words are stemmed, so that different endings match.
    bootstrap: number of bootstrap samples (1000 is usual); 0: off.  A sample draws as many pairs
        with replacement as there are, the same pairs for all four scores.  The result then has
        "interval" too: name -> (low, high), the 2.5th and 97.5th percentile of the samples' means,
        interpolated linearly.  It estimates how much the mean depends on the choice of texts.
    seed: of the bootstrap samples; the same seed gives the same interval.

    >>> scores = rouge(["on the mat a big cat slept"], ["the cat sat on the mat"])
    >>> {name: round(score, 4) for name, score in scores.items()}
    {'rouge1': 0.6154, 'rouge2': 0.3636, 'rougeL': 0.4615, 'rougeLsum': 0.4615}

    Raises `ValueError` for different numbers of predictions and references.
    """
    for name, given in (("predictions", predictions), ("references", references)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one string; give a list of texts, one for each pair")
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one for each"
        )
    if len(predictions) == 0:
        raise ValueError("there is no pair of texts, so there is nothing to score")
    if bootstrap < 0 or bootstrap == 1:
        raise ValueError(f"bootstrap is {bootstrap}; give 0 for no interval, else at least 2")
    table = []  # a row for each pair, a column for each kind
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        texts = [reference] if isinstance(reference, str) else reference
        if len(texts) == 0:
            raise ValueError(f"pair {i} has an empty list of references; give it at least one text")
        scores = [rouge_pair(prediction, text, use_stemmer) for text in texts]
        table.append([max(score[kind].f1 for score in scores) for kind in KINDS])

    result: dict[str, Any] = dict(zip(KINDS, _means(table), strict=True))
    if bootstrap:
        draw = random.Random(seed)
        means = [_means(draw.choices(table, k=len(table))) for _ in range(bootstrap)]
        cuts = [quantiles(column, n=40, method="inclusive") for column in zip(*means, strict=True)]
        result["interval"] = {k: (c[0], c[-1]) for k, c in zip(KINDS, cuts, strict=True)}
    return result


def rouge_pair(prediction: str, reference: str, use_stemmer: bool = True) -> dict[str, Score]:
    r"""Precision, recall and F1 of one text against another: rouge1, rouge2, rougeL, rougeLsum.

    >>> predicted = "in spring\nthe king died"
    >>> scores = rouge_pair(predicted, "the old king died in the spring\nhis son died too")
    >>> scores["rougeLsum"]
    Score(precision=1.0, recall=0.45454545454545453, f1=0.625)
    >>> scores["rougeL"].f1
    0.375
    """
    ours, theirs = (
        [words(line, use_stemmer) for line in text.split("\n")] for text in (prediction, reference)
    )
    guess, gold = list(chain(*ours)), list(chain(*theirs))
    whole = in_sum = len(lcs_positions(gold, guess))
    if len(ours) > 1 or len(theirs) > 1:
        union = [
            sentence[i]
            for sentence in theirs
            for i in set().union(*(lcs_positions(sentence, other) for other in ours))
        ]
        # The paper counts the union; the programs count a word at most as often as it is predicted.
        in_sum = _overlap(guess, union)
    pairs = list(pairwise(guess)), list(pairwise(gold))
    return {
        "rouge1": _score(_overlap(guess, gold), guess, gold),
        "rouge2": _score(_overlap(*pairs), *pairs),
        "rougeL": _score(whole, guess, gold),
        "rougeLsum": _score(in_sum, guess, gold),
    }


def words(text: str, use_stemmer: bool = True) -> list[str]:
    """Split a text into words, in lower case and stemmed.

    >>> words("The King's 12 HORSES—naïve!")
    ['the', 'king', 's', '12', 'hors', 'na', 've']
    """
    found = re.findall("[a-z0-9]+", text.lower())
    return (
        [porter_stem(word) if len(word) > 3 else word for word in found] if use_stemmer else found
    )


def readable_share(text: str) -> float:
    """The share of a text's letters and digits that ROUGE reads; 1 for a text without any.

    >>> readable_share("naïve"), readable_share("3 ships 沉没"), readable_share("沉没")
    (0.8, 0.75, 0.0)
    """
    letters = [letter for letter in text.lower() if letter.isalnum()]
    return sum(letter.isascii() for letter in letters) / len(letters) if letters else 1.0


def lcs_positions(reference: Sequence[str], candidate: Sequence[str]) -> set[int]:
    """Positions in the reference of the words of the longest common subsequence.

    The table of the lengths has a row for each reference word and a column for each candidate word.
    Along a row the length grows by 0 or 1, so one integer holds a row, with a bit for each growth,
    and a few operations compute a whole row (Allison and Dix 1986):

        candidate           a    b    c    b
        row of "b"          0    1    1    1      bits, first column lowest:  0010
        row of "b c"        0    1    2    2                                  0110

    rougeLsum depends on the choice among several longest subsequences, so the backtracking through
    the table is rouge-score's.  It starts at the last reference word.  A word is taken if it equals
    the last remaining candidate word, or if the rest would be shorter without it; it is then
    matched as late as possible.  Otherwise it is dropped, as "b" is here:

    >>> lcs_positions(["a", "b"], ["b", "a"])
    {0}
    """
    columns: dict[str, int] = {}  # word -> the columns in which it occurs, as bits
    for j, word in enumerate(candidate):
        columns[word] = columns.get(word, 0) | 1 << j
    rows = [0]
    for word in reference:
        row = rows[-1]
        both = row | columns.get(word, 0)
        # The bits of a row divide it into segments, and each bit ends one.  In the next row each
        # segment has its bit where `both` has its first one in the segment: the bit that becomes 0
        # if 1 is subtracted from the segment.
        rows.append(both & ~(both - (row << 1 | 1)))
    left = (1 << len(candidate)) - 1  # the candidate words before the last one matched
    taken = set()
    for i in reversed(range(len(reference))):
        matches = columns.get(reference[i], 0) & left
        needed = (rows[i + 1] & left).bit_count() > (rows[i] & left).bit_count()
        if needed or matches > left >> 1:  # the highest bit of both is the same
            taken.add(i)
            left = (1 << matches.bit_length() - 1) - 1
    return taken


def _score(hits: int, guess: Sequence[Any], gold: Sequence[Any]) -> Score:
    return Score(
        hits / max(1, len(guess)),
        hits / max(1, len(gold)),
        2 * hits / max(1, len(guess) + len(gold)),
    )


def _overlap(some: Sequence[Any], others: Sequence[Any]) -> int:
    """Number of items in both, each counted as often as in the one that has fewer of it."""
    counts = Counter(others)
    return sum(min(n, counts[x]) for x, n in Counter(some).items() if x in counts)


def _means(table: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(table) for column in zip(*table, strict=True)]


# Porter's stemmer (1980, "An algorithm for suffix stripping") with the extensions that nltk has by
# default.  A suffix is removed or replaced if the measure of the stem before it is large enough.
# The measure counts how often a consonant follows a vowel: tree 0, trouble 1, private 2.


def _table(text: str) -> dict[str, str]:
    return dict(entry.split(">") for entry in text.split())


# Of suffixes that end alike, the longer one comes first, because the first match is replaced.
STEP_2 = _table(
    "ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble entli>ent eli>e ousli>ous "
    "ization>ize ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al "
    "iviti>ive biliti>ble fulli>ful"
)
STEP_3 = _table("icate>ic ative> alize>al iciti>ic ical>ic ful> ness>")
STEP_4 = _table(
    "al> ance> ence> er> ic> able> ible> ant> ement> ment> ent> ion> ou> ism> ate> iti> ous> ive> "
    "ize>"
)
IRREGULAR = _table(
    "sky>sky skies>sky dying>die lying>lie tying>tie news>news innings>inning inning>inning "
    "outings>outing outing>outing cannings>canning canning>canning howe>howe proceed>proceed "
    "exceed>exceed succeed>succeed"
)


@lru_cache(maxsize=1 << 16)
def porter_stem(word: str) -> str:
    """The stem of a word in lower case, which need not be a word itself.

    >>> [porter_stem(word) for word in ("ponies", "hopping", "relational", "electricity")]
    ['poni', 'hop', 'relat', 'electr']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _without_ed_and_ing(_without_s(word))
    if len(word) > 2 and word[-1] == "y" and _shape(word)[-1] == "v":  # happy -> happi
        word = word[:-1] + "i"
    word = _replace_suffix(word, {"alli": "al"}, 0)  # first: relationalli -> relational -> relate
    word = _replace_suffix(word, STEP_2, 0)
    if word.endswith("logi"):  # geologi -> geolog; the l counts as part of the stem
        word = _replace_suffix(word, {"ogi": "og"}, 0)
    word = _replace_suffix(word, STEP_3, 0)
    if not word.endswith("ion") or word.endswith(("sion", "tion")):  # not: champion
        word = _replace_suffix(word, STEP_4, 1)
    if word[-1] == "e":
        stem = word[:-1]
        if _measure(stem) > 1 or (_measure(stem) == 1 and not _is_short(stem)):  # not: rate, like
            word = stem
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _without_s(word: str) -> str:
    if word.endswith("ies"):  # dies -> die, ponies -> poni
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):  # caresses -> caress
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_ed_and_ing(word: str) -> str:
    if word.endswith("ied"):  # died -> die, spied -> spi
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):  # agreed -> agree, feed
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word[:-2] if word.endswith("ed") else word.removesuffix("ing")
    if stem == word or "v" not in _shape(stem):  # sing
        return word
    if stem.endswith(("at", "bl", "iz")) or (_measure(stem) == 1 and _is_short(stem)):
        return stem + "e"  # conflating -> conflate, filing -> file
    doubled = stem[-1] == stem[-2:-1] and _shape(stem)[-1] == "c"
    return stem[:-1] if doubled and stem[-1] not in "lsz" else stem  # hopping -> hop, falling


def _replace_suffix(word: str, suffixes: Mapping[str, str], above: int) -> str:
    """Replace the first suffix that the word has, if the measure of the stem exceeds `above`."""
    for suffix, new in suffixes.items():
        if word.endswith(suffix):
            stem = word.removesuffix(suffix)
            return stem + new if _measure(stem) > above else word
    return word


def _measure(letters: str) -> int:
    """How often a consonant follows a vowel."""
    return _shape(letters).count("vc")


def _is_short(letters: str) -> bool:
    """Whether it ends in a short syllable, as in "fil(ing)" and "hop(e)"; it then keeps its e."""
    shape = _shape(letters)
    return shape == "vc" or (shape.endswith("cvc") and letters[-1] not in "wxy")


def _shape(letters: str) -> str:
    """Its letters as v for a vowel and c for a consonant; a y after a consonant is a vowel.

    >>> _shape("toy"), _shape("syzygy")
    ('cvc', 'cvcvcv')
    """
    shape = ""
    for letter in letters:
        is_vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if is_vowel else "c"
    return shape
