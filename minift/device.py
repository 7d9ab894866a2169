"""The device and the precision that a model computes in."""

from __future__ import annotations

import re

import torch

from minift.errors import UserError


def check_device(name: str) -> None:
    """Raise `ValueError` if a string is no value of --device."""
    if not re.fullmatch("auto|cpu|cuda|cuda:[0-9]{1,3}", name):
        raise ValueError(f"--device is {name!r}; it must be auto, cpu, cuda or cuda:N")


def check_precision(name: str) -> None:
    """Raise `ValueError` if a string is no value of --precision."""
    if name == "fp16":
        raise ValueError(
            "--precision is fp16, which overflows beyond 65,504, as in T5's feed-forward layers, "
            "and rounds small gradients to 0; use bf16 or fp32"
        )
    if name not in ("fp32", "bf16"):
        raise ValueError(f"--precision is {name!r}; it must be fp32 or bf16")


def pick_device(name: str) -> torch.device:
    """The device for --device; auto: a GPU if there is one.  `UserError` for a missing GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise UserError(
            f"--device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs here; "
            "use --device cpu"
        )
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass: bf16 computes in bfloat16 and keeps float32 weights.

    precision: "fp32" turns it off.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
