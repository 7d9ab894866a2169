"""Greedy search, sampling and beam search: sequences from the scores of next tokens.

The score of a sequence of n new tokens, its end token included, is

    score = (log p(t1) + ... + log p(tn)) / n ** length_penalty

so 0 prefers short sequences, 1 takes the mean, and more prefers long ones.  With length_penalty 1:

    "yes </s>"       log p = -0.5 - 0.7 = -1.2         / 2 = -0.60
    "yes sir </s>"   log p = -0.5 - 0.9 - 0.1 = -1.5   / 3 = -0.50   the better one

Beam search keeps the K best unfinished sequences of each source.  A step extends them by every
token and takes the 2 K best extensions:

    - an extension among the first K that ends competes, by score, for a place among the K best
      finished sequences;
    - the best K extensions that do not end are extended in the next step.

A source is done when its sequences reach the maximum length, when all 2 K extensions end, or when
it has K finished sequences and `early_stopping` is

    True      (nothing more is needed);
    False     and the best unfinished sequence, scored as if it ended now, does not beat the worst
              of the K;
    "never"   and the same holds for a score as if it ended at the length that is best for it.

These are the semantics of `transformers`' `generate`.  A source that is done leaves the batch.
Without sampling, sources do not influence each other; with sampling they share one random
generator.

A sequence begins with its prompt: for an encoder-decoder the decoder start token.  Processors see
the prompt; lengths and scores count only what follows it.

Dimensions: B sources, P tokens of a prompt, K sequences of each source, R = B * K rows, L tokens so
far, the prompt included, n new tokens of a row in one step, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from minift.generation.cache import rows_of
from minift.generation.config import GenerationConfig
from minift.generation.logits import process_logits, warp_logits

MIN_LOG_PROB = -1e9  # stands for an impossible sequence; finite, so that scores can be sorted


class StepDecoder(Protocol):
    """A decoder in the middle of generation, K rows for each source side by side."""

    def step(self, tokens: Tensor) -> Tensor:
        """The new tokens of each row (R, n) -> logits of the next one (R, V)."""

    def reorder(self, rows: Tensor) -> None:
        """Row i takes over the state of row rows[i] of the same source; rows: (R,)."""

    def select(self, sources: Tensor) -> None:
        """Continue with these sources only, in this order; sources: their indices."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens at the end of a sequence: `eos` is its last token, `pad` comes after it."""

    eos: int
    pad: int


