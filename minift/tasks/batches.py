"""Features of tokens, batches of them, and the functions that run a model on batches.

Dimensions: B batch, T tokens of the longest text in the batch, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from minift.data.batching import pad, sorted_batches
from minift.models.base import PretrainedModel
from minift.terminal import progress_bar


class Feature(Protocol):
    """One input of the model, made from a record or from a part of it."""

    record: int  # index of the record in its split

    @property
    def length(self) -> int:
        """Number of tokens, special tokens included."""


class Batch(Protocol):
    """Features as tensors."""

    real_tokens: int  # without padding
    all_tokens: int  # with padding

    def to(self, device: Any) -> Batch: ...


@dataclass(frozen=True)
class TokenFeature:
    """The tokens of a text or of one window; each task adds its own fields.

    encoder_outputs: (H,) for the text or (T, H) for its tokens, from a frozen encoder; else None.
    """

    record: int
    input_ids: list[int]
    token_type_ids: list[int]
    encoder_outputs: Tensor | None = field(default=None, kw_only=True)

    @property
    def length(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class TokenBatch:
    """The input of an encoder, and the labels.

    input_ids, attention_mask, token_type_ids: (B, T).
    labels: (B,) or (B, T), depending on the task; None in prediction.
    weights: (B,) factors of the losses; None: all 1.
    encoder_outputs: (B, H) or (B, T, H) from a frozen encoder; None: not precomputed.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor | None
    real_tokens: int
    all_tokens: int
    weights: Tensor | None = None
    encoder_outputs: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of an encoder's `forward`."""
        return self.input_ids, self.attention_mask, self.token_type_ids

    def to(self, device: torch.device | str) -> TokenBatch:
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def token_batch(features: Sequence[TokenFeature], pad_id: int, **fields: Any) -> TokenBatch:
    """Features padded on the right to one length; `fields`: further fields of the batch."""
    input_ids = pad([feature.input_ids for feature in features], pad_id)  # (B, T)
    if features[0].encoder_outputs is not None:
        outputs = [feature.encoder_outputs for feature in features]
        padded = torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True)  # (B, H) or (B, T, H)
        fields["encoder_outputs"] = padded
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=pad([[1] * feature.length for feature in features], 0),
        token_type_ids=pad([feature.token_type_ids for feature in features], 0),
        real_tokens=sum(feature.length for feature in features),
        all_tokens=input_ids.numel(),
        **fields,
    )


def head_logits(model: Any, batch: TokenBatch) -> Tensor:
    """The logits of an encoder with a head: (B, C) for texts, (B, T, C) for tokens.

    Start and end logits of spans are (B, T, 2).  With a frozen encoder's outputs in the batch, only
    the head is computed.
    """
    if batch.encoder_outputs is not None:
        return model.head(batch.encoder_outputs)
    logits = model(*batch.inputs)
    return torch.stack(logits, -1) if isinstance(logits, tuple) else logits


def run_batches(
    collate: Callable[[Sequence[Any]], TokenBatch],
    model: PretrainedModel,
    forward: Callable[[Any, TokenBatch], Tensor],
    features: Sequence[Feature],
    batch_size: int,
    label: str,
) -> list[Tensor]:
    """The output for each feature, on the CPU, in float32; computed in batches of similar length.

    collate: of the task.
    forward: (model, batch) -> (B, ...), such as `head_logits`.
    label: of the progress bar.
    """
    outputs: dict[int, Tensor] = {}
    model.eval()
    batches = sorted_batches([feature.length for feature in features], batch_size)
    with torch.inference_mode():
        for indices in progress_bar(batches, label, len(batches)):
            batch = collate([features[i] for i in indices]).to(model.device)
            outputs.update(zip(indices, forward(model, batch).float().cpu(), strict=True))
    return [outputs[i] for i in range(len(features))]


def with_encoder_outputs(
    collate: Callable[[Sequence[Any]], TokenBatch],
    model: Any,
    features: Sequence[TokenFeature],
    batch_size: int,
) -> list[Any]:
    """The features with the outputs of the frozen encoder.

    The encoder runs in eval mode, without dropout, so its outputs are the same in every epoch and
    are computed once.
    """

    def encode(model: Any, batch: TokenBatch) -> Tensor:
        return model.features(*batch.inputs)  # (B, H) or (B, T, H)

    outputs = run_batches(collate, model, encode, features, batch_size, "encode")
    extended = []
    for feature, output in zip(features, outputs, strict=True):  # (H,) or (T, H)
        unpadded = output if output.dim() == 1 else output[: feature.length].clone()
        extended.append(replace(feature, encoder_outputs=unpadded))
    return extended
