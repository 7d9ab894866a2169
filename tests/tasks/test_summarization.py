"""Summaries from file to score on a tiny T5."""

from __future__ import annotations

import json

import pytest
import torch
from support.running import last_line_of_refusal, read_lines, run_script
from support.summaries import options, write

from minift.data.batching import IGNORE_INDEX
from minift.data.read import SummaryRecord, builtin, read_summaries
from minift.errors import UserError
from minift.metrics import rouge
from minift.metrics.diversity import novelty
from minift.models.seq2seq import shift_right
from minift.tasks.summaries import SummaryPrediction
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.text.sentences import first_sentence
from minift.training.run import run


@pytest.mark.slow
def test_train_and_predict(tiny_t5, trees, tmp_path, capsys):
    folder = tmp_path / "out"
    metrics = run(SummarizationTask, *options(tiny_t5, trees, folder, epochs=40))
    shown = capsys.readouterr().out
    assert "0 of 96 have more than 512 tokens" in shown
    assert metrics["test"]["rougeL"] > 0.9
    assert metrics["test"]["rougeL"] > metrics["test"]["lead_rougeL"]
    assert metrics["baseline"] == metrics["dev"]["lead_rougeL"]
    rows = read_lines(folder / "predictions.test.jsonl")
    again = rouge([row["predicted"] for row in rows], [row["gold"] for row in rows])
    assert again["rougeL"] == pytest.approx(metrics["test"]["rougeL"])
    assert metrics["test"]["at_limit"] == 0

    text = "the wind blew over elm and hill"
    (line,) = run_script("predict", folder, text).stdout.splitlines()
    assert line == "elm fell"
    raw = tmp_path / "raw.txt"
    raw.write_text(text.replace("over", "over\n\n"))
    assert run_script("predict", folder, "--file", raw).stdout == "elm fell\n"
    found = run_script("predict", folder, "--file", trees["test"], "--json").stdout.splitlines()
    assert [json.loads(r)["predicted"] for r in found] == [row["predicted"] for row in rows]


@pytest.mark.slow
def test_training_with_adafactor_and_label_smoothing(tiny_t5, trees, tmp_path):
    settings = {"label_smoothing": 0.05, "num_beams": 2}
    changes = {"epochs": 30, "optimizer": "adafactor", "learning_rate": 2e-2}
    metrics = run(
        SummarizationTask, *options(tiny_t5, trees, tmp_path / "out", settings, **changes)
    )
    assert metrics["test"]["rougeL"] > 0.9
    task, _ = SummarizationTask.from_pretrained(tmp_path / "out")
    assert task.options.num_beams == 2


@pytest.fixture
def task_and_model(tiny_t5, trees):
    task, model, _ = SummarizationTask.from_options(options(tiny_t5, trees, None)[0])
    return task, model


def test_loss_is_that_of_the_whole_logits(task_and_model, trees):
    task, model = task_and_model
    features = task.featurize(read_summaries(trees["dev"]), training=True)
    batch = task.collate(features)
    total, count = task.loss(model, batch)
    logits = model(
        batch.input_ids,
        batch.attention_mask,
        decoder_input_ids=shift_right(
            batch.labels, model.config.decoder_start_token_id, model.config.pad_token_id
        ),
    )
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert count == sum(len(feature.labels) for feature in features)
    # Summed over batches it is the same, so accumulation is exact.
    parts = [task.loss(model, task.collate([feature]))[0].item() for feature in features]
    assert total.item() == pytest.approx(sum(parts), rel=1e-5)


def test_long_texts_are_truncated_and_counted(tiny_t5, trees, tmp_path):
    rows = [
        {"document": "the wind " * 50, "summary": "rain " * 30},
        {"document": "oak", "summary": "elm"},
    ]
    path = write(tmp_path / "long.jsonl", rows)
    settings = {"train_file": path, "max_length": 20, "max_target_length": 7}
    task, _, splits = SummarizationTask.from_options(options(tiny_t5, trees, None, settings)[0])
    features = task.featurize(splits["train"], training=True)
    assert len(features[0].input_ids) == 20
    assert len(features[0].labels) == 7
    assert all(f.input_ids[-1] == f.labels[-1] == 1 for f in features)
    shown = task.display.describe(splits["train"], features)
    assert "1 of 2 have more than 20 tokens" in shown
    assert "1 have more than 7 tokens" in shown


