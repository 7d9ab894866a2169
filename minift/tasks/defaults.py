"""The training options that a task decides where the user gave none.

`Task.train_defaults` returns them, and training/defaults.py fills them in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainDefaults:
    """Values of training options, for those that the user did not give.

    learning_rate: with this optimiser and all or the upper layers trained; None:
        `TaskOptions.default_learning_rate`, or 1e-3 with Adafactor.
    reason: why these values differ from the usual ones, for a printed line; empty: they do not.
    """

    epochs: int = 4
    batch_size: int = 16
    optimizer: str = "adamw"
    freeze_layers: int = 0
    swa_fraction: float = 0.0
    min_steps: int = 0
    learning_rate: float | None = None
    reason: str = ""
