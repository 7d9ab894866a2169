"""Relative positions: a learned bias for each head and bucket of distances.

Shaw et al. 2018, "Self-attention with relative position representations"; in buckets, Raffel et al.
2020 (T5).  The bias is added to the scores of attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def relative_position_bucket(
    relative_position: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """The bucket of each relative position (position of the key - of the query), same shape.

    Half of the buckets hold one distance each.  The other half hold ranges that grow by a constant
    factor up to `max_distance`; every greater distance is in the last bucket.  A bidirectional
    bias gives each direction half of the buckets, the upper half to keys that come later.
    Otherwise a later key counts as distance 0.

    With 8 buckets, max_distance 16, unidirectional: 0 1 2 3 | 4 5 | 6 7 | 8 ... 11 | 12 and more

    >>> relative_position_bucket(-torch.arange(14), False, 8, 16).tolist()
    [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7]
    >>> relative_position_bucket(torch.tensor([-2, -1, 0, 1, 2]), True, 8, 16).tolist()
    [2, 1, 0, 5, 6]
    """
    offset = torch.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        offset = (relative_position > 0).long() * num_buckets
        distance = relative_position.abs()
    else:
        distance = (-relative_position).clamp_min(0)
    exact = num_buckets // 2
    # In float32, as T5 was trained: rounding decides where a range begins.
    far = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (far * (num_buckets - exact)).long()).clamp_max(num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """A learned number for each of N heads and each bucket of distances."""

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool):
        super().__init__()
        self.bidirectional = bidirectional
        self.max_distance = max_distance
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, length: int, last_query_only: bool = False) -> Tensor:
        """(N, length or 1, length): the bias of each query, or of the last one, for each key."""
        positions = torch.arange(length, device=self.embedding.weight.device)
        queries = positions[-1:] if last_query_only else positions
        relative = positions - queries[:, None]  # (length or 1, length)
        buckets = relative_position_bucket(
            relative, self.bidirectional, self.embedding.num_embeddings, self.max_distance
        )
        return self.embedding(buckets).permute(2, 0, 1)  # (N, length or 1, length)