def test_from_scratch_nothing_of_the_checkpoint_is_left(tiny_t5, trees):
    plain, scratch = (
        SummarizationTask.from_options(options(tiny_t5, trees, None, {"from_scratch": random})[0])[
            1
        ]
        for random in (False, True)
    )
    left = dict(plain.named_parameters())
    for name, parameter in scratch.named_parameters():
        if parameter.dim() > 1:
            assert not torch.isclose(parameter, left[name]).all(0).any(), name
            ratio = parameter.std() / left[name].std()  # the checkpoint is as random models start
            assert 0.6 < ratio < 1.6, name
    torch.manual_seed(0)
    first = SummarizationTask.from_options(
        options(tiny_t5, trees, None, {"from_scratch": True})[0]
    )[1]
    torch.manual_seed(0)
    again = SummarizationTask.from_options(
        options(tiny_t5, trees, None, {"from_scratch": True})[0]
    )[1]
    assert torch.equal(first.shared.weight, again.shared.weight)


def test_length_is_taken_from_the_training_summaries(task_and_model, trees):
    task, _ = task_and_model
    longest = max(len(task.tokenizer(r.summaries[0]).ids) for r in read_summaries(trees["train"]))
    assert task.max_target_length == longest


def test_the_targets_are_the_first_summary_or_all(tiny_t5, tmp_path, trees):
    rows = [
        {"document": "the oak.", "summaries": ["oak fell", "the oak fell all day long"]},
        {"document": "the elm.", "summary": "elm fell"},
    ]
    train = write(tmp_path / "several.jsonl", rows)
    targets_of, longest = {}, {}
    for targets in ("first", "all"):
        changes = {"train_file": train, "targets": targets}
        task, _, splits = SummarizationTask.from_options(options(tiny_t5, trees, None, changes)[0])
        features = task.featurize(splits["train"], training=True)
        targets_of[targets] = [(f.record, task.tokenizer.decode(f.labels[:-1])) for f in features]
        longest[targets] = task.max_target_length
        assert [f.record for f in task.featurize(splits["train"])] == [0, 1]
    assert targets_of["first"] == [(0, "oak fell"), (1, "elm fell")]
    assert targets_of["all"] == [(0, "oak fell"), (0, "the oak fell all day long"), (1, "elm fell")]
    assert longest["all"] > longest["first"]


def test_a_warning_says_when_summaries_reach_the_limit(task_and_model):
    task, _ = task_and_model
    records = [SummaryRecord(str(i), "a b. c", ("a",)) for i in range(10)]
    predictions = [SummaryPrediction("a", at_limit=i < 2) for i in range(10)]
    score = task.score(predictions, records)
    assert score["at_limit"] == 0.2
    assert "warning: 20% of the summaries" in task.display.format_report(
        predictions, records, score
    )


def test_the_best_of_several_summaries_counts(task_and_model):
    task, _ = task_and_model
    record = SummaryRecord("0", "a b. c", ("x y", "red kites"))
    assert task.score([SummaryPrediction("red kites", False)], [record])["rougeL"] == 1


def test_a_frozen_encoder_is_refused(tiny_t5, trees, tmp_path):
    with pytest.raises(UserError, match="--freeze-encoder"):
        run(SummarizationTask, *options(tiny_t5, trees, tmp_path / "out", freeze_encoder=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_beams": 0}, "--num-beams"),
        ({"max_target_length": 1}, "--max-target-length"),
        ({"no_repeat_ngram_size": -1}, "--no-repeat-ngram-size"),
    ],
)
def test_options_out_of_range_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        SummarizationOptions(**changes)


