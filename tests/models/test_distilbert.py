"""DistilBERT as users use an encoder; test_encoders.py compares its numbers."""

from __future__ import annotations

import json

import pytest
import torch
from support.encoders import DISTILBERT
from support.parity import assert_close
from support.running import read_lines, read_metrics, run_script

from minift import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    Tokenizer,
)
from minift.errors import UserError
from minift.models.adapters import load_adapter
from minift.models.distilbert import sinusoids


@pytest.fixture
def tiny_distilbert(tmp_path, tiny_bert):
    """A folder with a random DistilBERT of two layers and the tokenizer of `tiny_bert`."""
    folder, tokenizer = tmp_path / "tiny-distilbert", Tokenizer.from_pretrained(tiny_bert)
    config = DistilBertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_worked_example():
    torch.testing.assert_close(
        sinusoids(2, 4),
        torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.8415, 0.5403, 0.0100, 0.9999]]),
        atol=1e-4,
        rtol=0,
    )
    assert sinusoids(3, 5).shape == (3, 5)


def test_config_and_new_sinusoidal_positions_are_those_of_transformers(tmp_path):
    theirs = DISTILBERT.theirs("Model")(DISTILBERT.config(sinusoidal_pos_embds=True))
    theirs.save_pretrained(tmp_path / "theirs")
    config = DistilBertConfig.from_pretrained(tmp_path / "theirs")
    ours = DistilBertModel(config)
    expected = theirs.embeddings.position_embeddings.weight
    assert_close("positions", ours.embeddings.position.weight, expected, 1e-6)
    ours.save_pretrained(tmp_path / "ours")
    before, after = (
        json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours")
    )
    assert {key: after[key] for key in before if key != "transformers_version"} == {
        key: value for key, value in before.items() if key != "transformers_version"
    }


def test_an_error_names_the_key_on_disk(tiny_distilbert):
    path = tiny_distilbert / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "n_heads": 5}))
    with pytest.raises(UserError, match=r"dim is 32, which 5 heads \(n_heads\) cannot share"):
        DistilBertModel.from_pretrained(tiny_distilbert)
    path.write_text(json.dumps({**config, "attention_dropout": 2}))
    with pytest.raises(UserError, match="attention_dropout is 2; it must be"):
        DistilBertModel.from_pretrained(tiny_distilbert)


def test_token_types_are_ignored_and_a_head_of_another_task_is_not_taken(tiny_distilbert):
    labelled = DistilBertForTokenClassification.from_pretrained(tiny_distilbert, num_labels=2)
    labelled.save_pretrained(tiny_distilbert)
    model = DistilBertForSequenceClassification.from_pretrained(tiny_distilbert, num_labels=2)
    assert set(model.load_report.new) == set(dict(model.head_parameters()))
    assert len(model.load_report.new) == 4  # pre_classifier and classifier
    ids = torch.tensor([[2, 7, 3, 8, 3]])
    types = torch.tensor([[0, 0, 0, 1, 1]])
    assert torch.equal(model(ids, None, types), model(ids))


FEW_PARAMETERS = ("--lora-rank", "--bitfit", "--freeze-encoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--lora-rank", 2),
        ("--bitfit",),
        ("--layerwise-lr-decay", 0.5, "--freeze-layers", 1),
        ("--freeze-encoder", "--pooling", "mean"),
        ("--reinit-layers", 1, "--gradient-checkpointing"),
    ],
    ids=lambda flags: " ".join(map(str, flags)) or "plain",
)
def test_a_classifier_is_trained_in_every_way(tiny_distilbert, reviews, tmp_path, flags):
    files = [part for name in reviews for part in (f"--{name}-file", reviews[name])]
    rate = 0.01 if flags else 0.003
    run_script(
        "train_classification",
        *("--model", tiny_distilbert, *files, "--output-dir", tmp_path / "run"),
        *("--epochs", 12, "--learning-rate", rate, "--logging-steps", 1, *flags),
    )
    losses = [row["loss"] for row in read_lines(tmp_path / "run" / "log.jsonl") if "loss" in row]
    # Few parameters of a random model learn little; the others must learn.
    assert sum(losses[-10:]) < sum(losses[:10]) or flags[0] in FEW_PARAMETERS
    trained = read_metrics(tmp_path / "run")["trained_parameters"]
    model = DistilBertForSequenceClassification.from_pretrained(tmp_path / "run")
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (trained == total) == (not flags or "--reinit-layers" in flags)
    if "--lora-rank" in flags:
        base = DistilBertForSequenceClassification.from_pretrained(
            tiny_distilbert, labels=["neg", "pos"]
        )
        again = load_adapter(base, tmp_path / "run" / "adapter").eval()
        whole = DistilBertForSequenceClassification.from_pretrained(tmp_path / "run")
        ids = torch.tensor([[2, 7, 9, 3]])
        assert_close("the adapter on its base", again(ids), whole(ids), 1e-5)
    exact, int8 = (
        run_script("predict", tmp_path / "run", "--file", reviews["test"], "--json", *more).stdout
        for more in ((), ("--int8",))
    )
    assert exact != int8
    for lines in zip(exact.splitlines(), int8.splitlines(), strict=True):
        first, second = (json.loads(line)["probabilities"] for line in lines)
        assert first == pytest.approx(second, abs=0.1)


@pytest.mark.slow
def test_the_other_tasks_the_experiments_and_pre_training_take_it(
    tiny_distilbert, reviews, tmp_path
):
    for task in ("ner", "qa"):
        run_script(
            f"train_{task}",
            *("--model", tiny_distilbert, "--epochs", 1, "--output-dir", tmp_path / task),
        )
    text = tmp_path / "text.txt"
    text.write_text("it was so good and the film was bad\n\n" * 2000)
    run_script(
        "compare_forgetting",
        *("--model", tiny_distilbert, "--first-train-file", reviews["train"]),
        *("--first-dev-file", reviews["dev"], "--train-file", reviews["train"]),
        *("--dev-file", reviews["dev"], "--epochs", 1, "--seeds", 1, "--probe-file", text),
        *("--probe-steps", 5, "--output-dir", tmp_path / "forgetting"),
    )
    assert "masked-LM loss after" in (tmp_path / "forgetting" / "table.md").read_text()
    done = run_script(
        "compare_freezing",
        *("--model", tiny_distilbert, "--train-file", reviews["train"]),
        *("--dev-file", reviews["dev"], "--epochs", 1, "--seeds", 1),
        *("--output-dir", tmp_path / "freezing"),
    )
    assert "full mean" in done.stdout
    assert "pooler" not in done.stdout.partition("| setting")[2]  # it has none
    run_script(
        "pretrain",
        *("--family", "distilbert", "--train-file", text, "--vocab-size", 120, "--d-model", 16),
        *("--d-ff", 16, "--num-layers", 1, "--num-heads", 2, "--max-steps", 5, "--batch-size", 2),
        *("--block-size", 16, "--eval-blocks", 4, "--output-dir", tmp_path / "new"),
    )
    model = DistilBertForMaskedLM.from_pretrained(tmp_path / "new")
    assert model.config.seq_classif_dropout == 0.2  # the family's default, for fine-tuning
