"""Labels go from words to subword tokens and back, and every word gets exactly one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from minift.data.batching import IGNORE_INDEX
from minift.data.columns import TagRecord
from minift.data.tags import allowed_transitions, tag_names, to_iob2
from minift.tasks.ner import NerOptions, NerTask
from minift.text.alignment import (
    AGGREGATION_STRATEGIES,
    LABEL_STRATEGIES,
    aggregate_subwords,
    align_labels,
    split_words,
    subword_spans,
    viterbi_decode,
)
from minift.text.tokenizer import Tokenizer
from minift.text.windows import best_window, windows

LABELS = tag_names(["LOC", "PER"])
INSIDE = [0, 2, 2, 4, 4]
NASTY = ["", " ", "a b", "\t", "😀", "👩\u200d👧", "e\u0301", "\u0301", "\x00", "\u200b", "中文字",
         "x" * 10_000, "-." * 200, "[SEP]", "good", "goodly", "İ", "\ud7ff", "ﬀ"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """Of few words and all letters, so that most words are split or unknown."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-.😀"
    subwords = [*letters, *(f"##{letter}" for letter in letters)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, "good", *subwords]) + "\n", "utf-8")
    return Tokenizer.from_pretrained(folder)


def test_the_example_in_the_docstring():
    spans, labels, inside = [(0, 1), (1, 3), (3, 4)], [1, 2, 0], [0, 2, 2]
    made = {how: align_labels(spans, labels, inside, how, 4) for how in LABEL_STRATEGIES}
    assert made == {
        "first": [1, 2, IGNORE_INDEX, 0],
        "last": [1, IGNORE_INDEX, 2, 0],
        "all": [1, 2, 2, 0],
    }
    assert align_labels([(0, 2)], [1], inside, "all", 2) == [1, 2]


@pytest.fixture(scope="module")
def task(tokenizer):
    """Makes tasks."""

    def make(strategy="first", aggregation=None, max_length=16, doc_stride=None) -> NerTask:
        options = NerOptions(
            label_strategy=strategy, aggregation_strategy=aggregation, doc_stride=doc_stride
        )
        return NerTask(options, tokenizer, max_length, LABELS)

    return make


def oracle(features, labels, certainty=8.0):
    """Scores of a model that knows the label of every labelled subword token, and no other."""
    for feature in features:
        logits = np.zeros((feature.length, len(labels)), dtype=np.float32)
        for i, label in enumerate(feature.labels):
            if label != IGNORE_INDEX:
                logits[i, label] = certainty
        yield logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def answers(made: NerTask, record: TagRecord) -> tuple[dict[int, str], set[int]]:
    """word -> the tag from the oracle's scores; and the words without a subword token."""
    found, empty = {}, set()
    features = made.featurize([record], training=True)
    for feature, scores in zip(features, oracle(features, made.labels), strict=True):
        assert feature.length <= made.max_length
        rows = aggregate_subwords(
            scores,
            feature.spans,
            made.inside,
            made.options.aggregation,
            made.options.label_strategy,
        )
        for word, span, row in zip(feature.words, feature.spans, rows, strict=True):
            assert word not in found, "a word is answered twice"
            assert np.isfinite(row).all()
            found[word] = made.labels[row.argmax()]
            if span[0] == span[1]:
                empty.add(word)
    return found, empty


def check_round_trip(task, words, tags, max_length, strategy, aggregation):
    record = TagRecord("0", tuple(words), tuple(tags))
    found, empty = answers(task(strategy, aggregation, max_length), record)
    assert sorted(found) == list(range(len(words))), "one answer for each word"
    for i, tag in enumerate(tags):
        assert found[i] == ("O" if i in empty else tag)


# Which aggregation inverts which labelling: the scores of a token without a label say nothing.
PAIRS = [("first", "first"), ("last", "last"), *(("all", how) for how in AGGREGATION_STRATEGIES)]


def random_case(draw: random.Random) -> tuple[list[str], list[str]]:
    words = [draw.choice(NASTY) for _ in range(draw.randint(1, 25))]
    tags = [draw.choice(LABELS) for _ in words]
    return words, to_iob2(tags, "iob1")