@pytest.mark.parametrize(
    ("spoil", "changes", "words"),
    [
        ('{"document": "a", "summary": ', {}, ["train.jsonl", "line 97", "JSON"]),
        ('{"document": "a"}', {}, ["train.jsonl", "line 97", "'summary'"]),
        ('{"document": "a", "summary": " "}', {}, ["train.jsonl", "line 97", "empty"]),
        ("[1]", {}, ["train.jsonl", "line 97"]),
        (None, {"train-file": "nowhere.jsonl"}, ["nowhere.jsonl", "no such file"]),
        (None, {"train-file": "x.tsv"}, ["x.tsv", ".jsonl"]),
        (None, {"model": "nowhere"}, ["nowhere"]),
        (None, {"model": "tiny-bert"}, ["config.json", "'bert'", "t5"]),
        (None, {"precision": "fp16"}, ["--precision", "fp16", "overflows", "bf16"]),
        (None, {"optimizer": "sgd"}, ["--optimizer", "sgd", "adafactor"]),
        (None, {"num-beams": 0}, ["--num-beams", "0"]),
        (None, {"max-target-length": 1}, ["--max-target-length", "1"]),
        (None, {"label-smoothing": 1.5}, ["--label-smoothing", "1.5"]),
        (None, {"beam-early-stopping": "maybe"}, ["--beam-early-stopping", "maybe"]),
        (None, {"metric-for-best-model": "bleu"}, ["--metric-for-best-model", "bleu", "rougeL"]),
        (None, {"output-dir": "used"}, ["used: holds metrics.json", "--output-dir"]),
    ],
)
def test_bad_input(tiny_t5, tiny_bert, trees, tmp_path, monkeypatch, capsys, spoil, changes, words):
    monkeypatch.chdir(tmp_path)
    if spoil is not None:
        with trees["train"].open("a") as file:
            file.write(spoil + "\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "metrics.json").write_text("{}")
    (tmp_path / "x.tsv").write_text("a\tb\n")
    flags = {
        "model": tiny_t5,
        "train-file": trees["train"],
        "dev-file": trees["dev"],
        "output-dir": tmp_path / "out",
        "device": "cpu",
        "freeze-layers": 0,
        **changes,
    }
    if changes.get("model") == "tiny-bert":
        flags["model"] = tiny_bert
    last = last_line_of_refusal("train_summarization", flags, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"document": "a"}', ["line 1", "'summary'"]),
        ('{"summary": "a"}', ["line 1", "'document'"]),
        ('{"document": " ", "summary": "a"}', ["line 1", "'document' is empty"]),
        ('{"document": "a", "summary": ""}', ["line 1", "'summary' is empty"]),
        ('{"document": "a", "summaries": "b"}', ["line 1", "'summaries'", "list"]),
        ('{"document": "a", "summaries": [3]}', ["line 1", "string"]),
        ("", ["no record"]),
    ],
)
def test_files_that_cannot_be_read(tmp_path, capsys, line, words):
    path = tmp_path / "x.jsonl"
    path.write_text(line)
    with pytest.raises(UserError) as error:
        read_summaries(path)
    assert all(word in str(error.value) for word in words), error.value
    with pytest.raises(UserError, match=r"\.jsonl"):
        read_summaries(tmp_path / "x.tsv")
    path.write_text('{"document": "a", "summary": "b"}\n' + line)
    if line:
        assert len(read_summaries(path, skip_bad=True)) == 1
        assert "1 of 2 records are skipped; " in capsys.readouterr().out


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"summary": ""},
        {"summary": None},
        {"summaries": []},
        {"summaries": [""]},
        {"summary": 3},
    ],
)
def test_prediction_needs_no_summaries(tmp_path, known):
    path = write(tmp_path / "x.jsonl", [{"document": "a", **known}])
    assert [r.summaries for r in read_summaries(path, require_summary=False)] == [()]
    with pytest.raises(UserError, match="line 1"):
        read_summaries(path)


