"""Named entities from file to score, as users run it, on a tiny model."""

from __future__ import annotations

import json
import random

import pytest
import torch
from support.running import last_line_of_refusal, read_lines, read_metrics, run_script

from minift.data.columns import TagRecord
from minift.data.tags import to_iob2
from minift.metrics import entity_f1
from minift.tasks.entities import found_entities
from minift.tasks.ner import NerOptions, NerTask, TagPrediction
from minift.training.options import TrainOptions
from minift.training.run import run

NAMES = {"PER": ["bo", "ab cd"], "LOC": ["xy", "zz qq"]}


@pytest.fixture
def tagged(tmp_path):
    """Small files in three schemes: a name after "the" is a LOC, any other a PER."""
    draw = random.Random(0)
    sentences = []
    for _ in range(60):
        words, tags = [], []
        for _ in range(draw.randint(1, 3)):
            kind = draw.choice(["PER", "LOC", ""])
            lead = {"PER": ["so"], "LOC": ["the"], "": ["film"]}[kind]
            name = draw.choice(NAMES[kind]).split() if kind else ["was", "good"]
            words += lead + name
            tags += ["O"] * len(lead)
            tags += [f"{'IB'[i == 0]}-{kind}" for i in range(len(name))] if kind else ["O"] * 2
        sentences.append((words, tags))
    files = {name: tmp_path / f"{name}.conll" for name in ("train", "dev", "test")}
    parts = {"train": sentences[:44], "dev": sentences[44:52], "test": sentences[52:]}
    for name, part in parts.items():
        lines = []
        for words, tags in part:
            if name == "dev":  # iob1: no two names touch
                tags = ["I" + tag[1:] if tag != "O" else tag for tag in tags]
            lines += [f"{word} X {tag}" for word, tag in zip(words, tags, strict=True)] + [""]
        files[name].write_text("\n".join(lines))
    return files


def options(tiny_bert, tagged, folder, ner=None, **changes):
    task = NerOptions(
        model=str(tiny_bert), train_file=tagged["train"], dev_file=tagged["dev"], **(ner or {})
    )
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", **changes}
    return task, TrainOptions(output_dir=folder, **settings)


@pytest.mark.slow
def test_train_and_predict(tiny_bert, tagged, tmp_path):
    folder = tmp_path / "out"
    flags = ["--model", tiny_bert, "--output-dir", folder, "--learning-rate", 3e-3]
    flags += [part for name, path in tagged.items() for part in (f"--{name}-file", path)]
    shown = run_script(
        "train_ner", *flags, "--epochs", 40, "--batch-size", 8, "--dropout", 0
    ).stdout
    assert "schemes   iob2, iob1, iob2 -> iob2" in shown
    assert "nothing is truncated" in shown
    metrics = read_metrics(folder)
    assert metrics["task"] == "ner"
    assert (metrics["baseline"], metrics["collapsed"]) == (0.0, False)
    assert metrics["test"]["f1"] > 0.9
    assert {"precision", "recall", "f1", "per_type", "token_accuracy"} <= metrics["test"].keys()
    rows = read_lines(folder / "predictions.test.jsonl")
    gold, predicted = [r["gold"] for r in rows], [r["predicted"] for r in rows]
    assert entity_f1(predicted, gold)["f1"] == metrics["test"]["f1"]
    for row in rows:
        assert len(row["predicted"]) == len(row["tokens"])
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]
            assert 0 < entity["score"] <= 1

    text = "so  bo, was good! the zz qq"
    (row,) = map(json.loads, run_script("predict", folder, text, "--json").stdout.splitlines())
    assert row["text"] == text
    assert [(e["type"], e["text"]) for e in row["entities"]] == [("PER", "bo"), ("LOC", "zz qq")]
    plain = run_script("predict", folder, text).stdout.splitlines()
    assert plain[0] == "so [bo]PER, was good! the [zz qq]LOC"
    assert plain[1].split() == ["PER", f"{row['entities'][0]['score']:.2f}", "4-6", "bo"]
    from_file = run_script("predict", folder, "--file", tagged["test"], "--json").stdout
    assert [json.loads(line)["predicted"] for line in from_file.splitlines()] == predicted
    raw = tmp_path / "raw.txt"
    raw.write_text(f"{text}\n\n")
    two = run_script("predict", folder, "--file", raw, "--json").stdout.splitlines()
    assert [len(json.loads(line)["entities"]) for line in two] == [2, 0]


def test_lines_in_colour(tiny_bert, tagged):
    task, _, _ = NerTask.from_options(options(tiny_bert, tagged, None)[0])
    record = TagRecord("0", ("so", "bo", "xy"), None)
    prediction = TagPrediction(("O", "B-PER", "B-LOC"), (0.9, 0.8, 0.7))
    (text,) = task.display.to_lines([prediction], [record], colour=True)
    loc, per = "\x1b[1;31mxy\x1b[0m", "\x1b[1;32mbo\x1b[0m"
    assert text.splitlines()[0] == f"so {per} {loc}"


def test_entities_have_offsets_and_scores():
    record = TagRecord("0", ("Ada", "King", "met", "Bo"), None)
    tags, scores = ("B-PER", "I-PER", "O", "B-PER"), (0.9, 0.7, 1.0, 0.5)
    first, second = found_entities(tags, scores, record)
    assert first == {"type": "PER", "text": "Ada King", "start": 0, "end": 8, "score": 0.8}
    assert (second["start"], second["end"], second["score"]) == (13, 15, 0.5)


