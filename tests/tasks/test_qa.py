"""Question answering from file to score, as users run it, on a tiny model."""

from __future__ import annotations

import json
import math
import random
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.questions import FILLER, question, write
from support.running import last_line_of_refusal, read_lines, read_metrics, run_script

from minift import BertForQuestionAnswering
from minift.data.squad import Answer, QuestionRecord, as_squad, read_squad
from minift.errors import UserError
from minift.metrics import squad
from minift.predictor import predict_lines
from minift.tasks.answers import Candidate, decide, in_sentence
from minift.tasks.qa import NULL, QaOptions, QaTask
from minift.text.spans import span_characters
from minift.text.windows import best_window
from minift.training.options import TrainOptions
from minift.training.run import run


@pytest.fixture
def asked(tmp_path):
    """Three small files; one question in three has no answer."""
    draw = random.Random(0)
    records = [question(i, draw, answer=i % 3 > 0) for i in range(96)]
    parts = {"train": records[:64], "dev": records[64:80], "test": records[80:]}
    return {name: write(tmp_path / f"{name}.json", part) for name, part in parts.items()}


def options(tiny_bert, asked, folder, qa=None, **changes):
    task = QaOptions(
        model=str(tiny_bert), train_file=asked["train"], dev_file=asked["dev"], **(qa or {})
    )
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", **changes}
    return task, TrainOptions(output_dir=folder, **settings)


@pytest.fixture
def task_and_model(tiny_bert, asked):
    task, model, _ = QaTask.from_options(options(tiny_bert, asked, None)[0])
    # A head whose logits differ from token to token, far from zero.
    torch.nn.init.normal_(model.head.weight, std=3)
    return task, model.eval()


@pytest.mark.slow
def test_train_and_predict(tiny_bert, asked, tmp_path):
    folder = tmp_path / "out"
    flags = ["--model", tiny_bert, "--output-dir", folder, "--learning-rate", 3e-3]
    flags += [part for name, path in asked.items() for part in (f"--{name}-file", path)]
    shown = run_script(
        "train_qa", *flags, "--epochs", 30, "--batch-size", 8, "--dropout", 0, "--max-length", 20
    ).stdout
    assert "questions   64, of which 22 have no answer" in shown
    assert "questions have several windows, nothing is truncated" in shown
    metrics = read_metrics(folder)
    assert metrics["task"] == "qa"
    none = squad(
        {row["id"]: "" for row in read_lines(folder / "predictions.dev.jsonl")},
        json.loads(asked["dev"].read_text())["data"],
    )
    assert metrics["baseline"] == pytest.approx(none["f1"])
    test = metrics["test"]
    assert test["f1"] > 80
    assert {"exact", "HasAns_f1", "NoAns_f1", "f1_at_zero", "null_threshold"} <= test.keys()
    assert metrics["dev"]["f1"] == pytest.approx(metrics["dev"]["best_f1"])

    # The official format scores the same, and the threshold of dev is the one that test has.
    predictions = json.loads((folder / "predictions.test.json").read_text())
    scores = squad(predictions, json.loads(asked["test"].read_text())["data"])
    assert scores["f1"] == pytest.approx(test["f1"])
    saved = json.loads((folder / "config.json").read_text())["minift"]
    assert saved["null_threshold"] == test["null_threshold"] == metrics["dev"]["null_threshold"]
    odds = json.loads((folder / "null_odds.test.json").read_text())
    nbest = json.loads((folder / "nbest_predictions.test.json").read_text())
    contexts = {r.id: r.context for r in read_squad(asked["test"])}
    for i, text in predictions.items():
        assert (text == "") == (odds[i] > saved["null_threshold"])
        *spans, none = nbest[i]
        assert sum(c["probability"] for c in nbest[i]) == pytest.approx(1)
        assert none["text"] == ""
        assert text in ("", spans[0]["text"])
        assert [c["score"] for c in spans] == sorted((c["score"] for c in spans), reverse=True)
        for c in spans:
            assert contexts[i][c["start"] : c["end"]] == c["text"]
    for row in read_lines(folder / "predictions.test.jsonl"):
        assert {"id", "question", "gold", "predicted", "score"} <= row.keys()
        assert row["predicted"] == predictions[row["id"]]

    # predict.py: a file as it was trained on, a question about texts, about a file, and lines.
    again = run_script("predict", folder, "--file", asked["test"], "--json").stdout.splitlines()
    assert {r["id"]: r["predicted"] for r in map(json.loads, again)} == predictions
    text = "It was good.  The film was Bo, very good! Not bad."
    ask = ("--question", "is it so")
    row = json.loads(run_script("predict", folder, text, *ask, "--json").stdout)
    assert row["predicted"] == "Bo"
    assert text[row["start"] : row["end"]] == "Bo"
    shown = run_script("predict", folder, text, *ask).stdout.splitlines()
    assert shown[0] == "is it so"
    assert shown[1].split() == ["Bo", f"{row['score']:.2f}", "27-29"]
    assert shown[2].strip() == "The film was [Bo], very good!"
    raw = tmp_path / "raw.txt"
    raw.write_text(text.replace("  ", "\n\n"))
    twice = run_script("predict", folder, "--file", raw, *ask, *ask, "--json").stdout.splitlines()
    assert [json.loads(line)["predicted"] for line in twice] == ["Bo", "Bo"]
    lines = run_script("predict", folder, "--json", input="is it so\tthe film was fine\n").stdout
    assert json.loads(lines)["predicted"] == ""
    none = run_script("predict", folder, "the film was fine", *ask).stdout
    assert "no answer" in none


