"""`transformers`, the last 4.x and 5.x, opens what was fine-tuned and gives the same predictions.

Tiny models of all families are trained for all tasks, from checkpoints of every kind: with a head
for another loss, another task or other labels, and with keys in config.json that belong to it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.questions import question
from support.questions import write as write_squad
from support.running import ROOT

from minift.data.read import records_of
from minift.models.bert import BertConfig
from minift.models.distilbert import DistilBertConfig
from minift.models.registry import family_model
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.tasks.base import Task
from minift.tasks.batches import head_logits, run_batches
from minift.tasks.registry import TASKS, task_of
from minift.text.tokenizer import Tokenizer
from minift.training.options import TrainOptions
from minift.training.run import run

pytestmark = pytest.mark.slow

LABELS = {
    "classification": ("neg", "pos"),
    "ner": ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"),
    "qa": ("LABEL_0", "LABEL_1"),
    "summarization": None,
}
# What a start's config.json may say of its own head, task and file.
STRANGE_KEYS = {
    "id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"},
    "label2id": {"entailment": 2, "neutral": 0, "contradiction": 1},
    "num_labels": 7,
    "problem_type": "regression",
    "finetuning_task": "mnli",
    "torch_dtype": "float16",
    "task_specific_params": {"summarization": {"min_length": 30, "prefix": "translate: "}},
    "prefix": "translate: ",
    "num_beams": 5,
    "max_length": 7,
    "min_length": 6,
    "no_repeat_ngram_size": 1,
    "_name_or_path": "/home/someone/model",
    "transformers_version": "3.0.2",
    "auto_map": {"AutoModel": "modeling.Model"},
    "made_by": "someone",
}
TEXTS = [["the film was good"], ["Naïve, and VERY Bad!"], ["so it is", "it is not slow"]]
LONG = "the food was great and the film was awful " * 20


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from.

    keys: of its config.json, beside those that minift writes.
    labels: of its head, in config.json; None: those of the data.  rows: of the head itself.
    head: its task; None: the task trained; "": a bare encoder.
    task, config: options of the task that is trained, and fields of the config.
    without: tensors that the checkpoint lacks.
    tokenizer: further settings in tokenizer_config.json; None: there is no such file.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    rows: int | None = None
    head: str | None = None
    task: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    tokenizer: dict[str, Any] | None = field(default_factory=dict)
    new_head: bool = True  # whether training must initialise one
    refused: bool = False


HEADS = {
    "bare encoder": Start(head=""),
    "same labels": Start(new_head=False),
    "regression": Start({"problem_type": "regression"}, ("LABEL_0",)),
    "several labels a text": Start({"problem_type": "multi_label_classification"}),
    "num_labels beside another id2label": Start({"num_labels": 5}, rows=5),
    "num_labels that contradicts id2label": Start({"num_labels": 5}, new_head=False),
    "labels from 1": Start({"id2label": {"1": "neg", "2": "pos"}}),
    "labels twice": Start({"id2label": {"0": "pos", "1": "pos"}}),
    "keys of another task": Start(STRANGE_KEYS, rows=3),
    "tags": Start(head="ner", labels=("neg", "pos")),
}
TAG_HEADS = {
    "bare encoder": Start(head=""),
    "same labels": Start(new_head=False),
    "several labels a text": Start(
        {"problem_type": "multi_label_classification"}, head="classification"
    ),
    "num_labels beside another id2label": Start({"num_labels": 9}, rows=9),
    "keys of another task": Start(STRANGE_KEYS, rows=3),
}
SPAN_HEADS = {
    "bare encoder": Start(head=""),
    "same task": Start(new_head=False),
    "keys of another task": Start(STRANGE_KEYS, rows=3),
    "labels twice": Start({"id2label": {"0": "pos", "1": "pos"}}, new_head=False),
}
ANY_FAMILY = {
    **{("classification", name): start for name, start in HEADS.items()},
    ("classification", "short"): Start(head="", task={"max_length": 12}),
    ("classification", "cased"): Start(head="", tokenizer={"do_lower_case": False}),
    ("classification", "accents kept"): Start(head="", tokenizer={"strip_accents": False}),
    ("classification", "no limit"): Start(head="", tokenizer={"model_max_length": 10**30}),
    ("classification", "vocab.txt alone"): Start(head="", tokenizer=None),
    ("classification", "types not named"): Start(
        head="", tokenizer={"model_input_names": ["input_ids", "attention_mask"]}
    ),
    ("classification", "added token"): Start(
        head="", tokenizer={"additional_special_tokens": ["film"]}
    ),
    **{("ner", name): start for name, start in TAG_HEADS.items()},
    **{("qa", name): start for name, start in SPAN_HEADS.items()},
}
STARTS: dict[tuple[str, str, str], Start] = {
    **{("bert", *key): start for key, start in ANY_FAMILY.items()},
    **{("distilbert", *key): start for key, start in ANY_FAMILY.items()},
    # Pairs are told apart by token types, unless there is one type only.
    ("bert", "classification", "one token type"): Start(head="", config={"type_vocab_size": 1}),
    ("bert", "classification", "no pooler"): Start(
        head="", without=("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    ),
    ("bert", "classification", "no bias in the head"): Start(without=("classifier.bias",)),
    ("distilbert", "classification", "half a head"): Start(
        without=("pre_classifier.weight", "pre_classifier.bias")
    ),
    # `transformers` has only the first pooling of a family.
    ("bert", "classification", "mean"): Start(head="", task={"pooling": "mean"}, refused=True),
    ("bert", "classification", "cls"): Start(head="", task={"pooling": "cls"}, refused=True),
    ("bert", "classification", "pooler again"): Start(
        head="", config={"pooling": "mean"}, task={"pooling": "pooler"}
    ),
    ("bert", "ner", "from a mean"): Start(head="classification", config={"pooling": "mean"}),
    ("bert", "qa", "from a mean"): Start(head="classification", config={"pooling": "mean"}),
    ("distilbert", "classification", "mean"): Start(
        head="", task={"pooling": "mean"}, refused=True
    ),
    ("distilbert", "classification", "cls"): Start(head="", task={"pooling": "cls"}),
    ("t5", "summarization", "plain"): Start(),
    ("t5", "summarization", "keys of another task"): Start(STRANGE_KEYS),
    ("t5", "summarization", "beams"): Start(
        task={"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5}
    ),
    ("t5", "summarization", "beams that stop early"): Start(
        task={"num_beams": 2, "beam_early_stopping": "true", "source_prefix": "tldr "}
    ),
    ("t5", "summarization", "more than 20 tokens"): Start(task={"max_target_length": 33}),
    ("t5", "summarization", "gated"): Start(
        {"dense_act_fn": "gelu"}, config={"feed_forward_proj": "gated-gelu"}
    ),
    ("t5", "summarization", "v1.1"): Start(
        config={"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    ),
    ("t5", "summarization", "scaled and untied"): Start(
        config={"tie_word_embeddings": False, "scale_decoder_outputs": True}, refused=True
    ),
    ("t5", "summarization", "tied and not scaled"): Start(
        config={"tie_word_embeddings": True, "scale_decoder_outputs": False}, refused=True
    ),
}


def write_start(folder: Path, family: str, task: str, start: Start, vocab: list[str]) -> None:
    """The checkpoint to start from, without the tokenizer of a T5."""
    size = len(vocab)
    configs = {"bert": BertConfig, "distilbert": DistilBertConfig}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
        config: Any = T5Config(vocab_size=size, dropout_rate=0.0, **sizes, **start.config)
        model: Any = T5ForConditionalGeneration(config)
    else:
        head = task if start.head in (None, "") else start.head
        labels = start.labels or LABELS[head]
        rows = tuple(map(str, range(start.rows))) if start.rows else labels
        limits = {"intermediate_size": 64, "max_position_embeddings": 64}
        config = configs[family](vocab_size=size, **sizes, **limits, **start.config, labels=rows)
        model = family_model(family, TASKS[head].model_kind)(config)
        if start.head == "":
            model = model.encoder
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if family != "t5" and start.rows:
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
    path.write_text(json.dumps({**config, **start.keys}))
    if start.without:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if name not in start.without}
        bare = {name.removeprefix(f"{family}."): tensor for name, tensor in kept.items()}
        kept = {n: x for n, x in bare.items() if f"{family}.{n}" not in start.without}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    if family == "t5":
        return
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    names = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}
    settings = {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": names[family]}
    if start.tokenizer is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**settings, **start.tokenizer}))


def write_data(folder: Path, task: str) -> Path:
    """Training data of a task; the classes are those of LABELS."""
    draw = random.Random(0)
    if task == "classification":
        rows = [f"the film was {w}\t{y}\n" for w, y in [("good", "pos"), ("bad", "neg")] * 4]
        path = folder / "train.tsv"
        path.write_text("".join(rows))
    elif task == "ner":
        path = folder / "train.conll"
        path.write_text("bo B-PER\nxy I-PER\nwas O\nso O\n\nit O\nis O\nzz B-LOC\nqq I-LOC\n" * 4)
    elif task == "qa":
        path = write_squad(folder / "train.json", [question(i, draw) for i in range(8)])
    else:
        path = folder / "train.jsonl"
        rows = [{"document": "the film was good " * n, "summary": "good film"} for n in (1, 2, 3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def expected(task: Task, model: Any) -> dict[str, Any]:
    """The inputs of a case and minift's predictions for them."""
    if task.name == "classification":
        records = list(records_of("\t".join(texts) for texts in TEXTS))
        predictions = task.predict(model, task.featurize(records), 2)
        found = [dict(zip(task.labels, p.probabilities, strict=True)) for p in predictions]
        return {"inputs": TEXTS, "expected": found}
    if task.name == "ner":
        texts = ["bo xy was very good", "So it is ZZ qq"]
        records = list(task.read_inputs(texts))
        features = task.featurize(records)
        outputs = run_batches(task.collate, model, head_logits, features, 2, "")
        rows = []
        for text, logits in zip(texts, outputs, strict=True):
            encoding = task.tokenizer.tokens([text])[0]
            scores, tags = logits[1 : 1 + len(encoding)].softmax(-1).max(-1)
            names = [task.labels[i] for i in tags]
            row = zip(names, scores.tolist(), *zip(*encoding.offsets, strict=True), strict=True)
            rows.append(list(map(list, row)))
        return {"inputs": texts, "expected": rows}
    if task.name == "qa":
        pairs = [["is it so", "the film was bo and so it is"], ["Is it good?", "xy is a film"]]
        records = list(task.read_inputs(["\t".join(pair) for pair in pairs]))
        features = task.featurize(records)
        outputs = run_batches(task.collate, model, head_logits, features, 1, "")
        rows = [
            {
                "answer": prediction.span,
                "start": logits[:, 0].tolist(),
                "end": logits[:, 1].tolist(),
                "max_answer_length": task.options.max_answer_length,
            }
            for prediction, logits in zip(task.predict(model, features, 1), outputs, strict=True)
        ]
        return {"inputs": pairs, "expected": rows}
    documents = ["the film was good", "so it is not slow and the food was great", LONG]
    records = list(task.read_inputs(documents))
    rows = [
        {"prefix": task.options.source_prefix, "text": prediction.text}
        for prediction in task.predict(model, task.featurize(records), 1)
    ]
    return {"inputs": documents, "expected": rows}


