"""Batches hold every index once, group similar lengths, and are a function of (seed, epoch)."""

from __future__ import annotations

import random

import pytest

from minift.data.batching import pad, sorted_batches, training_batches


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (7, 3), (500, 4), (333, 32)])
def test_every_index_occurs_once(count, size, by_length):
    lengths = [random.Random(i).randint(1, 60) for i in range(count)]
    for epoch in range(3):
        batches = training_batches(lengths, size, seed=7, epoch=epoch, by_length=by_length)
        assert sorted(i for batch in batches for i in batch) == list(range(count))
        assert all(0 < len(batch) <= size for batch in batches)
    assert sorted(i for batch in sorted_batches(lengths, size) for i in batch) == list(range(count))


def test_batches_depend_on_seed_and_epoch_only():
    lengths = list(range(200))
    first = training_batches(lengths, 8, seed=1, epoch=0)
    assert first == training_batches(lengths, 8, seed=1, epoch=0)
    assert first != training_batches(lengths, 8, seed=1, epoch=1)
    assert first != training_batches(lengths, 8, seed=2, epoch=0)


def padding(lengths, batches):
    real = sum(lengths)
    return 1 - real / sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)


def test_length_aware_batches_have_little_padding_and_the_longest_comes_first():
    lengths = [random.Random(i).randint(4, 60) for i in range(2000)]
    batches = training_batches(lengths, 16, seed=1, epoch=0)
    shuffled = training_batches(lengths, 16, seed=1, epoch=0, by_length=False)
    assert padding(lengths, batches) < 0.05 < 0.3 < padding(lengths, shuffled)
    assert max(lengths) in [lengths[i] for i in batches[0]]
    # Still a mixture: the batches do not come in order of length.
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in batches]
    assert means[1:] != sorted(means[1:], reverse=True)


def test_padding_is_on_the_right():
    assert pad([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
