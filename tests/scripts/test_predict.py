"""predict.py as users run it, on the tiny models of tests/predicting.py."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from predicting import make_models
from safetensors.torch import load_file, save_file
from support.running import ROOT, run_script

from minift import BertForSequenceClassification, BertForTokenClassification
from minift.device import pick_device
from minift.predictor import predict_lines
from minift.tasks.ner import NerTask
from minift.tasks.registry import task_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def predicted(folder, source, **settings):
    return list(map(json.loads, predict_lines(folder, source, as_json=True, **settings)))


def refusal(*arguments) -> str:
    done = run_script("predict", *arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["single", "ner", "summaries"])
def test_each_line_gives_one_result_also_a_blank_one(models, tmp_path, name):
    lines = "the good film\n\n \nso bad\n"
    typed = run_script("predict", models[name], input=lines).stdout
    results = [line for line in typed.split("\n")[:-1] if not line.startswith("  ")]
    assert len(results) == 4
    assert [bool(line) for line in results][1:3] == [False, False]
    rows = list(
        map(
            json.loads,
            run_script("predict", models[name], "--json", input=lines).stdout.splitlines(),
        )
    )
    assert len(rows) == 4
    none = [] if name == "ner" else None
    assert [row["predicted"] == none for row in rows] == [False, True, True, False]
    assert rows[0].keys() == rows[1].keys()
    if name != "summaries":  # whose .txt is one document
        file = tmp_path / "x.txt"
        file.write_text(lines)
        assert predicted(models[name], file) == rows


def test_what_was_read_before_an_error_is_predicted(models):
    done = run_script("predict", models["single"], input="good\nbad\na\tb\nso\n", check=False)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert "input 3" in done.stderr.splitlines()[-1]
    question = "the " * 40  # leaves no room for a context
    lines = f"who?\tit was\n{question}\tit was\nwho?\tso\n"
    done = run_script("predict", models["qa"], "--json", input=lines, check=False)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "input 2" in done.stderr.splitlines()[-1]


def test_ids_and_other_columns_are_kept(models, tmp_path):
    file = tmp_path / "x.jsonl"
    rows = [
        {"id": "r0", "text": "good", "label": "pos", "score": 3, "tags": ["a"]},
        {"id": 7, "text": "bad", "year": float("nan"), "half": "\ud800", "\ud800": 1},
        {"text": "so"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    first, second, third = predicted(models["single"], file)
    assert (first["id"], first["input_score"], first["tags"]) == ("r0", 3, ["a"])
    assert 0 < first["score"] <= 1
    assert (second["id"], second["year"], second["half"], third["id"]) == (7, None, None, "2")
    lines = list(predict_lines(models["single"], file, as_csv=True))
    table = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert [row["id"] for row in table] == ["r0", "7", "2"]
    assert [row["tags"] for row in table] == ['["a"]', "", ""]
    assert [row["predicted"] for row in table] == [
        first["predicted"],
        *(r["predicted"] for r in (second, third)),
    ]
    sheet = tmp_path / "x.csv"
    sheet.write_text('id,text\nr0,"two\nlines"\n')
    (row,) = csv.DictReader(
        io.StringIO(run_script("predict", models["single"], "--csv", "--file", sheet).stdout)
    )
    assert (row["id"], row["text"]) == ("r0", "two\nlines")


def test_training_keeps_them_in_its_predictions(tiny_bert, reviews, tmp_path):
    dev = tmp_path / "dev.jsonl"
    texts = [line.split("\t") for line in reviews["dev"].read_text().splitlines()]
    rows = [
        {"id": f"r{i}", "text": t, "label": label, "year": i} for i, (t, label) in enumerate(texts)
    ]
    dev.write_text("\n".join(map(json.dumps, rows)))
    flags = ("--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", dev)
    run_script("train_classification", *flags, "--output-dir", tmp_path / "run", "--epochs", 1)
    written = (tmp_path / "run" / "predictions.dev.jsonl").read_text().splitlines()
    assert [(r["id"], r["year"]) for r in map(json.loads, written)] == [
        (f"r{i}", i) for i in range(len(rows))
    ]
    # The model knows that it reads single texts.
    assert "single texts" in refusal(tmp_path / "run", "good\tfood")


def test_columns_are_saved_with_the_model_and_can_be_given(tiny_bert, tmp_path):
    train = tmp_path / "train.conll"
    train.write_text("1 bo B-PER _\n2 was O _\n\n1 so O _\n2 xy B-LOC _\n\n" * 4)
    flags = ("--model", tiny_bert, "--train-file", train, "--token-column", 1, "--tag-column", 2)
    folder = tmp_path / "run"
    run_script("train_ner", *flags, "--output-dir", folder, "--epochs", 1)
    same = tmp_path / "same.txt"
    same.write_text("1 bo O _\n2 was O _\n")
    assert [r["tokens"] for r in predicted(folder, same)] == [["bo", "was"]]
    other = tmp_path / "other.conll"
    other.write_text("bo NN\nwas VB\n")
    assert "--token-column" in refusal(folder, "--file", other)
    done = run_script("predict", folder, "--file", other, "--token-column", 0, "--json")
    assert json.loads(done.stdout)["tokens"] == ["bo", "was"]


def test_flags_that_do_not_go_together_are_refused(models, tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("good\n")
    assert "--file" in refusal(models["single"], "a text", "--file", file)
    assert "--json and --csv" in refusal(models["single"], "a text", "--json", "--csv")
    assert "--text-column" in refusal(models["single"], "a text", "--text-column", "1")
    assert "--token-column" in refusal(models["single"], "--file", file, "--token-column", "1")
    for size in ("0", "-1", "x"):
        assert "--batch-size" in refusal(models["single"], "good", "--batch-size", size)


def test_int8_chooses_the_cpu(models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert run_script("predict", models["single"], "good", "--int8").stdout.count("\n") == 1


@pytest.mark.parametrize("name", ["single", "ner", "qa", "summaries"])
@pytest.mark.parametrize("mode", ["--json", "--csv", None])
def test_a_model_with_nan_is_an_error(models, tmp_path, name, mode):
    folder = tmp_path / "broken"
    shutil.copytree(models[name], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[max(tensors)].flatten()[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "manifest.json").unlink()
    message = refusal(folder, *([mode] if mode else []), "who?\tgood" if name == "qa" else "good")
    assert str(folder) in message
    assert "NaN" in message


def test_nan_that_arises_from_finite_weights_is_an_error(models, tmp_path):
    folder = tmp_path / "huge"
    shutil.copytree(models["single"], folder)
    task, model = task_of(folder).from_pretrained(folder)
    with torch.no_grad():
        model.encoder.embeddings.norm.weight.fill_(3e38)
    task.save(model, folder)
    assert "outputs are NaN or infinite" in refusal(folder, "good film")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"problem_type": "regression"}, "regression"),
        ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}, "one output"),
    ],
)
def test_checkpoints_that_do_not_choose_one_label_are_refused(models, tmp_path, changes, words):
    folder = tmp_path / "other"
    shutil.copytree(models["single"], folder)
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["minift"]  # as of a checkpoint that minift did not save
    (folder / "config.json").write_text(json.dumps(config))
    assert len(predicted(folder, ["good"])) == 1
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert words in refusal(folder, "good")


@pytest.mark.parametrize("labels", [("O", "I-PER", "I-LOC"), ("B-LOC", "I-LOC", "I-PER", "O")])
def test_a_checkpoint_without_b_tags_finds_its_entities(models, tmp_path, labels):
    """As CoNLL-2003's on the hub: an I- that continues nothing begins an entity."""
    task, model = NerTask.from_pretrained(models["ner"])
    assert task.is_iob2
    model = BertForTokenClassification.from_pretrained(
        models["ner"], labels=labels, reset_head=True
    )
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(0.0)[labels.index("I-PER")] = 5.0
    folder = tmp_path / "hub"
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("minift")
    (folder / "config.json").write_text(json.dumps(config))
    task.tokenizer.save_pretrained(folder)
    (row,) = predicted(folder, ["ada bo was"])
    assert row["predicted"] == ["B-PER", "I-PER", "I-PER"]
    (entity,) = row["entities"]
    assert (entity["type"], entity["text"]) == ("PER", "ada bo was")
    assert entity["score"] > 0.9


