"""T5's decoder in the middle of its sentences: what it keeps from one token to the next.

    source keys, values    (B, N, T, D) for each layer, computed once, shared by a source's rows
    own keys, values       (R, N, longest, D) for each layer, allocated once, filled step by step

Beams and drawn sequences of one source are rows side by side, R = B * width.  To the source's keys
they are so many queries, so nothing of the source is copied for each beam:

    q (R, N, D) -> (B, N, width, D)    k (B, N, T, D)    scores (B, N, width, T)

Dimensions: B sources, R rows, T source tokens, H d_model, N heads, D d_kv, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """What the decoder sees of the sources: keys and values (B, N, T, D) of each of its layers,
    and what is added to the scores, (B, 1, 1, T), lowest at padding."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor


class T5Decoder:
    """The decoder in the middle of its sentences, `width` rows for each source.

    Keys and values of what was said are kept, (R, N, longest, D) for each layer; those of the
    sources, (B, N, T, D), are shared by the rows of a source: to them these rows are so many
    queries.
    """

    def __init__(self, model: Any, source: Source, width: int, longest: int):
        self.model, self.width = model, width
        # Read at every step, so it is worth it that they lie in one piece.
        keys, values = ([part.contiguous() for part in x] for x in (source.keys, source.values))
        self.source = Source(tuple(keys), tuple(values), source.mask)
        batch, heads, _, depth = source.keys[0].shape
        shape = (batch * width, heads, longest, depth)
        self.caches = [
            (source.mask.new_empty(shape), source.mask.new_empty(shape))
            for _ in model.decoder.layers
        ]
        self.bias = model.decoder.position(longest)  # (N, longest, longest)
        self.place = 0

    def step(self, tokens: Tensor) -> Tensor:
        """The last token of each row (R,) -> scores of the next one (R, V)."""
        x = self.model.shared(tokens)  # (R, H)
        bias = self.bias[:, self.place, None, : self.place + 1]  # (N, 1, place + 1)
        layers = zip(
            self.model.decoder.layers,
            self.caches,
            self.source.keys,
            self.source.values,
            strict=True,
        )
        for layer, (keys, values), source_keys, source_values in layers:
            x = layer.attention.step(x, keys, values, self.place, bias)  # (R, H)
            rows = x.unflatten(0, (-1, self.width))  # (B, width, H)
            x = layer.cross(rows, source_keys, source_values, self.source.mask).flatten(0, 1)
            x = layer.feed_forward(x)  # (R, H)
        self.place += 1
        return self.model.logits(self.model.decoder.finish(x))

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row rows[i] did so far."""
        if torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            return
        for pair in self.caches:
            for cache in pair:
                cache[:, :, : self.place] = cache[rows, :, : self.place]

    def keep(self, sources: Tensor) -> None:
        """Only these sources go on."""
        rows = sources[:, None] * self.width + torch.arange(self.width, device=sources.device)
        rows = rows.flatten()
        self.caches = [(keys[rows], values[rows]) for keys, values in self.caches]
        old = self.source
        self.source = Source(
            tuple(keys[sources] for keys in old.keys),
            tuple(values[sources] for values in old.values),
            old.mask[sources],
        )