def test_every_token_is_in_a_window_and_may_start_answers_in_one(task_and_model):
    task, _ = task_and_model
    draw = random.Random(2)
    for _ in range(200):
        length = draw.randint(10, 64)
        doc_stride = draw.choice([None, 0, 1, draw.randint(0, 40)])
        changed = replace(
            task, max_length=length, options=replace(task.options, doc_stride=doc_stride)
        )
        asked = " ".join(draw.choices(FILLER, k=draw.randint(1, 12)))
        context = " ".join(draw.choices([*FILLER, "xyz", "?!"], k=draw.randint(1, 60)))
        record = QuestionRecord("0", asked, context, None, "input 1")
        max_tokens = length - 3 - len(task.tokenizer.ids([asked])[0])
        tokens = task.tokenizer.tokens([context])[0]
        impossible = max_tokens < 1 or (
            doc_stride is not None and len(tokens) > max_tokens <= doc_stride
        )
        if impossible:
            with pytest.raises(UserError, match="input 1: the question has"):
                changed.featurize([record])
            continue
        begins, read = [], set()
        for feature in changed.featurize([record]):
            assert feature.length <= length
            size = len(feature.offsets)
            ids = feature.input_ids[feature.shift : feature.shift + size]
            places = [tokens.offsets.index(tuple(pair)) for pair in feature.offsets.tolist()]
            assert ids == [tokens.ids[i] for i in places]
            assert feature.token_type_ids == [0] * feature.shift + [1] * (size + 1)
            read.update(places)
            begins += places[slice(*feature.core)]
        assert read == set(range(len(tokens)))
        assert begins == list(range(len(tokens)))


WORDS = ["Zoë", "nai\u0308ve", "😀", "U.S.", "東京", "£20", "x\u0301\u0323", "(Bo)", "and", "1,200"]


def test_the_text_of_a_gold_span_is_the_gold_text(task_and_model):
    """For answers of whole words, whatever the words: accents, signs, emoji, ideographs."""
    task, _ = task_and_model
    draw = random.Random(5)
    for _ in range(300):
        words = draw.choices(WORDS, k=draw.randint(1, 14))
        first = draw.randrange(len(words))
        last = draw.randrange(first, min(len(words), first + 3))
        gap = draw.choice([" ", "  ", "\n", "\u00a0"])
        text = gap.join(words[first : last + 1])
        start = len(gap.join(words[:first])) + (len(gap) if first else 0)
        lead = draw.choice(["", " "]) if start else ""
        answer = Answer(lead + text, start - len(lead)) if gap == " " else Answer(text, start)
        record = QuestionRecord("0", "so", gap.join(words), (answer,), "input 1")
        changed = replace(task, max_length=draw.randint(12, 64))
        spans = [f for f in changed.featurize([record], training=True) if f.answer != (NULL, NULL)]
        longest = changed.max_length - 4
        tokens = task.tokenizer.tokens([text])[0]
        if len(tokens) <= longest // 3:  # the overlap holds it, so some window must
            assert spans
        for feature in spans:
            a, b = (place - feature.shift for place in feature.answer)
            found = span_characters(feature.context, feature.offsets, a, b)
            assert feature.context[slice(*found)] == text


