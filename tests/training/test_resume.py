"""What a resumed run may change, what is refused by name, and what the state keeps."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.cases import cases_with
from support.running import read_lines, run_script
from torch import nn

from minift.errors import UserError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.labels import sort_labels
from minift.training import checkpoint
from minift.training.checkpoint import load_state, read_state, save_state
from minift.training.optim import make_optimizer
from minift.training.options import TrainOptions
from minift.training.resume import digests
from minift.training.run import run
from minift.training.signals import Stopped, StopRequest
from minift.training.state import TrainerState


class StopAfter(StopRequest):
    """A request to stop that comes after a number of steps."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    @property
    def requested(self):
        self.steps -= 1
        return 15 if self.steps == 0 else None

    @requested.setter
    def requested(self, value):
        pass


@pytest.fixture
def stopped(tiny_bert, reviews, tmp_path, monkeypatch):
    """A function: steps, changes -> options to resume a run that was stopped after these steps."""

    def stop(steps: int, task_changes=None, **changes):
        task = ClassificationOptions(
            model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
        )
        task = replace(task, **(task_changes or {}))
        settings = {"epochs": 3, "batch_size": 4, "device": "cpu", "logging_steps": 1}
        options = TrainOptions(output_dir=tmp_path / "out", **{**settings, **changes})
        with monkeypatch.context() as patch:
            patch.setattr("minift.training.run.StopRequest", lambda: StopAfter(steps))
            with pytest.raises(Stopped):
                run(ClassificationTask, task, options)
        return task, replace(options, resume=True)

    return stop


