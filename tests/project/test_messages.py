"""Messages name only flags that the script at hand has.

Every string of the code that holds a --flag in a sentence is a message, help texts and docstrings
aside.  `REACHES` says which commands can print the messages of a module or function.  A flag behind
the name of a script, as in "pretrain.py --block-size", is that script's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from support.running import ROOT, run_script

TASKS = ("classification", "ner", "qa", "summarization")
FLAG = re.compile(r"(?:(\w+)\.py )?(?<![\w-])(--[a-z][a-z0-9-]*[a-z0-9])")

# Commands that train: with `TrainOptions`, and the options of a task.
TRAINING = {
    task: {f"train_{task}", f"sweep {task}", f"find_lr {task}"}
    | {f"benchmark {name} {task}" for name in ("quality", "head", "guarantees")}
    for task in TASKS
}
TRAINING["classification"] |= {"compare_forgetting", "compare_freezing"}
TRAINING["ner"] |= {"compare_label_strategies"}
TRAINING["qa"] |= {"compare_long_contexts"}
TRAINING["summarization"] -= {"benchmark head summarization"}
TRAINING["summarization"] |= {"compare_decoding"}
ALL_TRAINING = set().union(*TRAINING.values())
# A range test and a benchmark train in a folder of their own.
RUNS = {name for name in ALL_TRAINING if not name.startswith(("find_lr", "benchmark"))}
EVALUATING = {name for name in ALL_TRAINING if not name.startswith("find_lr")}
SWEEPS = {f"sweep {task}" for task in TASKS}
COMPARISONS = {name for name in RUNS if name.startswith("compare")}
SEVERAL_SEEDS = RUNS - {"compare_decoding"}
RANGE_TESTS = {f"find_lr {task}" for task in TASKS}
TRAIN_SCRIPTS = {f"train_{task}" for task in TASKS}
PREDICT, PRETRAIN = {"predict"}, {"pretrain"}
SUMMARIZERS = {
    *("train_summarization", "sweep summarization", "find_lr summarization", "compare_decoding"),
}
PYTHON: set[str] = set()  # only Python code gets there: the scripts have no such flag

# The parser names its own flags; training/test_cli.py checks its table of renamed flags.
PARSERS = ("training.cli.ArgumentParser", "training.cli._add_flag", "training.cli.make_parser")

# Module, or module and function -> the commands that can print its messages.  The longest counts.
REACHES: dict[str, set[str]] = {
    "data.columns": TRAINING["ner"] | PREDICT,
    "data.columns.read_tagged": TRAINING["ner"],
    "data.inputs": PREDICT,
    "data.rows": TRAINING["classification"] | PREDICT,
    "data.tags": TRAINING["ner"],
    "device": ALL_TRAINING | PREDICT | PRETRAIN,
    "device.check_precision": ALL_TRAINING | PRETRAIN,
    "experiments.comparison": SEVERAL_SEEDS,
    "experiments.comparison.check_dev_file": COMPARISONS | SWEEPS,
    "experiments.comparison.compare_in": TRAIN_SCRIPTS | {"compare_freezing"},
    "experiments.comparison.finished_run": SEVERAL_SEEDS,
    "experiments.comparison.train_script": TRAIN_SCRIPTS,
    "experiments.decoding": {"compare_decoding"},
    "experiments.forgetting": {"compare_forgetting"},
    "experiments.long_contexts": {"compare_long_contexts"},
    "experiments.lr_range_test": RANGE_TESTS,
    "experiments.parallel": SWEEPS,
    "experiments.remedies": {"compare_forgetting"},
    "experiments.sweep": SWEEPS,
    "files.check_output_dir": RUNS | RANGE_TESTS | PRETRAIN,
    "files.lock_folder": RUNS | PRETRAIN,
    "files._differs": RUNS | PRETRAIN,  # also read by others, of "its run"
    "nn.int8": PREDICT,
    "predictor": PREDICT,
    "pretraining": PRETRAIN | {"compare_forgetting"},
    "pretraining.base": PRETRAIN,
    "pretraining.probe": {"compare_forgetting"},
    "pretraining.run.PretrainOptions": PRETRAIN,
    "pretraining.run.pretrain": PRETRAIN,
    "tasks": ALL_TRAINING,
    "tasks.answers": TRAINING["qa"],
    "tasks.base.Task.metric_named": EVALUATING,
    "tasks.base.Task._check_inputs": PREDICT,
    "tasks.classification": TRAINING["classification"],
    # compare_freezing trains no checkpoint's pooling without its weights: see its poolings.
    "tasks.classification.ClassificationTask.precompute_encoder_outputs": {"train_classification"},
    "tasks.labels": TRAINING["classification"],
    "tasks.labels.doubtful_labels": TRAINING["classification"] - RANGE_TESTS,
    "tasks.ner": TRAINING["ner"],
    "tasks.ner._check_words": TRAINING["ner"] | PREDICT,
    "tasks.options": EVALUATING - {"compare_forgetting"},  # which needs all files
    "tasks.qa": TRAINING["qa"] | PREDICT,
    "tasks.qa._question_and_context": PREDICT,
    "tasks.qa.QaTask.fit": TRAINING["qa"],
    "tasks.qa.QaTask.inputs_of": PREDICT,
    "tasks.qa_checks": TRAINING["qa"] - RANGE_TESTS,  # which does not check data
    "tasks.summaries": TRAINING["summarization"],
    "tasks.summary_checks": TRAINING["summarization"],
    "tasks.summarization": TRAINING["summarization"],
    "tasks.summarization.SummarizationTask.precompute_encoder_outputs": PYTHON,
    "tasks.summarization.SummarizationTask": SUMMARIZERS,
    "training": ALL_TRAINING,
    "training.checkpoint": RUNS | PRETRAIN,
    "training.cli": RUNS,
    # The cells of a sweep give the epochs, and so does a range test.
    "training.defaults": ALL_TRAINING - SWEEPS - RANGE_TESTS,
    "training.options.TrainOptions._check_trained_parameters": TRAIN_SCRIPTS - SUMMARIZERS,
    "training.options.TrainOptions.__post_init__": RUNS,
    "training.options.TrainOptions.check_evaluated": EVALUATING,
    "training.options.check_resume": RUNS | PRETRAIN,
    "training.plan": TRAIN_SCRIPTS | COMPARISONS,
    "training.run": RUNS,
    "training.resume.check_same_start": RUNS,
    "training.run_dir": RUNS | PRETRAIN,
    "training.run_dir.check_inputs": RUNS | RANGE_TESTS | PRETRAIN,
    "training.run_dir.decoding_results": {"compare_decoding"},
    "training.run_dir.experiment": SEVERAL_SEEDS | RANGE_TESTS,
    # In other benchmarks both sides must stay equal, so they have no such flag.
    "training.step": RUNS | RANGE_TESTS | {f"benchmark guarantees {task}" for task in TASKS},
    "training.signals": RUNS | PRETRAIN,
    "benchmarks.regression": {"benchmark regression ."},
    "benchmarks.training": {f"benchmark training {task}" for task in TASKS},
}


def messages() -> Iterator[tuple[str, int, str]]:
    """(module and function, line, text) of each string with a flag in a sentence."""
    for folder, prefix in ((ROOT / "minift", ""), (ROOT / "scripts" / "benchmarks", "benchmarks.")):
        for path in sorted(folder.rglob("*.py")):
            name = prefix + ".".join(path.relative_to(folder).with_suffix("").parts)
            yield from _messages_in(ast.parse(path.read_text(encoding="utf-8")), name)


def _messages_in(node: ast.AST, name: str) -> Iterator[tuple[str, int, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        name = f"{name}.{node.name}"
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option":
        return  # a help text
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "RENAMED_FLAGS":
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.JoinedStr | ast.Constant):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        # A value that is put in ends the word.
        text = "".join(str(getattr(part, "value", "{}")) for part in parts if _is_text(part))
        flags = FLAG.search(text)
        if flags and " " in text and not name.startswith(PARSERS):
            yield name, node.lineno, text
        return
    for child in ast.iter_child_nodes(node):
        yield from _messages_in(child, name)


def _is_text(part: ast.AST) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, str)


@cache
def flags_of(command: str) -> frozenset[str]:
    shown = run_script(*command.split(), "--help-all", check=False).stdout
    return frozenset(re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", shown, re.MULTILINE))


def commands_of(name: str) -> set[str]:
    """The commands of the longest entry of `REACHES` that a module and function belong to."""
    entries = [entry for entry in REACHES if f"{name}.".startswith(f"{entry}.")]
    assert entries, f"{name} names a flag, but REACHES does not say which scripts get there"
    return REACHES[max(entries, key=len)]


MESSAGES = list(messages())


def test_messages_are_found():
    names = {name for name, _, _ in MESSAGES}
    assert {"tasks.options.TaskOptions.__post_init__", "files.lock_folder"} <= names
    assert len(MESSAGES) > 60
    unused = {e for e in REACHES if not any(f"{n}.".startswith(f"{e}.") for n in names)}
    assert not unused


@pytest.mark.parametrize("name", sorted({name for name, _, _ in MESSAGES}))
def test_each_flag_of_a_message_exists_where_it_is_printed(name):
    for found, line, text in MESSAGES:
        for script, flag in FLAG.findall(text) if found == name else ():
            for command in [script] if script else sorted(commands_of(name)):
                assert flag in flags_of(command), f"{command} has no {flag}: line {line}, {text!r}"