@pytest.mark.slow
def test_property_any_text(task_and_model):
    hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis, not installed here")
    strategies = hypothesis.strategies
    task, model = task_and_model
    text = strategies.text(
        strategies.characters(exclude_categories=("Cs",)), min_size=1, max_size=60
    )

    @hypothesis.settings(max_examples=200, deadline=None)
    @hypothesis.given(text, strategies.data())
    def check(context, data):
        length = data.draw(strategies.integers(8, 40))
        changed = replace(task, max_length=length)
        features = changed.featurize([QuestionRecord("0", "so", context, None, "input 1")])
        tokens = changed.tokenizer.tokens([context])[0]
        covered = [o for f in features for o in f.offsets[slice(*f.core)].tolist()]
        assert [tuple(o) for o in covered] == tokens.offsets
        (prediction,) = changed.predict(model, features, 4)
        for candidate in prediction.candidates:
            assert candidate.text == context[candidate.start : candidate.end]
            following = context[candidate.end : candidate.end + 1]
            assert not following or not unicodedata.category(following).startswith("M")

    check()


def bounds_of(features, tokens):
    """(start, end) of the windows of one context, in its tokens."""
    starts = [tokens.offsets.index(tuple(f.offsets[0].tolist())) for f in features]
    return [(start, start + len(f.offsets)) for start, f in zip(starts, features, strict=True)]


def test_decoding_equals_brute_force_over_all_windows(task_and_model):
    """A span is read where its first token has the most context, or in the next that holds it."""
    task, _ = task_and_model
    draw = random.Random(1)
    generator = torch.Generator().manual_seed(0)
    for case in range(60):
        record = question(0, draw, length=draw.randint(1, 40))
        longest, count = draw.randint(1, 12), draw.randint(1, 8)
        changed = replace(
            task,
            max_length=draw.randint(10, 64),
            options=replace(task.options, max_answer_length=longest, n_best_size=count),
        )
        features = changed.featurize([record])
        outputs = [torch.randn(f.length + 3, 2, generator=generator) for f in features]
        found: dict[str, float] = {}
        (tokens,) = task.tokenizer.tokens([record.context])
        bounds = bounds_of(features, tokens)
        best = best_window([(i, i + 1) for i in range(len(tokens))], bounds)
        for i in range(len(tokens)):
            for j in range(i, min(i + longest, len(tokens))):
                holding = [w for w, (a, b) in enumerate(bounds) if a <= i and j < b]
                later = [w for w in holding if w >= best[i]]
                assert bool(later) == bool(holding)  # every span that a window holds is read
                if later:
                    rows = outputs[later[0]].double()[features[later[0]].shift :]
                    a = bounds[later[0]][0]
                    text = record.context[tokens.offsets[i][0] : tokens.offsets[j][1]]
                    score = float(rows[i - a, 0] + rows[j - a, 1])
                    found[text] = max(score, found.get(text, -math.inf))
        expected = sorted(found.items(), key=lambda pair: -pair[1])[:count]
        (prediction,) = changed.decode(features, outputs)
        pairs = [(c.text, c.score) for c in prediction.candidates]
        # Two spans may share a text; what is kept of each window is its best `count`.
        assert pairs[0] == pytest.approx(expected[0]), case
        assert [p[1] for p in pairs] == pytest.approx([e[1] for e in expected][: len(pairs)])
        null = min(float(o[0].double().sum()) for o in outputs)
        assert prediction.null_score == pytest.approx(null)
        assert prediction.margin == pytest.approx(null - expected[0][1])


