"""log.jsonl while a run trains, and what metrics.json says of the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from minift.files import open_to_append, read_bytes, write_text, writing

try:
    import resource
except ImportError:  # Windows
    resource = None

LOG = "log.jsonl"


class Log:
    """log.jsonl: a line for each logged step and evaluation, on disk when `write` returns.

    keep_lines: how many lines a resumed run keeps; it runs the steps of the later ones again.
    """

    def __init__(self, folder: Path, keep_lines: int = 0):
        self.path = folder / LOG
        text = (
            read_bytes(self.path).decode(errors="replace")
            if keep_lines and self.path.exists()
            else ""
        )
        lines = text.splitlines(keepends=True)
        # A new file, because another name of the old one, or the target of a link, is not ours.
        write_text(self.path, "".join(lines[:keep_lines]))
        self.num_lines = min(keep_lines, len(lines))

    def write(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), open_to_append(self.path) as file:
            file.write(json.dumps(row) + "\n")
        self.num_lines += 1


def environment(device: torch.device) -> dict[str, Any]:
    """The versions and the machine that a run's numbers were measured with."""
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


def peak_memory_mb(device: torch.device) -> float | None:
    """The greatest memory held so far, in MiB: the GPU's, or this process's on the CPU.

    None on Windows without a GPU, which is not asked.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage would include the process before an exec
        held = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(held[1]) / 2**10
    if resource is None:
        return None
    # Kilobytes; on macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
