"""Layers behave in training and in evaluation as their names promise."""

from __future__ import annotations

import torch

from minift.nn.layers import Dropout


def test_dropout_is_the_identity_in_evaluation():
    x, layer = torch.randn(3, 5), Dropout(0.5)
    assert (layer(x) == 0).any()
    assert layer.eval()(x) is x
