"""Options that were not given: the task decides, and never against what the user asked."""

from __future__ import annotations

import json

import pytest
from support import summaries
from support.running import ROOT, last_line_of_refusal, read_metrics, run_script

from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.training.defaults import FEW_RECORDS_RECIPE, with_defaults
from minift.training.freezing import prepare_parameters
from minift.training.options import TrainOptions

SMALL_T5 = ROOT / "weights" / "minift-t5-mini"
MANY = 10_000


def defaults(task_class, task_options, num_records=MANY, **given):
    return with_defaults(task_class, task_options, TrainOptions(**given), num_records)[0]


def chosen(options: TrainOptions, *names: str) -> tuple:
    return tuple(getattr(options, name) for name in names)


USUAL = ("optimizer", "learning_rate", "freeze_layers", "swa_fraction", "min_steps")


def test_the_defaults_of_each_task():
    for task_class, task_options, epochs, batch_size, learning_rate in (
        (ClassificationTask, ClassificationOptions(), 4, 16, 5e-5),
        (NerTask, NerOptions(), 5, 16, 1e-4),
        (QaTask, QaOptions(), 2, 8, 2e-4),
    ):
        options = defaults(task_class, task_options)
        assert chosen(options, "epochs", "batch_size") == (epochs, batch_size)
        assert chosen(options, *USUAL) == ("adamw", learning_rate, 0, 0.0, 0)


@pytest.mark.parametrize("model", ["minift-t5-mini", str(SMALL_T5)])
def test_the_small_summarizer_has_a_recipe_by_its_name_and_by_its_folder(model):
    options, lines = with_defaults(
        SummarizationTask, SummarizationOptions(model=model), TrainOptions(epochs=1), MANY
    )
    assert chosen(options, "epochs", "batch_size") == (1, 8)
    assert chosen(options, *USUAL) == ("adafactor", 5e-3, 2, 0.5, 0)
    (line,) = lines
    assert line == (
        "minift-t5-mini is small: --batch-size 8 --optimizer adafactor --freeze-layers 2 "
        "--swa-fraction 0.5"
    )


def test_other_summarizers_take_the_usual_values_and_all_their_layers_are_trained(tiny_t5):
    task_options = SummarizationOptions(model=str(tiny_t5))
    options = defaults(SummarizationTask, task_options)
    assert chosen(options, "epochs", "batch_size") == (3, 8)
    assert chosen(options, *USUAL) == ("adafactor", 1e-3, 0, 0.0, 0)
    model = SummarizationTask.model_class(tiny_t5).from_pretrained(tiny_t5)
    prepare_parameters(model, options)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "given",
    [{"lora_rank": 8}, {"bitfit": True}, {"freeze_encoder": True}, {"freeze_embeddings": 1}],
)
def test_layers_are_not_frozen_beside_another_choice_of_parameters(given):
    options = defaults(SummarizationTask, SummarizationOptions(), **given)
    assert options.freeze_layers == 0


def test_layers_of_random_weights_are_not_frozen():
    task_options = SummarizationOptions(from_scratch=True)
    assert defaults(SummarizationTask, task_options).freeze_layers == 0


def test_a_learning_rate_belongs_to_its_optimiser():
    task_options = SummarizationOptions()
    assert defaults(SummarizationTask, task_options, optimizer="adamw").learning_rate == 3e-4
    assert defaults(SummarizationTask, task_options, lora_rank=8).learning_rate == 1e-3
    assert defaults(SummarizationTask, task_options, learning_rate=1e-5).learning_rate == 1e-5


