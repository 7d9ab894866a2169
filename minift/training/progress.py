"""Printed lines: scores, parameter counts, and the tensors that loading initialised or ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from minift.errors import escape_fields
from minift.models.base import PretrainedModel


def numbers(score: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number: those of log lines and summaries."""
    return {name: value for name, value in score.items() if isinstance(value, (int, float))}


def one_line(score: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in numbers(score).items())


def describe_options(resolved: Mapping[str, Any], *classes: type) -> str:
    """The options whose values are not the defaults of their dataclass, in one line.

    resolved: of `as_dict`.
    classes: the dataclasses of the options.
    """
    fields = [field for cls in classes for field in dataclasses.fields(cls)]
    defaults = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in fields
    }
    changed = [
        escape_fields(f"{n}={value}") for n, value in resolved.items() if value != defaults[n]
    ]
    return f"options   {', '.join(changed)} (the others have their defaults)"


def describe_model(model: PretrainedModel) -> str:
    """Parameter counts, and every tensor that is newly initialised or ignored, with the reason."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [f"model     {type(model).__name__}, {total:,} parameters, {trained:,} of them trained"]
    if model.load_report is not None:
        lines.append(f"weights   {model.load_report.loaded} tensors read")
        if model.load_report.new:
            lines.append(f"  new     {', '.join(model.load_report.new)}")
        lines += [
            f"  ignored {escape_fields(name)}: {why}"
            for name, why in model.load_report.ignored.items()
        ]
    return "\n".join(lines)