def token_rows(tokenizer: Tokenizer, pairs: bool) -> list[dict[str, Any]]:
    # Beside an added token that texts may hold, `transformers` reads all special tokens in them.
    added = tokenizer._backend.get_added_tokens_decoder().values()
    marked = {token.content for token in added if token.special} > set(tokenizer.control_tokens)
    special = "" if marked else "[UNK] "
    texts = [[f"Good BAD naïve film, {special}你好!"], [LONG], [""]]
    if pairs:
        texts += [["the film", "was good"], [LONG, LONG + LONG]]
    return [{"texts": row, "ids": tokenizer(*row).ids} for row in texts]


def make_cases(folder: Path, vocab: list[str], t5_tokenizer: Path) -> Iterator[dict[str, Any]]:
    for i, ((family, task_name, kind), start) in enumerate(STARTS.items()):
        name = f"{family}, {task_name}, {kind}"
        checkpoint, output = folder / f"start-{i}", folder / f"run-{i}"
        torch.manual_seed(i)
        if family == "t5":
            checkpoint.mkdir()
            for path in t5_tokenizer.glob("tokenizer*"):
                (checkpoint / path.name).write_bytes(path.read_bytes())
            size = Tokenizer.from_pretrained(checkpoint).vocab_size
            write_start(checkpoint, family, task_name, start, ["x"] * size)
        else:
            write_start(checkpoint, family, task_name, start, vocab)
        task_class = TASKS[task_name]
        data = write_data(folder, task_name)
        options = task_class.options_class(model=str(checkpoint), train_file=data, **start.task)
        train = TrainOptions(
            output_dir=output, epochs=2, batch_size=2, learning_rate=1e-3, device="cpu", seed=i
        )
        new = task_class.from_options(options)[1].new_parameters
        assert any(n.startswith("head.") for n in new) == (start.new_head and family != "t5"), name
        run(task_class, options, train)
        task, model = task_of(output).from_pretrained(output)
        yield {
            "name": name,
            "folder": str(output),
            "task": task_name,
            "refused": start.refused,
            "tokens": token_rows(task.tokenizer, pairs=family != "t5"),
            **expected(task, model),
        }


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """CASES.json of tests/opening.py, for every checkpoint of STARTS."""
    folder = tmp_path_factory.mktemp("opening")
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "good bad film food very not the is was great awful slow so it ! ,"
    vocab = [*special, *letters, *(f"##{letter}" for letter in letters), *words.split()]
    path = folder / "cases.json"
    made = make_cases(folder, vocab, ROOT / "weights" / "minift-t5-mini")
    path.write_text(json.dumps(list(made)))
    return path


def open_with(python: str, cases: Path) -> str:
    command = [python, str(ROOT / "tests" / "opening.py"), str(cases)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_transformers_5_opens_what_was_trained_from_every_kind_of_checkpoint(cases):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("compares with transformers, not here")
    assert f"{len(STARTS)} of {len(STARTS)} agree" in open_with(sys.executable, cases)


def test_transformers_4_opens_what_was_trained_from_every_kind_of_checkpoint(cases):
    python = os.environ.get("MINIFT_TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("MINIFT_TRANSFORMERS4_PYTHON names no Python with transformers 4.x")
    stdout = open_with(python, cases)
    assert stdout.splitlines()[-1].startswith("transformers 4.")
    assert f"{len(STARTS)} of {len(STARTS)} agree" in stdout
