"""Training through the script: its output files, the trained weights, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.running import read_lines, read_metrics, run_script

from minift import BertForSequenceClassification
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.options import TrainOptions
from minift.training.run import run


def flags(tiny_bert, reviews, folder, **changes) -> list[str]:
    values = {
        "model": tiny_bert,
        "train_file": reviews["train"],
        "dev_file": reviews["dev"],
        "test_file": reviews["test"],
        "output_dir": folder,
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
        **changes,
    }
    return [part for name, v in values.items() for part in (f"--{name.replace('_', '-')}", str(v))]


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_leaves_what_the_contract_says(tiny_bert, reviews, tmp_path):
    folder = tmp_path / "out"
    done = run_script("train_classification", *flags(tiny_bert, reviews, folder, epochs=8))
    for word in ("first record", "tokens  [CLS]", "labels", "parameters", "new     head"):
        assert word in done.stdout
    metrics = read_metrics(folder)
    assert metrics["task"] == "classification"
    assert metrics["options"]["batch_size"] == 4
    for split in ("dev", "test"):
        assert {"accuracy", "f1", "matthews_correlation"} <= set(metrics[split])
        lines = read_lines(folder / f"predictions.{split}.jsonl")
        right = sum(line["gold"] == line["predicted"] for line in lines)
        assert metrics[split]["accuracy"] == pytest.approx(right / len(lines))
        assert all(line["score"] == max(line["probabilities"].values()) for line in lines)
    for key in (
        "train_examples_per_second",
        "train_tokens_per_second",
        "padding_fraction",
        "peak_memory_mb",
        "environment",
    ):
        assert metrics[key], key
    assert metrics["dev"]["accuracy"] == 1.0  # the words give the label away
    log = read_lines(folder / "log.jsonl")
    assert [line["step"] for line in log if "dev" in line] == [13 * i for i in range(1, 9)]
    assert any("loss" in line for line in log)
    assert BertForSequenceClassification.from_pretrained(folder).config.labels == ("neg", "pos")
    assert not (folder / "state").exists()

    said = run_script("predict", folder, "the film was awful", "good", "--json").stdout.splitlines()
    assert [json.loads(line)["predicted"] for line in said] == ["neg", "pos"]
    plain = run_script("predict", folder, input="the food was great\nthe film was dull\n").stdout
    assert [line.split("\t")[0] for line in plain.splitlines()] == ["pos", "neg"]
    from_file = run_script("predict", folder, "--file", reviews["test"], "--json").stdout
    expected = [line["predicted"] for line in read_lines(folder / "predictions.test.jsonl")]
    assert [json.loads(line)["predicted"] for line in from_file.splitlines()] == expected


def options(tiny_bert, reviews, folder, **changes):
    task = ClassificationOptions(
        model=str(tiny_bert),
        train_file=reviews["train"],
        dev_file=reviews["dev"],
        dropout=0.0,
    )
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", **changes}
    return task, TrainOptions(output_dir=folder, **settings)


def test_the_seed_decides_and_nothing_else(tiny_bert, reviews, tmp_path, capsys):
    results = {}
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        task, train = options(tiny_bert, reviews, tmp_path / name, seed=seed)
        run(ClassificationTask, replace(task, dropout=0.1), train)
        results[name] = weights(tmp_path / name)
    assert same(results["a"], results["b"])
    assert not same(results["a"], results["c"])
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in "ab"]
    assert logs[0] == logs[1]


def test_accumulation_gives_the_gradient_of_the_big_batch(tiny_bert, reviews, tmp_path, capsys):
    # Windows make the weights of records within the small batches unequal.
    for name, changes in {
        "big": {"batch_size": 500},
        "small": {"batch_size": 7, "gradient_accumulation_steps": 100},
    }.items():
        task, train = options(tiny_bert, reviews, tmp_path / name, epochs=3, **changes)
        task = replace(task, truncation="windows", max_length=7, class_weights="balanced")
        run(ClassificationTask, task, replace(train, group_by_length=False, warmup_ratio=0.0))
    big, small = weights(tmp_path / "big"), weights(tmp_path / "small")
    for name in big:
        torch.testing.assert_close(small[name], big[name], atol=2e-5, rtol=1e-4)


def test_a_frozen_encoder_leaves_only_the_head_to_train(tiny_bert, reviews, tmp_path, capsys):
    task, train = options(tiny_bert, reviews, tmp_path / "out", freeze_encoder=True)
    run(ClassificationTask, task, train)
    before, after = weights(tiny_bert), weights(tmp_path / "out")
    for name, tensor in after.items():
        if name.startswith("bert."):
            assert torch.equal(tensor, before[name.removeprefix("bert.")]), name
    assert after["classifier.weight"].abs().max() > 0
    assert "66 of them trained" in capsys.readouterr().out  # 2 labels * 32 + 2


def test_early_stopping_keeps_the_best(tiny_bert, reviews, tmp_path, capsys):
    task, train = options(
        tiny_bert, reviews, tmp_path / "out", epochs=30, early_stopping_patience=2, eval_steps=3
    )
    metrics = run(ClassificationTask, task, train)
    log = read_lines(tmp_path / "out" / "log.jsonl")
    scores = [line["dev"]["accuracy"] for line in log if "dev" in line]
    assert metrics["dev"]["accuracy"] == max(scores)
    assert len(scores) < 30 * 7 / 3
    assert scores.index(max(scores)) == len(scores) - 3


def test_the_best_model_can_be_chosen_by_loss(tiny_bert, reviews, tmp_path, capsys):
    task, train = options(
        tiny_bert, reviews, tmp_path / "out", metric_for_best_model="loss", epochs=3
    )
    metrics = run(ClassificationTask, task, train)
    log = read_lines(tmp_path / "out" / "log.jsonl")
    assert metrics["dev"]["loss"] == pytest.approx(
        min(line["dev"]["loss"] for line in log if "dev" in line), abs=1e-5
    )


@pytest.mark.slow
def test_bf16_trains_on_the_cpu(tiny_bert, reviews, tmp_path, capsys):
    task, train = options(
        tiny_bert, reviews, tmp_path / "out", precision="bf16", epochs=20, learning_rate=3e-3
    )
    assert run(ClassificationTask, task, train)["dev"]["accuracy"] > 0.7
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / "out").values())


def test_without_dev_data_the_last_model_is_kept(tiny_bert, reviews, tmp_path, capsys):
    task, train = options(tiny_bert, reviews, tmp_path / "out")
    metrics = run(ClassificationTask, replace(task, dev_file=None), train)
    assert "dev" not in metrics
    assert BertForSequenceClassification.from_pretrained(tmp_path / "out").load_report.new == ()


def test_resuming_with_other_options_is_refused(tiny_bert, reviews, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    command = flags(tiny_bert, reviews, folder)
    run_script("train_classification", *command)
    (folder / "metrics.json").unlink()
    changed = [*command, "--resume", "--seed", "9"]
    done = run_script("train_classification", *changed, check=False)
    assert done.returncode == 2
    assert "--seed" in done.stderr.splitlines()[-1]


def test_transformers_loads_a_run_and_predicts_the_same(tiny_bert, reviews, tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="loads a run in transformers")
    folder = tmp_path / "out"
    task, train = options(tiny_bert, reviews, folder, epochs=8)
    run(ClassificationTask, task, train)
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for line in read_lines(folder / "predictions.dev.jsonl"):
        with torch.no_grad():
            logits = model.eval()(**tokenizer(line["text"], return_tensors="pt")).logits[0]
        probabilities = dict(zip(model.config.id2label.values(), logits.softmax(-1), strict=True))
        assert probabilities == pytest.approx(line["probabilities"], abs=1e-5)


def test_the_default_learning_rate_is_the_tasks_unless_one_is_given():
    def rate(**flags):
        return TrainOptions(**flags).with_learning_rate(1e-4).learning_rate

    assert rate() == 1e-4
    assert rate(freeze_encoder=True) == 1e-2
    assert rate(optimizer="adafactor") == 1e-3
    assert rate(learning_rate=3e-5, freeze_encoder=True) == 3e-5