def test_a_folder_of_several_seeds_names_them(models, tmp_path):
    for seed in (1, 2, 3):
        shutil.copytree(models["single"], tmp_path / "runs" / f"train-seed{seed}")
    message = refusal(tmp_path / "runs", "good")
    assert "(train-seed1, train-seed2, train-seed3 in it hold one)" in message


@pytest.mark.parametrize("name", ["single", "summaries"])
def test_texts_that_are_truncated_are_counted_and_marked(models, name):
    done = run_script("predict", models[name], "--json", "good", "the good film was " * 20)
    assert [json.loads(line)["truncated"] for line in done.stdout.splitlines()] == [False, True]
    assert "warning: 1 of 2 inputs have more than 32 tokens" in done.stderr


def test_a_label_with_a_line_end_or_a_tab_stays_on_its_line(models, tmp_path):
    labels = ("very\ngood", "very\tbad")
    model = BertForSequenceClassification.from_pretrained(
        models["single"], labels=labels, reset_head=True
    )
    folder = tmp_path / "odd"
    shutil.copytree(models["single"], folder)
    (folder / "manifest.json").unlink()
    model.save_pretrained(folder)
    (line,) = run_script("predict", folder, "good").stdout.splitlines()
    label, probabilities, text = line.split("\t")
    assert label in ("very\\ngood", "very\\tbad")
    assert "very\\tbad=" in probabilities
    assert text == "good"


