"""Keys and values of the decoder of any encoder-decoder, kept from one token to the next.

    source keys, values    (B, N, T, D) for each layer, computed once, shared by a source's rows
    own keys, values       (R, N, C, D) for each layer, filled token by token; a full cache
                           doubles its capacity C, so memory grows with the tokens generated

The beams or samples of one source are rows side by side, R = B * rows_per_source.  In
cross-attention these rows are so many queries, so a source's keys are not copied for each beam:

    q (R, N, D) -> (B, N, rows_per_source, D)    k (B, N, T, D)    scores (B, N, rows_per_source, T)

A family's model computes a step from its layers' caches (`StepModel`); this file holds the caches,
moves rows where beams are reordered, and records the step for a GPU.

Dimensions: B sources, R rows, C capacity, T source tokens, n new tokens of a row in one step,
K tokens of a row so far, these included, H hidden, N heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minift.nn import kernels
from minift.nn.attention import MASK_VALUE

FIRST_CAPACITY = 128  # tokens of a row for which the cache has room at first


@dataclass(frozen=True)
class EncoderMemory:
    """The encoder's output as the decoder reads it.

    keys, values: (B, N, T, D) for each decoder layer.
    bias: (B, 1, 1, T), added to the scores: 0 at real tokens, `MASK_VALUE` at padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor


class LayerCache(NamedTuple):
    """One layer's keys and values so far, and the place of a step's new tokens in them.

    keys, values: (R, N, C, D).
    position: of the new tokens, a slice or a tensor of n numbers.
    bias: (N or 1, n, K), added to the scores of the new tokens; `MASK_VALUE` hides the future.
    """

    keys: Tensor
    values: Tensor
    position: slice | Tensor
    bias: Tensor

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values, (R, N, n, D) each; returns all, (R, N, K, D)."""
        self.keys[:, :, self.position], self.values[:, :, self.position] = k, v
        past = slice(0, self.bias.shape[-1])
        return self.keys[:, :, past], self.values[:, :, past]


class StepModel(Protocol):
    """The methods of a model that `DecoderState` calls."""

    def decoder_bias(self, length: int, last_query_only: bool = False) -> Tensor:
        """(N or 1, length or 1, length), added to the decoder's scores; the future is not masked.

        It depends only on the distance between query and key.
        """

    def decoder_step(
        self, tokens: Tensor, caches: Sequence[LayerCache], memory: EncoderMemory
    ) -> Tensor:
        """The decoder's output for n new tokens of each row: (R, n) -> (R, n, H)."""

    def logits(self, x: Tensor) -> Tensor:
        """The output layer: (..., H) -> (..., V)."""


