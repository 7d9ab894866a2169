"""LoRA: low-rank updates beside frozen weights, and merging them.

Hu et al. 2022, "LoRA: Low-rank adaptation of large language models".  A pretrained matrix W is
frozen; an update of rank R, which has few parameters, is added to its output:

    x ──┬──> W (O, H), frozen ───────────────────────────(+)──> W x + scale * B A x
        └──> dropout ──> A (R, H) ──> B (O, R) ──> * scale ─┘       scale = alpha / R

B is initialised with zeros, so the model first computes what it did before.  `merge_lora` replaces
W by W + scale * B A, after which the model costs what it did before.

minift keeps query, key and value in one matrix, peft's adapters speak of three.  So a layer has an
update for each target among its stacked projections, here with the targets "query" and "value":

    qkv (3H, H)     query | + scale * B A
                    key   |
                    value | + scale * B A

models/adapters.py chooses the layers of a model and reads and writes adapters.

Dimensions: H width of the input, O rows of a projection, R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minift.nn.layers import Dropout
from minift.options import require_number

ModuleType = TypeVar("ModuleType", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Size and place of the updates.

    rank: R.  alpha: the update is multiplied by alpha / rank.
    dropout: probability with which an input of A is dropped in training.
    target_modules: the projections that get an update, by the ends of their names in a checkpoint,
        such as "key" or "attention.output.dense"; empty: queries and values.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number(self, "rank", 1, 1024)
        require_number(self, "alpha", 1e-6, 1e6, float)
        require_number(self, "dropout", 0, 1, float)


class LoraUpdate(nn.Module):
    """The update of one projection: x (..., H) -> scale * B A x (..., O).

    R = 1, alpha = 2, A = [1 1], B = [1 0] upright: x = [3 4] -> A x = 7 -> 2 * B 7 = [14 0].
    """

    def __init__(self, weight: Tensor, config: LoraConfig):
        """weight: (O, H), the frozen weight of the projection."""
        super().__init__()
        self.a = nn.Parameter(weight.new_empty(config.rank, weight.shape[1]))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], config.rank))
        self.dropout = Dropout(config.dropout)
        self.scale = config.alpha / config.rank
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as torch initialises linear layers

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(self.dropout(x), self.a) * self.scale, self.b)


class LoraLinear(nn.Module):
    """A frozen linear layer with an update for some of the projections stacked in it.

    names: the projections from the top rows to the bottom rows, the last part of their name in a
    checkpoint -> the whole name: {"query": "bert.encoder.layer.0.attention.self.query", ...}.
    """

    def __init__(self, base: nn.Linear, names: Mapping[str, str], config: LoraConfig):
        super().__init__()
        self.base, self.names, self.config = base, names, config
        self.updates = nn.ModuleDict(
            {
                part: LoraUpdate(weight, config)
                for part, weight in self.split_rows(base.weight, 0).items()
                if matches_target(names[part], config.target_modules)
            }
        )
        self.train(base.training)

    def split_rows(self, stacked: Tensor, dim: int) -> dict[str, Tensor]:
        """A view of each projection in a tensor that stacks them along `dim`."""
        return dict(zip(self.names, stacked.chunk(len(self.names), dim), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.split_rows(self.base(x), -1)  # (..., O) each
        for part, update in self.updates.items():
            outputs[part] = outputs[part] + update(x)  # (..., O)
        return torch.cat(list(outputs.values()), -1) if len(outputs) > 1 else outputs[part]

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """The base layer, its weight changed in place to W + scale * B A."""
        weights = self.split_rows(self.base.weight, 0)  # (O, H) each
        for part, update in self.updates.items():
            weights[part] += update.scale * (update.b @ update.a)
        return self.base


def merge_lora(model: ModuleType) -> ModuleType:
    """A copy of a model with every update merged into its weights; its outputs are the same.

    All parameters of the copy are trainable.  The model itself does not change; one without LoRA
    is returned without a copy.
    """
    if not lora_layers(model):
        return model
    merged = copy.deepcopy(model)
    for name, layer in lora_layers(merged).items():
        merged.set_submodule(name, layer.merge())
    return merged.requires_grad_(True)


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The LoRA layers of a model by the names of their modules."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def matches_target(name: str, targets: Iterable[str]) -> bool:
    """Whether the last parts of a dotted name are one of the targets, as peft finds its modules.

    >>> matches_target("layer.0.attention.output.dense", ["query", "output.dense"])
    True
    >>> matches_target("layer.0.attention.output.dense", ["put.dense"])
    False
    """
    return any(f".{name}".endswith(f".{target}") for target in targets)
