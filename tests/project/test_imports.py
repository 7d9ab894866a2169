"""Imports go one way, without a cycle, and importing does no work."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import ROOT

PACKAGE = ROOT / "minift"
BASE = {"errors", "files", "options", "terminal"}
BELOW_TASKS = BASE | {"hub", "weights", "nn", "data", "text", "generation", "models", "metrics"}
# A part of minift -> the parts that it may import, beside itself.
ALLOWED = {
    "errors": set(),
    "options": set(),
    "strict_json": set(),
    "terminal": {"errors"},
    "files": {"errors", "strict_json", "terminal"},
    "device": {"errors"},
    "transfer": BASE,
    "hub_cache": BASE | {"transfer"},
    "hub": BASE | {"hub_cache", "transfer"},
    "weights": BASE,
    "metrics": set(),
    "nn": {"errors", "options"},
    "data": BASE,
    "text": BASE | {"hub", "data.batching"},
    "generation": {"nn"},
    "models": BASE | {"hub", "weights", "nn", "data.batching", "generation"},
    "tasks": BELOW_TASKS,
    "reports": BELOW_TASKS | {"tasks"},
    "training": (BELOW_TASKS | {"device", "reports", "tasks.base"}) - {"text", "metrics"},
    "pretraining": BELOW_TASKS | {"device", "training"},
    "experiments": BELOW_TASKS | {"device", "tasks", "reports", "training", "pretraining"},
    "predictor": BELOW_TASKS | {"device", "tasks"},
}
# Optional packages, imported where they are used.
OPTIONAL = {"matplotlib", "tqdm"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def imports(tree: ast.AST) -> set[str]:
    """The modules of minift that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules or {node.module}
    return found & MODULES


GRAPH = {module_name(path): imports(ast.parse(path.read_text("utf-8"))) for path in FILES}


def test_imports_go_one_way():
    for module, imported in GRAPH.items():
        part = module.removeprefix("minift.").split(".")[0]
        if module == "minift":  # the public names
            continue
        for name in sorted(imported - {"minift"}):
            short = name.removeprefix("minift.")
            fine = any(f"{short}.".startswith(f"{ok}.") for ok in ALLOWED[part] | {part})
            assert fine, f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in sorted(GRAPH[module] - {"minift"}):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(MODULES - {"minift"}):
        visit(module, ())


def test_no_function_imports_but_an_optional_package():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                for part in ast.walk(node):
                    if isinstance(part, (ast.Import, ast.ImportFrom)):
                        named = getattr(part, "module", None) or part.names[0].name
                        assert named.split(".")[0] in OPTIONAL, f"{path}, line {part.lineno}"


FAMILY_NAMES = re.compile("bert|t5", re.IGNORECASE)
# Names of the library `tokenizers`.
OTHERS_NAMES = {"BertNormalizer", "BertPreTokenizer"}
WITHOUT_FAMILIES = ("tasks", "training", "generation", "experiments", "pretraining", "nn")


def identifiers(tree: ast.AST):
    """(identifier, line) of every name, attribute, definition, parameter and import."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value, getattr(node, "lineno", 0)


def test_no_code_outside_of_models_names_a_family():
    """Its own file and the registry know a family; strings may name the default of a flag."""
    paths = [path for part in WITHOUT_FAMILIES for path in (PACKAGE / part).rglob("*.py")]
    paths += (ROOT / "scripts").rglob("*.py")
    assert len(paths) > 60
    found = [
        f"{path.relative_to(ROOT)}, line {line}: {name}"
        for path in paths
        for name, line in identifiers(ast.parse(path.read_text("utf-8")))
        if FAMILY_NAMES.search(name) and name not in OTHERS_NAMES
    ]
    assert not found
    source = "from minift.models.bert import BertModel as B\nx = y.t5_size\n"
    caught = [name for name, _ in identifiers(ast.parse(source)) if FAMILY_NAMES.search(name)]
    assert caught == ["minift.models.bert", "BertModel", "t5_size"]


def test_transformers_is_nowhere_in_the_package():
    for path in [*FILES, *(ROOT / "scripts").glob("[!b]*.py")]:
        assert "import transformers" not in path.read_text(encoding="utf-8"), path
        assert "from transformers" not in path.read_text(encoding="utf-8"), path


@pytest.mark.slow
def test_importing_everything_prints_nothing_and_needs_only_the_run_time_packages():
    peers = "transformers peft accelerate sklearn seqeval rouge_score hypothesis"
    absent = [*peers.split(), "matplotlib", "pytest"]
    program = (
        "import sys\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        f"for name in {sorted(MODULES)!r}: __import__(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
