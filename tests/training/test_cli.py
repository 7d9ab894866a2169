"""The command line: spellings of flags, flags that were renamed, and the two kinds of help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.running import run_script

from minift.experiments.comparison import CompareOptions
from minift.tasks.classification import ClassificationOptions
from minift.tasks.summarization import SummarizationOptions
from minift.training.cli import RENAMED_FLAGS, ArgumentParser, command_line, make_parser
from minift.training.options import TrainOptions

# (script and its first words, old flag, new flag), written out on purpose.
RENAMED = [
    *(
        ("train_classification", old, new)
        for old, new in {
            "--accumulation": "--gradient-accumulation-steps",
            "--attention-dropout": "--dropout",
            "--average-last": "--swa-fraction",
            "--average-start": "--wise-ft-alpha",
            "--batching": "--no-group-by-length",
            "--best-metric": "--metric-for-best-model",
            "--early-stopping": "--early-stopping-patience",
            "--eval-every": "--eval-steps",
            "--freeze-below": "--freeze-layers",
            "--halve-batches": "--auto-micro-batch",
            "--head-dropout": "--dropout",
            "--head-rate": "--head-lr-multiplier",
            "--l2-start": "--l2-sp",
            "--layer-decay": "--layerwise-lr-decay",
            "--log-every": "--logging-steps",
            "--long-text": "--truncation",
            "--lora-targets": "--lora-target-modules",
            "--recompute": "--gradient-checkpointing",
            "--save-every": "--save-steps",
            "--schedule": "--lr-scheduler-type",
            "--skip-steps": "--max-skipped-steps",
            "--train-sample": "--train-eval-samples",
            "--unfreeze-epochs": "--gradual-unfreezing",
        }.items()
    ),
    ("train_ner", "--way-back", "--aggregation-strategy"),
    ("train_ner", "--overlap", "--doc-stride"),
    ("train_qa", "--other-windows", "--negative-windows"),
    ("train_qa", "--overlap", "--doc-stride"),
    ("train_qa", "--n-best", "--n-best-size"),
    ("train_summarization", "--beam-stopping", "--beam-early-stopping"),
    ("train_summarization", "--prefix", "--source-prefix"),
    ("pretrain", "--chunk", "--block-size"),
    ("pretrain", "--held-out", "--eval-blocks"),
    ("pretrain", "--lead", "--lead-ratio"),
    ("pretrain", "--sentences", "--gap-sentence-ratio"),
    ("pretrain", "--steps", "--max-steps"),
    ("pretrain", "--text", "--train-file"),
    ("pretrain", "--warmup", "--warmup-ratio"),
    ("pretrain", "--whole", "--full-text-ratio"),
    ("compare_decoding", "--draws", "--num-samples"),
    ("compare_forgetting", "--replay", "--replay-ratio"),
    ("compare_forgetting", "--text", "--probe-file"),
    ("compare_long_contexts", "--overlaps", "--doc-strides"),
    ("compare_long_contexts", "--windows", "--max-lengths"),
    ("sweep classification", "--epoch-counts", "--epochs-list"),
    ("sweep classification", "--rates", "--learning-rates"),
    ("find_lr qa", "--overlap", "--doc-stride"),
]
TRAINING = ["train_classification", "train_ner", "train_qa", "train_summarization"]


def parse(*argv: str):
    return command_line(ClassificationOptions, TrainOptions, argv=argv)


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", text, re.MULTILINE)


def test_every_renamed_flag_is_in_the_list():
    assert {old for _, old, _ in RENAMED} == set(RENAMED_FLAGS)


@pytest.mark.parametrize(("script", "old", "new"), RENAMED)
def test_a_renamed_flag_ends_with_an_error_that_names_the_new_one(script, old, new):
    with_underscores = "--" + old[2:].replace("-", "_")
    for spelling in ([old, "3"], [f"{with_underscores}=3"]):
        done = run_script(*script.split(), *spelling, check=False)
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: {old} is now ")
        assert new in re.findall(r"--[a-z0-9-]+", last)
        assert "Traceback" not in done.stderr


def test_an_old_name_is_unknown_to_a_script_that_never_had_it():
    done = run_script("train_classification", "--draws", 3, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: unrecognized arguments: --draws 3")
    assert "--help-all lists all flags" in last


def test_flags_may_be_written_with_underscores():
    _, options = parse("--batch_size", "4", "--warmup_ratio=0.5", "--no_group_by_length")
    assert (options.batch_size, options.warmup_ratio, options.group_by_length) == (4, 0.5, False)
    both = [
        parse("--freeze-embeddings", "--l2-sp", "2"),
        parse("--freeze_embeddings", "--l2_sp", "2"),
    ]
    assert both[0] == both[1]


def test_underscores_of_values_are_kept():
    task, options = parse(
        "--output_dir", "my_run", "--model=my_model", "--train_file", "a_b", "c_d"
    )
    assert options.output_dir == Path("my_run")
    assert task.model == "my_model"
    assert task.train_file == (Path("a_b"), Path("c_d"))


@pytest.fixture
def parser():
    """As that of predict.py: texts and flags in any order."""
    parser = ArgumentParser()
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--batch-size", type=int)
    return parser


def test_words_after_two_dashes_are_no_flags(parser):
    found = parser.parse_args(["--batch_size", "3", "--", "--a_b", "--rates"])
    assert (found.batch_size, found.texts) == (3, ["--a_b", "--rates"])


def test_flags_between_texts_may_have_underscores_too(parser):
    found = parser.parse_intermixed_args(["a_b", "--batch_size", "3", "c d"])
    assert (found.batch_size, found.texts) == (3, ["a_b", "c d"])


def test_group_by_length_can_be_turned_off():
    assert parse()[1].group_by_length
    assert parse("--group-by-length")[1].group_by_length
    assert not parse("--no-group-by-length")[1].group_by_length


@pytest.mark.parametrize("script", TRAINING)
def test_help_shows_the_flags_used_first_and_names_help_all(script):
    shown = run_script(script, "--help").stdout
    flags = flags_in(shown)
    assert {"--help", "--help-all", "--model", "--train-file", "--epochs"} <= set(flags)
    assert 10 <= len(flags) <= 20
    every = flags_in(run_script(script, "--help-all").stdout)
    assert f"--help-all shows {len(every) - len(flags)} more flags, in groups." in shown


@pytest.mark.parametrize("script", TRAINING)
@pytest.mark.parametrize("spelling", ["--help-all", "--help_all"])
def test_help_all_shows_all_flags_in_groups(script, spelling):
    shown = run_script(script, spelling).stdout
    groups = re.findall(r"^([A-Z].*):$", shown, re.MULTILINE)
    assert len(groups) == 3  # the task's, the training's, the repetition
    flags = flags_in(shown)
    assert len(flags) == len(set(flags)) > 50
    assert {"--seeds", "--lora-rank", "--group-by-length", "--max-skipped-steps"} <= set(flags)
    # Every flag has a sentence beside or below it.
    assert not re.findall(r"^  --\S+(?: [A-Z_]+| \{\S+\})?\n  --", shown, re.MULTILINE)


def test_help_all_shows_every_field_of_the_options():
    parser = make_parser(ClassificationOptions, TrainOptions)
    parser.common = set()
    expected = {flag for flag in parser._option_string_actions if flag.startswith("--")}
    shown = parser.format_help()
    assert {flag for flag in expected if flag in shown} == expected


@pytest.mark.parametrize(
    "words", [[script] for script in TRAINING] + [["sweep", "qa"], ["predict"]]
)
@pytest.mark.parametrize("columns", ["40", "10"])
def test_help_works_on_a_narrow_terminal(words, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for flag in ("--help", "--help-all"):
        if (flag, words) != ("--help-all", ["predict"]):
            done = run_script(*words, flag)
            assert "--help" in done.stdout
            assert done.stderr == ""


def test_errors_are_one_line_after_the_usage():
    done = run_script("train_classification", "--epochs", "many", check=False)
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert first == "usage: train_classification.py [FLAGS]"
    assert last.startswith("error: argument --epochs: invalid int value: 'many'")


def test_a_sentence_that_ends_in_dots_keeps_them_and_blanks_of_a_default_are_seen():
    text = make_parser(CompareOptions, defaults={"seeds": 1}).format_help()
    assert "--seed + 1, ..." in " ".join(text.split())
    shown = make_parser(SummarizationOptions)
    shown.common = set()
    assert "(default: 'summarize: ')" in " ".join(shown.format_help().split())


def test_help_all_works_where_an_argument_is_missing():
    done = run_script("predict", "--help-all")
    assert "model_dir" in done.stdout


def test_a_help_text_has_no_colours_that_would_be_escaped():
    assert ArgumentParser().color is False
