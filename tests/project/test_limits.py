"""The limits that keep the project readable: lengths of the teaching path, of README, of a file."""

from __future__ import annotations

import pytest
from support.running import ROOT

TEACHING_PATH = [
    "minift/models/bert.py",
    "minift/nn/attention.py",
    "minift/tasks/classification.py",
    "minift/training/loop.py",
    "scripts/train_classification.py",
]
FILES = sorted((ROOT / "minift").rglob("*.py"))


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


def test_private_torch_operators_are_in_two_files():
    """Whatever exists for speed has one home."""
    private = ("torch.ops.aten.", "torch.ops.mkldnn", "torch.ops.quantized")
    found = {
        str(path.relative_to(ROOT / "minift"))
        for path in FILES
        if any(name in path.read_text(encoding="utf-8") for name in private)
    }
    assert found <= {"nn/kernels.py", "nn/int8.py"}


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
