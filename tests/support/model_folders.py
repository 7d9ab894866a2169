"""Folders of tiny models of all families and tasks, and random changes of their files."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import minift
from minift import Tokenizer
from minift.models.adapters import add_lora, load_adapter, save_adapter
from minift.models.bert import BertConfig
from minift.models.t5 import T5Config
from minift.nn.lora import LoraConfig
from minift.predictor import predict_lines
from minift.pretraining.vocabulary import save_unigram, train_unigram
from minift.tasks.registry import TASKS, task_of
from support.corruptions import (
    NO_FILES,
    corrupt_bytes,
    corrupt_header,
    corrupt_json,
    replace_file,
)

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "good", "bad", "film", "was", "so"),
    *("a", "b", "c", "who", "ran", "?", ".", "##s", "##ed"),
)
TEXTS = ("the good film was so bad.", "a b c", "")
LABELS = {"classification": ("neg", "pos"), "ner": ("O", "B-PER", "I-PER"), "qa": None}
CLASSES = {
    "classification": "SequenceClassification",
    "ner": "TokenClassification",
    "qa": "QuestionAnswering",
}
NOT_READ = {"generation_config.json"}  # written for `transformers` only
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Folder:
    """A valid folder, and its use: a function of a copy of it, which raises if that is unusable.

    files: those that may be changed.
    """

    name: str
    files: tuple[str, ...]
    use: Callable[[Path, random.Random], None]


# ---- valid folders -----------------------------------------------------------------------------


def make_folders(place: Path) -> list[Folder]:
    """Write a valid folder of each kind under `place`."""
    torch.manual_seed(0)
    words = place / "words"
    words.mkdir()
    (words / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (words / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(WORDS), "intermediate_size": 8, "max_position_embeddings": 32}
    found = []
    for family, config_class in (("Bert", BertConfig), ("DistilBert", minift.DistilBertConfig)):
        for task, labels in LABELS.items():
            model_class = getattr(minift, f"{family}For{CLASSES[task]}")
            name = f"{family} {task}"
            save(task, model_class(config_class(**sizes, labels=labels)), words, place / name)
            found.append(Folder(name, names(place / name), predict))
    found += [make_t5(place), make_old(place, words), make_shards(place), make_adapter(place)]
    return found


def save(task: str, model: minift.BertModel, tokenizer: Path, folder: Path) -> None:
    task_class = TASKS[task]
    options = task_class.options_class()
    loaded = Tokenizer.from_pretrained(tokenizer).for_model(model.config.input_names, 32)
    more = {"max_target_length": 4} if task == "summarization" else {}
    if task == "qa":
        more = {"null_threshold": 0.5}
    labels = model.config.labels or ()
    task_class(options, loaded, 32, labels, **more).save(model.eval(), folder)


def names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted({path.name for path in folder.iterdir()} - NOT_READ))


def make_t5(place: Path) -> Folder:
    words, folder = place / "pieces", place / "T5 summarization"
    save_unigram(train_unigram(["the good film was so bad a b c"] * 20, 160), words)
    size = Tokenizer.from_pretrained(words).vocab_size
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = minift.T5ForConditionalGeneration(T5Config(vocab_size=size, **sizes))
    with torch.no_grad():  # it ends each summary at once, however long a summary may be
        model.shared.weight.normal_(1.0, 0.1)[model.config.eos_token_id] = 3.0
    save("summarization", model, words, folder)
    return Folder("T5 summarization", names(folder), predict)


def make_old(place: Path, words: Path) -> Folder:
    """As checkpoints were saved before tokenizer.json."""
    folder = place / "old files"
    shutil.copytree(place / "Bert classification", folder)
    for name in ("tokenizer.json", "manifest.json"):
        (folder / name).unlink()
    shutil.copyfile(words / "vocab.txt", folder / "vocab.txt")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    special = {"unk_token": "[UNK]", "additional_special_tokens": ["[MASK]"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "added_tokens.json").write_text("{}")
    return Folder("old files", names(folder), predict)


def make_shards(place: Path) -> Folder:
    folder = place / "shards"
    shutil.copytree(place / "Bert classification", folder)
    (folder / "manifest.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        name = f"model-0000{i + 1}-of-00002.safetensors"
        part = {n: tensors[n] for n in sorted(tensors)[i::2]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return Folder("shards", names(folder), predict)


def make_adapter(place: Path) -> Folder:
    """An adapter beside the model that it belongs to, in a folder that is not changed."""
    folder, base = place / "adapter", place / "Bert classification"
    model = minift.BertForSequenceClassification.from_pretrained(base)
    folder.mkdir()
    save_adapter(add_lora(model, LoraConfig(rank=2)), folder, base="somewhere")

    def use(folder: Path, draw: random.Random) -> None:
        fresh = minift.BertForSequenceClassification.from_pretrained(base)
        logits = load_adapter(fresh, folder)(torch.tensor([[2, 5, 6, 3]]))
        assert logits.shape == (1, 2)

    return Folder("adapter", names(folder), use)


# ---- their use ---------------------------------------------------------------------------------


def predict(folder: Path, draw: random.Random) -> None:
    """Load the model as a script does; predict a few texts, or make ready to train from it."""
    if draw.random() < 0.2:
        train_from(folder)
        return
    task_class = task_of(folder)
    questions = ["who ran?"] if task_class.answers_questions else []
    rows = predict_lines(folder, TEXTS, questions, as_json=True, warn=lambda message: None)
    found = [json.loads(row, parse_constant=not_json) for row in rows]
    assert len(found) == len(TEXTS)
    assert all(isinstance(row, dict) for row in found)


def not_json(name: str) -> None:
    raise AssertionError(f"{name} in the predictions")


TRAIN_FILES: dict[str, Sequence[object]] = {
    "classification": [{"text": f"the film {i}", "label": x} for i, x in enumerate("xyxy")],
    "ner": [{"tokens": ["the", "film"], "tags": ["O", "B-LOC"]}] * 3,
    "summarization": [{"document": "the film was bad", "summary": "bad film"}] * 3,
}


def train_from(folder: Path) -> None:
    """The model as the start of a run: its loss on one batch."""
    task_class = task_of(folder)
    file = folder.with_name("train.jsonl")
    if task_class.name == "qa":
        answers = [{"text": "film", "answer_start": 4}]
        questions = [{"id": "1", "question": "who ran?", "answers": answers}]
        data = [{"title": "t", "paragraphs": [{"context": "the film", "qas": questions}]}]
        file = file.with_suffix(".json")
        file.write_text(json.dumps({"version": "v2.0", "data": data}))
    else:
        file.write_text("".join(json.dumps(r) + "\n" for r in TRAIN_FILES[task_class.name]))
    options = task_class.options_class(model=str(folder), train_file=file)
    task, model, splits = task_class.from_options(options)
    batch = task.collate(task.featurize(splits["train"], training=True))
    total, _ = task.loss(model, batch)
    assert total.shape == ()  # a loss that is not finite ends a run with its own message


# ---- changes -----------------------------------------------------------------------------------


def change(folder: Path, files: Sequence[str], draw: random.Random) -> tuple[str, bool]:
    """Change a file or two, in place: (what was changed, it must be refused).

    Without a manifest almost every time, because it would refuse every change.
    """
    has_manifest = (folder / "manifest.json").exists()
    if has_manifest and draw.random() < 0.85:
        (folder / "manifest.json").unlink()
        files, has_manifest = [name for name in files if name != "manifest.json"], False
    told, refused = [], False
    for name in draw.sample(files, draw.choice([1, 1, 1, 2])):
        path = folder / name
        before = path.read_bytes()
        what, certain = change_file(path, draw)
        told.append(f"{name}: {what}")
        differs = not path.is_file() or path.stat().st_size > 10**9 or path.read_bytes() != before
        listed = has_manifest and name != "manifest.json"
        refused |= certain or (listed and differs)
    if "manifest.json: changed" in told or "manifest.json: removed" in told:
        refused = False  # the entry of another file may be gone
    if draw.random() < 0.03 and "special_tokens_map.json" not in files and len(files) > 3:
        kind = draw.choice(NO_FILES)
        replace_file(folder / "special_tokens_map.json", kind)
        told.append(f"special_tokens_map.json: {kind}")
        refused = True
    return "; ".join(told), refused


def change_file(path: Path, draw: random.Random) -> tuple[str, bool]:
    """(what was changed, it must be refused)."""
    fate = draw.random()
    if fate < 0.25:
        kind = draw.choice([*NO_FILES, "removed", "link to a file"])
        if kind == "removed":
            path.unlink()
        elif kind == "link to a file":
            other = path.with_name(f"{path.name}.elsewhere")
            path.rename(other)
            path.symlink_to(other)
        else:
            replace_file(path, kind)
        return kind, kind in NO_FILES
    data = path.read_bytes()
    if fate < 0.4 or path.suffix not in (".json", ".safetensors"):
        data = corrupt_bytes(data, draw)
    elif path.suffix == ".json":
        data = corrupt_json(data, draw)
    else:
        data = corrupt_header(data, draw)
    path.write_bytes(data)
    return "changed", False


def may_not_read(folder: Path) -> bool:
    """Whether a file was made unreadable, which concerns everybody but root."""
    return any(not os.lstat(path).st_mode & 0o444 for path in folder.iterdir())
