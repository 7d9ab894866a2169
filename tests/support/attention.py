"""Masks, and a check of attention's gradients under dropout, for the CPU and for a GPU."""

from __future__ import annotations

import torch

from minift.nn.attention import packed_attention
from minift.nn.packing import pack

MASKS = {
    "right padding": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]],
    "left padding": [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
    "gaps": [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]],
    "nothing real": [[0, 0], [0, 0]],
    "all real": [[1, 1, 1], [1, 1, 1]],
    "one token": [[1]],
}


def assert_gradients_use_the_weights_that_were_kept(device, kind, close=1e-5):
    """The gradients under dropout equal those of the formula with the same weights dropped.

    With the same seed the same weights are dropped.  One-hot values show which ones.
    """
    lengths = [1, 3, 3, 7, 23, 40]
    packing = pack((torch.arange(40) < torch.tensor(lengths)[:, None]).long().to(device))
    q, k, v = (torch.randn(sum(lengths), 2, 64) for _ in range(3))
    positions = torch.cat([torch.arange(length) for length in lengths])
    one_hot = torch.eye(64)[positions][:, None].expand(-1, 2, -1)

    def dropped(*x):
        torch.manual_seed(5)
        return packed_attention(*x, packing, dropout=0.25)

    kept = dropped(*(x.to(device, kind) for x in (q, k, one_hot))).float().cpu() > 0  # (S, N, K)
    share = kept.sum() / sum(2 * length**2 for length in lengths)
    assert 0.7 < share < 0.8

    leaves = [x.to(device, kind).requires_grad_() for x in (q, k, v)]
    found = dropped(*leaves)
    found.sin().sum().backward()
    exact = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    parts = []
    for *heads, mask in zip(*(x.split(lengths) for x in (*exact, kept)), strict=True):
        one, two, three = (x.transpose(0, 1) for x in heads)
        weights = (one @ two.transpose(1, 2) / 8).softmax(-1)  # (N, L, L)
        weights = weights * mask.transpose(0, 1)[..., : weights.shape[-1]] / 0.75
        parts.append((weights @ three).transpose(0, 1))
    expected = torch.cat(parts)
    expected.sin().sum().backward()
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True))]
    for ours, theirs in pairs:
        assert (ours.double().cpu() - theirs).norm() < close * theirs.norm()
