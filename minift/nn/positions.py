"""Positions that are known by distance alone (Shaw et al. 2018; in buckets, Raffel et al. 2020).

A number for each head and bucket of distances is added to the scores of attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def bucket(distance: Tensor, both_ways: bool, buckets: int, longest: int) -> Tensor:
    """The bucket of each distance (place of the key - of the query): far ones share buckets.

    Half of the buckets are for single distances, the other half for ranges that grow by a constant
    factor up to `longest`; all further ones share the last.  In both directions, each has half of
    the buckets, keys that come later in the upper half; else later keys count as distance 0.

    With 8 buckets, longest 16, backwards: 0 1 2 3 | 4 5 | 6 7 | 8 ... 11 | 12 and more

    >>> bucket(-torch.arange(14), False, 8, 16).tolist()
    [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7]
    >>> bucket(torch.tensor([-2, -1, 0, 1, 2]), True, 8, 16).tolist()
    [2, 1, 0, 5, 6]
    """
    offset = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    near = buckets // 2
    # In float32, as T5 was trained: where a range begins depends on the rounding.
    far = torch.log(distance.clamp_min(1).float() / near) / math.log(longest / near)
    far = (near + (far * (buckets - near)).long()).clamp_max(buckets - 1)
    return offset + torch.where(distance < near, distance, far)


class PositionBias(nn.Module):
    """What is added to the scores of each of N heads for each distance."""

    def __init__(self, heads: int, buckets: int, longest: int, both_ways: bool):
        super().__init__()
        self.both_ways = both_ways
        self.longest = longest
        self.table = nn.Embedding(buckets, heads)

    def forward(self, length: int) -> Tensor:
        """(N, length, length): for each query, each key."""
        places = torch.arange(length, device=self.table.weight.device)
        distance = places - places[:, None]  # (length, length)
        found = bucket(distance, self.both_ways, self.table.num_embeddings, self.longest)
        return self.table(found).permute(2, 0, 1)  # (N, length, length)