@pytest.mark.parametrize(("strategy", "aggregation"), PAIRS)
def test_words_to_subword_tokens_to_words_is_the_identity(task, strategy, aggregation):
    draw = random.Random(0)
    for _ in range(25):
        words, tags = random_case(draw)
        check_round_trip(task, words, tags, draw.choice([3, 4, 7, 16, 64]), strategy, aggregation)


def test_the_same_for_any_text(task):
    hypothesis = pytest.importorskip("hypothesis", reason="draws texts with hypothesis, not here")
    st = hypothesis.strategies
    word = st.one_of(st.text(max_size=8), st.sampled_from(NASTY))
    made = st.lists(st.tuples(word, st.sampled_from(LABELS)), min_size=1, max_size=30)

    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(made, st.integers(3, 40), st.sampled_from(PAIRS))
    def check(pairs, max_length, how):
        words, tags = [w for w, _ in pairs], to_iob2([t for _, t in pairs], "iob1")
        check_round_trip(task, words, tags, max_length, *how)

    check()


def test_a_later_subword_token_gives_the_type_and_the_first_one_gives_b_or_i():
    """Two tokens: B-PER surely, then I-PER surely; every aggregation makes the word B-PER."""
    scores = np.log(np.array([[0.1, 0.6, 0.3], [0.02, 0.03, 0.95]]))
    for how in AGGREGATION_STRATEGIES:
        (row,) = aggregate_subwords(scores, [(0, 2)], [0, 2, 2], how, "all")
        assert row.argmax() == 1, how
    (row,) = aggregate_subwords(scores, [(0, 2)], [0, 2, 2], "last", "all")
    assert np.exp(row) == pytest.approx([0.02, 0.98 * 2 / 3, 0.98 / 3])


def test_the_aggregation_strategies_differ():
    scores = np.log(np.array([[0.55, 0.45], [0.55, 0.45], [0.01, 0.99]]))
    rows = {
        how: aggregate_subwords(scores, [(0, 3)], [0, 1], how, "all")[0]
        for how in AGGREGATION_STRATEGIES
    }
    assert {how: row.argmax() for how, row in rows.items()} == {
        "first": 0,
        "last": 1,
        "majority": 0,
        "average": 1,
        "max": 1,
    }
    # The average breaks a tie.
    (row,) = aggregate_subwords(scores[1:], [(0, 2)], [0, 1], "majority", "all")
    assert row.argmax() == 1


@pytest.mark.parametrize("strategy", LABEL_STRATEGIES)
def test_max_takes_the_scores_of_the_most_certain_subword_token(strategy):
    """Against a plain loop; of equally certain tokens the first one, as in `transformers`."""
    draw = np.random.default_rng(0)
    inside = INSIDE if strategy != "all" else list(range(len(LABELS)))  # nothing to divide
    for _ in range(200):
        logits = draw.integers(-3, 4, size=(draw.integers(1, 12), len(LABELS)))  # some ties
        scores = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        cuts = sorted(draw.integers(0, len(scores) + 1, draw.integers(0, 5)).tolist())
        spans = list(itertools.pairwise([0, *cuts, len(scores)]))
        found = aggregate_subwords(scores, spans, inside, "max", strategy)
        for (start, end), row in zip(spans, found, strict=True):
            best = None
            for token in scores[start:end]:
                if best is None or max(token) > max(best):
                    best = token
            assert row.tolist() == ([-np.log(len(LABELS))] * 5 if best is None else best.tolist())


def test_max_divides_between_begin_and_inside_as_the_first_token_does():
    """With "all": of the second token, P(PER) = 0.98 divided 2 : 1; the most certain one after."""
    scores = np.log(np.array([[0.1, 0.6, 0.3], [0.02, 0.03, 0.95], [0.9, 0.05, 0.05]]))
    (two,) = aggregate_subwords(scores[:2], [(0, 2)], [0, 2, 2], "max", "all")
    assert np.exp(two) == pytest.approx([0.02, 0.98 * 2 / 3, 0.98 / 3])
    (three,) = aggregate_subwords(scores, [(0, 3)], [0, 2, 2], "max", "all")
    assert np.exp(three) == pytest.approx([0.9, 0.1 * 2 / 3, 0.1 / 3])


