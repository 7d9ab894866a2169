"""GenerationConfig: the settings of `generate`, with names and meanings of `transformers`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

# Field -> its type and its lowest and highest value.  Beyond those of the floats, scores in float32
# would overflow to infinity or become equal.
RANGES: dict[str, tuple[type, float, float]] = {
    "max_new_tokens": (int, 1, 10**9),
    "min_new_tokens": (int, 0, math.inf),
    "num_beams": (int, 1, 10_000),
    "length_penalty": (float, -10, 10),
    "no_repeat_ngram_size": (int, 0, math.inf),
    "repetition_penalty": (float, 1e-6, 1e6),
    "temperature": (float, 1e-6, 1e6),
    "top_k": (int, 0, math.inf),
    "top_p": (float, 1e-9, 1),
    "num_return_sequences": (int, 1, 10**6),
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The settings of one call of `generate`; `ValueError` for one out of its range.

    The names are those of `transformers`.  So are the defaults, except that of top_k: 0 here, 50
    there, so that sampling draws from the model's own distribution.

    max_new_tokens: maximum number of tokens to generate, the end token included.  It has no
        default, because none could suit every task.
    min_new_tokens: the end token is impossible before this many new tokens; 0: off.
    num_beams: sequences that beam search keeps for each source; 1: no beam search.
    length_penalty, early_stopping: of beam search, see generation/search.py.
    no_repeat_ngram_size: no n-gram of this many tokens occurs twice; 0: off.
    repetition_penalty: above 1 makes tokens that already occurred less likely; 1.0: off.
    do_sample: draw tokens at random; temperature, top_k and top_p apply only then.
    temperature: divides the logits; 1.0: off.
    top_k: number of the best tokens that are drawn from; 0: all.
    top_p: sample from the fewest best tokens whose probabilities sum to this; 1.0: all.
    num_return_sequences: of each source; at most `num_beams`, unless `do_sample` with one beam.
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
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, (int, kind)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                word = "an integer" if kind is int else "a number"
                bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} is {value!r}; it must be {word}, {bounds}")
        if not isinstance(self.do_sample, bool):
            raise ValueError(f"do_sample is {self.do_sample!r}; it must be True or False")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(
                f"early_stopping is {self.early_stopping!r}; it must be True, False or 'never'"
            )
        available = self.num_beams if self.num_beams > 1 or not self.do_sample else math.inf
        if self.num_return_sequences > available:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, but num_beams is "
                f"{self.num_beams}; give as many beams, or sample with do_sample and one beam"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings in use, for generation_config.json.

        `transformers` warns of settings of beam search without beams, and of sampling without it.
        """
        unused = () if self.num_beams > 1 else ("length_penalty", "early_stopping")
        unused += () if self.do_sample else ("temperature", "top_k", "top_p")
        return {name: value for name, value in vars(self).items() if name not in unused}

    @property
    def rows_per_source(self) -> int:
        """Sequences of each source that are extended side by side."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences
