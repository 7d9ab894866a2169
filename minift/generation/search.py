"""Sequences from the scores of next tokens: the best at each step, drawn ones, or beam search.

The score of a sequence of n new tokens, its end included, is

    score = (log p(t1) + ... + log p(tn)) / n ** length_penalty

so 0 prefers short sequences, 1 takes the mean, more prefers long ones.  Example, length_penalty 1:

    "yes </s>"       log p = -0.5 - 0.7 = -1.2         / 2 = -0.60
    "yes sir </s>"   log p = -0.5 - 0.9 - 0.1 = -1.5   / 3 = -0.50   the better one

Beam search keeps the K best unfinished sequences of each source.  A step extends them by every
token, takes the 2 K best extensions, and

    - those among the first K that end join the K best finished ones, by score;
    - the best K that do not end go on.

A source is done when its sequences have all the length that is allowed, or when `early_stopping`

    True      has K finished sequences;
    False     holds that the best unfinished one, scored as if it ended now, beats no finished one;
    "never"   the same, scored as if it ended at the most favourable length.

These are the semantics of `transformers`' `generate`.  Sources do not influence each other: one
that is done leaves the batch.

Dimensions: B sources, K sequences of each, R = B * K rows, L tokens so far, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minift.generation.config import Generation

IMPOSSIBLE = -1e9  # the log-probability of what is out of the question, yet a number to sort by


class Decoder(Protocol):
    """A model in the middle of its sentences; K rows for each source, side by side."""

    def step(self, tokens: Tensor) -> Tensor:
        """The last token of each row (R,) -> scores of the next one (R, V)."""

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row rows[i] did so far, a row of the same source; rows: (R,)."""

    def keep(self, sources: Tensor) -> None:
        """Only these sources, in this order, go on."""


@dataclass(frozen=True)
class Ends:
    """The tokens that frame a sequence: `start` before it, `eos` its last one, `pad` behind."""

    start: int
    eos: int
    pad: int