def test_summaries_in_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('document,summary\n"One, two.\nThree.",Two.\nFour.,\n')
    documents = ["One, two.\nThree.", "Four."]
    found = read_summaries(path, require_summary=False)
    assert [(r.document, r.summaries, r.where) for r in found] == [
        (documents[0], ("Two.",), f"{path}, line 2"),
        (documents[1], (), f"{path}, line 4"),
    ]
    with pytest.raises(UserError, match="line 4: 'summary' is empty"):
        read_summaries(path)


def test_training_documents_in_dev_and_truncated_documents_give_warnings(tiny_t5, trees):
    files = {"dev_file": trees["train"], "max_length": 4}
    task, _, splits = SummarizationTask.from_options(options(tiny_t5, trees, None, files)[0])
    features = {split: task.featurize(records, True) for split, records in splits.items()}
    found = [line.split(" (")[0] for line in task.data_checks(splits, features)]
    assert found == [
        "96 of 96 dev records also occur in the training data",
        "96 of 96 train documents have more than 4 tokens",
        "96 of 96 dev documents have more than 4 tokens",
        "12 of 12 test documents have more than 4 tokens",
    ]


def checks(tiny_t5, trees, tmp_path, train, dev=(), **changes):
    """The warnings for rows of JSON, and the task."""
    files = {
        name: write(tmp_path / f"own-{name}.jsonl", rows)
        for name, rows in (
            ("train", train),
            ("dev", dev or [{"document": "the oak.", "summary": "oak fell"}]),
        )
    }
    given = {"train_file": files["train"], "dev_file": files["dev"], "test_file": None, **changes}
    task, _, splits = SummarizationTask.from_options(options(tiny_t5, trees, None, given)[0])
    features = {split: task.featurize(r, split == "train") for split, r in splits.items()}
    return task.data_checks(splits, features), task


def test_what_summaries_lose_is_counted(tiny_t5, trees, tmp_path):
    train = [
        {"document": "the oak 🚀 and the elm.", "summary": "oak fell\nelm fell"},
        {"document": "the wind.", "summary": "the 🚀 fell all day {long}"},
        {"document": "the hill and the wind and the rain.", "summary": "rain"},
        {"document": "the field.", "summary": "wind\r\nrain {}"},
    ]
    found, task = checks(tiny_t5, trees, tmp_path, train)
    assert found == [
        "2 of 4 training summaries hold characters that the vocabulary lacks ('{', '}', '🚀'); "
        "generated summaries are without them",
    ]
    lengths = [feature.length for feature in task.featurize(read_summaries(trees["dev"]))]
    rows = [json.loads(line) for line in trees["dev"].read_text().splitlines()]
    for limit in (max(lengths) - 1, max(lengths)):
        long = sum(length > limit for length in lengths)
        found, _ = checks(tiny_t5, trees, tmp_path, rows, max_length=limit)
        assert found == bool(long) * [
            f"{long} of 12 train documents have more than {limit} tokens (--max-length) and are "
            "truncated"
        ]


def test_summaries_that_rouge_does_not_read_are_counted_and_have_no_baseline(
    tiny_t5, trees, tmp_path
):
    train = [{"document": "the oak.", "summary": "oak fell"}]
    dev = [
        {"document": "the elm.", "summary": "议会决定修复 3 座桥"},
        {"document": "the yew.", "summaries": ["议会", "the yew fell"]},
        {"document": "the fir.", "summary": "Она упала"},
    ]
    found, task = checks(tiny_t5, trees, tmp_path, train, dev)
    assert found[-1].startswith(
        "ROUGE reads only the letters a-z and digits, which are less than half of the letters in "
        "2 of 3 dev summaries ("
    )
    records = read_summaries(tmp_path / "own-dev.jsonl")
    assert task.baseline_score([], records) is None  # nothing to beat: a run is not collapsed
    assert task.baseline_score([], records[:2]) == 0.4  # of "the yew."


