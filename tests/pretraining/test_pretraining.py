"""Pre-training from text files to a model that is read back, on a tiny corpus and a tiny model."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support.parity import tensors_on_disk
from support.running import ROOT, last_line_of_refusal, read_lines, read_metrics, run_script

from minift import BertForMaskedLM, T5ForConditionalGeneration, Tokenizer
from minift.errors import UserError
from minift.pretraining.base import ModelOptions, new_model
from minift.pretraining.corpus import TokenBlocks, read_documents, token_dtype, write_tokens
from minift.pretraining.masked_lm import MaskedLM, mask_tokens
from minift.pretraining.span_corruption import (
    SpanCorruption,
    central_sentence,
    first_sentence,
    span_corruption,
)
from minift.pretraining.vocabulary import (
    SENTINELS,
    save_unigram,
    save_wordpiece,
    sentinel,
    train_unigram,
    train_wordpiece,
)

TEXT = "red kites returned to the valley after a hundred years of quiet and nobody saw them"
WORDS = TEXT.split()


def document(seed: int, length: int = 60) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


@pytest.fixture
def shards(tmp_path):
    """Three shards, one of each kind, with documents of two paragraphs."""
    texts = [
        "\n\n".join(f"{document(10 * i + j)}\n{document(90 + i)}" for j in range(8))
        for i in range(3)
    ]
    paths = [tmp_path / name for name in ("a.txt", "b.txt.xz", "c.txt.gz")]
    paths[0].write_text(texts[0] + "\n\n\n")
    paths[1].write_bytes(lzma.compress(texts[1].encode()))
    paths[2].write_bytes(gzip.compress(texts[2].encode()))
    return paths


def test_documents_stream_from_all_kinds_of_shards(shards):
    found = list(read_documents(shards))
    assert len(found) == 24
    assert found[8] == f"{document(10)}\n{document(91)}"


def test_shards_that_cannot_be_read(tmp_path):
    cut = tmp_path / "x.xz"
    cut.write_bytes(lzma.compress(document(1, 5000).encode())[:-20])
    for path, words in {tmp_path / "no.xz": "no such file", cut: "damaged xz"}.items():
        with pytest.raises(UserError, match=words):
            list(read_documents([path]))
    latin = tmp_path / "latin.xz"
    latin.write_bytes(lzma.compress(b"caf\xe9\n"))
    with pytest.raises(UserError, match="UTF-8"):
        list(read_documents([latin]))


@pytest.mark.parametrize("vocab_size", [100, 70_000])
def test_tokens_come_back_as_they_were_written(tmp_path, vocab_size):
    path = tmp_path / "tokens.bin"
    documents = [[5, 6, vocab_size - 1], [], [7] * 20]
    assert write_tokens(path, documents, end_token_id=1, vocab_size=vocab_size) == 26
    stream = [5, 6, vocab_size - 1, 1, 1, *[7] * 20, 1]
    assert np.fromfile(path, token_dtype(vocab_size)).tolist() == stream
    blocks = TokenBlocks(path, vocab_size, block_size=4, eval_blocks=2)
    assert blocks.total == 6
    assert blocks.read([0, 5]).tolist() == [stream[:4], stream[20:24]]
    assert list(blocks.eval_block_numbers) == [4, 5]
    with pytest.raises(UserError, match="give more text"):
        TokenBlocks(path, vocab_size, block_size=4, eval_blocks=6)


def test_each_block_comes_once_in_an_epoch(tmp_path):
    write_tokens(tmp_path / "x", [range(90)], end_token_id=0, vocab_size=100)
    blocks = TokenBlocks(tmp_path / "x", 100, block_size=4, eval_blocks=3)
    count = blocks.total - 3
    seen = [i for step in range(count) for i in blocks.batch(step, 3, seed=5)]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert seen[:count] != seen[count : 2 * count]
    assert blocks.batch(4, 3, seed=5) == seen[12:15]
    assert [i for s in range(count) for i in blocks.batch(s, 3, seed=6)] != seen


def test_noise_spans_have_the_right_density_and_no_token_is_lost():
    sentinels = list(range(999, 899, -1))
    for seed in range(200):
        random = np.random.default_rng(seed)
        length = int(random.integers(2, 300))
        tokens = random.integers(10, 800, length)
        source, target = span_corruption(tokens, random, sentinels, end_token_id=1)
        assert source[-1] == target[-1] == 1
        # Put each noise span back in the place of its sentinel.
        parts: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token in sentinels:
                parts[token] = []
            else:
                parts[next(reversed(parts))].append(token)
        restored = [t for s in source[:-1] for t in parts.get(s, [s])]
        assert restored == tokens.tolist()
        assert list(parts) == sentinels[: len(parts)]
        assert all(parts.values())
        hidden = sum(map(len, parts.values()))
        assert hidden == max(1, round(0.15 * length))


def test_noise_spans_have_the_right_mean_length():
    random = np.random.default_rng(0)
    lengths = []
    for _ in range(50):
        _, target = span_corruption(
            np.arange(10, 500), random, list(range(999, 899, -1)), end_token_id=1
        )
        lengths.append((len(target) - 1) / sum(token >= 900 for token in target) - 1)
    assert np.mean(lengths) == pytest.approx(3, abs=0.1)


SENTENCES = [
    "Left over from before.",
    "The kites came back.",
    "Nobody knew why the kites of the valley came back!",
    "The river of the valley rose.",
    "And then the",
]


@pytest.fixture
def prose(tmp_path):
    """A tokenizer of T5's kind that knows the letters of these sentences."""
    texts = [f"{' '.join(SENTENCES)} {i} It rained. summarize:" for i in range(40)]
    save_unigram(train_unigram(texts, 170), tmp_path / "prose")
    return Tokenizer.from_pretrained(tmp_path / "prose")


