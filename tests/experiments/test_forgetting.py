"""Two tasks with one head: what the second may touch, and the comparison of remedies."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.running import read_metrics, run_script

from minift import BertForSequenceClassification
from minift.experiments.forgetting import TwoTaskOptions, TwoTasks
from minift.experiments.remedies import remedies
from minift.pretraining.probe import ProbeOptions, probe_loss, train_probe
from minift.training.options import TrainOptions
from minift.training.run import run


@pytest.fixture
def two(tiny_bert, reviews, tmp_path):
    """A function: changes -> options of two tasks over the same words."""
    lengths = tmp_path / "lengths.tsv"
    rows = [f"{'so ' * n}it was ok\t{'long' if n > 3 else 'short'}\n" for n in range(8)] * 4
    lengths.write_text("".join(rows))

    settings = {"first_dev_file": reviews["dev"], "replay_ratio": 0.0, "dropout": 0.0}
    settings["model"] = str(tiny_bert)

    def options(**changes):
        return TwoTaskOptions(
            first_train_file=(reviews["train"],),
            train_file=(lengths,),
            dev_file=lengths,
            **{**settings, **changes},
        )

    return options


def test_each_record_chooses_among_its_own_tasks_labels(two):
    task, model, splits = TwoTasks.from_options(two(replay_ratio=0.5))
    assert task.labels == ("first: neg", "first: pos", "second: long", "second: short")
    assert task.same_task(0) == [True, True, False, False]
    stages = [record.label.partition(":")[0] for record in splits["train"]]
    assert (stages.count("second"), stages.count("first")) == (32, 16)
    assert {record.label.partition(":")[0] for record in splits["test"]} == {"first"}

    torch.nn.init.normal_(model.head.weight, std=3.0)
    features = task.featurize(splits["train"])
    batch = task.collate(features)
    logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    total, count = task.loss(model, batch)
    own = [[0, 1] if label < 2 else [2, 3] for label in batch.labels.tolist()]
    by_hand = sum(
        torch.nn.functional.cross_entropy(row[pair][None], torch.tensor([pair.index(int(label))]))
        for row, pair, label in zip(logits, own, batch.labels, strict=True)
    )
    torch.testing.assert_close(total, by_hand)
    assert count == 48
    for prediction, record, pair in zip(
        task.predict(model, features, 8), splits["train"], own, strict=True
    ):
        assert prediction.label.partition(":")[0] == record.label.partition(":")[0]
        assert sum(prediction.probabilities[i] for i in pair) == pytest.approx(1)


def test_the_first_heads_rows_get_no_gradient_from_the_second(two):
    task, model, splits = TwoTasks.from_options(two())
    loss, _ = task.loss(model, task.collate(task.featurize(splits["train"])))
    loss.backward()
    assert model.head.weight.grad[:2].abs().max() == 0
    assert model.head.weight.grad[2:].abs().max() > 0


def test_the_second_tasks_rows_are_new_in_the_second_stage_too(two, tmp_path):
    """The first stage did not train them, so L2-SP and WiSE-FT have no value to keep near."""
    settings = {"epochs": 1, "learning_rate": 1e-2, "device": "cpu"}
    before = tmp_path / "first"
    run(TwoTasks, two(stage="first"), TrainOptions(output_dir=before, **settings))
    heads = {}
    for alpha in (1.0, 0.5):
        target = tmp_path / str(alpha)
        options = TrainOptions(output_dir=target, wise_ft_alpha=alpha, **settings)
        run(TwoTasks, two(model=str(before)), options)
        heads[alpha] = load_file(target / "model.safetensors")
    name, lower = "classifier.weight", "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(heads[0.5][name], heads[1.0][name])
    begin = load_file(before / "model.safetensors")[lower]
    torch.testing.assert_close(heads[0.5][lower], (begin + heads[1.0][lower]) / 2)
    head = {"head.weight", "head.bias"}
    assert head <= set(TwoTasks.from_options(two(model=str(before)))[1].new_parameters)


def test_bad_options(two):
    with pytest.raises(
        ValueError, match="--label-smoothing and --r-drop use the probabilities of all labels"
    ):
        two(label_smoothing=0.1)
    with pytest.raises(ValueError, match="give all four"):
        two(first_dev_file=None)


def test_remedies_follow_the_model_and_the_learning_rate():
    assert remedies(5e-5, layers=12)["lower half frozen"] == {
        "freeze_embeddings": True,
        "freeze_layers": 6,
    }
    assert remedies(5e-5, layers=12)["a fifth of the learning rate"] == {"learning_rate": 1e-5}


@pytest.mark.slow
def test_the_probe_knows_a_disturbed_encoder(tiny_bert, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join("the film was so good and the food was so bad " * 20 for _ in range(300))
    )
    probe, folder = ProbeOptions((text,), probe_steps=150), tmp_path / "probe"
    options = train_probe(str(tiny_bert), probe, folder)
    before = load_file(folder / "model.safetensors")
    start = load_file(tiny_bert / "model.safetensors")
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(before[f"bert.{word}"], start[word].half())
    encoder = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    known = probe_loss(encoder, folder, options)
    assert known < 3.9  # of ln 70 = 4.2
    encoder.encoder.embeddings.word.weight.data *= -1
    assert probe_loss(encoder, folder, options) > known + 0.01
    assert "step 150" in capsys.readouterr().out
    train_probe(str(tiny_bert), probe, folder)
    assert capsys.readouterr().out == ""  # nothing is done again


@pytest.mark.slow
def test_remedies_are_compared_and_a_comparison_goes_on(two, tmp_path):
    options = two()
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join("the film was so good and it was not bad " * 40 for _ in range(300))
    )
    flags = ["--model", options.model, "--probe-file", text, "--probe-steps", 5, "--seeds", 2]
    flags += ["--first-train-file", *options.first_train_file, "--train-file", *options.train_file]
    flags += ["--first-dev-file", options.first_dev_file, "--dev-file", options.dev_file]
    flags += ["--epochs", 2, "--learning-rate", "2e-3", "--output-dir", tmp_path / "out"]
    done = run_script("compare_forgetting", *flags)
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in done.stdout
    header, _, *rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(rows) >= 8
    assert rows["head only"]["first, before"] == rows["head only"]["first, after"]
    assert "masked-LM loss before" in header
    assert len({row["masked-LM loss before"] for row in rows.values()}) == 1
    assert rows["head only"]["masked-LM loss after"] == rows["head only"]["masked-LM loss before"]
    trained = {name: int(row["trained"]) for name, row in rows.items()}
    assert trained["head only"] < trained["LoRA, rank 8"] < trained["none"]

    frozen = read_metrics(tmp_path / "out" / "lower-half-frozen-seed1")["options"]
    assert (frozen["freeze_embeddings"], frozen["freeze_layers"]) == (True, 1)  # of two layers

    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.json")}
    missing = next(path for path in finished if "replay-seed2" in str(path))
    replay_ratio = json.loads(missing.read_text())["options"]["replay_ratio"]
    assert replay_ratio == 0.1
    missing.unlink()
    run_script("compare_forgetting", *flags)
    again = {path: path.stat().st_mtime_ns for path in finished}
    assert {path for path in finished if again[path] != finished[path]} == {missing}
