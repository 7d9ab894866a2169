"""Packing is a way to lay out a batch and must never show in a result."""

from __future__ import annotations

import pytest
import torch

from minift.nn.attention import attend, attend_jagged, attend_padded, pack

MASKS = {
    "right padding": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]],
    "left padding": [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]],
    "nothing real": [[0, 0], [0, 0]],
    "all real": [[1, 1, 1], [1, 1, 1]],
    "one token": [[1]],
}


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
        torch.testing.assert_close(packing.first(packing.take(x))[i], first)
        torch.testing.assert_close(packing.mean(packing.take(x))[i], mean)


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
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_jagged_kernel_of_the_gpu_gives_the_same_with_gradients(rows):
    packing = pack(torch.tensor(rows))
    results = []
    x = torch.randn(len(packing.index), 3, 3, 8)
    for kernel in (attend, attend_jagged):
        leaf = x.clone().requires_grad_()
        mixed = kernel(*leaf.unbind(1), packing)
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
    parts = (packing.take(x) for x in (q, k, v))
    found = packing.pad(attend(*parts, packing, fused=fused, scale=1.0, bias=bias))
    for b in range(batch):
        real = mask[b].nonzero()[:, 0].tolist()
        for i in real:
            scores = torch.stack([(q[b, i] * k[b, j]).sum(-1) + bias[:, i, j] for j in real])
            weights = scores.softmax(0)  # (real, N)
            expected = (weights[..., None] * v[b, real]).sum(0)
            assert torch.allclose(found[b, i], expected, atol=1e-5)
    assert packing.has_holes == any("101" in row or "1001" in row for row in _rows(mask))


def _rows(mask):
    return ["".join(map(str, row)) for row in mask.tolist()]


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="batch, tokens"):
        pack(torch.ones(3))