def test_the_central_sentence_becomes_the_target(prose):
    objective = SpanCorruption(prose, ModelOptions(gap_sentence_ratio=1.0))
    block = np.array([token for ids in prose.ids(SENTENCES) for token in ids])
    kept = 0
    for seed in range(60):
        source, target = objective.pair(block, np.random.default_rng(seed))
        assert prose.decode(target) == SENTENCES[2]
        assert source[-1] == target[-1] == prose.eos_token_id
        shown = prose.decode(source, skip_special_tokens=False).replace(" ", "")
        parts = [sentence.replace(" ", "") for sentence in SENTENCES]
        kept += parts[2] in shown
        parts[2] = parts[2] if parts[2] in shown else sentinel(0)
        assert shown == f"summarize:{''.join(parts)}</s>"
    assert 15 < kept < 45


def test_central_sentence_equals_the_plain_search():
    for seed in range(300):
        random = np.random.default_rng(seed)
        tokens = random.integers(0, 30, 80)
        bounds = np.sort(random.choice(np.arange(1, 80), random.integers(0, 9), replace=False))
        whole = [(a, b) for a, b in itertools.pairwise(bounds) if 6 <= b - a <= 64]

        def f1(place, tokens=tokens):
            own, others = set(tokens[slice(*place)]), {*tokens[: place[0]], *tokens[place[1] :]}
            both = len(own & others)
            precision, recall = both / len(own), both / len(others)
            return 2 * precision * recall / (precision + recall) if both else 0.0

        found = central_sentence(tokens, bounds)
        if not whole:
            assert found is None
        else:
            assert found in whole
            assert f1(found) == pytest.approx(max(map(f1, whole)))


