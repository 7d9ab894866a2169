"""Summaries and the special tokens of a model: its end, texts that spell it, line breaks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.summaries import write

from minift.errors import UserError
from minift.tasks.summarization import SummarizationOptions, SummarizationTask


def edited(folder, name, **changes):
    """Change keys of a JSON file; None removes a key."""
    values = {**json.loads((folder / name).read_text()), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / name).write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("config", "tokenizer", "words"),
    [
        ({"eos_token_id": 5}, {}, r"eos_token_id is 5 in config.json, but .* '</s>' has the id 1"),
        ({}, {"eos_token": "<extra_id_0>"}, r"eos_token_id is 1 .* '<extra_id_0>' has the id 155"),
        ({"pad_token_id": 2}, {}, r"pad_token_id is 2 in config.json, but .* '<pad>' has the id 0"),
        ({}, {"pad_token": "<unk>"}, r"pad_token_id is 0 in config.json, but .* '<unk>' has"),
        ({"decoder_start_token_id": 9}, {}, "decoder_start_token_id is 9 in config.json, which is"),
        ({}, {"unk_token": "<pad>"}, r"maps unknown subwords to '<unk>', but unk_token is"),
        ({}, {"eos_token": "<end>"}, "the tokenizer has no eos_token, which every summary needs"),
    ],
)
def test_config_and_tokenizer_must_name_the_same_tokens(tiny_t5, trees, config, tokenizer, words):
    """Trained towards one end token, a model would never stop at another."""
    options = SummarizationOptions(model=str(tiny_t5), train_file=trees["train"])
    task, model, _ = SummarizationTask.from_options(options)
    task.save(model, tiny_t5)
    SummarizationTask.from_pretrained(tiny_t5)
    edited(tiny_t5, "config.json", **config)
    edited(tiny_t5, "tokenizer_config.json", **tokenizer)
    for load in (
        lambda: SummarizationTask.from_options(options),
        lambda: SummarizationTask.from_pretrained(tiny_t5),
    ):
        (tiny_t5 / "manifest.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=words) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_a_start_token_that_is_the_end_token_is_fine(tiny_t5, trees):
    """As in BART."""
    edited(tiny_t5, "config.json", decoder_start_token_id=1)
    options = SummarizationOptions(model=str(tiny_t5), train_file=trees["train"])
    _, model, _ = SummarizationTask.from_options(options)
    assert model.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=3)[0, 0] == 1


def test_special_tokens_that_a_summary_spells_are_text(tiny_t5, tmp_path):
    """An end token in the middle would end what the model learns to say there."""
    rows = [
        {"document": "the wind <s>90</s> blew <pad>", "summary": "elm <s>90</s> fell"},
        {"document": "oak fell all day", "summary": "<extra_id_0> <pad>"},
    ]
    train = write(tmp_path / "train.jsonl", rows)
    options = SummarizationOptions(model=str(tiny_t5), train_file=train)
    task, _, splits = SummarizationTask.from_options(options)
    features = task.featurize(splits["train"], training=True)
    tokenizer = task.tokenizer
    control = {tokenizer.id_of(name) for name in tokenizer.control_tokens}
    control.remove(tokenizer.unk_token_id)  # of the characters that tiny-t5 lacks
    for feature in features:
        for ids in (feature.input_ids, feature.labels):
            assert [i for i in ids if i in control] == [tokenizer.eos_token_id]
            assert ids[-1] == tokenizer.eos_token_id


LINES = [
    {"document": "the wind blew", "summary": "oak fell\nelm fell"},
    {"document": "all day long", "summary": " fir fell.\r\n\r\nyew fell\r "},
    {"document": "over hill", "summary": "yew fell 🚀 {🚀"},
]


@pytest.fixture
def lines(tiny_t5, tmp_path):
    options = SummarizationOptions(
        model=str(tiny_t5), train_file=write(tmp_path / "train.jsonl", LINES)
    )
    return SummarizationTask.from_options(options)


def test_line_breaks_of_summaries_have_a_token(lines, tmp_path):
    task, model, splits = lines
    assert task.newline_token == "<extra_id_99>"
    newline = task.tokenizer.id_of("<extra_id_99>")
    features = task.featurize(splits["train"], training=True)
    assert [feature.labels.count(newline) for feature in features] == [1, 2, 0]
    assert task.max_target_length == max(len(feature.labels) for feature in features)
    assert [task._prediction(feature.labels).text for feature in features[:2]] == [
        "oak fell\nelm fell",
        "fir fell.\n\nyew fell",
    ]
    # A document keeps none, as before.
    assert not any(newline in feature.input_ids for feature in features)
    task.save(model, tmp_path / "saved")
    saved, _ = SummarizationTask.from_pretrained(tmp_path / "saved")
    assert saved.newline_token == "<extra_id_99>"
    assert saved._prediction(features[0].labels).text == "oak fell\nelm fell"
    edited(tmp_path / "saved", "config.json", minift={"newline_token": "<br>"})
    (tmp_path / "saved" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"newline_token is '<br>' .* no token of the tokenizer"):
        SummarizationTask.from_pretrained(tmp_path / "saved")


def test_a_model_that_writes_line_breaks_keeps_its_token_and_its_length(lines, trees, tmp_path):
    task, model, _ = lines
    replace(task, max_target_length=40).save(model, tmp_path / "saved")
    options = SummarizationOptions(model=str(tmp_path / "saved"), train_file=trees["train"])
    further, _, _ = SummarizationTask.from_options(options)
    assert (further.newline_token, further.max_target_length) == ("<extra_id_99>", 40)
    shorter, _, _ = SummarizationTask.from_options(replace(options, max_target_length=9))
    assert shorter.max_target_length == 9


def test_summaries_without_line_breaks_need_no_token(tiny_t5, trees):
    options = SummarizationOptions(model=str(tiny_t5), train_file=trees["train"])
    task, _, splits = SummarizationTask.from_options(options)
    assert task.newline_token is None
    feature = task.featurize(splits["train"][:1], training=True)[0]
    text = splits["train"][0].summaries[0]
    assert feature.labels == [*task.tokenizer.ids([text])[0], task.tokenizer.eos_token_id]
    assert task._prediction(feature.labels).text == text


def test_characters_that_the_vocabulary_lacks_are_counted(lines):
    task, _, splits = lines
    features = {"train": task.featurize(splits["train"], training=True)}
    assert task.data_checks(splits, features) == [
        "1 of 3 training summaries hold characters that the vocabulary lacks ('🚀', '{'); "
        "generated summaries are without them"
    ]


def test_line_breaks_without_a_token_are_counted(lines):
    task, _, splits = lines
    for name in task.tokenizer.control_tokens[:100]:
        assert name.startswith("<extra_id_")
    tokenizer = task.tokenizer
    tokenizer.control_tokens = tokenizer.control_tokens[100:]
    plain = replace(task, tokenizer=tokenizer).fit(splits)
    assert plain.newline_token is None
    features = {"train": plain.featurize(splits["train"], training=True)}
    assert plain.data_checks(splits, features)[0] == (
        "2 of 3 training summaries have several lines, but the tokenizer reads a line break as a "
        "space, so generated summaries have one line"
    )
    assert plain._prediction(features["train"][0].labels).text == "oak fell elm fell"