def test_an_ideal_reader_finds_every_answer_that_a_window_holds(task_and_model):
    """It points at the answer in each window that holds it whole, and elsewhere at [CLS]."""
    task, _ = task_and_model
    draw = random.Random(6)
    held = 0
    for _ in range(300):
        max_length, longest = draw.randint(16, 64), draw.randint(1, 30)
        settings = replace(
            task.options, doc_stride=draw.randint(0, max_length - 11), max_answer_length=longest
        )
        changed = replace(task, max_length=max_length, options=settings)
        words = draw.choices(FILLER, k=draw.randint(1, 150))
        first = draw.randrange(len(words))
        text = " ".join(words[first : first + draw.randint(1, longest)])
        answer = Answer(text, len(" ".join(words[:first])) + bool(first))
        record = QuestionRecord("0", "is it so", " ".join(words), (answer,), "input 1")
        labelled = changed.featurize([record], training=True)
        outputs = [torch.zeros(feature.length, 2) for feature in labelled]
        for feature, logits in zip(labelled, outputs, strict=True):
            logits[feature.answer, (0, 1)] = 9.0
        if len(task.tokenizer.ids([text])[0]) <= longest and any(
            feature.answer != (NULL, NULL) for feature in labelled
        ):
            held += 1
            (prediction,) = changed.decode(changed.featurize([record]), outputs)
            best = prediction.candidates[0]
            assert (best.start, best.end) == (answer.start, answer.start + len(text))
            assert prediction.text == text
    assert held > 200


def test_predictions_do_not_depend_on_the_batch(task_and_model):
    task, model = task_and_model
    draw = random.Random(3)
    records = [question(i, draw, length=draw.randint(1, 90)) for i in range(12)]
    together = task.predict(model, task.featurize(records), 7)
    for record, prediction in zip(records, together, strict=True):
        (alone,) = task.predict(model, task.featurize([record]), 1)
        assert alone.text == prediction.text
        assert alone.margin == pytest.approx(prediction.margin, abs=1e-4)
        assert alone.candidates[0].score == pytest.approx(prediction.candidates[0].score, abs=1e-4)


def test_padding_does_not_change_the_loss(task_and_model):
    task, model = task_and_model
    draw = random.Random(4)
    records = [question(i, draw, length=draw.randint(1, 30)) for i in range(6)]
    features = task.featurize(records, training=True)
    smoothed = replace(task, options=replace(task.options, label_smoothing=0.2))
    for variant in (smoothed, task):
        total, count = variant.loss(model, variant.collate(features))
        parts = [variant.loss(model, variant.collate([feature])) for feature in features]
        assert count == len(features)
        assert total.item() == pytest.approx(sum(part.item() for part, _ in parts), rel=1e-5)
    # One question alone: the mean of both cross-entropies, as the field defines it.
    batch = task.collate(features[:1])
    starts, ends = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    first, last = features[0].answer
    expected = -(starts.log_softmax(-1)[0, first] + ends.log_softmax(-1)[0, last]) / 2
    assert parts[0][0].item() == pytest.approx(expected.item(), rel=1e-5)
    spread = -(starts.log_softmax(-1).mean() + ends.log_softmax(-1).mean()) / 2  # over all places
    both = smoothed.loss(model, batch)[0].item()
    assert both == pytest.approx((0.8 * expected + 0.2 * spread).item(), rel=1e-5)


def test_nothing_to_choose_from_is_no_error(task_and_model):
    task, model = task_and_model
    records = [
        QuestionRecord("0", "so", "\u200b\u0001", None, "input 1"),
        QuestionRecord("1", "so", "good", None, "input 2"),
    ]
    nothing, something = task.predict(model, task.featurize(records), 2)
    assert (nothing.text, nothing.span, nothing.margin) == ("", "", math.inf)
    assert something.span == "good"
    rows = task.display.to_rows([nothing, something], records)
    assert json.loads(json.dumps(rows, allow_nan=False))[0]["null_margin"] is None
    json.dumps(task.display.exports([nothing, something], records), allow_nan=False)
    assert "no answer" in task.display.to_lines([nothing], records[:1])[0]
    gold = [replace(r, answers=(Answer("x", 0),)) for r in records]
    assert task.score([nothing, something], gold)["exact"] == 0


