"""The tasks by name: from a command line, and from a saved model."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace

import pytest
from support.questions import question
from support.questions import write as write_questions

from minift import BertForQuestionAnswering
from minift.errors import UserError
from minift.predictor import predict_lines
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.registry import TASKS, task_and_flags, task_of
from minift.tasks.summarization import SummarizationTask
from minift.training.options import TrainOptions
from minift.training.run import run


def test_a_command_line_names_its_task():
    assert task_and_flags("sweep.py", ["qa", "--seed", "1"]) == (TASKS["qa"], ["--seed", "1"])
    for flag in ("--help", "--help-all"):
        assert task_and_flags("sweep.py", [flag]) == (TASKS["classification"], [flag])
        assert task_and_flags("sweep.py", ["ner", flag]) == (TASKS["ner"], [flag])
    with pytest.raises(UserError, match=r"sweep.py: the task is missing; write sweep.py \{class"):
        task_and_flags("sweep.py", [])


def saved_config(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_a_saved_model_says_its_task(tiny_bert, reviews, tmp_path):
    folder = tmp_path / "saved"
    options = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    task, model, _ = ClassificationTask.from_options(options)
    task.save(model, folder)
    (folder / "manifest.json").unlink()  # because it would refuse every change
    config = saved_config(folder)
    assert config["minift"]["task"] == "classification"
    assert task_of(folder) is ClassificationTask
    for name, expected in (("ner", NerTask), ("qa", QaTask)):  # it counts more than architectures
        config["minift"]["task"] = name
        (folder / "config.json").write_text(json.dumps(config))
        assert task_of(folder) is expected
    config["minift"]["task"] = "parsing"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="task is 'parsing', which is none of classification, ner"):
        task_of(folder)


@pytest.mark.parametrize("settings", [{}, {"minift": {"max_length": 32}}])
def test_other_checkpoints_are_known_by_their_architecture(tiny_bert, tmp_path, settings):
    folder = tmp_path / "saved"
    model = BertForQuestionAnswering.from_pretrained(tiny_bert, num_labels=2)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**saved_config(folder), **settings}))
    assert task_of(folder) is QaTask
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **settings}))
    with pytest.raises(UserError, match=r"architectures is \['BertModel'\], which has no head"):
        task_of(folder)


@pytest.fixture
def data_of(reviews, trees, tmp_path):
    """Task class -> a small training file; some of the questions have no answer."""
    tagged = tmp_path / "x.conll"
    tagged.write_text("bo B-PER\nwas O\n\nxy B-LOC\n")
    questions = [question(i, random.Random(i), answer=i > 0) for i in range(3)]
    return {
        ClassificationTask: reviews["dev"],
        NerTask: tagged,
        QaTask: write_questions(tmp_path / "x.json", questions),
        SummarizationTask: trees["dev"],
    }


@pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)
def test_every_declared_metric_is_in_the_score(task_class, data_of, tiny_bert, tiny_t5):
    source = tiny_t5 if task_class is SummarizationTask else tiny_bert
    options = task_class.options_class(model=str(source), train_file=data_of[task_class])
    task, model, splits = task_class.from_options(options)
    predictions = task.predict(model, task.featurize(splits["train"]), 8)
    score = task.score(predictions, splits["train"])
    assert all(isinstance(score[metric.name], float) for metric in task.metrics)
    baseline = task.baseline_score(splits["train"], splits["train"])
    assert (baseline is not None) == bool(task.baseline_name)


@pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)
def test_a_prediction_needs_no_label(task_class, data_of, tiny_bert, tiny_t5):
    """Some records of a file to predict may have labels, also unknown ones, and others none."""
    source = tiny_t5 if task_class is SummarizationTask else tiny_bert
    options = task_class.options_class(model=str(source), train_file=data_of[task_class])
    task, model, splits = task_class.from_options(options)
    field = {ClassificationTask: "label", NerTask: "tags"}.get(task_class)
    records = splits["train"][:3]
    if field is not None:
        other = "none such" if task_class is ClassificationTask else ("B-NONE",) * 9
        records = [
            records[0],
            replace(records[1], **{field: None}),
            replace(records[0], **{field: other}),
        ]
    predictions = task.predict(model, task.featurize(records), 8)
    assert len(task.display.to_rows(predictions, records)) == len(records)


@pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)
def test_saved_options_and_fields_exist(task_class):
    options = {field.name for field in fields(task_class.options_class)}
    assert set(task_class.saved_options) <= options
    assert set(task_class.saved_fields) <= {field.name for field in fields(task_class)}


def test_texts_are_predicted_from_the_columns_that_were_trained_on(tiny_bert, reviews, tmp_path):
    """As CoLA has them; the file also holds a short text that is not the one to label."""
    train = tmp_path / "cola.tsv"
    rows = (line.split("\t") for line in reviews["train"].read_text().splitlines())
    train.write_text("".join(f"x\t{label}\t\t{text}\n" for text, label in rows))
    options = ClassificationOptions(
        model=str(tiny_bert), train_file=train, text_column="3", label_column="1"
    )
    rows = train_and_predict(ClassificationTask, options, tmp_path / "run", train)
    assert [row["text"] for row in rows] == [
        r.text for r in ClassificationTask.read(train, options)
    ]
    assert {row["gold"] for row in rows} == {"pos", "neg"}


def test_words_are_predicted_from_the_columns_and_the_scheme_that_were_trained_on(
    tiny_bert, tmp_path
):
    train = tmp_path / "x.conll"
    train.write_text("0 I-PER bo x\n1 O was x\n\n0 O so x\n1 I-PER xy x\n2 B-PER bo x\n")
    options = NerOptions(
        model=str(tiny_bert), train_file=train, token_column=2, tag_column=1, scheme="iob1"
    )
    rows = train_and_predict(NerTask, options, tmp_path / "run", train)
    assert [row["tokens"] for row in rows] == [["bo", "was"], ["so", "xy", "bo"]]
    assert [row["gold"] for row in rows] == [["B-PER", "O"], ["O", "B-PER", "B-PER"]]


def train_and_predict(task_class, options, folder, file) -> list[dict]:
    """The rows that predict.py prints for a file, after one epoch."""
    run(task_class, options, TrainOptions(output_dir=folder, epochs=1, device="cpu"))
    return [json.loads(line) for line in predict_lines(folder, file, as_json=True)]


def test_a_metric_that_the_data_lack_is_refused_before_training(tiny_bert, tmp_path):
    answerable = [question(i, random.Random(i)) for i in range(4)]
    file = write_questions(tmp_path / "x.json", answerable)
    options = QaOptions(model=str(tiny_bert), train_file=file, dev_file=file)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="'best_f1', which qa does not compute for these data; use"):
        run(QaTask, options, TrainOptions(output_dir=folder, metric_for_best_model="best_f1"))
    assert not folder.exists()