def test_a_sentence_of_3000_words_gets_3000_predictions(tiny_bert, tagged):
    task, model, _ = NerTask.from_options(options(tiny_bert, tagged, None)[0])
    words = ["good", "", "bo", "x" * 300, "film\x00"] * 600
    records = [
        TagRecord("0", tuple(words), None),
        TagRecord("1", (), None),
        TagRecord("2", ("bo",), None),
    ]
    features = task.featurize(records)
    assert all(feature.length <= 64 for feature in features)
    predictions = task.predict(model, features, batch_size=8)
    assert [len(p.tags) for p in predictions] == [3000, 0, 1]
    for prediction in predictions:
        to_iob2(prediction.tags, "iob2")  # raises for an invalid sequence


def test_predictions_do_not_depend_on_the_batch(tiny_bert, tagged):
    task, model, splits = NerTask.from_options(options(tiny_bert, tagged, None)[0])
    records = splits["train"]
    together = task.predict(model, task.featurize(records), batch_size=16)
    alone = [task.predict(model, task.featurize([r]), batch_size=1)[0] for r in records]
    for a, b in zip(together, alone, strict=True):
        assert a.tags == b.tags
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


def test_the_loss_sums_over_the_labelled_tokens(tiny_bert, tagged):
    """Written out for each strategy; smoothed labels give each tag a share."""
    for strategy, smoothing in (("first", 0.0), ("all", 0.3), ("last", 0.0)):
        choice = {"label_strategy": strategy, "label_smoothing": smoothing}
        task, model, splits = NerTask.from_options(options(tiny_bert, tagged, None, choice)[0])
        features = task.featurize(splits["dev"], training=True)
        batch = task.collate(features)
        loss, count = task.loss(model, batch)
        total, labelled = 0.0, 0
        for feature in features:
            logits = model(torch.tensor([feature.input_ids]))[0].log_softmax(-1)
            for row, label in zip(logits, feature.labels, strict=True):
                if label != -100:
                    own = (1 - smoothing) * row[label] + smoothing * row.mean()
                    total, labelled = total - own.item(), labelled + 1
        assert count == labelled
        assert loss.item() == pytest.approx(total, rel=1e-4)
        words = sum(len(r.words) for r in splits["dev"])
        assert (labelled > words) == (strategy == "all")


def test_a_frozen_encoder_keeps_its_weights(tiny_bert, tagged, tmp_path, capsys):
    task, train = options(tiny_bert, tagged, tmp_path / "out", freeze_encoder=True, epochs=3)
    run(NerTask, task, train)
    initial, _, _ = NerTask.from_options(task)
    loaded, model = NerTask.from_pretrained(tmp_path / "out")
    before = type(model).from_pretrained(tiny_bert, labels=loaded.labels)
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) != name.startswith("head")
    assert loaded.labels == initial.labels


def test_the_options_are_saved_with_the_model(tiny_bert, tagged, tmp_path, capsys):
    choice = {
        "label_strategy": "all",
        "aggregation_strategy": "majority",
        "decoding": "argmax",
        "doc_stride": 3,
    }
    task, train = options(tiny_bert, tagged, tmp_path / "out", {**choice, "max_length": 20})
    run(NerTask, task, train)
    loaded, _ = NerTask.from_pretrained(tmp_path / "out")
    assert {name: getattr(loaded.options, name) for name in choice} == choice
    assert loaded.max_length == 20


def test_transformers_loads_a_run_with_its_labels(tiny_bert, tagged, tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="loads a run in transformers")
    folder = tmp_path / "out"
    task, train = options(tiny_bert, tagged, folder, {"decoding": "argmax"})
    run(NerTask, task, train)
    model, report = transformers.AutoModelForTokenClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    names = model.config.id2label
    assert list(names.values()) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row in read_lines(folder / "predictions.dev.jsonl"):
        batch = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            logits = model.eval()(**batch).logits[0]
        ids = batch.word_ids(0)
        firsts = [ids.index(i) for i in range(len(row["tokens"]))]
        assert [names[int(i)] for i in logits[firsts].argmax(-1)] == row["predicted"]


BAD = {
    "ragged columns": ("bo X B-PER\nso O\n", {}, ["train.conll, line 2", "columns is 2"]),
    "unknown scheme": ("bo X B-PER\nso X PER\n", {}, ["train.conll, line 2", "'PER'", "iob2"]),
    "impossible tag": ("bo B-PER\nso O\nxy I-LOC\n", {}, ["train.conll, line 3", "'I-LOC'"]),
    "no sentence": ("\n\n-DOCSTART- O\n", {}, ["train.conll", "no sentence"]),
    "no entity": ("so X O\n", {}, ["train.conll", "every tag is O"]),
    "tag unseen in training": ("bo X B-PER\n", {}, ["dev.conll, line", "-LOC'", "PER"]),
    "overlap too long": (None, {"doc-stride": 62}, ["--doc-stride", "62"]),
    "no such column": (None, {"tag-column": 7}, ["train.conll, line 1", "column 7"]),
    "no such strategy": (None, {"label-strategy": "middle"}, ["--label-strategy", "'middle'"]),
}


@pytest.mark.parametrize(("text", "changes", "words"), BAD.values(), ids=BAD)
def test_bad_input(tiny_bert, tagged, tmp_path, monkeypatch, capsys, text, changes, words):
    if text is not None:
        tagged["train"].write_text(text)
    folder = tmp_path / "out"
    flags = {"model": tiny_bert, "output-dir": folder, "device": "cpu", **changes}
    flags |= {f"{name}-file": path for name, path in tagged.items()}
    last = last_line_of_refusal("train_ner", flags, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not folder.exists()