def test_windows_without_the_answer(tiny_bert, asked, tmp_path):
    long = question(0, random.Random(0), length=60)
    none = question(1, random.Random(1), length=60, answer=False)
    files = {**asked, "train": write(tmp_path / "long.json", [long, none])}
    counts = {}
    for how in ("null", "drop"):
        task, _, splits = QaTask.from_options(
            options(tiny_bert, files, None, {"negative_windows": how, "max_length": 30})[0]
        )
        features = task.featurize(splits["train"], training=True)
        held = [f for f in features if f.record == 0 and f.answer != (NULL, NULL)]
        counts[how] = [sum(f.record == i for f in features) for i in (0, 1)]
        assert held
        assert "those of 0 questions are in no window whole" in task.display.describe(
            splits["train"], features
        )
        assert all(f.answer == (NULL, NULL) for f in features if f.record == 1)
        # In prediction nothing is left out.
        assert len(task.featurize(splits["train"])) == sum(counts["null"])
    assert counts["drop"] == [len(held), counts["null"][1]]


@pytest.mark.parametrize(
    "text", ["good   film", "\t\tbad  \n", "it,   was   ", "\u2002\u200agood   film\u2002\r\n"]
)
def test_white_space_in_and_around_an_answer_does_not_matter(task_and_model, text):
    task, _ = task_and_model
    context = "\n\nname: \u2002\u200agood   film\u2002\r\nso:\t\tbad  \n  is it:   it,   was   "
    record = QuestionRecord("0", "so", context, (Answer(text, context.index(text)),), "input 1")
    (feature,) = task.featurize([record], training=True)
    first, last = (place - feature.shift for place in feature.answer)
    assert context[slice(*span_characters(context, feature.offsets, first, last))] == text.strip()


def test_the_answer_most_annotators_gave_is_the_label(task_and_model):
    task, _ = task_and_model
    answers = (Answer("good", 0), Answer("bo", 5), Answer("bo", 5))
    record = QuestionRecord("0", "so", "good bo", answers, "input 1")
    (feature,) = task.featurize([record], training=True)
    assert feature.answer == (feature.shift + 1, feature.shift + 2)  # b ##o


def test_without_unanswerable_questions_there_is_always_an_answer(tiny_bert, tmp_path):
    draw = random.Random(0)
    files = {
        name: write(tmp_path / f"{name}.json", [question(i, draw) for i in range(8)])
        for name in ("train", "dev")
    }
    folder = tmp_path / "out"
    metrics = run(QaTask, *options(tiny_bert, files, folder))
    assert "null_threshold" not in metrics["dev"]
    assert "HasAns_f1" not in metrics["dev"]
    task, model = QaTask.from_pretrained(folder)
    assert not task.no_answer
    features = task.featurize(read_squad(files["dev"]))
    assert all(p.text and p.null_probability == 0 for p in task.predict(model, features, 8))


def test_a_fine_tuned_model_keeps_its_head_and_a_frozen_encoder_its_weights(
    tiny_bert, asked, tmp_path
):
    first = tmp_path / "first"
    run(QaTask, *options(tiny_bert, asked, first, freeze_encoder=True, epochs=2))
    before = BertForQuestionAnswering.from_pretrained(first)
    start = BertForQuestionAnswering.from_pretrained(tiny_bert, num_labels=2)
    for name, tensor in start.encoder.state_dict().items():
        assert torch.equal(before.encoder.state_dict()[name], tensor), name
    _, model, _ = QaTask.from_options(options(first, asked, None)[0])
    assert torch.equal(model.head.weight, before.head.weight)
    assert model.load_report.new == ()


def checks(tiny_bert, tmp_path, splits, qa=None):
    """The warnings for questions in memory, and the task."""
    files = {name: write(tmp_path / f"{name}.json", part) for name, part in splits.items()}
    given = {f"{name}_file": path for name, path in files.items()}
    task, _, splits = QaTask.from_options(QaOptions(model=str(tiny_bert), **given, **(qa or {})))
    features = {name: task.featurize(part, name == "train") for name, part in splits.items()}
    return task.data_checks(splits, features), task


def test_answers_that_were_moved_are_counted(tiny_bert, tmp_path):
    def asked(i, start):
        context = f"bo met bo in the film {'abcd'[i]}"
        return QuestionRecord(str(i), "is it so", context, (Answer("bo", start),))

    train = [asked(0, 0), asked(1, 1), asked(2, 6)]
    found, _ = checks(tiny_bert, tmp_path, {"train": train, "dev": [asked(3, 8)]})
    assert [line.split(" (")[0] for line in found] == [
        f"{counts} answers are not at their 'answer_start' and were taken from the nearest place"
        for counts in ("2 of 3 train", "1 of 1 dev")
    ]
    assert "train.json, article 1, paragraph 2, question '1'" in found[0]


