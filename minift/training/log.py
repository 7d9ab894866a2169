"""What a run leaves behind for people and programs: log.jsonl, metrics.json, tables, plots."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from minift.errors import visible
from minift.files import writing

LOG = "log.jsonl"


class Log:
    """log.jsonl: a line for each logged step and evaluation, on disk as soon as it is written.

    keep: how many lines a resumed run goes on from; what stands behind them is run again.
    """

    def __init__(self, folder: Path, keep: int = 0):
        self.path = folder / LOG
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        self.path.write_text("".join(lines[:keep]))
        self.lines = min(keep, len(lines))

    def write(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.lines += 1


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers of a run were measured on."""
    packages = ("minift", "torch", "tokenizers", "safetensors", "numpy", "huggingface-hub")
    return {
        "python": platform.python_version(),
        **{name: package_version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far: the GPU's, or this process's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage would count what the process before an exec held, too
        held = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(held[1]) / 2**10
    # Kilobytes, on macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def numbers(score: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number, which is what log lines and summaries hold."""
    return {name: value for name, value in score.items() if isinstance(value, (int, float))}


def one_line(score: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in numbers(score).items())


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a table for README.

    >>> print(markdown_table([{"model": "whole", "accuracy": 0.88}]))
    | model | accuracy |
    | --- | --- |
    | whole | 0.88 |

    A bar within a cell, or an end of line, is written so that it stays in its cell.
    """

    def cell(value: Any) -> str:
        return visible(" ".join(str(value).split())).replace("|", "\\|")

    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and sample standard deviation, as tables show them.

    >>> mean_and_spread([0.87, 0.88, 0.89])
    '0.880 ± 0.010'
    """
    tensor = torch.tensor(values, dtype=torch.float64)
    spread = tensor.std().item() if len(values) > 1 else 0.0
    return f"{tensor.mean().item():.{digits}f} ± {spread:.{digits}f}"


def scatter_plot(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
) -> bool:
    """One mark for each (x, y) of each series, as PNG.  False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for marker, (name, points) in zip("osD^vP*X" * len(series), series.items(), strict=False):
        axes.scatter(*zip(*points, strict=True), label=name, marker=marker, s=50, alpha=0.8)
    axes.set(xlabel=x_label, ylabel=y_label, title=title, xscale="log" if log_x else "linear")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)
    return True
