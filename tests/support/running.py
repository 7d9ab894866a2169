"""Running the scripts as users do."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Done:
    """What a script left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_script(
    name: str,
    *args: object,
    check: bool = True,
    input: str = "",
    cwd: Path | None = None,
    process: bool = False,
    terminal: bool = False,
) -> Done:
    """Run scripts/NAME.py; with `check`, a failure shows what it printed.

    In this process, which has torch already; `process`: in one of its own, as users do.
    terminal: stdout and stderr say that they are terminals; only in this process.
    """
    path = str(ROOT / "scripts" / f"{name}.py")
    command = [path, *map(str, args)]
    cwd = cwd or Path.cwd()
    done = _in_a_process(command, input, cwd) if process else _here(command, input, cwd, terminal)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def _in_a_process(command: list[str], input: str, cwd: Path) -> Done:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        input=input,
        cwd=cwd,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _here(command: list[str], input: str, cwd: Path, terminal: bool) -> Done:
    out, err = (Terminal() if terminal else io.StringIO() for _ in range(2))
    before = sys.argv, sys.stdin, os.getcwd()
    sys.argv, sys.stdin = command, io.StringIO(input)
    os.chdir(cwd)
    sys.path.insert(0, str(Path(command[0]).parent))  # as Python does for a script
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(command[0], run_name="__main__")
            code = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.path.pop(0)
        sys.argv, sys.stdin = before[:2]
        os.chdir(before[2])
    return Done(code, out.getvalue(), err.getvalue())


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
