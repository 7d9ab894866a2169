"""The limits that keep the project readable: lengths of the teaching path, of README, of a file."""

from __future__ import annotations

import ast

import pytest
import torch
from support.running import ROOT

TEACHING_PATH = [
    "minift/models/bert.py",
    "minift/models/encoder.py",  # the base class of the first
    "minift/nn/attention.py",
    "minift/tasks/classification.py",
    "minift/training/loop.py",
    "scripts/train_classification.py",
]
FILES = sorted((ROOT / "minift").rglob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def lines(path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_teaching_path_has_at_most_1200_lines():
    assert sum(lines(ROOT / name) for name in TEACHING_PATH) <= 1200


@pytest.mark.parametrize("name", TEACHING_PATH)
def test_every_readme_that_names_the_path_names_all_of_it(name):
    short = name.removeprefix("minift/")
    assert short in (ROOT / "README.md").read_text(encoding="utf-8")
    assert short in (ROOT / "minift" / "README.md").read_text(encoding="utf-8")


def test_readme_has_at_most_200_lines():
    assert lines(ROOT / "README.md") <= 200


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_idea(path):
    assert lines(path) <= 420


# Private members of torch's objects, such as Tensor._values; not the dunder methods of Python.
PRIVATE_MEMBERS = {
    name
    for example in (torch.Tensor, torch.nn.Module(), torch.optim.Optimizer)
    for name in dir(example)
    if is_private(name)
}
MAY_BE_PRIVATE = {"minift/nn/kernels.py", "minift/nn/int8.py"}


def private_torch_names(source: str) -> set[str]:
    """What a file uses of torch that torch does not document, such as torch._foreach_mul_."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            root, *members = name.split(".")
            of_torch = root in ("torch", "F", "nn") and all(map(str.isidentifier, members))
            if of_torch and (members[0] == "ops" or any(map(is_private, members))):
                found.add(name)
            if node.attr in PRIVATE_MEMBERS:
                found.add(name)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "torch"]
        else:
            names = []
        found |= {n for n in names if "ops" in n.split(".") or any(map(is_private, n.split(".")))}
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.ops.aten.add(x, y)", {"torch.ops.aten.add", "torch.ops.aten", "torch.ops"}),
        ("torch._foreach_mul_(x, 2)", {"torch._foreach_mul_"}),
        ("x.grad._values()", {"x.grad._values"}),
        ("layer._forward_hooks", {"layer._forward_hooks"}),
        ("from torch._inductor import config", {"torch._inductor.config"}),
        ("from torch import ops, nn", {"torch.ops"}),
        ("import torch._dynamo", {"torch._dynamo"}),
        ("F.linear(x, self._weight).values().__class__", set()),
        ("import torch.nn.functional as F\nfrom torch.nn import Module", set()),
    ],
)
def test_private_names_of_torch_are_found(source, expected):
    assert private_torch_names(source) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_torch_have_one_home(path):
    """A version of torch may change them; only these files check that they work, and do without."""
    found = private_torch_names(path.read_text(encoding="utf-8"))
    assert bool(found) == (path.relative_to(ROOT).as_posix() in MAY_BE_PRIVATE), found


@pytest.mark.parametrize(
    "word",
    [
        "warmup",
        "pooler",
        "gradient checkpointing",
        "label smoothing",
        "beam search",
        "null threshold",
        "doc stride",
        "layer-wise learning rate",
    ],
)
def test_a_newcomer_finds_the_fields_words_in_the_code_and_in_the_glossary(word):
    """One grep finds each, written as the field writes it."""
    code = "\n".join(path.read_text(encoding="utf-8").lower() for path in FILES)
    assert word in code
    assert word in (ROOT / "minift" / "README.md").read_text(encoding="utf-8").lower()
