"""Imports go one way, and importing does no work."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from support.running import ROOT

# A part of minift -> the parts that it may import.
BASE = {"errors", "files"}
ALLOWED = {
    "errors": set(),
    "files": BASE,
    "weights": BASE,
    "hub": BASE,
    "nn": {"nn"},
    "metrics": {"metrics"},
    "text": {*BASE, "hub", "text"},
    "data": {*BASE, "data"},
    "generate": {"generate"},
    "models": {*BASE, "nn", "weights", "hub", "generate", "models"},
    "tasks": {
        *(*BASE, "nn", "weights", "hub", "text", "data", "metrics", "generate", "models", "tasks")
    },
    "train": {*BASE, "weights", "data", "models", "tasks.base", "train"},
    "pretrain": {*BASE, "hub", "text", "data", "models", "tasks.base", "train", "pretrain"},
}


def imports(path: Path) -> set[str]:
    """Dotted names below minift that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("minift.") for name in names if name.startswith("minift.")}


def test_imports_go_one_way():
    for path in sorted((ROOT / "minift").rglob("*.py")):
        part = path.relative_to(ROOT / "minift").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for name in imports(path):
            fine = any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[part])
            assert fine, f"{path.relative_to(ROOT)} imports minift.{name}"


def test_the_reference_library_is_nowhere_in_the_package():
    for path in [*(ROOT / "minift").rglob("*.py"), *(ROOT / "scripts").glob("[!b]*.py")]:
        assert "import transformers" not in path.read_text(encoding="utf-8"), path
        assert "from transformers" not in path.read_text(encoding="utf-8"), path


def test_importing_everything_prints_nothing_and_needs_only_the_run_time_packages():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "minift").rglob("*.py")
    ]
    references = "transformers peft accelerate sklearn seqeval rouge_score hypothesis"
    absent = [*references.split(), "matplotlib", "pytest"]
    program = (
        "import sys\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: __import__(name.removesuffix('.__init__'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
