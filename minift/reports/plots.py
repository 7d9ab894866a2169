"""Plots as PNG files: a scatter plot, the heat map of a sweep, and scores over training.

matplotlib is optional: without it each function removes an older plot of that name, which would
show other results than the table beside it, and returns False.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minift.files import write_atomically


def scatter_plot(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
) -> bool:
    """Plot the points (x, y) of each series: name -> points."""
    if (figure := _new_figure(path, 8, 4.5)) is None:
        return False
    axes = figure.subplots()
    for marker, (name, points) in zip("osD^vP*X" * len(series), series.items(), strict=False):
        axes.scatter(*zip(*points, strict=True), label=name, marker=marker, s=50, alpha=0.8)
    axes.set(xlabel=x_label, ylabel=y_label, title=title, xscale="log" if log_x else "linear")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    _save(figure, path)
    return True


def heat_map(
    path: Path,
    scores: Mapping[tuple[float, int, int], float | None],
    title: str,
    higher_is_better: bool = True,
) -> bool:
    """Plot scores over learning rate and epochs, one panel for each batch size.

    scores: (learning rate, epochs, batch size) -> score, or None for a cell that failed; at least
        one is a number.  A cell that was not tried is blank.
    All panels share one colour scale, better scores have brighter cells, and each cell shows its
    score.
    """
    learning_rates, epochs, sizes = (sorted(set(values)) for values in zip(*scores, strict=True))
    known = [score for score in scores.values() if score is not None]
    low, high = min(known), max(known)
    digits = 3 if high < 10 else 1  # three decimals for a share, one for a percentage
    width = 1.5 + (0.6 + 0.75 * len(learning_rates)) * len(sizes)
    height = 1.6 + 0.6 * len(epochs)
    if (figure := _new_figure(path, width, height)) is None:
        return False
    row = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(row, sizes, strict=True):
        grid = [[math.nan] * len(learning_rates) for _ in epochs]
        for (learning_rate, count, cell_size), score in scores.items():
            if cell_size == size:
                x, y = learning_rates.index(learning_rate), epochs.index(count)
                grid[y][x] = math.nan if score is None else score
                text = "failed" if score is None else f"{score:.{digits}f}"
                is_dark = score is not None and (2 * score < low + high) is higher_is_better
                colour = "white" if is_dark else "black"
                axes.text(x, y, text, color=colour, ha="center", va="center")
        image = axes.imshow(
            grid,
            vmin=low,
            vmax=high,
            cmap="viridis" if higher_is_better else "viridis_r",
            aspect="auto",
            origin="lower",
        )
        axes.set_xticks(range(len(learning_rates)), [f"{value:g}" for value in learning_rates])
        axes.set_yticks(range(len(epochs)), map(str, epochs))
        axes.set(xlabel="learning rate", title=f"batch size {size}", facecolor="0.9")
    row[0].set_ylabel("epochs")
    figure.colorbar(image, ax=list(row))
    figure.suptitle(title)
    _save(figure, path)
    return True


def curves(path: Path, panels: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> bool:
    """Plot train and dev scores over epochs, one panel for each run; the gap is shaded grey.

    panels: title -> the lines of log.jsonl with "epoch", "train" and "dev".
    """
    if (figure := _new_figure(path, 1 + 3 * len(panels), 3.5)) is None:
        return False
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
    _save(figure, path)
    return True


def _new_figure(path: Path, width: float, height: float) -> Any:
    """An empty figure, in inches; None without matplotlib, and then `path` is gone."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        path.unlink(missing_ok=True)
        return None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