@pytest.mark.slow
def test_a_run_on_chinese_summaries_is_not_called_collapsed(tiny_t5, trees, tmp_path, capsys):
    rows = [{"document": "议会周一开会。议会决定修复。", "summary": "议会决定修复"}] * 2
    files = {name: write(tmp_path / f"{name}.jsonl", rows) for name in ("train", "dev")}
    given = {"train_file": files["train"], "dev_file": files["dev"], "test_file": None}
    metrics = run(SummarizationTask, *options(tiny_t5, trees, tmp_path / "out", given))
    shown = capsys.readouterr().out
    assert "warning: ROUGE reads only the letters a-z" in shown
    assert "lower --learning-rate" not in shown
    assert (metrics["dev"]["rougeL"], metrics["collapsed"]) == (0.0, False)


def test_columns_are_named_and_saved_with_the_model(tiny_t5, trees, tmp_path):
    rows = [
        {"article": row["document"], "highlights": row["summary"]}
        for row in map(json.loads, trees["dev"].read_text().splitlines())
    ]
    cnn = write(tmp_path / "cnn.jsonl", rows)
    table = tmp_path / "cnn.csv"
    table.write_text(
        "article,id,highlights\n"
        + "".join(f'"{row["article"]}",7,{row["highlights"]}\n' for row in rows)
    )
    given = {"train_file": cnn, "dev_file": table, "test_file": None}
    with pytest.raises(
        UserError,
        match=r"line 1: has no 'document', only 'article, highlights'; .*"
        "--document-column",
    ):
        SummarizationTask.from_options(options(tiny_t5, trees, None, given)[0])
    given["document_column"] = "article"
    with pytest.raises(UserError, match=r"line 1: has no 'summary'.*--summary-column"):
        SummarizationTask.from_options(options(tiny_t5, trees, None, given)[0])
    given["summary_column"] = "highlights"
    task, model, splits = SummarizationTask.from_options(options(tiny_t5, trees, None, given)[0])
    same = [[(r.document, r.summaries) for r in splits[name]] for name in ("train", "dev")]
    expected = [(r.document, r.summaries) for r in read_summaries(trees["dev"])]
    assert same == [expected, expected]
    task.save(model, tmp_path / "out")
    again, _ = SummarizationTask.from_pretrained(tmp_path / "out")
    assert [r.document for r in again.read_inputs(cnn)] == [r["article"] for r in rows]
    with pytest.raises(UserError, match="has no 'article', only 'document, summary'"):
        list(again.read_inputs(trees["dev"]))


def test_built_in_reports():
    splits = {
        name: read_summaries(builtin(f"reports.{name}.jsonl")) for name in ("train", "dev", "test")
    }
    records = [record for part in splits.values() for record in part]
    assert [len(part) for part in splits.values()] == [880, 60, 80]
    assert len({record.document for record in records}) == len(records)
    runs: set[tuple[str, ...]] = set()
    for record in records:
        words, (*condensed, summary) = record.document.split(), record.summaries
        assert 60 <= len(words) <= 120
        assert 9 <= len(summary.split()) <= 20
        assert summary.endswith(".")
        own = {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
        assert not own & runs
        runs |= own
        copied = summary.split()
        for i in range(len(copied) - 6):
            assert " ".join(copied[i : i + 7]) not in " ".join(words)
    # A text to learn from also has its news in its own words: the first of its summaries.
    for record in splits["train"]:
        condensed, summary = record.summaries
        assert 9 <= len(condensed.split()) <= 20
        assert condensed.endswith(".")
        assert novelty([condensed], [record.document], 1) <= 0.4
    assert all(len(record.summaries) == 1 for record in [*splits["dev"], *splits["test"]])
    truth = [record.summaries[-1:] for record in records]
    lead = rouge([first_sentence(record.document) for record in records], truth)
    assert lead["rougeL"] < 0.3  # the first sentence alone is a poor summary