def test_answers_longer_than_a_prediction_may_be_are_counted(tiny_bert, tmp_path):
    draw = random.Random(0)
    context = " ".join(draw.choices(FILLER, k=20))
    long = Answer(" ".join(context.split()[:6]), 0)
    short = Answer(" ".join(context.split()[:5]), 0)
    train = [
        QuestionRecord("0", "is it so", context, (long,)),
        QuestionRecord("1", "so it is", context, (long, short)),
        QuestionRecord("2", "it is so", context, ()),
    ]
    settings = {"max_answer_length": 5}
    found, _ = checks(tiny_bert, tmp_path, {"train": train}, settings)
    assert found == [
        "the answers of 1 of 2 train questions have more than 5 tokens (--max-answer-length), so "
        "no prediction can equal them"
    ]
    assert checks(tiny_bert, tmp_path, {"train": train}, {"max_answer_length": 6})[0] == []


def test_a_threshold_is_tuned_on_questions_of_both_kinds_only(tiny_bert, tmp_path):
    draw = random.Random(0)
    with_answer = [question(i, draw) for i in range(3)]
    without = [question(9 + i, draw, answer=False) for i in range(2)]
    both = [*with_answer, *without]
    other = [question(20, draw), question(21, draw, answer=False)]
    found, task = checks(tiny_bert, tmp_path, {"train": both, "dev": other[:1]})
    assert found == [
        "every dev question has an answer, so the null threshold is not tuned and stays 0; 2 of 5 "
        "training questions have no answer"
    ]
    found, _ = checks(tiny_bert, tmp_path, {"train": both, "dev": other[1:]})
    assert found[0].startswith("every dev question has no answer, so the null threshold is not")
    found, _ = checks(tiny_bert, tmp_path, {"train": with_answer, "dev": other})
    assert found == [
        "1 of 2 dev questions have no answer, but all training questions have one, so the model "
        "always answers"
    ]
    assert checks(tiny_bert, tmp_path, {"train": both, "dev": other})[0] == []

    # Each span scores 3, and "no answer" 5: the best for answerable questions is to answer always.
    predictions = [
        decide([Candidate(r.answers[0].text, 0, 2, 3.0)], 5.0, no_answer=True, n_best_size=1)
        for r in with_answer
    ]
    score = task.score(predictions, with_answer)
    assert (score["null_threshold"], score["f1"], score["best_f1"]) == (0.0, 0.0, 100.0)
    assert task.with_tuned(score).null_threshold == 0.0
    predictions.append(decide([Candidate("x", 0, 1, 3.0)], 9.0, no_answer=True, n_best_size=1))
    score = task.score(predictions, [*with_answer, without[0]])
    assert (score["null_threshold"], score["f1"]) == (4.0, 100.0)


def test_training_files_may_share_ids_and_dev_questions_may_not(tiny_bert, asked, tmp_path):
    twice = {**asked, "train": (asked["train"], asked["train"])}
    _, _, splits = QaTask.from_options(options(tiny_bert, twice, None)[0])
    ids = [record.id for record in splits["train"]]
    assert len(set(ids)) == 128
    assert (ids[0], ids[64]) == ("0", "0 (2)")
    value = json.loads(asked["dev"].read_text())
    value["data"] *= 2
    asked["dev"].write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"question '64': the id '64' is also that of .*its own"):
        QaTask.from_options(options(tiny_bert, asked, None)[0])


def test_bad_questions_are_skipped_if_asked(tiny_bert, asked, capsys):
    value = json.loads(asked["train"].read_text())
    value["data"][0]["paragraphs"][3]["qas"][0]["question"] = " "
    asked["train"].write_text(json.dumps(value))
    with pytest.raises(UserError, match="'question' is empty"):
        QaTask.from_options(options(tiny_bert, asked, None)[0])
    skipping = options(tiny_bert, asked, None, {"skip_bad_records": True})[0]
    _, _, splits = QaTask.from_options(skipping)
    assert "1 of 64 records are skipped" in capsys.readouterr().out
    assert [record.id for record in splits["train"]] == [str(i) for i in range(64) if i != 3]


