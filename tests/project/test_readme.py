"""README's commands are real: they run, and every flag in them exists."""

from __future__ import annotations

import re
import shlex

import pytest
from support.running import ROOT, read_metrics, run_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()}
)


def test_the_first_two_commands_install_and_run():
    train, test = BLOCKS[:2]
    assert train.strip().endswith("scripts/train_classification.py")
    assert test.strip().endswith("pytest")
    assert all("pip install -e" in block for block in (train, test))


def test_scripts_and_flags_exist():
    used: dict[tuple[str, ...], set[str]] = {}
    for command in COMMANDS:
        for part in re.split(r"&&|\|", command):
            words = shlex.split(part, comments=True)
            for i, word in enumerate(words):
                if word.startswith("scripts/"):
                    flags = {w.split("=")[0] for w in words[i + 1 :] if w.startswith("--")}
                    # benchmark.py takes a mode and a task first, others a task, whose flags follow.
                    count = 2 if "benchmark" in word else word.endswith(("sweep.py", "find_lr.py"))
                    task = [w for w in words[i + 1 : i + 1 + count] if not w.startswith("--")]
                    used.setdefault((word, *task), set()).update(flags)
    assert ("scripts/train_classification.py",) in used
    for (script, *task), flags in used.items():
        name = script.removeprefix("scripts/").removesuffix(".py")
        shown = run_script(name, *task, "--help").stdout
        assert flags <= set(re.findall(r"--[a-z-]+", shown)), script


def test_the_tree_names_what_is_there():
    tree = next(b for b in re.findall(r"^```text\n(.*?)^```", README, re.M | re.S) if "nn/" in b)
    names = re.findall(r"\b([a-z0-9_]+\.py)\b", tree)
    there = {
        path.name for folder in ("minift", "scripts") for path in (ROOT / folder).rglob("*.py")
    }
    assert set(names) <= there
    assert there - set(names) <= {"__init__.py"}


@pytest.mark.slow
def test_names_are_learned_from_the_built_in_sentences(tiny_bert, tmp_path):
    done = run_script("train_ner", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True)
    assert "entities  LOC" in done.stdout
    metrics = read_metrics(tmp_path / "runs" / "ner-1")
    assert set(metrics["test"]["per_type"]) == {"LOC", "MISC", "ORG", "PER"}


@pytest.mark.slow
def test_the_main_job_runs_on_the_built_in_set(tiny_bert, tmp_path):
    """As README's first command, with a model that is random and small."""
    done = run_script(
        "train_classification", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True
    )
    assert "surest hits" in done.stdout
    metrics = read_metrics(tmp_path / "runs" / "classification-1")
    assert {"dev", "test"} <= metrics.keys()
    # A second run without flags does not disturb the first.
    run_script(
        "train_classification", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True
    )
    assert (tmp_path / "runs" / "classification-2" / "metrics.json").exists()