class DecoderState:
    """A decoder in the middle of generation, with its cache; a `StepDecoder` for search.py.

    On a GPU, launching the kernels of a step takes longer than running them.  There every shape
    stays the same from the first token to the last (`static`), with future positions masked.  The
    step is recorded once as a CUDA graph and replayed for each token.  Rows that are done are
    computed too, and ignored.
    """

    def __init__(
        self,
        model: StepModel,
        memory: EncoderMemory,
        rows_per_source: int,
        max_length: int,
        static: bool | None = None,
    ):
        """max_length: maximum number of tokens that a row is given.

        static: None: on a GPU, unless kernels are off (nn/kernels.py).
        """
        self.model, self.rows_per_source = model, rows_per_source
        # Every step reads them, so contiguous copies pay off.
        keys, values = ([part.contiguous() for part in x] for x in (memory.keys, memory.values))
        self.memory = EncoderMemory(tuple(keys), tuple(values), memory.bias)
        batch, heads, _, head_width = keys[0].shape
        num_rows, device = batch * rows_per_source, keys[0].device
        # (layers, 2, R, N, C, D): keys and values of each layer
        self.cache = keys[0].new_zeros(len(keys), 2, num_rows, heads, 0, head_width)
        self.max_length, self.length = max_length, 0
        self.static = keys[0].is_cuda and kernels.ENABLED if static is None else static
        if self.static:
            self.active_rows = torch.arange(num_rows, device=device)
            self.cache_position = torch.zeros(1, dtype=torch.int64, device=device)
            self.tokens = torch.zeros(num_rows, 1, dtype=torch.int64, device=device)
            self.scores: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Number of tokens of a row that fit into the cache."""
        return self.cache.shape[-2]

    def step(self, tokens: Tensor) -> Tensor:
        """The new tokens of each row (R, n) -> logits of the next one (R, V).

        The first step takes the prompts, each later one the token that was chosen.
        """
        start, self.length = self.length, self.length + tokens.shape[1]
        if self.length > self.capacity:
            self._grow(start)
        if self.static and tokens.shape[1] == 1:
            self.tokens[self.active_rows] = tokens
            self.replay()
            return self.scores[self.active_rows]
        if self.static:
            self.cache_position.fill_(self.length)  # no row is done before the first step
        queries = torch.arange(start, self.length, device=tokens.device)
        bias = self._bias(queries, self.length)
        return self._logits(tokens, slice(start, self.length), bias)

    def _grow(self, used: int) -> None:
        """Make room for `length` tokens: a larger cache, with the `used` tokens of the old one."""
        capacity = min(max(self.length, FIRST_CAPACITY, 2 * self.capacity), self.max_length)
        old = self.cache
        self.cache = old.new_zeros(*old.shape[:-2], capacity, old.shape[-1])
        self.cache[..., :used, :] = old[..., :used, :]
        # The bias of the last query for each key, then that of keys after it: (N or 1, 2 C - 1).
        # Query i begins C - 1 - i further to the right.
        last = self.model.decoder_bias(capacity, last_query_only=True)[:, 0]
        self.bias = torch.nn.functional.pad(last, (0, capacity - 1), value=MASK_VALUE)
        if self.static:
            self.replay = self._record() if self.cache.is_cuda else self._static_step

    def _bias(self, queries: Tensor, num_keys: int) -> Tensor:
        """The bias of these queries (n,) for the first keys: (N or 1, n, num_keys)."""
        keys = torch.arange(num_keys, device=queries.device)
        return self.bias[:, self.capacity - 1 - queries[:, None] + keys]

    def _logits(self, tokens: Tensor, position: slice | Tensor, bias: Tensor) -> Tensor:
        """One step: tokens (R, n) at `position`, bias (N or 1, n, K) of the K visible positions."""
        caches = [LayerCache(keys, values, position, bias) for keys, values in self.cache]
        x = self.model.decoder_step(tokens, caches, self.memory)  # (R, n, H)
        return self.model.logits(x[:, -1])  # (R, V)

    def _static_step(self) -> None:
        bias = self._bias(self.cache_position, self.capacity)
        self.scores = self._logits(self.tokens, self.cache_position, bias)
        self.cache_position += 1

    def _record(self) -> Callable[[], None]:
        """Record a step as a CUDA graph; returns the function that replays it."""
        device, position = self.cache.device, self.cache_position.clone()
        side_stream = torch.cuda.Stream(device)
        side_stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side_stream):  # one real step, which chooses and loads the kernels
            self._static_step()
        torch.cuda.current_stream(device).wait_stream(side_stream)
        self.cache_position.copy_(position)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=side_stream):
            self._static_step()

        def replay() -> None:
            with torch.cuda.device(device):  # else on the current one, which may be another GPU
                graph.replay()

        return replay

    def reorder(self, rows: Tensor) -> None:
        """Row i takes over the state of row rows[i]; copies only rows that change.  rows: (R,)."""
        targets = torch.arange(len(rows), device=rows.device)
        moves = rows != targets
        to, of = targets[moves], rows[moves]
        if self.static:
            to, of = self.active_rows[to], self.active_rows[of]
        past = slice(0, self.length)
        self.cache[:, :, to, :, past] = self.cache[:, :, of, :, past]

    def select(self, sources: Tensor) -> None:
        """Continue with these sources only, in this order.  sources: (B',) their indices."""
        rows = rows_of(sources, self.rows_per_source)
        if self.static:
            self.active_rows = self.active_rows[rows]
            return
        self.cache = self.cache[:, :, rows]
        old = self.memory
        self.memory = EncoderMemory(
            tuple(keys[sources] for keys in old.keys),
            tuple(values[sources] for values in old.values),
            old.bias[sources],
        )


def rows_of(sources: Tensor, rows_per_source: int) -> Tensor:
    """The rows of some sources: (B,) -> (B * rows_per_source,).

    >>> rows_of(torch.tensor([2, 0]), rows_per_source=3).tolist()
    [6, 7, 8, 0, 1, 2]
    """
    beside = torch.arange(rows_per_source, device=sources.device)
    return (sources[:, None] * rows_per_source + beside).flatten()