def test_several_training_files_are_one(tiny_bert, asked, tmp_path):
    more = write(tmp_path / "more.json", [question(1000 + i, random.Random(i)) for i in range(5)])
    files = {**asked, "train": (asked["train"], more)}
    _, _, splits = QaTask.from_options(options(tiny_bert, files, None)[0])
    assert len(splits["train"]) == 69
    assert splits["train"][-1].where.startswith(str(more))


def test_sentences_around_an_answer():
    text = "It rained. Dr. Bo (of St. Ives) came!  He won? Yes.\nNo full stop"
    where = text.index("Ives")
    found = in_sentence(text, where, where + 4)
    assert found["before"].endswith("of St. ") or found["before"] == ""
    assert found["answer"] == "Ives"
    assert found["after"] == ") came!"
    whole = in_sentence(text, 0, len(text))
    assert whole == {"before": "", "answer": text, "after": ""}
    last = in_sentence(text, text.index("full"), text.index("full") + 4)
    assert last == {"before": "No ", "answer": "full", "after": " stop"}


def test_text_without_blanks_around_an_answer_is_shown(task_and_model):
    task, _ = task_and_model
    before, after = "前" * 300, "后" * 300
    context = f"一。{before}李明{after}。三。"
    start = context.index("李明")
    record = QuestionRecord("0", "谁？", context, None, "input 1")
    found = Candidate("李明", start, start + 2, 1.0)
    prediction = decide([found], 0.0, no_answer=True, n_best_size=1)
    (shown,) = task.display.to_lines([prediction], [record])
    assert shown.splitlines()[2].strip() == f"... {before[:160]}[李明]{after[:160]} ..."
    (row,) = task.display.to_rows([prediction], [record])
    assert row["sentence"] == {"before": before, "answer": "李明", "after": f"{after}。"}
    # Text with blanks is cut at one of them.
    spaced = QuestionRecord("0", "so", f"{'one ' * 90}bo{' two' * 90}", None, "input 1")
    found = Candidate("bo", 360, 362, 1.0)
    prediction = decide([found], 0.0, no_answer=True, n_best_size=1)
    (shown,) = task.display.to_lines([prediction], [spaced])
    assert shown.splitlines()[2].strip().startswith("... one one")
    assert shown.endswith("two two ...")


def test_colours_only_for_terminals(task_and_model):
    task, model = task_and_model
    record = QuestionRecord("0", "is it so", "The film was Bo.", None, "input 1")
    (p,) = task.predict(model, task.featurize([record]), 1)
    p = replace(p, answered=True)
    assert f"\x1b[1;32m{p.text}\x1b[0m" in task.display.to_lines([p], [record], colour=True)[0]
    assert f"[{p.text}]" in task.display.to_lines([p], [record])[0]


CASES = {
    "not JSON": ("{", ["train.json, line 1", "JSON"]),
    "wrong shape": ('{"data": {}}', ["train.json", "'data'", "list"]),
    "no answer at all": (None, ["train.json", "no question has an answer"]),
    "answer not in context": (
        {"answers": [{"text": "nowhere", "answer_start": 0}]},
        ["question '0'", "'nowhere'", "answer_start"],
    ),
    "empty question": ({"question": " "}, ["question '0'", "'question' is empty"]),
    "question longer than the window": (
        {"question": "good " * 70},
        ["question '0'", "70 tokens", "window of 64", "train with longer windows"],
    ),
}