def predict_in_a_process(
    folder, *flags, typed: bytes, encoding: str = ""
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if encoding:
        environment["PYTHONIOENCODING"] = encoding
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), str(folder), *flags]
    return subprocess.run(command, input=typed, capture_output=True, env=environment)


@pytest.mark.slow
def test_other_encodings_on_standard_input_and_output(models):
    folder = models["single"]
    done = predict_in_a_process(folder, typed=b"good\ncaf\xe9\n")
    assert done.returncode == 2
    assert done.stdout.count(b"\n") == 1
    assert b"error: input 2: byte 4 is 0xE9, which is not UTF-8" in done.stderr
    done = predict_in_a_process(folder, typed=b"caf\xe9\n", encoding="latin-1")
    assert done.stdout.endswith(b"caf\xe9\n")
    done = predict_in_a_process(folder, "\U0001f600", "--json", typed=b"", encoding="latin-1")
    assert json.loads(done.stdout.decode("latin-1"))["text"] == "\U0001f600"


def test_a_tagger_refuses_headers_and_numbers_and_reads_json_with_column_flags(models, tmp_path):
    header = tmp_path / "header.conll"
    header.write_text("word tag\nbo B-PER\nwas O\n")
    assert "looks like a header" in refusal(models["ner"], "--file", header)
    numbered = tmp_path / "numbered.conll"
    numbered.write_text("1 bo B-PER\n2 was O\n\n1 so O\n2 xy B-LOC\n")
    assert "are not words" in refusal(models["ner"], "--file", numbered)
    columns = {"token_column": 1}
    assert [r["tokens"] for r in predicted(models["ner"], numbered, columns=columns)] == [
        ["bo", "was"],
        ["so", "xy"],
    ]
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"tokens": ["bo", "was"]}\n{"text": "so it is"}\n')
    assert len(predicted(models["ner"], lines, columns=columns)) == 2


def test_a_column_of_the_file_called_truncated_is_kept(models, tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("text,truncated\ngood,maybe\n")
    (row,) = predicted(models["single"], file)
    assert (row["truncated"], row["input_truncated"]) == (False, "maybe")