def search(
    decoder: Decoder,
    sources: int,
    ends: Ends,
    settings: Generation,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sequences for each source, by the settings: (B * n, up to 1 + max_new_tokens).

    n is `num_return_sequences`; with beams the best comes first.  `generator` makes drawing
    reproducible.
    """
    find = step_by_step if settings.num_beams == 1 else beam_search
    return find(decoder, sources, ends, settings, generator, device)


def step_by_step(
    decoder: Decoder,
    sources: int,
    ends: Ends,
    settings: Generation,
    generator: torch.Generator | None,
    device: torch.device | str,
) -> Tensor:
    """The best token at each step, or one drawn."""
    width, max_new_tokens, pad = settings.width, settings.max_new_tokens, ends.pad
    tokens = torch.full((sources * width, 1 + max_new_tokens), pad, device=device)
    tokens[:, 0] = ends.start
    active = torch.arange(sources, device=device)  # sources that go on
    ended = torch.zeros(sources, width, dtype=torch.bool, device=device)
    length = 1
    while length <= max_new_tokens and len(active):
        rows = _rows(active, width)
        so_far = tokens[rows, :length]  # (R, L)
        scores = decoder.step(so_far[:, -1]).float()  # (R, V)
        scores = settings.constrain(scores, so_far, ends.eos)
        if settings.do_sample:
            chances = settings.warp(scores).softmax(-1)
            chosen = torch.multinomial(chances, 1, generator=generator)[:, 0]  # (R,)
        else:
            chosen = scores.argmax(-1)
        tokens[rows, length] = torch.where(ended.flatten(), pad, chosen)
        ended |= (chosen == ends.eos).view(-1, width)
        length += 1
        going = ~ended.all(1)
        if not going.all():
            left = going.nonzero()[:, 0]
            active, ended = active[left], ended[left]
            decoder.keep(left)
    return tokens[:, :length]


def beam_search(
    decoder: Decoder,
    sources: int,
    ends: Ends,
    settings: Generation,
    generator: torch.Generator | None,
    device: torch.device | str,
) -> Tensor:
    """The best of the finished sequences; with `do_sample` extensions are drawn, none twice."""
    beams, longest = settings.num_beams, 1 + settings.max_new_tokens
    result = torch.full((sources, beams, longest), ends.pad, device=device)
    result[..., 0] = ends.start
    active = torch.arange(sources, device=device)
    running = result.clone()  # (B, K, longest), as all tensors below those of the active sources
    # All beams begin alike: the first one alone counts, lest all find the same.
    scores = torch.full((sources, beams), IMPOSSIBLE, device=device)
    scores[:, 0] = 0.0
    finished = result.clone()
    finished_scores = torch.full((sources, beams), IMPOSSIBLE, device=device)
    is_finished = torch.zeros(sources, beams, dtype=torch.bool, device=device)
    length = 1
    while len(active):
        # Extensions of all beams, and the best 2 K of each source.
        so_far = running[..., :length].flatten(0, 1)  # (R, L)
        log_probs = decoder.step(so_far[:, -1]).float().log_softmax(-1)  # (R, V)
        log_probs = settings.constrain(log_probs, so_far, ends.eos)
        if settings.do_sample:
            log_probs = settings.warp(log_probs, at_least=2)
        vocabulary = log_probs.shape[-1]
        total = log_probs.view(-1, beams, vocabulary) + scores[..., None]  # (B, K, V)
        # (B, 2 K) each
        best, index = _extensions(total.flatten(1), 2 * beams, settings.do_sample, generator)
        parent, token = index // vocabulary, index % vocabulary
        extended = running.gather(1, parent[..., None].expand(-1, -1, longest))  # (B, 2 K, longest)
        extended[..., length] = token
        ending = token == ends.eos
        length += 1
        if length == longest:
            ending = torch.ones_like(ending)

        # Those that end and are among the first K may join the finished ones.
        joins = ending & (torch.arange(2 * beams, device=device) < beams)
        offered = best / (length - 1) ** settings.length_penalty + IMPOSSIBLE * ~joins
        merged_scores = torch.cat([finished_scores, offered], 1)  # (B, 3 K)
        finished_scores, place = merged_scores.topk(beams)
        is_finished = torch.cat([is_finished, joins], 1).gather(1, place)
        wide = place[..., None].expand(-1, -1, longest)
        finished = torch.cat([finished, extended], 1).gather(1, wide)

        # The best K that do not end go on.
        scores, place = (best + IMPOSSIBLE * ending).topk(beams)
        running = extended.gather(1, place[..., None].expand(-1, -1, longest))
        parent = parent.gather(1, place)

        favourable = length - 1
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            favourable = settings.max_new_tokens
        hope = scores[:, :1] / favourable**settings.length_penalty  # (B, 1)
        worst = finished_scores.min(1, keepdim=True).values
        done = ~(hope > torch.where(is_finished, worst, IMPOSSIBLE)).any(1) | ending.all(1)
        if settings.early_stopping is True:
            done |= is_finished.all(1)
        if done.any():
            result[active[done]] = finished[done]
            left = (~done).nonzero()[:, 0]
            active, running, scores = active[left], running[left], scores[left]
            finished, finished_scores = finished[left], finished_scores[left]
            is_finished, parent = is_finished[left], parent[left]
            decoder.keep(left)
        if len(active):
            offset = beams * torch.arange(len(active), device=device)[:, None]
            decoder.reorder((parent + offset).flatten())
    chosen = result[:, : settings.num_return_sequences].flatten(0, 1)
    return chosen[:, : _longest(chosen, ends.eos)]


def _extensions(
    total: Tensor, count: int, do_sample: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Scores and places of `count` extensions, best first: (B, K V) -> (B, count) each."""
    if not do_sample:
        return total.topk(count)
    index = torch.multinomial(total.softmax(-1), count, generator=generator)
    best, order = total.gather(1, index).sort(descending=True)
    return best, index.gather(1, order)


def _rows(sources: Tensor, width: int) -> Tensor:
    """The rows of some sources: (B,) -> (B * width,)."""
    return (sources[:, None] * width + torch.arange(width, device=sources.device)).flatten()


def _longest(tokens: Tensor, eos: int) -> int:
    """Length of the longest sequence, its end included: what stands behind is padding for all."""
    ends = (tokens[:, 1:] == eos).int()
    before = ends.cumsum(1) - ends == 0  # up to the end, or everywhere if there is none
    return 1 + int(before.sum(1).max()) if tokens.numel() else tokens.shape[1]