def search(
    decoder: StepDecoder,
    prompts: Tensor,
    special: SpecialTokens,
    config: GenerationConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each prompt: (B, P) -> (B * num_return_sequences, at most P + max_new_tokens).

    With beams the best sequence of a source comes first.  generator: makes sampling reproducible.
    """
    run = greedy_or_sample if config.num_beams == 1 else beam_search
    return run(decoder, prompts.long(), special, config, generator)


def greedy_or_sample(
    decoder: StepDecoder,
    prompts: Tensor,
    special: SpecialTokens,
    config: GenerationConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """The most probable token at each step, or with `do_sample` a random one: (B * K, L) ids."""
    (num_sources, prompt_length), device = prompts.shape, prompts.device
    width, max_length = config.rows_per_source, prompt_length + config.max_new_tokens
    tokens = prompts.repeat_interleave(width, 0)  # (B * K, L): a column more in each step
    active = torch.arange(num_sources, device=device)  # sources that are not done
    ended = torch.zeros(num_sources, width, dtype=torch.bool, device=device)
    seen, length = 0, prompt_length
    while length < max_length and len(active):
        rows = rows_of(active, width)
        so_far = tokens[rows]  # (R, L)
        scores = decoder.step(so_far[:, seen:]).float()  # (R, V)
        scores = process_logits(scores, so_far, config, special.eos, prompt_length)
        if config.do_sample:
            probabilities = warp_logits(scores, config).softmax(-1)
            chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]  # (R,)
        else:
            chosen = scores.argmax(-1)  # (R,)
        tokens = pad(tokens, (0, 1), value=special.pad)
        tokens[rows, length] = torch.where(ended.flatten(), special.pad, chosen)
        ended |= (chosen == special.eos).view(-1, width)
        seen, length = length, length + 1
        done = ended.all(1)
        if done.any():
            left = (~done).nonzero()[:, 0]
            active, ended = active[left], ended[left]
            decoder.select(left)
    return tokens


def beam_search(
    decoder: StepDecoder,
    prompts: Tensor,
    special: SpecialTokens,
    config: GenerationConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """The best finished sequences; with `do_sample` extensions are sampled without replacement."""
    (num_sources, prompt_length), device = prompts.shape, prompts.device
    beams, max_length = config.num_beams, prompt_length + config.max_new_tokens
    # (B, K, L) each: a column more in each step.  B counts the active sources, but in `result`.
    result = running = finished = prompts[:, None].repeat(1, beams, 1)
    active = torch.arange(num_sources, device=device)  # sources that are not done
    # All beams begin with the same prompt, so only the first one counts in the first step.
    scores = torch.full((num_sources, beams), MIN_LOG_PROB, device=device)
    scores[:, 0] = 0.0
    finished_scores = torch.full((num_sources, beams), MIN_LOG_PROB, device=device)
    is_finished = torch.zeros(num_sources, beams, dtype=torch.bool, device=device)
    seen, length = 0, prompt_length
    while len(active):
        # Extensions of all beams, and the best 2 K of each source.
        so_far = running.flatten(0, 1)  # (R, L)
        log_probs = decoder.step(so_far[:, seen:]).float().log_softmax(-1)  # (R, V)
        log_probs = process_logits(log_probs, so_far, config, special.eos, prompt_length)
        if config.do_sample:
            log_probs = warp_logits(log_probs, config, min_tokens_to_keep=2)
        vocabulary = log_probs.shape[-1]
        total = log_probs.view(-1, beams, vocabulary) + scores[..., None]  # (B, K, V)
        # (B, 2 K) each
        best, index = _extensions(total.flatten(1), 2 * beams, config.do_sample, generator)
        parent, token = index // vocabulary, index % vocabulary
        extended = torch.cat([_take(running, parent), token[..., None]], -1)  # (B, 2 K, L)
        result, finished = (pad(rows, (0, 1), value=special.pad) for rows in (result, finished))
        ending = token == special.eos
        seen, length = length, length + 1
        if length == max_length:
            ending = torch.ones_like(ending)

        # An extension among the first K that ends may join the finished sequences.
        joins = ending & (torch.arange(2 * beams, device=device) < beams)
        offered = best / (length - prompt_length) ** config.length_penalty + MIN_LOG_PROB * ~joins
        merged_scores = torch.cat([finished_scores, offered], 1)  # (B, 3 K)
        finished_scores, chosen = merged_scores.topk(beams)
        is_finished = torch.cat([is_finished, joins], 1).gather(1, chosen)
        finished = _take(torch.cat([finished, extended], 1), chosen)

        # The best K extensions that do not end are extended in the next step.
        scores, chosen = (best + MIN_LOG_PROB * ending).topk(beams)
        running = _take(extended, chosen)
        parent = parent.gather(1, chosen)

        best_length = length - prompt_length
        if config.early_stopping == "never" and config.length_penalty > 0:
            best_length = config.max_new_tokens
        best_possible = scores[:, :1] / best_length**config.length_penalty  # (B, 1)
        worst = finished_scores.min(1, keepdim=True).values
        can_improve = (best_possible > torch.where(is_finished, worst, MIN_LOG_PROB)).any(1)  # (B,)
        done = ~can_improve | ending.all(1)
        if config.early_stopping is True:
            done |= is_finished.all(1)
        if done.any():
            result[active[done]] = finished[done]
            left = (~done).nonzero()[:, 0]
            active, running, scores = active[left], running[left], scores[left]
            finished, finished_scores = finished[left], finished_scores[left]
            is_finished, parent = is_finished[left], parent[left]
            decoder.select(left)
        if len(active):
            offset = beams * torch.arange(len(active), device=device)[:, None]
            decoder.reorder((parent + offset).flatten())
    returned = result[:, : config.num_return_sequences].flatten(0, 1)
    return returned[:, : _max_used_length(returned, special.eos, prompt_length)]


def _take(sequences: Tensor, chosen: Tensor) -> Tensor:
    """Some sequences of each source: (B, M, L), indices (B, K) -> (B, K, L)."""
    return sequences.gather(1, chosen[..., None].expand(-1, -1, sequences.shape[-1]))


def _extensions(
    total: Tensor, count: int, do_sample: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Scores and indices of `count` extensions, best first: (B, K V) -> (B, count) each."""
    if not do_sample:
        return total.topk(count)
    index = torch.multinomial(total.softmax(-1), count, generator=generator)
    best, order = total.gather(1, index).sort(descending=True)
    return best, index.gather(1, order)


def _max_used_length(tokens: Tensor, eos: int, prompt_length: int) -> int:
    """Length of the longest sequence, its end token included; every later column is padding."""
    ends = (tokens[:, prompt_length:] == eos).int()
    before = ends.cumsum(1) - ends == 0  # up to the end token, or everywhere without one
    return prompt_length + int(before.sum(1).max()) if tokens.numel() else tokens.shape[1]
