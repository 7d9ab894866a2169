"""Buckets of relative positions equal those of `transformers`."""

from __future__ import annotations

import pytest
import torch

from minift.nn.positions import relative_position_bucket


def test_buckets_equal_those_of_transformers():
    modeling = pytest.importorskip(
        "transformers.models.t5.modeling_t5", reason="compares with transformers, not here"
    )
    reference = modeling.T5Attention._relative_position_bucket
    distance = torch.arange(-700, 701)
    for buckets, max_distance in ((32, 128), (8, 10), (16, 500), (4, 3), (64, 64)):
        for bidirectional in (False, True):
            expected = reference(distance, bidirectional, buckets, max_distance)
            assert torch.equal(
                relative_position_bucket(distance, bidirectional, buckets, max_distance), expected
            )
