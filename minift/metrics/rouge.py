"""Scores for summaries: ROUGE, the words that a text shares with the true one, from 0 to 1.

Texts go in; precision (of the predicted text's words, how many are shared), recall (of the true
one's) and F1 come out, for each of four ways to count what is shared (Lin 2004, "ROUGE: A Package
for Automatic Evaluation of Summaries").  The numbers are those of the package rouge-score.

Both texts first become words: lower case, nothing but a-z and 0-9, and words of more than three
characters cut down to their stem, so that "horses" and "horse" are the same.

    reference    the cat sat on the mat            6 words, 5 pairs of neighbours
    predicted    on the mat a big cat slept        7 words, 6 pairs

    rouge1       words                             on the mat cat      4 of 7 and of 6:  F1 8/13
    rouge2       pairs of neighbours               on-the the-mat      2 of 6 and of 5:  F1 4/11
    rougeL       words in the same order,          on the mat          3 of 7 and of 6:  F1 6/13
                 whatever is between them

rougeL reads a text as one long sentence, and thus punishes sentences in another order.  rougeLsum
does not: each reference sentence is compared with every predicted one, and a word of it counts if
it is in the longest common subsequence with any of them: in their union.  A sentence is a line of
the text.

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
    """What is shared, over what was predicted and over what is true, and F1; 0 over nothing."""

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

    references: for each prediction a text, or several, of which the one with the best F1 counts,
        for each of the four on its own.
    use_stemmer: whether words that differ only in their ending are the same.
    bootstrap: if above 0, how many times the mean is taken over as many pairs drawn with
        replacement (1000 is usual); the same draws serve all four.  The result then has "interval"
        too: name -> (low, high), the 2.5th and 97.5th percentile of those means, interpolated
        linearly.  It tells how far the mean depends on which texts happened to be in the set.
    seed: of the draws; the same seed gives the same interval.

    >>> scores = rouge(["on the mat a big cat slept"], ["the cat sat on the mat"])
    >>> {name: round(score, 4) for name, score in scores.items()}
    {'rouge1': 0.6154, 'rouge2': 0.3636, 'rougeL': 0.4615, 'rougeLsum': 0.4615}

    Raises `ValueError` for arguments that do not pair up.
    """
    for name, given in (("predictions", predictions), ("references", references)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one string; give a list of texts, one for each pair")
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give as many"
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
    whole = in_sum = len(common_subsequence(gold, guess))
    if len(ours) > 1 or len(theirs) > 1:
        union = [
            sentence[i]
            for sentence in theirs
            for i in set().union(*(common_subsequence(sentence, other) for other in ours))
        ]
        # The paper counts the union; the programs count no word oftener than it was predicted.
        in_sum = _shared(guess, union)
    pairs = list(pairwise(guess)), list(pairwise(gold))
    return {
        "rouge1": _score(_shared(guess, gold), guess, gold),
        "rouge2": _score(_shared(*pairs), *pairs),
        "rougeL": _score(whole, guess, gold),
        "rougeLsum": _score(in_sum, guess, gold),
    }


def words(text: str, use_stemmer: bool = True) -> list[str]:
    """The words of a text, in the form in which they are compared.

    >>> words("The King's 12 HORSES—naïve!")
    ['the', 'king', 's', '12', 'hors', 'na', 've']
    """
    found = re.findall("[a-z0-9]+", text.lower())
    return [stem(word) if len(word) > 3 else word for word in found] if use_stemmer else found


def common_subsequence(reference: Sequence[str], candidate: Sequence[str]) -> set[int]:
    """Where in the reference the words of the longest common subsequence are.

    The usual table has a row for each reference word and a column for each candidate word.  Along
    a row it grows by 0 or 1, so that a row is kept as one integer with a bit for each growth; this
    makes a whole row in one step (Allison and Dix 1986):

        candidate           a    b    c    b
        row of "b"          0    1    1    1      bits, first column lowest:  0010
        row of "b c"        0    1    2    2                                  0110

    Of several longest ones rougeLsum depends on which is taken, so the way back through the table
    is rouge-score's.  From the last reference word: it is taken if it is the last candidate word
    that is left, or if without it the rest would be shorter, and is then matched as late as can be.
    Otherwise it is given up, as "b" is here:

    >>> common_subsequence(["a", "b"], ["b", "a"])
    {0}
    """
    where: dict[str, int] = {}  # word -> the columns it stands in, as bits
    for j, word in enumerate(candidate):
        where[word] = where.get(word, 0) | 1 << j
    rows = [0]
    for word in reference:
        row = rows[-1]
        both = row | where.get(word, 0)
        # A row's bits cut it into stretches, each with its bit at its end; in the next row each has
        # its bit at the first place in `both`: the one that turns to 0 if 1 is taken off a stretch.
        rows.append(both & ~(both - (row << 1 | 1)))
    left = (1 << len(candidate)) - 1  # the candidate words before the last one matched
    taken = set()
    for i in reversed(range(len(reference))):
        matches = where.get(reference[i], 0) & left
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


def _shared(some: Sequence[Any], others: Sequence[Any]) -> int:
    there = Counter(others)
    return sum(min(n, there[x]) for x, n in Counter(some).items() if x in there)


def _means(table: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(table) for column in zip(*table, strict=True)]


# Porter's stemmer (1980, "An algorithm for suffix stripping") with the extensions that nltk has by
# default.  An ending goes, or becomes another, if enough is left before it.  How much that is, the
# measure says: how often a consonant follows a vowel.  tree 0, trouble 1, private 2.


def _table(text: str) -> dict[str, str]:
    return dict(entry.split(">") for entry in text.split())


# Of endings that end alike the longer stands first.
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
def stem(word: str) -> str:
    """A word in lower case without its endings; what is left need not be a word.

    >>> [stem(word) for word in ("ponies", "hopping", "relational", "electricity", "adjustment")]
    ['poni', 'hop', 'relat', 'electr', 'adjust']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _without_ed_and_ing(_without_s(word))
    if len(word) > 2 and word[-1] == "y" and _shape(word)[-1] == "v":  # happy -> happi
        word = word[:-1] + "i"
    word = _swap(word, {"alli": "al"}, 0)  # first: relationalli -> relational -> relate
    word = _swap(word, STEP_2, 0)
    if word.endswith("logi"):  # geologi -> geolog; its l counts as part of what is left
        word = _swap(word, {"ogi": "og"}, 0)
    word = _swap(word, STEP_3, 0)
    if not word.endswith("ion") or word.endswith(("sion", "tion")):  # not: champion
        word = _swap(word, STEP_4, 1)
    if word[-1] == "e":
        rest = word[:-1]
        if _measure(rest) > 1 or (_measure(rest) == 1 and not _is_short(rest)):  # not: rate, like
            word = rest
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
    rest = word[:-2] if word.endswith("ed") else word.removesuffix("ing")
    if rest == word or "v" not in _shape(rest):  # sing
        return word
    if rest.endswith(("at", "bl", "iz")) or (_measure(rest) == 1 and _is_short(rest)):
        return rest + "e"  # conflating -> conflate, filing -> file
    doubled = rest[-1] == rest[-2:-1] and _shape(rest)[-1] == "c"
    return rest[:-1] if doubled and rest[-1] not in "lsz" else rest  # hopping -> hop, falling


def _swap(word: str, endings: Mapping[str, str], least: int) -> str:
    """Replace the first of the endings that the word has, if what is left measures enough."""
    for ending, new in endings.items():
        if word.endswith(ending):
            rest = word.removesuffix(ending)
            return rest + new if _measure(rest) > least else word
    return word


def _measure(part: str) -> int:
    return _shape(part).count("vc")


def _is_short(part: str) -> bool:
    """Ends in a short syllable, as "fil" of "filing" and "hop" of "hope" do: it wants its e."""
    shape = _shape(part)
    return shape == "vc" or (shape.endswith("cvc") and part[-1] not in "wxy")


def _shape(part: str) -> str:
    """Its vowels and consonants: a y after a consonant is a vowel.

    >>> _shape("toy"), _shape("syzygy")
    ('cvc', 'cvcvcv')
    """
    shape = ""
    for letter in part:
        is_vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if is_vowel else "c"
    return shape
