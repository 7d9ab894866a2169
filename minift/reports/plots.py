"""Plots of a sweep as PNG: scores over its grid, and how they move while training.

matplotlib is imported where it draws, since minift runs without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def heat_map(path: Path, scores: Mapping[tuple[float, int, int], float | None], title: str) -> bool:
    """(rate, epochs, batch size) -> score: a panel for each batch size, all in the same colours.

    The scores are written in the cells.  None is a cell that failed, and says so; one that was not
    tried stays blank.  One score must be there.  False where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    rates, epochs, sizes = (sorted(set(values)) for values in zip(*scores, strict=True))
    known = [score for score in scores.values() if score is not None]
    low, high = min(known), max(known)
    digits = 3 if high < 10 else 1  # of a share three, of a percentage one
    width, height = 1.5 + (0.6 + 0.75 * len(rates)) * len(sizes), 1.6 + 0.6 * len(epochs)
    figure = Figure(figsize=(width, height), layout="constrained")
    row = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(row, sizes, strict=True):
        grid = [[math.nan] * len(rates) for _ in epochs]
        for (rate, count, its_size), score in scores.items():
            if its_size == size:
                x, y = rates.index(rate), epochs.index(count)
                grid[y][x] = math.nan if score is None else score
                text = "failed" if score is None else f"{score:.{digits}f}"
                # Low scores are dark.
                colour = "white" if score is not None and 2 * score < low + high else "black"
                axes.text(x, y, text, color=colour, ha="center", va="center")
        image = axes.imshow(grid, vmin=low, vmax=high, aspect="auto", origin="lower")
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(epochs)), map(str, epochs))
        axes.set(xlabel="learning rate", title=f"batches of {size}", facecolor="0.9")
    row[0].set_ylabel("epochs")
    figure.colorbar(image, ax=list(row))
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return True


def curves(path: Path, panels: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> bool:
    """A panel for each run: its train and dev score at each evaluation, the gap between them grey.

    panels: title -> the lines of log.jsonl with "epoch", "train" and "dev".  False where matplotlib
    is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(1 + 3 * len(panels), 3.5), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, lines) in zip(row, panels.items(), strict=True):
        epochs = [line["epoch"] for line in lines]
        train, dev = ([line[part][metric] for line in lines] for part in ("train", "dev"))
        axes.plot(epochs, train, marker="o", label="train")
        axes.plot(epochs, dev, marker="s", label="dev")
        axes.fill_between(epochs, dev, train, color="0.9", label="gap")
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    row[0].set_ylabel(metric)
    row[0].legend()
    figure.savefig(path, dpi=120)
    return True