def test_viterbi_equals_trying_every_path():
    draw = np.random.default_rng(0)
    start, step = allowed_transitions(LABELS)
    for _ in range(200):
        scores = draw.normal(size=(draw.integers(1, 6), len(LABELS)))
        paths = [
            path
            for path in itertools.product(range(len(LABELS)), repeat=len(scores))
            if start[path[0]] and all(step[a, b] for a, b in itertools.pairwise(path))
        ]
        best = max(paths, key=lambda p: sum(scores[i, label] for i, label in enumerate(p)))
        found = viterbi_decode(scores, start, step)
        assert found.tolist() == list(best)
        to_iob2([LABELS[i] for i in found], "iob2")  # raises for what is not legal
    assert viterbi_decode(np.zeros((0, 5)), start, step).shape == (0,)


def test_the_best_window_has_the_most_context():
    """Against the definition, over all windows and words."""
    draw = random.Random(0)
    for _ in range(500):
        length, size = draw.randint(1, 40), draw.randint(1, 12)
        parts = windows(length, size, draw.randint(0, size - 1))
        cuts = sorted(draw.sample(range(length + 1), k=min(length, draw.randint(0, 9))))
        spans = list(itertools.pairwise([0, *cuts, length]))
        for (start, end), owner in zip(spans, best_window(spans, parts), strict=True):
            holding = [
                (min(start - a, b - end), -i) for i, (a, b) in enumerate(parts) if a <= start < b
            ]
            if start < end:
                assert owner == -max(holding)[1]
            else:
                assert 0 <= owner < len(parts)


def test_windows_of_a_long_sentence_answer_each_word_once(task):
    words = [f"w{i}" for i in range(3000)]
    record = TagRecord("0", tuple(words), ("O",) * 3000)
    for doc_stride in (0, 5, None):
        made = task(max_length=64, doc_stride=doc_stride)
        features = made.featurize([record], training=True)
        answered = [word for feature in features for word in feature.words]
        assert sorted(answered) == list(range(3000))
        assert len(features) > 10
        for feature in features:
            for word, (start, end) in zip(feature.words, feature.spans, strict=True):
                ids = made.tokenizer.tokens([[words[word]]], is_split_into_words=True)[0].ids
                assert feature.input_ids[start:end] == ids[: end - start]
                assert end - start == len(ids) or doc_stride == 0, "a word is cut without need"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  ", []),
        ("Hello, world!", ["Hello", ",", "world", "!"]),
        ("the U.S. and J. K. Osei's", ["the", "U.S.", "and", "J.", "K.", "Osei", "'s"]),
        ("Jean-Luc's 3.5% don't", ["Jean-Luc", "'s", "3.5", "%", "don't"]),
        ("Łódź, São Paulo", ["Łódź", ",", "São", "Paulo"]),
        ("cafe\u0301 😀😀", ["cafe\u0301", "😀", "😀"]),
        ("(AC/DC)", ["(", "AC/DC", ")"]),
    ],
)
def test_raw_text_becomes_words(text, words):
    spans = split_words(text)
    assert [text[start:end] for start, end in spans] == words


def test_no_character_is_lost():
    text = "".join(NASTY) + " and, so: on\u00a0… (it's) 1.5m"
    spans = split_words(text)
    left = [c for i, c in enumerate(text) if not any(s <= i < e for s, e in spans)]
    assert all(c.isspace() for c in left)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_words_without_subword_tokens():
    assert subword_spans([1, 1, 4], 6) == [(0, 0), (0, 2), (2, 2), (2, 2), (2, 3), (3, 3)]
    rows = aggregate_subwords(np.zeros((0, 3)), [(0, 0)], [0, 2, 2], "average", "all")
    assert np.exp(rows[0]) == pytest.approx([1 / 3] * 3)
