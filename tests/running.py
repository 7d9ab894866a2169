"""Running the scripts as users do: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def run_script(
    name: str, *args: object, check: bool = True, **options
) -> subprocess.CompletedProcess:
    """Run scripts/NAME.py; with `check`, a failure shows what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, args)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        **options,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def read_metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