def accepted(options: TrainOptions, **changes) -> TrainOptions:
    return replace(options, accept_changes=True, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"batch_size": 25}, {"batch_size": 1}, {"epochs": 2}, {"min_steps": 100}]
)
def test_no_rate_leaves_the_schedule_after_a_change(stopped, capsys, changes):
    task, options = stopped(20)
    run(ClassificationTask, task, accepted(options, **changes))
    rows = [row for row in read_lines(options.output_dir / "log.jsonl") if "loss" in row]
    assert all(0 <= row["learning_rate"] <= 5e-5 for row in rows)
    assert rows[-1]["epoch"] == changes.get("epochs", 8 if "min_steps" in changes else 3)
    # After the change the rates fall to that of the last step, one step above 0.
    rates = [row["learning_rate"] for row in rows[20:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 5e-5 / 3


@pytest.mark.slow
def test_fewer_records_end_the_epoch_and_the_rest_is_trained(stopped, reviews, capsys):
    task, options = stopped(12)
    lines = reviews["train"].read_text().splitlines(keepends=True)
    reviews["train"].write_text("".join(lines[10:30]))  # 20 of 50; 46 are used
    run(ClassificationTask, task, accepted(options))
    rows = [row for row in read_lines(options.output_dir / "log.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [*range(1, 13), *range(6, 16)]
    assert all(0 <= row["learning_rate"] <= 5e-5 for row in rows)


def test_no_step_left_is_an_error_and_changes_nothing(stopped, capsys):
    task, options = stopped(30)
    before = (options.output_dir / "options.json").read_bytes()
    with pytest.raises(UserError, match=r"2 complete epochs.*so no step is left"):
        run(ClassificationTask, task, accepted(options, epochs=2))
    assert (options.output_dir / "options.json").read_bytes() == before
    assert not (options.output_dir / "metrics.json").exists()


@pytest.mark.slow
def test_accepted_changes_are_those_of_the_run_from_then_on(stopped, monkeypatch, capsys):
    task, options = stopped(5)
    changed = replace(options, batch_size=8)
    with monkeypatch.context() as patch:
        patch.setattr("minift.training.run.StopRequest", lambda: StopAfter(3))
        with pytest.raises(Stopped):
            run(ClassificationTask, task, accepted(changed))
    with pytest.raises(UserError, match="the run has --batch-size 8, not 4"):
        run(ClassificationTask, task, options)
    run(ClassificationTask, task, changed)


def test_other_trained_parameters_are_refused_by_name(stopped):
    task, options = stopped(2)
    for changes, flag in (
        ({"optimizer": "adafactor"}, "--optimizer 'adamw'"),
        ({"lora_rank": 2}, "--lora-rank 0"),
        ({"freeze_layers": 1}, "--freeze-layers 0"),
        ({"reinit_layers": 1}, "--reinit-layers 0"),
    ):
        with pytest.raises(UserError, match=f"the run has {flag}.*start again with --overwrite"):
            run(ClassificationTask, task, accepted(options, **changes))


def test_other_labels_are_refused_though_changes_are_accepted(stopped, reviews):
    task, options = stopped(2)
    for path in reviews.values():
        path.write_text(path.read_text().replace("\tneg", "\tworse"))  # now pos comes first
    with pytest.raises(UserError, match=r"the labels have changed.*start again with --overwrite"):
        run(ClassificationTask, task, accepted(options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "needed"), [({"l2_sp": 1.0}, True), ({"wise_ft_alpha": 0.5}, True), ({}, False)]
)
def test_other_initial_weights_are_refused_where_the_run_needs_them(
    stopped, tiny_bert, capsys, options, needed
):
    task, begun = stopped(2, **options)
    path = tiny_bert / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(path).items()}, path)
    if needed:
        with pytest.raises(UserError, match=r"the weights have changed.*start again"):
            run(ClassificationTask, task, accepted(begun))
    else:
        run(ClassificationTask, task, accepted(begun))


@pytest.mark.slow
def test_a_score_on_other_dev_data_is_not_compared(stopped, reviews, capsys):
    task, options = stopped(14, metric_for_best_model="loss")  # behind the first evaluation
    assert read_state(options.output_dir).best_score is not None
    run(ClassificationTask, replace(task, dev_file=reviews["test"]), accepted(options))
    log = read_lines(options.output_dir / "log.jsonl")
    later = [row["dev"]["loss"] for row in log if "dev" in row and row["step"] > 14]
    metrics = json.loads((options.output_dir / "metrics.json").read_text())
    assert metrics["dev"]["loss"] == pytest.approx(min(later), abs=1e-5)


@pytest.mark.slow
def test_another_spelling_of_a_path_is_the_same_file(stopped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task, options = stopped(2, {"model": "tiny-bert", "train_file": "train.tsv"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    absolute = replace(
        task, model=str(tmp_path / "tiny-bert"), train_file=os.path.join("..", "train.tsv")
    )
    with pytest.raises(UserError, match="the run has --train-file"):
        run(ClassificationTask, replace(absolute, train_file=str(task.dev_file)), options)
    run(ClassificationTask, absolute, options)


def test_moments_follow_their_parameter_into_other_groups(tmp_path):
    """Another decay of the learning rate orders the optimiser's parameters differently."""

    def make(order):
        model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
        groups = [{"params": [model[n].weight], "weight_decay": 0.0, "factor": 1.0} for n in order]
        return model, make_optimizer("adamw", groups)

    model, optimizer = make("ab")
    (model["a"].weight.sum() + 5 * model["b"].weight.sum()).backward()
    optimizer.step()
    save_state(tmp_path, model, optimizer, TrainerState(step=1))
    other, its_optimizer = make("ba")
    load_state(tmp_path, other, its_optimizer)
    for name in "ab":
        expected = optimizer.state[model[name].weight]["exp_avg"]
        assert torch.equal(its_optimizer.state[other[name].weight]["exp_avg"], expected)
    assert not torch.equal(*(optimizer.state[model[name].weight]["exp_avg"] for name in "ab"))


def test_the_random_state_is_that_of_the_runs_gpu(tmp_path, monkeypatch):
    asked = []

    def get(device):
        asked.append(("get", device))
        return torch.zeros(16, dtype=torch.uint8)

    monkeypatch.setattr(checkpoint, "_device", lambda _: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda _, device: asked.append(("set", device))
    )
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, model, optimizer, TrainerState())
    load_state(tmp_path, model, optimizer)
    assert asked == [("get", torch.device("cuda:1")), ("set", torch.device("cuda:1"))]


def test_labels_of_equal_value_have_one_order():
    assert sort_labels({"01", "1", "2", "001"}) == ("001", "01", "1", "2")


def test_the_digest_covers_the_order_of_the_labels(tiny_bert, reviews):
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    _, model, splits = ClassificationTask.from_options(task)
    before = digests(splits, model)
    model.config = replace(model.config, labels=("pos", "neg"))
    after = digests(splits, model)
    assert {name for name in before if before[name] != after[name]} == {"labels"}


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", cases_with(["0"], ["0", "1", "2"]))
def test_labels_1_and_01_are_resumed_under_any_hash_seed(
    tiny_bert, tmp_path, monkeypatch, hash_seed
):
    rows = [
        (f"the film was {word} {n}", label)
        for n in range(8)
        for word, label in (("good", "1"), ("dull", "01"))
    ]
    train = tmp_path / "train.tsv"
    train.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    flags = ["--model", tiny_bert, "--train-file", train, "--dev-file", train, "--save-steps", 1]
    flags += ["--epochs", 6, "--batch-size", 4, "--learning-rate", 3e-3, "--device", "cpu"]
    monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    run_script("train_classification", *flags, "--output-dir", tmp_path / "straight", process=True)
    task = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=train)
    options = TrainOptions(
        output_dir=tmp_path / "out",
        epochs=6,
        batch_size=4,
        learning_rate=3e-3,
        device="cpu",
        save_steps=1,
    )
    with monkeypatch.context() as patch:
        patch.setattr("minift.training.run.StopRequest", lambda: StopAfter(9))
        with pytest.raises(Stopped):
            run(ClassificationTask, task, options)
    more = ["--output-dir", tmp_path / "out", "--resume"]
    run_script("train_classification", *flags, *more, process=True)
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("straight", "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dev"]["accuracy"] > 0.9
