"""What may come next: scores of all tokens in, the same scores changed by the rules out.

    repetition_penalty r     the score of a token that is there already: s > 0: s / r, else s * r
    no_repeat_ngram_size n   a token that would repeat n tokens in a row: never
    min_new_tokens m         the end, before m tokens are there: never

and, where tokens are drawn at random (`warp`), in this order:

    temperature t            all scores / t: below 1 sharper, above 1 flatter
    top_k k                  only the k best (Fan et al. 2018)
    top_p p                  only the best that together have probability p (Holtzman et al. 2020)

"Never" is a score of -inf.  Each rule is that of `transformers`' `generate`, ties included.

Dimensions: R rows (sequences), L tokens so far (the start token first), V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NEVER = -float("inf")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How to generate; the names are those of `transformers`.

    max_new_tokens: the end counts.  It has no default, since none could suit every task.
    num_beams: more than one means beam search; length_penalty and early_stopping belong to it.
    do_sample: draw tokens; temperature, top_k and top_p belong to it.
    num_return_sequences: of each source; without drawing at most `num_beams`.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("min_new_tokens", "no_repeat_ngram_size", "top_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("repetition_penalty", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f"early_stopping is {self.early_stopping!r}; it must be True, False or 'never'"
            )
        most = self.num_beams if self.num_beams > 1 or not self.do_sample else math.inf
        if self.num_return_sequences > most:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, but num_beams is "
                f"{self.num_beams}; give as many beams, or draw with do_sample and one beam"
            )

    @property
    def width(self) -> int:
        """Rows of each source that are worked on side by side."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences

    def constrain(self, scores: Tensor, tokens: Tensor, eos: int) -> Tensor:
        """The rules about what was said: scores (R, V), tokens (R, L) -> scores (R, V).

        >>> rules = Generation(max_new_tokens=9, min_new_tokens=9, no_repeat_ngram_size=2)
        >>> rules.constrain(torch.zeros(1, 5), torch.tensor([[0, 3, 4, 3]]), eos=1).tolist()
        [[0.0, -inf, 0.0, 0.0, -inf]]
        """
        if self.repetition_penalty != 1.0:
            found = scores.gather(1, tokens)  # (R, L)
            lowered = torch.where(
                found < 0, found * self.repetition_penalty, found / self.repetition_penalty
            )
            scores = scores.scatter(1, tokens, lowered)
        if self.no_repeat_ngram_size:
            scores = scores.masked_fill(self._would_repeat(tokens, scores.shape[1]), NEVER)
        if tokens.shape[1] - 1 < self.min_new_tokens:
            scores = scores.clone()
            scores[:, eos] = NEVER
        return scores

    def _would_repeat(self, tokens: Tensor, vocabulary: int) -> Tensor:
        """(R, V) whether a token would end a run of n tokens that is there already."""
        n = self.no_repeat_ngram_size
        barred = torch.zeros(len(tokens), vocabulary, dtype=torch.bool, device=tokens.device)
        if tokens.shape[1] < n:
            return barred
        runs = tokens.unfold(1, n, 1)  # (R, L - n + 1, n)
        last = tokens[:, tokens.shape[1] - n + 1 :]  # (R, n - 1)
        same = (runs[..., :-1] == last[:, None]).all(-1)  # (R, L - n + 1)
        # Runs that do not match bar what is barred already, or nothing: a place beside the rest.
        ends = torch.where(same, runs[..., -1], vocabulary)
        wider = torch.nn.functional.pad(barred, (0, 1))
        return wider.scatter(1, ends, True)[:, :vocabulary]

    def warp(self, scores: Tensor, at_least: int = 1) -> Tensor:
        """The rules of drawing at random: scores (R, V) -> (R, V), `at_least` tokens remain.

        >>> rules = Generation(max_new_tokens=9, top_k=3, top_p=0.7)
        >>> rules.warp(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()).exp()
        tensor([[0.5000, 0.3000, 0.0000, 0.0000]])
        """
        if self.temperature != 1.0:
            scores = scores / self.temperature
        if self.top_k:
            count = min(max(self.top_k, at_least), scores.shape[1])
            worst = scores.topk(count).values[:, -1:]
            scores = scores.masked_fill(scores < worst, NEVER)
        if self.top_p < 1.0:
            ordered, order = scores.sort()  # worst first
            below = ordered.softmax(-1).cumsum(-1)
            dropped = below <= 1 - self.top_p
            dropped[:, -at_least:] = False
            scores = scores.masked_fill(dropped.scatter(1, order, dropped), NEVER)
        return scores