def test_lead_ratio_is_the_share_of_first_sentences_among_the_targets(prose):
    block = np.array([token for ids in prose.ids(SENTENCES) for token in ids])
    rest = "".join(SENTENCES[2:]).replace(" ", "")
    for share in (0.0, 0.5, 1.0):
        objective = SpanCorruption(prose, ModelOptions(gap_sentence_ratio=1.0, lead_ratio=share))
        random, first, kept = np.random.default_rng(0), 0, 0
        for _ in range(60):
            source, target = objective.pair(block, random)
            # The sentence before it may be cut and is never chosen.
            if prose.decode(target) == SENTENCES[1]:
                first += 1
                shown = prose.decode(source, skip_special_tokens=False).replace(" ", "")
                own = SENTENCES[1].replace(" ", "")
                kept += own in shown
                own = own if own in shown else sentinel(0)
                assert shown == f"summarize:{own}{rest}</s>"
        assert first / 60 == pytest.approx(share, abs=0.2)
        assert kept == pytest.approx(0.5 * first, abs=9)
    tokens = np.arange(20)
    for bounds in ([1, 4], [1], []):  # three tokens are too few; a sentence without an end
        assert first_sentence(tokens, np.array(bounds)) == (tokens, None)


def test_text_without_whole_sentences_gets_span_corruption(prose):
    objective = SpanCorruption(prose, ModelOptions(gap_sentence_ratio=1.0))
    block = np.array(prose.ids(["the kites came back and the river rose and nobody knew why"])[0])
    source, target = objective.pair(block, np.random.default_rng(0))
    assert target[0] == prose.id_of(sentinel(0))
    assert target[0] in source


def test_gap_sentence_ratio_is_the_share_of_gap_sentences(prose):
    block = np.array(prose.ids(["It rained. The kites of the valley came back. It rained."])[0])
    for share in (0.0, 0.5):
        objective = SpanCorruption(prose, ModelOptions(gap_sentence_ratio=share))
        random = np.random.default_rng(0)
        targets = [objective.pair(block, random)[1] for _ in range(200)]
        found = sum(target[0] != prose.id_of(sentinel(0)) for target in targets) / 200
        assert found == pytest.approx(share, abs=0.1)


def test_full_text_ratio_is_the_share_of_full_text_targets(prose):
    block = np.array(prose.ids(["the kites came back and the river rose"])[0])
    for share in (0.0, 0.5, 1.0):
        objective = SpanCorruption(
            prose, ModelOptions(gap_sentence_ratio=0.0, full_text_ratio=share)
        )
        random, whole = np.random.default_rng(0), 0
        for _ in range(100):
            source, target = objective.pair(block, random)
            assert prose.id_of(sentinel(0)) in source
            whole += target == [*block.tolist(), prose.eos_token_id]
        assert whole / 100 == pytest.approx(share, abs=0.15)


def test_masking_has_the_shares_of_bert():
    random = np.random.default_rng(0)
    tokens = random.integers(10, 800, (400, 100))
    shown, chosen = mask_tokens(tokens, random, mask_token_id=4, vocab_size=800)
    assert (chosen.sum(1) == 15).all()
    assert np.array_equal(shown[~chosen], tokens[~chosen])
    hidden = shown[chosen]
    masked, same = np.mean(hidden == 4), np.mean(hidden == tokens[chosen])
    assert masked == pytest.approx(0.8, abs=0.02)
    assert same == pytest.approx(0.1, abs=0.02)
    assert 1 - masked - same == pytest.approx(0.1, abs=0.02)


