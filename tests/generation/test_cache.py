"""The cache of the decoder grows with what is generated, and growing changes nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support.tiny_t5 import TINY, sources
from torch.utils._python_dispatch import TorchDispatchMode

from minift.generation import cache
from minift.generation.cache import DecoderState
from minift.models import seq2seq
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.nn.attention import MASK_VALUE
from minift.nn.positions import RelativePositionBias


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(T5Config(**TINY)).eval()
    torch.nn.init.normal_(model.decoder.position.embedding.weight)
    with torch.no_grad():
        model.shared.weight[1] *= 3  # the end is likely
    return model


class Allocations(TorchDispatchMode):
    """The bytes of all tensors that operators return, and of the largest one."""

    def __init__(self):
        super().__init__()
        self.total, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.total += tensor.nbytes
                self.largest = max(self.largest, tensor.nbytes)
        return found


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_high_limit_costs_nothing(model, beams, static, monkeypatch):
    """A text that ends after a few tokens takes the same memory with a limit of ten thousand."""
    monkeypatch.setattr(seq2seq, "DecoderState", partial(DecoderState, static=static))
    ids, mask = sources(0)
    model.generate(ids, mask, max_new_tokens=2)  # kernels are tried once in a process
    costs, texts = [], []
    for limit in (200, 10_000, 10**9):
        with Allocations() as allocations:
            texts.append(model.generate(ids, mask, max_new_tokens=limit, num_beams=beams))
        costs.append((allocations.total, allocations.largest))
    assert texts[0].shape[1] < 100
    assert costs[0] == costs[1] == costs[2]
    assert all(torch.equal(text, texts[0]) for text in texts)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
def test_growing_changes_no_bit(model, beams, static, monkeypatch):
    ids, mask = sources(1)
    prompts = torch.tensor([[0, 7, 8, 9, 10, 11, 12]] * len(ids))
    results, capacities = [], []
    for first in (1, 3, 1000):
        monkeypatch.setattr(cache, "FIRST_CAPACITY", first)
        logits = []

        class Recorder(DecoderState):
            def step(self, tokens, logits=logits, capacities=capacities):
                logits.append(super().step(tokens))
                capacities.append(self.capacity)
                return logits[-1]

        monkeypatch.setattr(seq2seq, "DecoderState", partial(Recorder, static=static))
        text = model.generate(
            ids,
            mask,
            decoder_input_ids=prompts,
            max_new_tokens=40,
            min_new_tokens=20,
            num_beams=beams,
        )
        results.append((text, torch.cat(logits)))
    assert {7, 14, 28} < set(capacities)
    assert max(capacities) == 46  # all tokens but the last, which is not read
    for text, logits in results[1:]:
        assert torch.equal(text, results[0][0])
        if static:  # over as many keys as the cache has room for, so sums are rounded otherwise
            torch.testing.assert_close(logits, results[0][1], atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(logits, results[0][1])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_of_the_last_query(bidirectional):
    position = RelativePositionBias(3, 8, 20, bidirectional)
    for length in (1, 2, 9, 40):
        assert torch.equal(position(length, last_query_only=True), position(length)[:, -1:])


def test_the_bias_of_each_step_is_a_row_of_the_whole_one(model):
    memory = model.encoder_memory(*model.encode(*sources(2)))
    state = DecoderState(model, memory, rows_per_source=1, max_length=12)
    with torch.no_grad():
        state.step(torch.ones(4, 5, dtype=torch.int64))
    whole = model.decoder_bias(12)
    future = torch.ones(12, 12, dtype=torch.bool).triu(1)
    expected = whole.masked_fill(future, MASK_VALUE)
    assert state.capacity == 12
    assert torch.equal(state._bias(torch.arange(12), 12), expected)
    assert torch.equal(state._bias(torch.tensor([3, 7]), 9), expected[:, [3, 7], :9])
