"""Variety, repetition and novelty: worked examples, counting one by one, what must always hold."""

from __future__ import annotations

import random

import pytest

from minift.metrics.diversity import distinct, ngrams, novelty, repetition, words

SENTENCE = "The cat saw the cat, and the cat left."
SOURCE = "A dog and the cat left; the dog came back."


def drawn(seed: int) -> tuple[list[str], list[str]]:
    """Texts and sources of zero to eleven words of one letter, few enough to be repeated often."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcd", k=draw.randrange(10))) for _ in range(6)]
    return texts, [" ".join(draw.choices("abcde", k=draw.randrange(12))) for _ in texts]


def counted(texts: list[str], sources: list[str], n: int) -> tuple[float, float, float]:
    """Distinct, repetition and novelty by looking at every n-gram on its own."""
    everything, repeated, new = [], [], []
    for text, source in zip(texts, sources, strict=True):
        letters = text.replace(" ", "")
        own = [letters[i : i + n] for i in range(len(letters) - n + 1)]
        everything += own
        if own:
            again = sum(own[i] in own[:i] for i in range(len(own)))
            repeated.append(again / len(own))
            new.append(sum(ngram not in source.replace(" ", "") for ngram in own) / len(own))
    if not everything:
        return 0, 0, 0
    first = sum(everything[i] not in everything[:i] for i in range(len(everything)))
    return first / len(everything), sum(repeated) / len(repeated), sum(new) / len(new)


def test_the_worked_example():
    assert len(ngrams([SENTENCE], 2)[0]) == 8
    assert distinct([SENTENCE], 2) == 6 / 8
    assert repetition([SENTENCE], 2) == 2 / 8
    assert novelty([SENTENCE], [SOURCE], 2) == 3 / 8


@pytest.mark.parametrize("n", [1, 2, 3, 9, 12])
def test_equals_counting(n):
    for seed in range(60):
        texts, sources = drawn(seed)
        found = distinct(texts, n), repetition(texts, n), novelty(texts, sources, n)
        assert found == pytest.approx(counted(texts, sources, n)), seed


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_always_holds(n):
    for seed in range(40):
        texts, sources = drawn(seed)
        # What stands in the source is not new, and reading more never makes a text newer.
        assert novelty(texts, texts, n) == 0
        more = [f"{source} {text}" for text, source in zip(texts, sources, strict=True)]
        assert novelty(texts, more, n) == 0
        longer = [f"{source} z a b" for source in sources]
        assert novelty(texts, longer, n) <= novelty(texts, sources, n)
        # The order of the texts does not matter; beside itself a text has half the variety.
        assert distinct(texts[::-1], n) == distinct(texts, n)
        assert distinct(texts + texts, n) == pytest.approx(distinct(texts, n) / 2)
        assert repetition(texts + texts, n) == pytest.approx(repetition(texts, n))
        for text in texts:
            if ngrams([text], n)[0]:
                assert repetition([text], n) == pytest.approx(1 - distinct([text], n))


def test_texts_without_an_ngram_are_left_out():
    assert repetition(["a a", "", "b", "!?"], 2) == 0
    assert repetition(["a a a", "", "b", "!?"], 2) == 1 / 2
    assert novelty(["a b", "", "b"], ["b a", "a", "a"], 2) == 1
    assert distinct(["a b", "", "b"], 2) == 1
    for texts in ([], [""], ["a", "b"]):
        assert distinct(texts, 2) == repetition(texts, 2) == novelty(texts, texts, 2) == 0


def test_ngrams_end_with_their_text():
    assert ngrams(["a b", "c"], 2) == [[("a", "b")], []]
    assert novelty(["b c"], ["a b"], 2) == 1


def test_words_are_letters_and_digits_of_any_script():
    assert words("Ünï-CODE: 3,5 % день_日本") == ["ünï", "code", "3", "5", "день", "日本"]
    assert words("…") == []
    assert novelty(["RAIN fell"], ["rain, fell"], 2) == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: distinct("a b", 1), "one string"),
        (lambda: repetition("a b", 1), "one string"),
        (lambda: novelty("a b", ["a"], 1), "one string"),
        (lambda: distinct(["a b"], 0), "n is 0"),
        (lambda: novelty(["a"], ["a", "b"], 1), "1 texts for 2 sources"),
    ],
)
def test_what_cannot_be_counted(call, said):
    with pytest.raises(ValueError, match=said):
        call()