@pytest.mark.parametrize(("change", "words"), CASES.values(), ids=CASES)
def test_bad_input(tiny_bert, asked, tmp_path, monkeypatch, capsys, change, words):
    if isinstance(change, str):
        asked["train"].write_text(change)
    elif change is None:
        write(asked["train"], [question(1, random.Random(0), answer=False)])
    else:
        value = json.loads(asked["train"].read_text())
        value["data"][0]["paragraphs"][0]["qas"][0].update({"is_impossible": False, **change})
        if "answers" not in change:
            record = question(0, random.Random(0))
            paragraph = as_squad([record])[0]["paragraphs"][0]
            paragraph["qas"][0].update(change)
            value["data"][0]["paragraphs"][0] = paragraph
        asked["train"].write_text(json.dumps(value))
    folder = tmp_path / "out"
    flags = {"model": tiny_bert, "train-file": asked["train"], "output-dir": folder}
    last = last_line_of_refusal("train_qa", flags, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"doc-stride": 61, "max-length": 20},
            ["--doc-stride is 61", "window of 20", "--max-length", "at most 16"],
        ),
        ({"doc-stride": 14, "max-length": 20}, ["overlap of 14", "from 0 to 13", "--doc-stride"]),
        ({"doc-stride": -1}, ["--doc-stride", "-1"]),
        ({"max-length": 6}, ["no room", "window of 6"]),
        ({"max-answer-length": 0}, ["--max-answer-length", "0"]),
        ({"n-best-size": 0}, ["--n-best-size", "0"]),
    ],
)
def test_impossible_windows_are_refused(tiny_bert, tmp_path, monkeypatch, capsys, flags, words):
    path = write(tmp_path / "x.json", [question(0, random.Random(0), length=40)])
    folder = tmp_path / "out"
    common = {"model": tiny_bert, "train-file": path, "output-dir": folder}
    last = last_line_of_refusal("train_qa", {**common, **flags}, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not folder.exists()


def test_predicting_with_bad_input(tiny_bert, asked, reviews, tmp_path):
    folder = tmp_path / "out"
    run(QaTask, *options(tiny_bert, asked, folder))
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    for arguments, words in {
        (folder, "no tab in here"): ["question<TAB>context", "--question"],
        (folder, "--question", " ", "good"): ["--question is ' '"],
        (folder, "--question", "so", "--file", asked["dev"]): ["dev.json", "leave --question out"],
        (folder, "--file", reviews["dev"], "--text-column", "0"): ["--text-column", "qa"],
    }.items():
        done = run_script("predict", *arguments, check=False)
        assert done.returncode == 2, done.stderr
        assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
    for blank in (("--question", "so", " "), ("--question", "so", "--file", empty), (" ",)):
        assert run_script("predict", folder, *blank).stdout == "\n"
        row = json.loads(run_script("predict", folder, *blank, "--json").stdout)
        assert [row[name] for name in ("predicted", "score", "start", "best_span")] == [None] * 4
    typed = tmp_path / "typed.txt"
    typed.write_text("so?\tit was good\n\nwhy?\tbad food\n")
    rows = list(map(json.loads, predict_lines(folder, typed, as_json=True)))
    assert [row["question"] for row in rows] == ["so?", "", "why?"]
    assert [row["predicted"] is None for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("fields", "gold"),
    [
        ({}, None),
        ({"answers": None}, None),
        ({"answers": []}, None),
        ({"answers": [{"text": "Bergen, Norway", "answer_start": 21}]}, None),
        ({"answers": [{"text": "Bergen", "answer_start": 21}]}, ["Bergen"]),
        ({"answers": [], "is_impossible": True}, []),
    ],
)
def test_prediction_needs_no_answers(tmp_path, fields, gold):
    context = "The ship sailed from Bergen in May."
    asked = [{"id": "x", "question": "Where?", "level": 3, **fields}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}))
    (record,) = read_squad(path, require_answers=False)
    assert (None if record.answers is None else [a.text for a in record.answers]) == gold
    assert record.extra == {"level": 3}


def test_other_tasks_answer_no_questions(tiny_bert, tmp_path, reviews):
    from minift.tasks.classification import ClassificationOptions, ClassificationTask

    folder = tmp_path / "out"
    run(
        ClassificationTask,
        ClassificationOptions(
            model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
        ),
        TrainOptions(output_dir=folder, epochs=1, device="cpu"),
    )
    done = run_script("predict", folder, "good", "--question", "so?", check=False)
    assert done.returncode == 2
    assert "classification" in done.stderr.splitlines()[-1]


def test_probabilities_of_impossible_logits(task_and_model):
    task, _ = task_and_model
    record = QuestionRecord("0", "so", "good film", None, "input 1")
    features = task.featurize([record])
    outputs = [torch.full((f.length, 2), float("nan")) for f in features]
    (prediction,) = task.decode(features, outputs)
    assert prediction.text == ""
    assert np.isfinite(prediction.null_probability)
