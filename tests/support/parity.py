"""Comparison of a model with that of `transformers`, through files, as users would.

`transformers` saves a tiny random model and minift loads it.  Both must then compute the same: all
hidden states, the outputs, and the gradients of every tensor on disk, under any mask.  A model that
minift saves must load in `transformers` without a missing or unexpected key.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from minift import weights

TOLERANCE = 1e-5


def random_batch(config, seed: int, batch: int = 4, width: int = 11) -> tuple[Tensor, ...]:
    """ids, a mask with padding and gaps (never in the first column): (B, T).

    And token types (B, T), if the config has any.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, width), generator=generator)

    mask = (torch.rand(batch, width, generator=generator) > 0.3).long()
    mask[:, 0] = 1
    mask[0] = 1
    ids = 1 + draw(config.vocab_size - 1)  # id 0 is padding, which has no gradient there
    if not hasattr(config, "type_vocab_size"):
        return ids, mask
    return ids, mask, draw(config.type_vocab_size)


def assert_close(name: str, ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    difference = (ours - theirs).abs()
    assert difference.max() <= tolerance, (
        f"{name} differs: at most {difference.max():.3g}, {difference.mean():.3g} in the mean"
    )


def assert_same_hidden_states(ours, theirs, ids, mask, *types, tolerance=TOLERANCE) -> None:
    """Layer by layer, so that a failure names the first layer that differs.

    types: the token types, if the encoder has any.
    """
    expected = theirs(ids, mask, *types, output_hidden_states=True).hidden_states
    found = [packing.pad(x) for x, packing in ours.hidden_states(ids, mask, *types)]
    assert len(found) == len(expected)
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        real = mask.bool()
        assert_close("embeddings" if i == 0 else f"layer {i}", x[real], y[real], tolerance)


def gradients_as_on_disk(model) -> dict[str, Tensor]:
    """minift's gradients under the names of the checkpoint, stacked ones split."""
    named = {}
    for ours, parameter in model.named_parameters():
        names = model.weight_map().checkpoint_names(ours)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        named.update(zip(names, gradient.chunk(len(names)), strict=True))
    return named


def assert_same_gradients(ours, theirs, tolerance=TOLERANCE) -> None:
    found = gradients_as_on_disk(ours)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        gradient = torch.zeros_like(found[name]) if gradient is None else gradient
        assert_close(f"gradient of {name}", found[name], gradient, tolerance)


def assert_loads_in_reference(reference_class, folder: Path):
    """`transformers` reads minift's folder; every tensor is there, expected and of its shape."""
    model, report = reference_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def assert_round_trip(ours, theirs, folder: Path):
    """What we save, `transformers` loads, every tensor bit for bit; returns the loaded model."""
    ours.save_pretrained(folder)
    again = assert_loads_in_reference(type(theirs), folder)
    assert again.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    return again


def tensors_on_disk(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by their names on disk."""
    from safetensors.torch import load_file

    return load_file(folder / weights.WEIGHTS)
