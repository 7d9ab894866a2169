"""A packed batch holds the real tokens of the padded one, and padding restores it."""

from __future__ import annotations

import pytest
import torch
from support.attention import MASKS

from minift.nn.packing import pack


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_unpad_and_pad_are_inverse(rows):
    mask = torch.tensor(rows)
    packing = pack(mask)
    x = torch.randn(*mask.shape, 5)
    packed = packing.unpad(x)
    assert len(packed) == mask.sum() == sum(n * length for n, length in packing.length_groups)
    assert torch.equal(packing.pad(packed), x * mask[..., None])
    assert torch.equal(
        packing.positions, packing.unpad(torch.arange(mask.shape[1]).expand_as(mask))
    )


def test_the_example_of_the_module():
    packing = pack(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]))
    assert packing.length_groups == [(1, 1), (2, 2), (1, 4)]
    assert packing.order.tolist() == [3, 1, 2, 0]
    assert packing.index.tolist() == [12, 4, 5, 8, 9, 0, 1, 2, 3]


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_cls_token_and_mean_of_each_row(rows):
    mask = torch.tensor(rows).bool()
    packing = pack(mask)
    x = torch.randn(*mask.shape, 5)
    for i, row in enumerate(mask):
        real = x[i][row]
        first = real[0] if len(real) else torch.zeros(5)
        mean = real.mean(0) if len(real) else torch.zeros(5)
        packed = packing.unpad(x)
        torch.testing.assert_close(packing.unsort(packing.cls_tokens(packed))[i], first)
        torch.testing.assert_close(packing.unsort(packing.mean_pool(packed))[i], mean)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_gaps_are_padding_between_two_real_tokens(rows):
    strings = ["".join(map(str, row)) for row in rows]
    expected = any("101" in row or "1001" in row for row in strings)
    assert pack(torch.tensor(rows)).has_gaps == expected


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="batch, tokens"):
        pack(torch.ones(3))
