"""Generation of both sides in turn, with a T5 of random weights."""

import statistics
import tempfile
from dataclasses import dataclass

import torch

from benchmarks.peers import Reference, alternate, times_as_fast
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.tasks.base import option
from minift.train.report import markdown_table


@dataclass(frozen=True)
class GenerationOptions:
    """What is generated; the defaults are the size of t5-small."""

    sources: int = option(8, "Texts in a batch.")
    source_length: int = option(256, "Tokens of each.")
    new_tokens: int = option(48, "Tokens generated for each.")
    rounds: int = option(7, "Rounds in which both sides take turns.")
    seed: int = option(1, "Seed of weights and texts.")


def generation(options):
    """Greedy and beam search of both sides in turn, from the same weights; outputs compared."""
    torch.manual_seed(options.seed)
    ours = T5ForConditionalGeneration(T5Config()).eval()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = Reference("AutoModelForSeq2SeqLM", folder).eval()
    ids = torch.randint(2, ours.config.vocab_size, (options.sources, options.source_length))
    mask = torch.ones_like(ids)
    length = {"max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}
    rows = []
    for name, beams in {"greedy": 1, "4 beams": 4}.items():
        sides = {
            side: lambda _, model=model, beams=beams: model.generate(
                ids, mask, num_beams=beams, **length
            )
            for side, model in {"minift": ours, "transformers": theirs}.items()
        }
        seconds, found = alternate(sides, options.rounds)
        times, spread = times_as_fast(*seconds.values())
        rows.append(
            {
                "generation": name,
                "minift, seconds": f"{statistics.median(seconds['minift']):.2f}",
                "times as fast": times,
                "from ... to": spread,
                "same sequences": f"{(found['minift'] == found['transformers']).all(1).sum()} "
                f"of {options.sources}",
            }
        )
    print("\n" + markdown_table(rows))
