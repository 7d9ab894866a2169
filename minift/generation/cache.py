"""T5's decoder in the middle of its sentences: what it keeps from one token to the next.

    source keys, values    (B, N, T, D) for each layer, computed once, shared by a source's rows
    own keys, values       (R, N, longest, D) for each layer, allocated once, filled token by token

Beams and drawn sequences of one source are rows side by side, R = B * width.  To the source's keys
they are so many queries, so nothing of the source is copied for each beam:

    q (R, N, D) -> (B, N, width, D)    k (B, N, T, D)    scores (B, N, width, T)

Dimensions: B sources, R rows, T source tokens, H d_model, N heads, D d_kv, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minift.nn.attention import LOWEST


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

    A GPU waits longer for the orders of such a step than it takes to carry them out.  There all
    shapes stay as they are from the first token to the last, with what is still ahead barred, so
    that a step can be recorded once (a CUDA graph) and played again for each token.  Rows that are
    done are played along and not looked at.
    """

    def __init__(
        self, model: Any, source: Source, width: int, longest: int, static: bool | None = None
    ):
        self.model, self.width = model, width
        # Read at every step, so it is worth it that they lie in one piece.
        keys, values = ([part.contiguous() for part in x] for x in (source.keys, source.values))
        self.source = Source(tuple(keys), tuple(values), source.mask)
        batch, heads, _, depth = keys[0].shape
        rows, device = batch * width, keys[0].device
        # (layers, 2, R, N, longest, D): keys and values of each layer
        self.cache = keys[0].new_zeros(len(keys), 2, rows, heads, longest, depth)
        self.bias = model.decoder.position(longest)  # (N, longest, longest)
        self.place = 0
        self.static = keys[0].is_cuda if static is None else static
        if self.static:
            ahead = torch.ones(longest, longest, dtype=torch.bool, device=device).triu(1)
            self.bias = self.bias.masked_fill(ahead, LOWEST)
            self.rows = torch.arange(rows, device=device)  # those that are looked at
            self.at = torch.zeros(1, dtype=torch.int64, device=device)  # the place, for the GPU
            self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
            self.scores: Tensor | None = None
            self.play = self._record() if device.type == "cuda" else self._static_step

    def step(self, tokens: Tensor) -> Tensor:
        """The last token of each row (R,) -> scores of the next one (R, V)."""
        self.place += 1
        if self.static:
            self.tokens[self.rows] = tokens
            self.play()
            return self.scores[self.rows]
        here = slice(self.place - 1, self.place)
        return self._scores(tokens, here, self.bias[:, here, : self.place])

    def _scores(self, tokens: Tensor, here: slice | Tensor, bias: Tensor) -> Tensor:
        """One token on: here is its place, bias (N, 1, K) for the K places it may look at."""
        x = self.model.shared(tokens)  # (R, H)
        layers = zip(
            self.model.decoder.layers,
            self.cache,
            self.source.keys,
            self.source.values,
            strict=True,
        )
        for layer, (keys, values), source_keys, source_values in layers:
            x = layer.attention.step(x, keys, values, here, bias)  # (R, H)
            rows = x.unflatten(0, (-1, self.width))  # (B, width, H)
            x = layer.cross(rows, source_keys, source_values, self.source.mask).flatten(0, 1)
            x = layer.feed_forward(x)  # (R, H)
        return self.model.logits(self.model.decoder.finish(x))

    def _static_step(self) -> None:
        self.scores = self._scores(self.tokens, self.at, self.bias.index_select(1, self.at))
        self.at += 1

    def _record(self) -> Callable[[], None]:
        """The step as a recording of the GPU's work."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # once for real, in which kernels are chosen and loaded
            self._static_step()
        torch.cuda.current_stream().wait_stream(beside)
        self.at.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._static_step()
        return graph.replay

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row rows[i] did so far; only what moves is copied."""
        places = torch.arange(len(rows), device=rows.device)
        moves = rows != places
        to, of = places[moves], rows[moves]
        if self.static:
            to, of = self.rows[to], self.rows[of]
        known = slice(0, self.place)
        self.cache[:, :, to, :, known] = self.cache[:, :, of, :, known]

    def keep(self, sources: Tensor) -> None:
        """Only these sources go on."""
        rows = sources[:, None] * self.width + torch.arange(self.width, device=sources.device)
        rows = rows.flatten()
        if self.static:
            self.rows = self.rows[rows]
            return
        self.cache = self.cache[:, :, rows]
        old = self.source
        self.source = Source(
            tuple(keys[sources] for keys in old.keys),
            tuple(values[sources] for values in old.values),
            old.mask[sources],
        )
