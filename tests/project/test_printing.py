"""One file prints: nothing else in minift/ and scripts/ writes to a terminal."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from support.running import ROOT

PRINTER = ROOT / "minift" / "terminal.py"
FILES = sorted([*(ROOT / "minift").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__", "displayhook", "excepthook"}
# Functions of other modules that print; in logging, all but those that silence a library.
PRINTING = {
    "os": {"write", "writev", "system", "popen"},
    "warnings": {"warn", "warn_explicit", "showwarning"},
    "traceback": {"print_exc", "print_exception", "print_stack", "print_last", "print_tb"},
    "pprint": {"pprint", "pp"},
    "faulthandler": {"enable", "dump_traceback", "dump_traceback_later"},
    "logging": {
        *("basicConfig", "StreamHandler", "debug", "info", "warning", "error", "exception"),
        *("critical", "log", "lastResort"),
    },
}
MODULES = {"tqdm", "rich", "colorama", "curses", "click", "readline"}  # they draw on a terminal
CHILDREN = {"run", "Popen", "call", "check_call"}  # of subprocess: print unless captured


def prints(source: str) -> Iterator[str]:
    """What in a program could write to a terminal."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="print" | "input" | "breakpoint" as name):
                yield f"line {node.lineno}: {name}"
            case ast.Name(id="Escaped") | ast.Attribute(attr="Escaped"):
                yield f"line {node.lineno}: Escaped made elsewhere than in terminal.py"
            case ast.Attribute(value=ast.Name(id="sys"), attr=name) if name in STREAMS:
                yield f"line {node.lineno}: sys.{name}"
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in PRINTING.get(
                module, ()
            ):
                yield f"line {node.lineno}: {module}.{name}"
            case ast.Import(names=names):
                yield from (f"import {n.name}" for n in names if n.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=module, names=names):
                if module is not None and module.split(".")[0] in MODULES:
                    yield f"from {module} import ..."
                if module in PRINTING or module in ("sys", "subprocess"):
                    yield f"from {module} import {', '.join(n.name for n in names)}"
                if module == "minift.terminal" and any(n.name == "Escaped" for n in names):
                    yield "Escaped is imported"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"), attr=name)):
                given = {keyword.arg for keyword in node.keywords}
                captured = "capture_output" in given or {"stdout", "stderr"} <= given
                if name in CHILDREN and not captured:
                    yield f"line {node.lineno}: subprocess.{name} whose output is not captured"
            case ast.Constant(value=str() as text) if "\x1b" in text or text == "/dev/tty":
                if id(node) in docstrings:
                    continue
                yield f"line {node.lineno}: {text!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_prints(path):
    if path != PRINTER:
        assert list(prints(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "print(label)",
        "show = print",
        "import sys; sys.stderr.write(label)",
        "from sys import stdout",
        "import os; os.write(1, label)",
        "from os import write",
        "import warnings; warnings.warn(label)",
        "import traceback; traceback.print_exc()",
        "import logging; logging.warning(label)",
        "from tqdm import tqdm",
        "import tqdm.auto",
        "import subprocess; subprocess.run(command)",
        "text = f'\\x1b[31m{label}'",
        "open('/dev/tty', 'w')",
        "from minift.terminal import Escaped",
        "terminal = Escaped(label)",
    ],
)
def test_what_would_print_is_found(line):
    assert list(prints(line))


def test_the_printer_is_found():
    assert list(prints(PRINTER.read_text(encoding="utf-8")))
