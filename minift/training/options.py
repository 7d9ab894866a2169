"""TrainOptions: how to train, for every task.  Each field is a flag of the training scripts.

The task decides an option that is None (training/defaults.py), such as the number of epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

from minift.device import check_device, check_precision
from minift.errors import UserError
from minift.options import check_range, convert_paths, flag_of, option
from minift.training.schedules import SCHEDULES

MAX_SEED, MAX_BATCH_SIZE = 2**32 - 1, 65_536
# Options that choose the trained parameters: all of them, some of them, or those of LoRA.
WHOLE = ("freeze_encoder", "lora_rank", "bitfit")
PARTIAL = ("freeze_embeddings", "freeze_layers", "gradual_unfreezing", "reinit_layers")
LORA = ("lora_alpha", "lora_dropout", "lora_target_modules")
# Options that concern the encoder -> their values without an effect.
ONLY_WITH_ENCODER = {
    "layerwise_lr_decay": 1.0,
    "l2_sp": 0.0,
    "wise_ft_alpha": 1.0,
    "gradient_checkpointing": False,
}


def check_resume(options: Any) -> None:
    """`ValueError` for a --resume that cannot be meant."""
    if options.resume and options.overwrite:
        raise ValueError("--resume and --overwrite exclude each other; give one of them")
    if options.resume and options.output_dir is None:
        raise ValueError("--resume needs the --output-dir of the run to continue")


@dataclass(frozen=True)
class TrainOptions:
    """How to train, whatever the task."""

    output_dir: Path | None = option(
        None, "Folder for the model and its results; default: a folder under runs/.", common=True
    )
    resume: bool = option(
        False, "Continue the run in --output-dir from its last saved state.", common=True
    )
    overwrite: bool = option(False, "Replace the run in --output-dir.", common=True)
    accept_changes: bool = option(
        False,
        "With --resume: continue although options, data or initial weights have changed, at the "
        "same position in the data. Options that choose the trained parameters, and the labels, "
        "must stay the same.",
    )
    epochs: int | None = option(
        None, "Passes over the training data; default: the task's own, 4 or fewer.", common=True
    )
    batch_size: int | None = option(
        None,
        "Records (or windows of them) in a forward pass; default: the task's own, 8 or 16.",
        common=True,
    )
    gradient_accumulation_steps: int = option(
        1, "Batches whose gradients are accumulated for one optimiser step; 1: off."
    )
    learning_rate: float | None = option(
        None,
        "Highest learning rate. Default: the task's own, such as 5e-5 for classification; 1e-3 "
        "with Adafactor, 1e-2 with --freeze-encoder, ten times the task's own with LoRA and "
        "BitFit.",
        common=True,
    )
    lr_scheduler_type: Literal[tuple(SCHEDULES)] = option(
        "linear", "How the learning rate changes after warmup; see training/schedules.py."
    )
    warmup_ratio: float = option(
        0.1, "Share of the steps in which the learning rate rises from 0 (warmup); 0: no warmup."
    )
    layerwise_lr_decay: float = option(
        1.0, "Factor of the learning rate from each layer to the layer below it; 1: off."
    )
    head_lr_multiplier: float = option(
        1.0, "The learning rate of pooler and head is --learning-rate times this; 1: off."
    )
    optimizer: Literal["adamw", "adafactor"] | None = option(
        None,
        "adafactor uses less memory; its steps are relative to the weights' size. Default: adamw; "
        "adafactor for summarization.",
    )
    weight_decay: float = option(
        0.01, "Decoupled weight decay of matrices, not of norms and biases; 0: off."
    )
    max_grad_norm: float = option(
        1.0, "Clip the gradient to this L2 norm over all parameters; a large number: off."
    )
    l2_sp: float = option(
        0.0,
        "Decay of pretrained parameters towards their initial values (L2-SP), which replaces their "
        "weight decay; a new head keeps --weight-decay; 0: off.",
    )
    freeze_encoder: bool = option(
        False, "Train only the head, on encoder outputs computed once.", common=True
    )
    freeze_embeddings: bool = option(False, "Freeze the embeddings.")
    freeze_layers: int | None = option(
        None,
        "Freeze the embeddings and this many of the lowest layers; 0: none. Default: 0; 2 for the "
        "default summarizer.",
    )
    gradual_unfreezing: int = option(
        0, "Train the head first, then unfreeze a layer from the top every so many epochs; 0: off."
    )
    reinit_layers: int = option(
        0, "Re-initialise this many of the top layers, and pooler and head; 0: none."
    )
    lora_rank: int = option(0, "LoRA: rank of the trained updates beside frozen weights; 0: off.")
    lora_alpha: float | None = option(None, "LoRA: scale updates by this / rank; default: rank.")
    lora_dropout: float = option(0.0, "LoRA: dropout of the updates' inputs; 0: off.")
    lora_target_modules: tuple[str, ...] = option(
        (), "LoRA: modules with updates, by the ends of their names; default: query and value."
    )
    bitfit: bool = option(False, "Train only the biases and the head (BitFit).")
    swa_fraction: float | None = option(
        None,
        "Save the average of the weights over this last share of the steps (SWA); 0: off. Default: "
        "0, or as the task, the model and the number of records need.",
    )
    wise_ft_alpha: float = option(
        1.0,
        "Save alpha * fine-tuned + (1 - alpha) * pretrained weights (WiSE-FT); a new head is saved "
        "as trained; 1: off.",
    )
    min_steps: int | None = option(
        None,
        "Least number of optimiser steps; adds epochs where data is small; 0: off. Default: 0, or "
        "as few records need.",
    )
    group_by_length: bool = option(True, "Batch texts of similar length, which saves padding.")
    eval_steps: int = option(0, "Steps between two evaluations; 0: after each epoch.")
    train_eval_samples: int = option(
        0, "Training records to score at each evaluation, which shows over-fitting; 0: none."
    )
    early_stopping_patience: int = option(
        0, "Evaluations without a better score before training stops; 0: never."
    )
    metric_for_best_model: str | None = option(
        None, "Metric that chooses the saved model; default: the task's own."
    )
    logging_steps: int = option(20, "Steps between two lines of log.jsonl.")
    save_steps: int = option(0, "Steps between two saved states for --resume; 0: none.")
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, a third more arithmetic."
    )
    compile: bool = option(
        False,
        "Compile the feed-forward layers with torch.compile: experimental, takes up to a minute, "
        "and was not faster on the machines measured.",
    )
    auto_micro_batch: bool = option(
        False, "When memory runs out, split batches in half; the optimiser step stays the same."
    )
    max_skipped_steps: int = option(
        0, "Steps to skip because their loss is inf or nan; one more fails the run; 0: none."
    )
    seed: int = option(1, "Seed of every random number.", common=True)
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda or cuda:N.", common=True)
    precision: str = option("fp32", "fp32, or bf16: mixed precision with float32 weights.")

    def __post_init__(self) -> None:
        convert_paths(self)
        check_range(self, "epochs", 1, 1_000_000)
        check_range(self, "batch_size", 1, MAX_BATCH_SIZE)
        for name in ("gradient_accumulation_steps", "logging_steps"):
            check_range(self, name, 1)
        for name in (
            *("eval_steps", "early_stopping_patience", "save_steps", "weight_decay", "min_steps"),
            *("freeze_layers", "gradual_unfreezing", "reinit_layers"),
            *("train_eval_samples", "max_skipped_steps"),
        ):
            check_range(self, name, 0)
        check_range(self, "l2_sp", 0, 1e6)
        check_range(self, "lora_rank", 0, 1024)
        check_range(self, "lora_alpha", 1e-6, 1e6)
        check_range(self, "lora_dropout", 0, 0.99)
        for name in ("swa_fraction", "wise_ft_alpha", "warmup_ratio"):
            check_range(self, name, 0, 1)
        self._check_trained_parameters()
        check_range(self, "seed", 0, MAX_SEED)
        check_range(self, "layerwise_lr_decay", 1e-6, 1)
        for name in ("learning_rate", "max_grad_norm", "head_lr_multiplier"):
            check_range(self, name, 1e-12)
        check_resume(self)
        if self.accept_changes and not self.resume:
            raise ValueError("--accept-changes belongs to --resume; give both or none")
        check_device(self.device)
        check_precision(self.precision)

    def _check_trained_parameters(self) -> None:
        """`ValueError` if two options choose the trained parameters differently."""
        for first, second in [*combinations(WHOLE, 2), *product(WHOLE, PARTIAL)]:
            if getattr(self, first) and getattr(self, second):
                raise ValueError(
                    f"{flag_of(first)} and {flag_of(second)} exclude each other, since each "
                    "chooses the trained parameters; leave one of them out"
                )
        # Beside a frozen encoder only the new head is trained, which is one depth and has no
        # pretrained weights.
        if self.freeze_encoder:
            for name, off in ONLY_WITH_ENCODER.items():
                if getattr(self, name) != off:
                    raise ValueError(
                        f"{flag_of(name)} has no effect with --freeze-encoder; leave one out"
                    )
        for name in LORA:
            if getattr(self, name) and not self.lora_rank:
                raise ValueError(f"{flag_of(name)} needs --lora-rank; give it a rank, such as 8")
        if self.wise_ft_alpha < 1 and self.reinit_layers:
            raise ValueError(
                "--wise-ft-alpha averages with the pretrained weights, which the layers of "
                "--reinit-layers lack; leave one of them out"
            )

    def check_evaluated(self, splits: Collection[str]) -> None:
        """`UserError` for an option that belongs to evaluations, if the data has none to make.

        splits: the names of the splits that the run has.
        """
        if "dev" in splits:
            return
        names = ["early_stopping_patience", "metric_for_best_model"]
        if not self.train_eval_samples:
            names.append("eval_steps")
        for name in names:
            if getattr(self, name):
                raise UserError(
                    f"{flag_of(name)} is {getattr(self, name)}, but there is no dev data to "
                    "evaluate on; give a --dev-file, or leave it out"
                )

    @property
    def frozen_depth(self) -> int:
        """How many depths are frozen, from the bottom: 1 the embeddings, 2 the first layer too."""
        return 1 + self.freeze_layers if self.freeze_layers else int(self.freeze_embeddings)

    def with_learning_rate(self, default: float) -> TrainOptions:
        """The same options with a learning rate: the one given, or else the default.

        Adafactor's steps are relative to the weights' size, so one learning rate suits any model.
        LoRA updates, and biases beside frozen weights (BitFit), need a learning rate ten times as
        high; a new head on a frozen encoder needs 1e-2.
        """
        if self.learning_rate is not None:
            return self
        if self.optimizer == "adafactor":
            default = 1e-3
        elif self.freeze_encoder:
            default = 1e-2
        elif self.lora_rank or self.bitfit:
            default = 10 * default
        return dataclasses.replace(self, learning_rate=default)
