"""Attention over a packed batch equals masked attention over the padded batch."""

from __future__ import annotations

import pytest
import torch
from support.attention import MASKS, assert_gradients_use_the_weights_that_were_kept

from minift.nn.attention import attention, masked_bias, packed_attention
from minift.nn.packing import pack


def qkv(tokens: int, heads: int = 3, width: int = 8):
    return torch.randn(tokens, 3, heads, width).unbind(1)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("fused", [True, False])
def test_packed_attention_equals_masked_attention_over_the_padded_batch(rows, fused):
    mask = torch.tensor(rows).bool()
    packing = pack(mask)
    q, k, v = qkv(int(mask.sum()))
    mixed = packing.pad(packed_attention(q, k, v, packing, fused=fused))
    heads = [packing.pad(x).transpose(1, 2) for x in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(-1, -2) / 8**0.5
    scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
    expected = (scores.softmax(-1) @ heads[2]).transpose(1, 2)
    torch.testing.assert_close(mixed[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("fused", [True, False])
def test_attention_of_the_cls_tokens_equals_their_rows_of_all_attention(rows, fused):
    packing = pack(torch.tensor(rows))
    q, k, v = qkv(len(packing.index))
    all_rows = packing.cls_tokens(packed_attention(q, k, v, packing, fused=fused))
    cls_rows = packed_attention(packing.cls_tokens(q), k, v, packing, fused=fused, cls_only=True)
    torch.testing.assert_close(cls_rows, all_rows, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MASKS if name != "gaps"])
def test_a_masked_bias_gives_the_same_over_the_padded_batch(name):
    packing = pack(torch.tensor(MASKS[name]))
    width = packing.padded_length
    x = torch.randn(len(packing.index), 3, 2, 8)
    bias = torch.randn(2, 2 * width)[:, torch.arange(width) - torch.arange(width)[:, None] + width]
    assert not packing.has_gaps
    results = []
    for given in (bias, masked_bias(bias, packing)):
        leaf = x.clone().requires_grad_()
        mixed = packed_attention(*leaf.unbind(1), packing, bias=given)
        mixed.square().sum().backward()
        results.append((mixed, leaf.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_dropout_drops_attention_weights_and_keeps_their_expectation():
    q, k = torch.zeros(2, 1, 1, 40, 4)  # equal scores: each weight is 1 / 40
    v = torch.ones(1, 1, 40, 4)
    dropped = torch.stack(
        [attention(q[None], k[None], v, dropout=0.5, fused=False) for _ in range(200)]
    )
    assert dropped.std() > 0.05
    assert abs(dropped.mean() - 1) < 0.02


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_bias_counts_positions_in_the_batch(mask, fused):
    mask = torch.tensor(mask)
    batch, width = mask.shape
    q, k, v = torch.randn(3, batch, width, 2, 4)
    distance = torch.arange(width) - torch.arange(width)[:, None]
    bias = torch.randn(2, 2 * width)[:, distance + width]  # (N, T, T)
    packing = pack(mask)
    if packing.has_gaps:
        bias = masked_bias(bias, packing)
    parts = (packing.unpad(x) for x in (q, k, v))
    found = packing.pad(packed_attention(*parts, packing, fused=fused, scale=1.0, bias=bias))
    for b in range(batch):
        own = bias[b] if bias.dim() == 4 else bias
        real = mask[b].nonzero()[:, 0].tolist()
        for i in real:
            scores = torch.stack([(q[b, i] * k[b, j]).sum(-1) + own[:, i, j] for j in real])
            weights = scores.softmax(0)  # (real, N)
            expected = (weights[..., None] * v[b, real]).sum(0)
            assert torch.allclose(found[b, i], expected, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_gradients_use_the_weights_that_dropout_kept(kind):
    assert_gradients_use_the_weights_that_were_kept("cpu", kind)
