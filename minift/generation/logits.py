"""Rules on the scores of the next token, with the semantics of `transformers`, ties included.

Processors, in this order, for every way of generating (`process_logits`):

    repetition_penalty r     a token that already occurred: score / r if it is positive, else
                             score * r (Keskar et al. 2019, CTRL)
    no_repeat_ngram_size n   a token that would complete an n-gram that already occurred: -inf
    min_new_tokens m         the end token, before m tokens are generated: -inf

Warpers, in this order, where tokens are sampled (`warp_logits`):

    temperature t            all scores / t: below 1 sharper, above 1 flatter
    top_k k                  all but the k best: -inf (Fan et al. 2018)
    top_p p                  all but the best that together have probability p: -inf (Holtzman et
                             al. 2020, nucleus sampling)

Dimensions: R rows (sequences), L tokens so far (the prompt first), V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minift.generation.config import GenerationConfig


def process_logits(
    scores: Tensor, tokens: Tensor, config: GenerationConfig, eos: int, prompt_length: int = 1
) -> Tensor:
    """Apply the processors: scores (R, V), tokens (R, L) -> scores (R, V).

    prompt_length: how many of the tokens are not generated.

    >>> config = GenerationConfig(max_new_tokens=9, min_new_tokens=9, no_repeat_ngram_size=2)
    >>> process_logits(torch.zeros(1, 5), torch.tensor([[0, 3, 4, 3]]), config, eos=1).tolist()
    [[0.0, -inf, 0.0, 0.0, -inf]]
    """
    if config.repetition_penalty != 1.0:
        scores = penalize_repetition(scores, tokens, config.repetition_penalty)
    if config.no_repeat_ngram_size:
        repeated = repeats_ngram(tokens, config.no_repeat_ngram_size, scores.shape[1])  # (R, V)
        scores = scores.masked_fill(repeated, -math.inf)
    if tokens.shape[1] - prompt_length < config.min_new_tokens:
        scores = scores.clone()
        scores[:, eos] = -math.inf
    return scores


def penalize_repetition(scores: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Lower the scores of tokens that already occurred: (R, V), (R, L) -> (R, V)."""
    found = scores.gather(1, tokens)  # (R, L)
    lowered = torch.where(found < 0, found * penalty, found / penalty)
    return scores.scatter(1, tokens, lowered)


def repeats_ngram(tokens: Tensor, n: int, vocab_size: int) -> Tensor:
    """(R, L) -> (R, V): whether a token would complete an n-gram that already occurred.

    >>> repeats_ngram(torch.tensor([[0, 3, 4, 3]]), n=2, vocab_size=5).tolist()
    [[False, False, False, False, True]]
    """
    result = torch.zeros(len(tokens), vocab_size, dtype=torch.bool, device=tokens.device)
    if tokens.shape[1] < n:
        return result
    ngrams = tokens.unfold(1, n, 1)  # (R, L - n + 1, n)
    prefix = tokens[:, tokens.shape[1] - n + 1 :]  # (R, n - 1)
    same = (ngrams[..., :-1] == prefix[:, None]).all(-1)  # (R, L - n + 1)
    # An n-gram that does not match is written to one more column, which is cut off.
    last = torch.where(same, ngrams[..., -1], vocab_size)
    wider = torch.nn.functional.pad(result, (0, 1))
    return wider.scatter(1, last, True)[:, :vocab_size]


def warp_logits(scores: Tensor, config: GenerationConfig, min_tokens_to_keep: int = 1) -> Tensor:
    """Apply the warpers: scores (R, V) -> (R, V); `min_tokens_to_keep` tokens stay possible.

    >>> config = GenerationConfig(max_new_tokens=9, top_k=3, top_p=0.7)
    >>> warp_logits(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log(), config).exp()
    tensor([[0.5000, 0.3000, 0.0000, 0.0000]])
    """
    if config.temperature != 1.0:
        scores = scores / config.temperature
    if config.top_k:
        count = min(max(config.top_k, min_tokens_to_keep), scores.shape[1])
        worst = scores.topk(count).values[:, -1:]  # (R, 1)
        scores = scores.masked_fill(scores < worst, -math.inf)
    if config.top_p < 1.0:
        ascending, order = scores.sort()
        below = ascending.softmax(-1).cumsum(-1)  # (R, V)
        removed = below <= 1 - config.top_p
        removed[:, -min_tokens_to_keep:] = False
        scores = scores.masked_fill(removed.scatter(1, order, removed), -math.inf)
    return scores
