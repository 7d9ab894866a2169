"""Running the scripts as users do: in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
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


def last_line_of_refusal(script: str, flags: dict[str, object], monkeypatch, capsys) -> str:
    """Run a script here and now; it must end as the contract says of bad input."""
    path = str(ROOT / "scripts" / f"{script}.py")
    argv = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", [path, *argv])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    stderr = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def recorder(name: str):
    """The program tests/references/NAME.py as a module."""
    path = ROOT / "tests" / "references" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def read_metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
