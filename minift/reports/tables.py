"""Tables in Markdown, with means and spreads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from minift.errors import escape_controls


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table.

    >>> print(markdown_table([{"model": "whole", "accuracy": 0.88}]))
    | model | accuracy |
    | --- | --- |
    | whole | 0.88 |

    A vertical bar or a line break within a cell is escaped.
    """

    def cell(value: Any) -> str:
        return escape_controls(" ".join(str(value).split())).replace("|", "\\|")

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
