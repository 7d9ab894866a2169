"""Packing is a way to lay out a batch and must never show in a result."""

from __future__ import annotations

import pytest
import torch
from support.attention import MASKS, assert_gradients_use_the_weights_that_were_kept

from minift.nn import attention
from minift.nn.attention import attend, attend_padded, barred, pack


def qkv(tokens: int, heads: int = 3, width: int = 8):
    return torch.randn(tokens, 3, heads, width).unbind(1)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_pack_and_pad_are_inverse(rows):
    mask = torch.tensor(rows)
    packing = pack(mask)
    x = torch.randn(*mask.shape, 5)
    packed = packing.take(x)
    assert len(packed) == mask.sum() == sum(n * length for n, length in packing.runs)
    assert torch.equal(packing.pad(packed), x * mask[..., None])
    assert torch.equal(packing.columns, packing.take(torch.arange(mask.shape[1]).expand_as(mask)))


def test_example_of_the_module():
    packing = pack(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]))
    assert packing.runs == [(1, 1), (2, 2), (1, 4)]
    assert packing.order.tolist() == [3, 1, 2, 0]
    assert packing.index.tolist() == [12, 4, 5, 8, 9, 0, 1, 2, 3]


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_first_and_mean_of_each_row(rows):
    mask = torch.tensor(rows).bool()
    packing = pack(mask)
    x = torch.randn(*mask.shape, 5)
    for i, row in enumerate(mask):
        real = x[i][row]
        first = real[0] if len(real) else torch.zeros(5)
        mean = real.mean(0) if len(real) else torch.zeros(5)
        packed = packing.take(x)
        torch.testing.assert_close(packing.rows(packing.firsts(packed))[i], first)
        torch.testing.assert_close(packing.rows(packing.means(packed))[i], mean)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("fused", [True, False])
def test_attend_equals_masked_attention_over_the_padded_batch(rows, fused):
    mask = torch.tensor(rows).bool()
    packing = pack(mask)
    q, k, v = qkv(int(mask.sum()))
    mixed = packing.pad(attend(q, k, v, packing, fused=fused))
    heads = [packing.pad(x).transpose(1, 2) for x in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(-1, -2) / 8**0.5
    scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
    expected = (scores.softmax(-1) @ heads[2]).transpose(1, 2)
    torch.testing.assert_close(mixed[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("fused", [True, False])
def test_first_tokens_alone_see_what_they_see_among_all(rows, fused):
    packing = pack(torch.tensor(rows))
    q, k, v = qkv(len(packing.index))
    among_all = packing.firsts(attend(q, k, v, packing, fused=fused))
    alone = attend(packing.firsts(q), k, v, packing, fused=fused, firsts=True)
    torch.testing.assert_close(alone, among_all, atol=1e-5, rtol=1e-5)


def a_kernel(q, k, v, asking, starts, most, longest, scale):
    """What torch's variable-length kernels do, sequence by sequence; q, k, v: (S, N, D)."""
    assert asking.dtype is starts.dtype is torch.int32
    assert most == max(asking.diff())
    assert longest == max(starts.diff())
    parts = []
    for i in range(len(starts) - 1):
        own, seen = (slice(*ends[i : i + 2].tolist()) for ends in (asking, starts))
        heads = (x.transpose(0, 1) for x in (q[own], k[seen], v[seen]))
        parts.append(attend_padded(*heads, scale=scale).transpose(0, 1))
    return torch.cat(parts)


class Kernels:
    """In place of torch.ops.aten: its kernels for a GPU, with the arguments that they take."""

    @staticmethod
    def _efficient_attention_forward(
        q, k, v, bias, asking, starts, most, longest, dropout, mask, learns, *, scale
    ):
        assert (bias, mask, learns) == (None, 0, True)
        return [a_kernel(q[0], k[0], v[0], asking, starts, most, longest, scale)[None]]

    @staticmethod
    def _flash_attention_forward(
        q, k, v, asking, starts, most, longest, dropout, causal, debug, *, scale
    ):
        assert (causal, debug) == (False, False)
        return [a_kernel(q, k, v, asking, starts, most, longest, scale)]


@pytest.mark.parametrize("firsts", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_the_kernels_of_the_gpu_are_told_where_sequences_are(rows, kind, firsts, monkeypatch):
    packing = pack(torch.tensor(rows))
    x = torch.randn(len(packing.index), 3, 3, 8, dtype=kind)
    results = []
    for there in (False, True):
        monkeypatch.setattr(attention, "_has_kernel", lambda q, there=there: there)
        leaf = x.clone().requires_grad_()
        with monkeypatch.context() as patch:
            if there:
                patch.setattr(torch.ops, "aten", Kernels)
            q, k, v = leaf.unbind(1)
            mixed = attend(packing.firsts(q) if firsts else q, k, v, packing, firsts=firsts)
        mixed.square().sum().backward()
        results.append((mixed, leaf.grad))
    close = 1e-5 if kind is torch.float32 else 5e-2
    torch.testing.assert_close(results[0], results[1], atol=close, rtol=close)


@pytest.mark.parametrize("name", [name for name in MASKS if "hole" not in name])
def test_a_barred_bias_pads_the_batch_and_gives_the_same(name):
    packing = pack(torch.tensor(MASKS[name]))
    width = packing.width
    x = torch.randn(len(packing.index), 3, 2, 8)
    bias = torch.randn(2, 2 * width)[:, torch.arange(width) - torch.arange(width)[:, None] + width]
    assert not packing.has_holes
    results = []
    for given in (bias, barred(bias, packing)):
        leaf = x.clone().requires_grad_()
        mixed = attend(*leaf.unbind(1), packing, bias=given)
        mixed.square().sum().backward()
        results.append((mixed, leaf.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_dropout_falls_on_the_weights_and_keeps_their_expectation():
    q, k = torch.zeros(2, 1, 1, 40, 4)  # equal scores: each weight is 1 / 40
    v = torch.ones(1, 1, 40, 4)
    dropped = torch.stack(
        [attend_padded(q[None], k[None], v, dropout=0.5, fused=False) for _ in range(200)]
    )
    assert dropped.std() > 0.05
    assert abs(dropped.mean() - 1) < 0.02


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_bias_counts_places_in_the_batch(mask, fused):
    mask = torch.tensor(mask)
    batch, width = mask.shape
    q, k, v = torch.randn(3, batch, width, 2, 4)
    distance = torch.arange(width) - torch.arange(width)[:, None]
    bias = torch.randn(2, 2 * width)[:, distance + width]  # (N, T, T)
    packing = pack(mask)
    if packing.has_holes:
        bias = barred(bias, packing)
    parts = (packing.take(x) for x in (q, k, v))
    found = packing.pad(attend(*parts, packing, fused=fused, scale=1.0, bias=bias))
    for b in range(batch):
        own = bias[b] if bias.dim() == 4 else bias
        real = mask[b].nonzero()[:, 0].tolist()
        for i in real:
            scores = torch.stack([(q[b, i] * k[b, j]).sum(-1) + own[:, i, j] for j in real])
            weights = scores.softmax(0)  # (real, N)
            expected = (weights[..., None] * v[b, real]).sum(0)
            assert torch.allclose(found[b, i], expected, atol=1e-5)
    assert packing.has_holes == any("101" in row or "1001" in row for row in _rows(mask))


def _rows(mask):
    return ["".join(map(str, row)) for row in mask.tolist()]


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="batch, tokens"):
        pack(torch.ones(3))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_gradients_use_the_weights_that_were_kept(kind):
    assert_gradients_use_the_weights_that_were_kept("cpu", kind)
