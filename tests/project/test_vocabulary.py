"""The code speaks the field's words: none of the names that were replaced is left.

A name is banned as a module, definition, attribute, parameter or option field of `minift/` and
`scripts/`.  Ordinary words that were replaced in one place only (a method `rows`, a field `mask`)
are banned there: as a definition, or as a member of a class.
"""

from __future__ import annotations

import ast

import pytest
from support.running import ROOT

from minift.training.cli import RENAMED_FLAGS

BANNED_EVERYWHERE = """
Generation constrain warp Ends Source keep longest step_by_step trades trainable finite
doubts firsts encode_firsts means LOWEST NEVER barred product packed_for_few usual_rate
USUAL both_ways bottom labelled leave_aside theirs adapt trivial_score trivial_answer asked
tuned Work most pull keep_rows_apart Update install plain InputError learnt fitted shares
owners IGNORE SAMPLE resolve judge freeze_features vectors explain explain_answers
load_start attend attend_padded attend_at_once has_holes drop _Keep LANES _RMSNormThatLearns
bucket PositionBias NameTable spellings fixed hard_limit someone_elses new_head depth_of
top_layer T5Decoder Decoder cross finish play IMPOSSIBLE hope favourable in_int8
LoraSettings USUAL_TARGETS INSIDE projections ends_with common_subsequence stem best_path
legal_steps label_pieces label_words recognise own_ranges room PATIENCE say restart_layers
normalise_gradients set_rate claimed begun_with visible STEERING NotFinite way_back
other_windows beam_stopping accumulation eval_every save_every log_every freeze_below
l2_start recompute layer_decay head_rate best_metric train_sample unfreeze_epochs
average_last average_start halve_batches skip_steps lora_targets n_best long_text rates
epoch_counts draws learn_head learn_above learn_only choose_what_learns WAYS_BACK ways way
anew gaps masks job range_test piece_spans
"""
NAMES = set(BANNED_EVERYWHERE.split())
# Banned as a function, method or class.
DEFINITIONS = {"rows", "lines", "freeze", "start", "at", "place", "table", "parts", "extra"}
DEFINITIONS |= {"columns", "starts", "overlap", "Linear"}
# Banned as a field, method or attribute of a class.
MEMBERS = {
    "TokenFeature": {"ids", "types", "vectors"},
    "TokenBatch": {"ids", "mask", "types", "vectors"},
    "Packing": {"take", "columns", "rows", "starts", "runs", "width", "firsts", "means"},
    "PretrainedConfig": {"fixed", "hard_limit", "extra"},
    "PretrainedModel": {"table", "report", "bottom"},
    "GradientComputer": {"of", "most"},
    "LoraLinear": {"plain", "parts"},
    "DecoderState": {"at", "place", "play", "width", "keep"},
    "GenerationConfig": {"width", "constrain", "warp"},
    "PretrainOptions": {"text", "steps", "warmup", "chunk", "held_out"},
    "ModelOptions": {"sentences", "lead", "whole"},
    "TrainOptions": {"schedule", "early_stopping", "batching"},
    "QaOptions": {"overlap"},
    "NerOptions": {"overlap"},
    "SummarizationOptions": {"prefix"},
    "TwoTaskOptions": {"replay"},
    "LongContextOptions": {"overlaps", "windows"},
    "ProbeOptions": {"text"},
}
MODULES = {"train", "generate", "pretrain", "align", "batch", "compare", "names", "predict", "stop"}
MODULES |= {"folder", "report", "jobs", "t5_decoder", "rules", "find_rate"}

FILES = sorted([*(ROOT / "minift").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])


def names_in(tree: ast.AST):
    """(name, kind, line) of every definition, parameter, attribute and field."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, "definition", node.lineno
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            arguments = node.args
            for argument in [*arguments.args, *arguments.kwonlyargs, *arguments.posonlyargs]:
                yield argument.arg, "parameter", node.lineno
        if isinstance(node, ast.Attribute):
            yield node.attr, "attribute", node.lineno
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg, "parameter", node.value.lineno
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, "definition", node.lineno
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign):
                    yield part.target.id, "field", part.lineno


def members_of(node: ast.ClassDef) -> set[str]:
    found = set()
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            found.add(part.name)
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            found.add(part.target.id)
        if (
            isinstance(part, ast.Attribute)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        ):
            found.add(part.attr)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_old_name_is_left(path):
    if path.parts[-2] != "scripts":
        assert not set(path.relative_to(ROOT).with_suffix("").parts[1:]) & MODULES
    tree = ast.parse(path.read_text(encoding="utf-8"))
    old = [
        f"line {line}: {kind} {name}"
        for name, kind, line in names_in(tree)
        if name in NAMES or (kind == "definition" and name in DEFINITIONS)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in MEMBERS:
            old += [f"{node.name}.{m}" for m in sorted(members_of(node) & MEMBERS[node.name])]
    assert not old


def test_the_lists_catch_what_they_should():
    source = "class Packing:\n    def take(self, room): return self.width + hub.resolve(1)\n"
    tree = ast.parse(source)
    assert {name for name, _, _ in names_in(tree)} & NAMES == {"room", "resolve"}
    assert members_of(tree.body[0]) & MEMBERS["Packing"] == {"take", "width"}


def test_no_flag_has_an_old_name():
    from minift.tasks.registry import TASKS
    from minift.training.cli import make_parser
    from minift.training.options import TrainOptions

    for task_class in TASKS.values():
        flags = set(make_parser(task_class.options_class, TrainOptions)._option_string_actions)
        assert not flags & set(RENAMED_FLAGS)
