"""Fixtures that many tests need: tiny models and small data on disk, without `transformers`."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

# Tests never reach for the network, whatever the machine's settings are; set before minift is
# imported, since huggingface_hub reads it when it is.
os.environ["HF_HUB_OFFLINE"] = "1"

# Tiny models gain nothing from threads, and lose much where several processes share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from support.running import ROOT
from support.summaries import example, write
from support.vocabulary import WORDS

from minift.models.bert import BertConfig, BertModel
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.pretraining.vocabulary import save_unigram, train_unigram
from minift.text.tokenizer import Tokenizer

torch.set_num_threads(1)

# What a shell begins in the background ignores Ctrl-C, and so would the scripts that tests stop.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="run the exhaustive tests too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--exhaustive"):
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="runs with --exhaustive, as in CI"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture
def vocab() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *WORDS.split(), *pieces]))


@pytest.fixture
def tiny_bert(tmp_path: Path, vocab: list[str]) -> Path:
    """A folder with a random BERT of two layers and a vocabulary of its own."""
    folder = tmp_path / "tiny-bert"
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        architectures=("BertModel",),
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"do_lower_case": true, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}'
    )
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, Path]:
    """Three small TSV files that a tiny model can learn."""
    rows = [
        (f"the {thing} was {word} {extra}", "neg" if word in ("bad", "awful", "dull") else "pos")
        for thing in ("film", "food")
        for word in ("good", "bad", "great", "awful", "fine", "dull")
        for extra in ("", "very very", "so it is", "it is not slow", "a a a a a a a")
    ]
    files = {}
    for split, part in {"train": rows[:50], "dev": rows[44:54], "test": rows[50:]}.items():
        files[split] = tmp_path / f"{split}.tsv"
        files[split].write_text("".join(f"{text}\t{label}\n" for text, label in part))
    return files


@pytest.fixture
def minilm() -> Path:
    """The real checkpoint, where it has been fetched."""
    folder = ROOT / "weights" / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").exists():
        pytest.skip("weights/all-MiniLM-L6-v2 is not here; scripts/get_weights.py fetches it")
    return folder


@pytest.fixture
def trees(tmp_path):
    draw = random.Random(0)
    return {
        name: write(tmp_path / f"{name}.jsonl", [example(draw) for _ in range(count)])
        for name, count in {"train": 96, "dev": 12, "test": 12}.items()
    }


@pytest.fixture
def tiny_t5(tmp_path):
    folder = tmp_path / "tiny-t5"
    draw = random.Random(1)
    rows = [example(draw) for _ in range(200)]
    texts = [f"summarize: {row['document']} {row['summary']}" for row in rows]
    save_unigram(train_unigram(texts, 170), folder)
    torch.manual_seed(0)
    size = Tokenizer.from_pretrained(folder).vocab_size
    config = T5Config(
        vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
