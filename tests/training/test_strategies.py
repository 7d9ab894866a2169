"""Strategies of fine-tuning: learning rates, freezing, LoRA, BitFit, averages, regularisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.running import read_lines, read_metrics

from minift import BertForSequenceClassification, load_adapter
from minift.errors import UserError
from minift.models.bert import BertConfig
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.averaging import WeightAverages
from minift.training.freezing import prepare_parameters, pretrained_parameters
from minift.training.optim import L2SP, make_optimizer, parameter_groups
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.state import TrainerState


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture
def trained(tiny_bert, reviews, tmp_path):
    """A function: options of the loop -> the weights after an epoch, by their names on disk."""

    def train(task_changes=None, **changes):
        task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"], dropout=0.0)
        task = replace(task, **(task_changes or {}))
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        settings = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
        run(
            ClassificationTask,
            task,
            TrainOptions(output_dir=folder, device="cpu", **{**settings, **changes}),
        )
        train.log = read_lines(folder / "log.jsonl")
        return weights(folder)

    return train


def moved(first, second, part=""):
    """How far the parameters whose names hold `part` are from each other."""
    return sum(
        (first[k] - second[k]).abs().sum().item() for k in first if part in k and k in second
    )


def at_start(tiny_bert):
    return {f"bert.{k}": v for k, v in load_file(tiny_bert / "model.safetensors").items()}


FIRST, SECOND = "encoder.layer.0.", "encoder.layer.1."


def test_schedule_and_layerwise_decay_reach_the_optimiser(trained, tiny_bert, capsys):
    start, plain = at_start(tiny_bert), trained()
    assert "learning rate " not in capsys.readouterr().out
    assert trained.log[-1]["learning_rate"] < 1e-4
    trained(lr_scheduler_type="constant")
    assert trained.log[-1]["learning_rate"] == 1e-3
    lower = trained(layerwise_lr_decay=1e-6)
    shown = capsys.readouterr().out
    assert "learning rate 1.00e-03" in shown
    assert "learning rate 1.00e-09" in shown
    assert moved(start, lower, FIRST) < 1e-2 < 1 < moved(start, plain, FIRST)
    assert moved(start, lower, SECOND) > 1
    assert moved(trained(head_lr_multiplier=10.0), plain, "classifier") > 0.1


def test_what_is_frozen_stays_as_it_was(trained, tiny_bert, capsys):
    start = at_start(tiny_bert)
    frozen = trained(freeze_layers=1)
    assert moved(start, frozen, "embeddings") == moved(start, frozen, FIRST) == 0
    assert moved(start, frozen, SECOND) > 1
    assert moved(start, trained(freeze_embeddings=True), FIRST) > 1
    with pytest.raises(UserError, match="--freeze-layers is 3, but the model has 2 layers"):
        trained(freeze_layers=3)


@pytest.mark.slow
def test_layers_are_unfrozen_from_the_top(trained, tiny_bert):
    start = at_start(tiny_bert)
    learned = [
        {part: moved(start, trained(gradual_unfreezing=1, epochs=n), part) > 0 for part in parts}
        for n, parts in ((1, (SECOND, "pooler")), (2, (FIRST, SECOND)), (4, (FIRST, "embeddings")))
    ]
    assert learned == [
        {SECOND: False, "pooler": True},
        {FIRST: False, SECOND: True},
        {FIRST: True, "embeddings": True},
    ]
    held = trained(gradual_unfreezing=1, epochs=4, freeze_layers=1)
    assert moved(start, held, FIRST) == 0


def test_top_layers_are_reinitialised(trained, tiny_bert, capsys):
    start = at_start(tiny_bert)
    still = {"learning_rate": 1e-9}  # so that all that differs is new
    assert moved(start, trained(**still), SECOND) < 1e-2
    fresh = trained(reinit_layers=1, **still)
    assert "re-initialised  encoder.layers.1, encoder.pooler, head" in capsys.readouterr().out
    assert moved(start, fresh, FIRST) < 1e-2 < 1 < moved(start, fresh, SECOND)
    assert fresh["bert.encoder.layer.1.attention.self.query.weight"].std() < 0.03
    with pytest.raises(UserError, match="--reinit-layers is 3"):
        trained(reinit_layers=3)


def test_l2_sp_decays_towards_the_pretrained_weights(trained, tiny_bert):
    start = at_start(tiny_bert)
    free, held = trained(weight_decay=0.0), trained(weight_decay=0.0, l2_sp=500.0)
    for part in ("embeddings", FIRST, SECOND):
        assert moved(start, held, part) < 0.5 * moved(start, free, part)


def test_l2_sp_takes_the_place_of_weight_decay_and_leaves_a_new_head_to_it(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    pretrained = pretrained_parameters(model, TrainOptions(l2_sp=0.5, freeze_layers=0))
    groups = parameter_groups(model, 0.01, l2_sp=0.5, pretrained=pretrained)
    decays = {name: (g["weight_decay"], g["l2_sp"]) for g in groups for name in g["names"]}
    assert decays["encoder.layers.0.attention.qkv.weight"] == (0.0, 0.5)
    assert decays["encoder.layers.0.attention.qkv.bias"] == (0.0, 0.5)
    assert decays["head.weight"] == (0.01, 0.0)
    assert decays["head.bias"] == (0.0, 0.0)
    # By hand: half of the way of half the learning rate towards the pretrained value.
    optimizer = make_optimizer("adamw", groups)
    l2_sp = L2SP(optimizer)
    weight, head = model.encoder.layers[0].attention.qkv.weight, model.head.weight
    begin = weight.detach().clone()
    for parameter in (weight, head):
        parameter.data += 1
    moved_head = head.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    l2_sp.step()
    torch.testing.assert_close(weight.detach(), begin + 0.75)
    assert torch.equal(head.detach(), moved_head)


def test_pretrained_parameters_are_those_with_a_value_of_the_checkpoint(tiny_bert):
    def names(**changes):
        options = TrainOptions(**{"freeze_layers": 0, **changes})
        model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        prepare_parameters(model, options)
        return pretrained_parameters(model, options)

    def holds(found, part):
        return any(part in name for name in found)

    everything = names()
    assert holds(everything, "embeddings")
    assert holds(everything, "layers.1")
    assert not holds(everything, "head")
    assert not holds(names(reinit_layers=1), "layers.1")
    assert holds(names(reinit_layers=1), "layers.0")
    assert names(lora_rank=2) == {
        f"encoder.layers.{i}.attention.qkv.updates.{part}.b"
        for i in (0, 1)
        for part in ("query", "value")
    }
    assert names(freeze_encoder=True) == set()


def test_nothing_of_a_model_from_scratch_is_pretrained(trained):
    for changes in ({"l2_sp": 1.0}, {"wise_ft_alpha": 0.5}):
        with pytest.raises(UserError, match="but no trained parameter begins with one"):
            trained({"from_scratch": True}, **changes)


def test_wise_ft_halves_a_lora_update(trained, tiny_bert):
    start = at_start(tiny_bert)
    whole = trained(lora_rank=2, learning_rate=1e-2)
    half = trained(lora_rank=2, learning_rate=1e-2, wise_ft_alpha=0.5)
    name = f"bert.encoder.{QUERY}"
    torch.testing.assert_close(half[name], (start[name] + whole[name]) / 2)
    assert moved(start, half, QUERY) > 0.1


def test_small_data_gets_the_least_steps(trained):
    trained(min_steps=30)
    assert trained.log[-1]["step"] == 39  # three epochs of 13 steps
    assert trained.log[-1]["epoch"] == 3.0
    trained(min_steps=5)
    assert trained.log[-1]["step"] == 13


QUERY, VALUE = "layer.1.attention.self.query.weight", "layer.1.attention.self.value.weight"


def test_lora_is_trained_beside_frozen_weights_and_saved_merged_and_as_an_adapter(
    trained, tiny_bert, tmp_path, capsys
):
    start = at_start(tiny_bert)
    learned = trained(lora_rank=2, learning_rate=1e-2)
    shown = capsys.readouterr().out
    updates = 2 * 2 * 2 * (32 + 32)  # layers, projections, rank, width in and out
    assert (
        f"{updates + 32 * 32 + 32 + 66:,} of them trained" in shown or f"{updates + 66:,}" in shown
    )
    assert moved(start, learned, QUERY) > 0.1
    for part in ("embeddings", "self.key", "self.value.bias", "intermediate", "norm"):
        assert moved(start, learned, part) == 0, part
    # The adapter, put on the model that it was made for, says what the merged model says.
    folder = tmp_path / "run0"
    merged = BertForSequenceClassification.from_pretrained(folder)
    base = BertForSequenceClassification.from_pretrained(tiny_bert, labels=merged.config.labels)
    adapted = load_adapter(base, folder / "adapter").eval()
    ids = torch.randint(5, 60, (3, 9))
    torch.testing.assert_close(adapted(ids), merged(ids), atol=1e-5, rtol=0)
    assert not (tmp_path / "run1").exists()
    only = trained(lora_rank=2, lora_target_modules=("key",), learning_rate=1e-2)
    assert moved(start, only, "self.key.weight") > 0.1
    assert moved(start, only, QUERY) == 0
    stronger = trained(lora_rank=2, lora_alpha=8.0, learning_rate=1e-2)
    dropped = trained(lora_rank=2, lora_dropout=0.5, learning_rate=1e-2)
    assert not torch.equal(stronger[f"bert.encoder.{QUERY}"], learned[f"bert.encoder.{QUERY}"])
    assert not torch.equal(dropped[f"bert.encoder.{VALUE}"], learned[f"bert.encoder.{VALUE}"])
    with pytest.raises(UserError, match="target 'nothing'"):
        trained(lora_rank=2, lora_target_modules=("nothing",))


def test_bitfit_trains_the_biases_and_the_head(trained, tiny_bert, capsys):
    start = at_start(tiny_bert)
    learned = trained(bitfit=True)
    for name in start:
        if name in learned and "pooler" not in name:  # the pooler's weights belong to the encoder
            moves = not torch.equal(start[name], learned[name])
            assert moves == name.endswith("bias"), name


def test_only_one_option_chooses_the_trained_parameters():
    for flags in (
        {"freeze_encoder": True, "freeze_embeddings": True},
        {"lora_rank": 4, "bitfit": True},
        {"lora_rank": 4, "reinit_layers": 1},
        {"bitfit": True, "gradual_unfreezing": 1},
        {"freeze_encoder": True, "lora_rank": 4},
    ):
        with pytest.raises(
            ValueError, match=" exclude each other, since each chooses the trained parameters"
        ):
            TrainOptions(**flags)
    with pytest.raises(ValueError, match="--lora-alpha needs --lora-rank"):
        TrainOptions(lora_alpha=4.0)
    with pytest.raises(ValueError, match="--wise-ft-alpha averages"):
        TrainOptions(wise_ft_alpha=0.5, reinit_layers=1)
    for changes in ({"lora_rank": 4}, {"bitfit": True}):
        assert TrainOptions(**changes).with_learning_rate(5e-5).learning_rate == pytest.approx(5e-4)


def test_averages_by_hand(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    options = TrainOptions(swa_fraction=0.5, wise_ft_alpha=0.75)
    averages = WeightAverages(model, options, 4, pretrained_parameters(model, options))
    state = TrainerState()
    parameter, head = model.encoder.layers[0].attention.output.weight, model.head.weight
    begin = parameter.detach().clone()
    for step in range(1, 5):
        parameter.data.copy_(begin + step)
        head.data.fill_(step)
        state.step = step
        averages.update(state)
        with averages.applied(state):
            # Steps 3 and 4 make the mean; a new head has no pretrained value.
            mean = {1: 1, 2: 2, 3: 3, 4: 3.5}[step]
            torch.testing.assert_close(parameter.detach(), begin + 0.75 * mean)
            torch.testing.assert_close(head.detach(), torch.full_like(head, mean))
        torch.testing.assert_close(parameter.detach(), begin + step)


def test_averages_are_what_is_saved(trained, tiny_bert):
    start, last = at_start(tiny_bert), trained()
    wise = trained(wise_ft_alpha=0.5)
    for name in start:
        if name in last:
            torch.testing.assert_close(wise[name], (start[name] + last[name]) / 2)
    assert torch.equal(wise["classifier.weight"], last["classifier.weight"])
    mean = trained(swa_fraction=1.0)
    assert moved(start, mean, FIRST) < 0.8 * moved(start, last, FIRST)
    assert moved(last, trained(swa_fraction=0.01), FIRST) == 0  # no step: the last weights


@pytest.mark.parametrize("changes", [{"swa_fraction": 0.8}, {"lora_rank": 2}])
def test_a_resumed_run_ends_the_same(tiny_bert, reviews, tmp_path, changes, monkeypatch, capsys):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    options = TrainOptions(
        output_dir=tmp_path / "straight",
        epochs=2,
        batch_size=8,
        save_steps=3,
        device="cpu",
        **changes,
    )
    run(ClassificationTask, task, options)
    begun = replace(options, output_dir=tmp_path / "stopped")

    def interrupt(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minift.training.loop.save_if_best", interrupt)  # behind the first epoch
        with pytest.raises(KeyboardInterrupt):
            run(ClassificationTask, task, begun)
    run(ClassificationTask, task, replace(begun, resume=True))
    assert "resuming at step 6 of 14" in capsys.readouterr().out
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_records_are_scored_beside_dev(tiny_bert, reviews, tmp_path, capsys):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    for count, shown in ((20, "train sample 20"), (500, "train sample 50")):
        folder = tmp_path / str(count)
        run(
            ClassificationTask,
            task,
            TrainOptions(output_dir=folder, epochs=2, device="cpu", train_eval_samples=count),
        )
        assert shown in capsys.readouterr().out
        lines = [line for line in read_lines(folder / "log.jsonl") if "dev" in line]
        assert [set(line) for line in lines] == [{"step", "epoch", "dev", "train"}] * 2
        assert 0 <= lines[-1]["train"]["accuracy"] <= 1


@pytest.mark.slow
def test_a_run_that_does_not_beat_the_baseline_has_collapsed(tiny_bert, reviews, tmp_path, capsys):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"], dropout=0.0
    )
    for learning_rate, collapsed in ((1e-12, True), (1e-3, False)):
        folder = tmp_path / str(learning_rate)
        options = TrainOptions(
            output_dir=folder, epochs=8, batch_size=4, learning_rate=learning_rate
        )
        run(ClassificationTask, task, options)
        assert ("is no better than" in capsys.readouterr().out) == collapsed
        assert read_metrics(folder)["collapsed"] is collapsed
        assert read_metrics(folder)["baseline"] == 0.5


def test_one_option_sets_all_dropouts(tiny_bert, reviews):
    def dropouts(**changes):
        task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"], **changes)
        config = ClassificationTask.from_options(task)[1].config
        kinds = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        return tuple(getattr(config, kind) for kind in kinds)

    assert dropouts(dropout=0.3) == (0.3, 0.3, 0.3)
    assert dropouts(dropout=0.0) == (0.0, 0.0, 0.0)
    own = BertConfig.from_pretrained(tiny_bert)
    kept = (own.hidden_dropout_prob, own.attention_probs_dropout_prob, own.classifier_dropout)
    assert dropouts() == kept == (0.1, 0.1, None)  # the checkpoint's
    with pytest.raises(TypeError, match="attention_dropout"):
        dropouts(attention_dropout=0.0)


@pytest.mark.slow
def test_smoothing_and_r_drop_reach_the_loss(trained):
    plain = trained()
    assert moved(plain, trained({"label_smoothing": 0.2}), "classifier") > 1e-3
    dropping = trained({"dropout": 0.1})
    assert moved(dropping, trained({"dropout": 0.1, "r_drop": 5.0}), "classifier") > 1e-3


def test_r_drop_by_hand(tiny_bert, reviews):
    def start(**changes):
        task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"], **changes)
        return ClassificationTask.from_options(task)

    task, model, splits = start(dropout=0.5, r_drop=2.0)
    batch = task.collate(task.featurize(splits["train"][:6]))
    torch.nn.init.normal_(model.head.weight)
    model.train()
    torch.manual_seed(1)
    passes = [model(batch.input_ids, batch.attention_mask, batch.token_type_ids) for _ in range(2)]
    torch.manual_seed(1)
    loss, count = task.loss(model, batch)
    kl = torch.nn.functional.kl_div
    logs = [logits.log_softmax(-1) for logits in passes]
    apart = (
        kl(logs[0], logs[1], log_target=True, reduction="sum")
        + kl(logs[1], logs[0], log_target=True, reduction="sum")
    ) / 2
    entropies = [
        torch.nn.functional.cross_entropy(p, batch.labels, reduction="sum") for p in passes
    ]
    torch.testing.assert_close(loss, sum(entropies) / 2 + 2.0 / 2 * apart)
    assert count == 6
    assert apart > 0.01
    torch.testing.assert_close(
        model.eval() and task.loss(model, batch)[0], start()[0].loss(model, batch)[0]
    )