def test_few_records_make_more_steps_and_averages():
    task_options = ClassificationOptions()
    few, lines = with_defaults(ClassificationTask, task_options, TrainOptions(), 300)
    recipe = tuple(FEW_RECORDS_RECIPE.values())
    assert chosen(few, *FEW_RECORDS_RECIPE) == recipe
    assert lines == [
        "300 training records are few: --min-steps 300 --swa-fraction 0.3; --epochs turns this off"
    ]
    for given, taken in (
        ({"epochs": 4}, (0, 0.0)),
        ({"early_stopping_patience": 2}, (0, 0.0)),
        ({"min_steps": 9}, (9, 0.3)),
        ({"swa_fraction": 0.0}, (300, 0.0)),
    ):
        options = defaults(ClassificationTask, task_options, 300, **given)
        assert chosen(options, *FEW_RECORDS_RECIPE) == taken
    assert chosen(defaults(ClassificationTask, task_options, 800), *FEW_RECORDS_RECIPE) == (0, 0.0)
    # The number is read where it is not known: the built-in reviews are 839.
    options, _ = with_defaults(ClassificationTask, task_options, TrainOptions())
    assert options.min_steps == 0


def test_a_run_prints_and_stores_the_values_that_it_took(tiny_bert, reviews, tmp_path):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--batch-size", 16]
    out = run_script("train_classification", *flags, "--output-dir", tmp_path / "out").stdout
    assert "defaults  50 training records are few: --min-steps 300" in out
    assert "epochs=4" in out
    stored = read_metrics(tmp_path / "out")["options"]
    assert (stored["epochs"], stored["min_steps"], stored["optimizer"]) == (4, 300, "adamw")
    assert json.loads((tmp_path / "out" / "options.json").read_text())["min_steps"] == 300


@pytest.mark.parametrize("script", ["train_summarization", "sweep summarization"])
def test_lora_needs_no_other_flag_in_summarization(script, tiny_t5, trees, tmp_path):
    flags = ["--model", tiny_t5, "--train-file", trees["train"], "--dev-file", trees["dev"]]
    flags += ["--lora-rank", 2, "--output-dir", tmp_path / "out", "--max-target-length", 4]
    if script.startswith("sweep"):
        flags += ["--learning-rates", 1e-3, "--epochs-list", 1, "--batch-sizes", 8]
    else:
        flags += ["--epochs", 1]
    run_script(*script.split(), *flags)
    (path,) = (tmp_path / "out").rglob("metrics.json")
    options = json.loads(path.read_text())["options"]
    assert chosen_of(options, "optimizer", "freeze_layers", "lora_rank", "num_beams") == (
        *("adafactor", 0, 2, 4),
    )


def chosen_of(options: dict, *names: str) -> tuple:
    return tuple(options[name] for name in names)


@pytest.mark.slow
def test_find_lr_tests_the_optimiser_that_training_takes(tiny_t5, trees, tmp_path):
    flags = ["--model", tiny_t5, "--train-file", trees["train"], "--min-steps", 20]
    out = run_script(
        "find_lr", "summarization", *flags, "--output-dir", tmp_path / "out", check=False
    ).stdout
    assert "optimizer=adafactor" in out


def test_python_takes_the_defaults_of_the_script(tiny_t5, trees, tmp_path):
    task_options, _ = summaries.options(tiny_t5, trees, None)
    assert (task_options.num_beams, task_options.no_repeat_ngram_size) == (4, 3)


def test_an_option_of_evaluations_needs_dev_data(tiny_bert, reviews, tmp_path, monkeypatch, capsys):
    base = {"model": tiny_bert, "train-file": reviews["train"], "output-dir": tmp_path / "out"}
    for name, value in {
        "early-stopping-patience": 2,
        "metric-for-best-model": "f1",
        "eval-steps": 3,
    }.items():
        last = last_line_of_refusal(
            "train_classification", {**base, name: value}, monkeypatch, capsys
        )
        assert f"--{name} is {value}, but there is no dev data" in last
        assert not (tmp_path / "out").exists()


def test_an_option_of_the_encoder_has_no_effect_beside_a_frozen_one():
    for given in ({"l2_sp": 1.0}, {"layerwise_lr_decay": 0.5}, {"wise_ft_alpha": 0.5}):
        with pytest.raises(ValueError, match="has no effect with --freeze-encoder"):
            TrainOptions(freeze_encoder=True, **given)
