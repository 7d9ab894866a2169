"""A probe of catastrophic forgetting: how well an encoder still supports masked language modelling.

A masked-LM head is trained once, on the frozen encoder as it was before fine-tuning.  Its held-out
loss on the encoder after fine-tuning says how far the encoder's hidden states have moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minift import hub
from minift.models.heads import EncoderWithHead
from minift.models.masked_lm import EncoderForMaskedLM
from minift.models.registry import model_class, read_model_type
from minift.options import check_range, convert_paths, option
from minift.pretraining.base import ModelOptions
from minift.pretraining.masked_lm import MaskedLM
from minift.pretraining.run import PretrainOptions, eval_loss, make_blocks, pretrain
from minift.text.tokenizer import Tokenizer
from minift.training.cli import as_dict
from minift.training.resume import check_same_options
from minift.training.run_dir import FINISHED, state_of


@dataclass(frozen=True)
class ProbeOptions:
    """Masked-word probe of the encoder."""

    probe_file: tuple[Path, ...] = option(
        (), "Plain text files for a masked-word probe of the encoder; default: no probe."
    )
    probe_steps: int | None = option(
        None, "Optimiser steps of the probe's masked-LM head; default: 500."
    )

    def __post_init__(self) -> None:
        convert_paths(self)
        check_range(self, "probe_steps", 1)
        if self.probe_steps and not self.probe_file:
            raise ValueError("--probe-steps belongs to --probe-file; give both or none")


def train_probe(encoder: str, probe: ProbeOptions, folder: Path) -> PretrainOptions:
    """Train a masked-LM head on a frozen encoder and save it in `folder`, unless it is there.

    encoder: folder, name or hub id of its checkpoint.

    Returns the options of this run, which `probe_loss` needs.  The last 200 blocks of the text, of
    48 tokens each, are held out.
    """
    options = PretrainOptions(
        train_file=probe.probe_file,
        model=encoder,
        freeze_encoder=True,
        output_dir=folder,
        overwrite=True,
        max_steps=probe.probe_steps or 500,
        batch_size=32,
        block_size=48,
        learning_rate=3e-3,
        warmup_ratio=0.1,
        save_steps=0,
    )
    model = ModelOptions(family=read_model_type(hub.find_checkpoint(encoder)))
    if state_of(folder) == FINISHED:
        resolved = as_dict(model, options)
        check_same_options(folder, resolved, "choose another --output-dir")
    else:
        pretrain(model, options)
    return options


def probe_loss(fine_tuned: EncoderWithHead, folder: Path, options: PretrainOptions) -> float:
    """Mean loss of a masked token in the held-out text, in nats, with a fine-tuned encoder.

    folder, options: of `train_probe`.
    """
    tokenizer = Tokenizer.from_pretrained(folder)
    objective = MaskedLM(tokenizer, ModelOptions())
    model = model_class(folder, EncoderForMaskedLM, "masked-word probe").from_pretrained(folder)
    tokenizer.check_fits(model.config.vocab_size)
    model.load_encoder(fine_tuned.encoder)
    blocks = make_blocks(folder, tokenizer, objective.end_token_id, options)
    return eval_loss(model, blocks, objective, options)
