"""What an encoder still knows of a language: how well a fixed head finds masked words behind it.

The head learns once, on the frozen encoder as it was before fine-tuning.  Put behind the same
encoder after fine-tuning, its loss on held-out text says how far the encoder's vectors have moved
from what they meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minift.models.bert import BertPretrained
from minift.models.bert_masked import BertForMaskedLM
from minift.pretraining.base import ModelOptions
from minift.pretraining.masked_lm import Masks
from minift.pretraining.run import PretrainOptions, held_out_loss, make_chunks, pretrain
from minift.tasks.base import check_range, option
from minift.text.tokenizer import Tokenizer
from minift.training.options import as_dict
from minift.training.run_dir import METRICS, check_same_options

MODEL = ModelOptions(family="bert")


@dataclass(frozen=True)
class ProbeOptions:
    """How much the encoder still knows of its language."""

    text: tuple[Path, ...] = option(
        (), "Plain text, on which masked words show it; none: not asked."
    )
    probe_steps: int = option(500, "Steps in which a head learns to find masked words.")

    def __post_init__(self) -> None:
        check_range(self, "probe_steps", 1)


def train_probe(encoder: str, probe: ProbeOptions, folder: Path) -> PretrainOptions:
    """A head for masked words behind a frozen encoder, in `folder`; one that is there is kept.

    Returns what `probe_loss` needs beside the folder.  The last 200 chunks of the text, 48 tokens
    each, are held out.
    """
    options = PretrainOptions(
        text=probe.text,
        model=encoder,
        freeze_encoder=True,
        output_dir=folder,
        overwrite=folder.exists(),
        steps=probe.probe_steps,
        batch_size=32,
        chunk=48,
        learning_rate=3e-3,
        warmup=probe.probe_steps // 10,
        save_every=0,
    )
    if (folder / METRICS).exists():
        resolved = as_dict(MODEL, options)
        check_same_options(folder, resolved, "choose another --output-dir")
    else:
        pretrain(MODEL, options)
    return options


def probe_loss(encoder: BertPretrained, folder: Path, options: PretrainOptions) -> float:
    """Mean loss of a masked token of the held-out text, in nats, with the encoder given."""
    tokenizer = Tokenizer.from_pretrained(folder)
    objective = Masks(tokenizer, MODEL)
    model = BertForMaskedLM.from_pretrained(folder)
    # The pooler, which some heads need, has no part in it.
    own = {name: x for name, x in encoder.bert.state_dict().items() if "pooler" not in name}
    model.bert.load_state_dict(own)
    chunks = make_chunks(folder, tokenizer, objective.end, options)
    return held_out_loss(model, chunks, objective, options)