def test_the_masked_lm_loss_counts_the_chosen_tokens(tmp_path):
    save_wordpiece(train_wordpiece([TEXT] * 3, 120), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    torch.manual_seed(0)
    small = ModelOptions(family="bert", d_model=16, num_heads=2, d_ff=16, num_layers=1)
    model = new_model(BertForMaskedLM, tokenizer, small, max_tokens=12).eval()
    objective = MaskedLM(tokenizer, small)
    blocks = np.array([tokenizer.ids([TEXT])[0][:10], tokenizer.ids([TEXT])[0][2:12]])
    batch = objective.batch(blocks, np.random.default_rng(1))
    total, count = objective.loss(model, *batch)
    shown, chosen = mask_tokens(
        blocks, np.random.default_rng(1), tokenizer.mask_token_id, tokenizer.vocab_size
    )
    assert count == chosen.sum() == 4
    ids = torch.tensor([tokenizer.build(row.tolist())[0] for row in shown])
    scores = model(ids)[:, 1:-1].log_softmax(-1)  # (2, 10, V)
    expected = -scores.gather(2, torch.from_numpy(blocks)[..., None])[torch.from_numpy(chosen)]
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_the_tokenizer_is_berts_kind(tmp_path, shards):
    save_wordpiece(train_wordpiece(read_documents(shards), 120), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert [tokenizer.id_of(t) for t in special] == [0, 1, 2, 3, 4]
    encoding = tokenizer("Red Kites", "returned")
    assert (encoding.ids[0], encoding.ids[-1]) == (2, 3)
    assert encoding.type_ids[-1] == 1
    assert tokenizer.decode(encoding.ids) == "red kites returned"
    transformers = pytest.importorskip(
        "transformers", reason="compares with transformers, not here"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    special = Tokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    for text in (document(3), "Red [MASK] valley", "kites?! ünknown"):
        assert theirs(text)["input_ids"] == special(text).ids


def test_the_tokenizer_is_t5s_kind(tmp_path, shards):
    save_unigram(train_unigram(read_documents(shards), 180), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert [tokenizer.id_of(t) for t in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert tokenizer.id_of(sentinel(0)) == tokenizer.vocab_size - 1
    assert tokenizer.id_of(sentinel(SENTINELS - 1)) == tokenizer.vocab_size - SENTINELS
    text = "red kites returned to the valley"
    encoding = tokenizer(f"  {text}\n")
    assert encoding.ids[-1] == 1
    assert 2 not in encoding.ids
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.num_special(pair=False) == 1
    transformers = pytest.importorskip(
        "transformers", reason="compares with transformers, not here"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    special = Tokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    for text in (document(3), "red <extra_id_0> valley", "kites?! ünknown"):
        assert theirs(text)["input_ids"] == special(text).ids


SMALL = {
    "vocab-size": 150,
    "d-model": 32,
    "d-ff": 48,
    "num-layers": 1,
    "num-heads": 2,
    "block-size": 24,
    "batch-size": 4,
    "eval-blocks": 4,
    "warmup-ratio": 0.1,
    "logging-steps": 5,
    "eval-steps": 20,
    "device": "cpu",
}


SIZES = ("vocab-size", "d-model", "d-ff", "num-layers", "num-heads")


def settings_of(**changes):
    """The settings of a small run; those of a checkpoint leave out what it decides."""
    small = {k: v for k, v in SMALL.items() if "model" not in changes or k not in SIZES}
    return {**small, **changes}


def flags(shards, folder, **changes):
    settings = settings_of(**{"output-dir": folder, **changes})
    return ["--train-file", *shards, *(part for k, v in settings.items() for part in (f"--{k}", v))]


@pytest.mark.slow
def test_t5_learns_span_corruption_and_the_model_is_read_back(shards, tmp_path):
    folder = tmp_path / "out"
    shown = run_script("pretrain", *flags(shards, folder, **{"max-steps": 60})).stdout
    assert "documents 24" in shown
    metrics = read_metrics(folder)
    log = read_lines(folder / "log.jsonl")
    held_out = [row["dev"]["loss"] for row in log if "dev" in row]
    assert held_out[-1] < held_out[0]
    assert metrics["dev"]["loss"] == pytest.approx(held_out[-1])
    model = T5ForConditionalGeneration.from_pretrained(folder)
    assert model.config.dropout_rate == 0.1  # for fine-tuning; it was trained without
    assert model.config.vocab_size == Tokenizer.from_pretrained(folder).vocab_size
    assert {t.dtype for t in tensors_on_disk(folder).values()} == {torch.float16}
    assert not (folder / "state").exists()


@pytest.mark.slow
def test_bert_learns_masked_words_and_pretraining_of_a_checkpoint_continues(shards, tmp_path):
    folder, further = tmp_path / "out", tmp_path / "further"
    run_script("pretrain", *flags(shards, folder, family="bert", **{"max-steps": 60}))
    held_out = [row["dev"]["loss"] for row in read_lines(folder / "log.jsonl") if "dev" in row]
    assert held_out[-1] < held_out[0]
    BertForMaskedLM.from_pretrained(folder)
    shown = run_script(
        "pretrain", *flags(shards, further, model=folder, **{"max-steps": 20})
    ).stdout
    assert "BertForMaskedLM" in shown
    assert "new " not in shown
    log = [row["dev"]["loss"] for row in read_lines(further / "log.jsonl") if "dev" in row]
    assert log[0] < held_out[0]  # it began where the other one ended
    first, second = (Tokenizer.from_pretrained(path) for path in (folder, further))
    assert first("red kites").ids == second("red kites").ids


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(shards, tmp_path):
    settings = {"max-steps": 40, "save-steps": 4}
    run_script("pretrain", *flags(shards, tmp_path / "whole", **settings))
    folder = tmp_path / "killed"
    ahead = flags(shards, folder, workers=2, **settings)
    command = [sys.executable, ROOT / "scripts" / "pretrain.py", *ahead]
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while not (folder / "state" / "state.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_script("pretrain", *flags(shards, folder, **settings), "--resume")
    whole, resumed = tensors_on_disk(tmp_path / "whole"), tensors_on_disk(folder)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())

    def losses(path):
        return [{k: r[k] for k in ("step", "loss") if k in r} for r in read_lines(path)]

    assert losses(tmp_path / "whole" / "log.jsonl") == losses(folder / "log.jsonl")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train-file": "nowhere.txt"}, ["nowhere.txt", "no such file"]),
        ({"train-file": "empty.txt"}, ["empty.txt", "no text"]),
        ({"max-steps": 0}, ["--max-steps", "0"]),
        ({"vocab-size": 50}, ["--vocab-size", "50"]),
        ({"device": "tpu"}, ["tpu"]),
        ({"precision": "fp16"}, ["fp16", "overflow"]),
        ({"model": "gpt"}, ["gpt", "config.json", "t5"]),
        ({"model": "no-masks"}, ["[MASK]"]),
        ({"d-model": 30, "num-heads": 4}, ["--d-model", "30"]),
    ],
)
def test_bad_input(shards, tmp_path, monkeypatch, capsys, changes, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    save_unigram(train_unigram([TEXT], 130), tmp_path / "no-masks")
    (tmp_path / "no-masks" / "config.json").write_text('{"model_type": "bert"}')
    folder = tmp_path / "out"
    settings = settings_of(
        **{"train-file": shards[0], "output-dir": folder, "max-steps": 1, **changes}
    )
    last = last_line_of_refusal("pretrain", settings, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d-model": 64}, "--d-model is 64, but it is decided by the checkpoint bert"),
        ({"family": "distilbert"}, "--family is distilbert, but it is decided by the checkpoint"),
        ({"lead-ratio": 0.2}, "--lead-ratio is 0.2, but it is of span corruption; leave it out"),
    ],
)
def test_options_without_an_effect_are_refused(
    tiny_bert, shards, tmp_path, monkeypatch, capsys, changes, words
):
    monkeypatch.chdir(tmp_path)
    tiny_bert.rename("bert")
    data = {"train-file": shards[0], "output-dir": tmp_path / "out", "block-size": 16}
    last = last_line_of_refusal(
        "pretrain", {**data, "model": "bert", **changes}, monkeypatch, capsys
    )
    assert words in last
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_is_too_small_leaves_no_folder(shards, tmp_path, monkeypatch, capsys):
    data = {"train-file": shards[0], "output-dir": tmp_path / "out", "eval-blocks": 10_000}
    last = last_line_of_refusal("pretrain", settings_of(**data), monkeypatch, capsys)
    assert "are held out; give more text" in last
    assert not (tmp_path / "out").exists()


def test_a_training_file_is_needed():
    done = run_script("pretrain", check=False)
    assert done.returncode == 2
    assert "--train-file is missing" in done.stderr.splitlines()[-1]
