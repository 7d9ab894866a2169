"""T5 equals that of `transformers`: logits, loss, gradients, loading and saving."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from support.parity import assert_close, assert_round_trip, assert_same_gradients, tensors_on_disk
from support.tiny_t5 import TINY, reference

from minift.errors import UserError
from minift.models.seq2seq import shift_right
from minift.models.t5 import T5Config, T5ForConditionalGeneration

UNTIED = {"tie_word_embeddings": False}
CONFIGS = {
    "plain": {},
    "gated gelu": {"feed_forward_proj": "gated-gelu"},
    "gated silu": {"feed_forward_proj": "gated-silu"},
    "gated, exact gelu": {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},
    "gated by name only": {"feed_forward_proj": "gated-gelu", "is_gated_act": False},
    "not scaled": UNTIED,
    "v1.1": {**UNTIED, "feed_forward_proj": "gated-gelu", "own output": True},
    "own output": {**UNTIED, "own output": True},
    "wide heads": {"d_kv": 16},
    "one head": {"num_heads": 1},
    "shallow decoder": {"num_layers": 3, "num_decoder_layers": 1},
    "as many layers": {"num_decoder_layers": None},
    "many buckets": {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    "few buckets": {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3},
    "large epsilon": {"layer_norm_epsilon": 1e-2},
}


def batch(seed: int = 0, width: int = 13):
    """Sources padded right, left and in the middle, and targets of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 61, (5, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, :4] = 0
    if seed % 2:
        mask[3, 3:5] = 0
    labels = torch.randint(2, 61, (5, 7), generator=generator)
    labels[:, -1] = 1
    labels[1, 3:] = -100
    labels[4, 5:] = -100
    return ids, mask, labels


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_logits_loss_and_gradients_equal_transformers(tmp_path, changes, attention):
    theirs = reference(tmp_path / "theirs", **changes)
    ours = T5ForConditionalGeneration.from_pretrained(
        tmp_path / "theirs", attn_implementation=attention
    )
    for seed in range(2):
        ids, mask, labels = batch(seed)
        expected = theirs(input_ids=ids, attention_mask=mask, labels=labels)
        logits = ours(ids, mask, decoder_input_ids=decoder_inputs(labels, ours.config))
        real = labels != -100
        assert_close("logits", logits[real], expected.logits[real], 3e-5)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert_close("loss", loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs, 3e-5)

    again = assert_round_trip(ours, theirs, tmp_path / "ours")
    logits = again(input_ids=ids, attention_mask=mask, labels=labels).logits
    assert_close("logits of what was saved", logits[real], expected.logits[real])


def decoder_inputs(labels, config):
    return shift_right(labels, config.decoder_start_token_id, config.pad_token_id)


def tiny(folder, **changes):
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**{**TINY, **changes})).save_pretrained(folder)
    return T5ForConditionalGeneration.from_pretrained(folder)


def test_the_embedding_may_be_stored_once_or_several_times(tmp_path):
    model = tiny(tmp_path)
    tensors = tensors_on_disk(tmp_path)
    shared = tensors["shared.weight"]
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
    ids, mask, labels = batch()
    decoder_ids = decoder_inputs(labels, model.config)
    expected = model(ids, mask, decoder_input_ids=decoder_ids)
    others = {name: tensor for name, tensor in tensors.items() if name != "shared.weight"}
    for stored in (
        {"shared.weight": shared, **{name: shared.clone() for name in names}},
        {names[0]: shared},
        {names[2]: shared, names[1]: shared.clone()},
    ):
        save_file({**others, **stored}, tmp_path / "model.safetensors")
        again = T5ForConditionalGeneration.from_pretrained(tmp_path)
        assert torch.equal(again(ids, mask, decoder_input_ids=decoder_ids), expected)
        assert again.lm_head is None
        assert again.load_report.new == ()
    save_file({**tensors, names[1]: shared + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder\.embed_tokens\.weight.*differs"):
        T5ForConditionalGeneration.from_pretrained(tmp_path)
    save_file(others, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"shared\.weight.*missing"):
        T5ForConditionalGeneration.from_pretrained(tmp_path)


def test_a_missing_or_unexpected_tensor_is_an_error(tmp_path):
    tiny(tmp_path)
    tensors = tensors_on_disk(tmp_path)
    name = "decoder.block.1.layer.1.EncDecAttention.k.weight"
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=name):
        T5ForConditionalGeneration.from_pretrained(tmp_path)
    save_file({**tensors, "encoder.extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"encoder\.extra"):
        T5ForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("gated", [False, True])
def test_every_item_of_a_batch_equals_the_item_alone(tmp_path, gated):
    model = tiny(tmp_path, feed_forward_proj="gated-gelu" if gated else "relu")
    ids, mask, labels = batch()
    targets = decoder_inputs(labels, model.config)
    together = model(ids, mask, decoder_input_ids=targets)
    for i in range(len(ids)):
        own, length = mask[i].bool(), int((labels[i] != -100).sum())
        alone = model(ids[i][own][None], decoder_input_ids=targets[i : i + 1, :length])
        assert_close(f"item {i}", together[i, :length], alone[0], 1e-5)


def test_a_new_model_is_initialised_as_in_transformers(tmp_path):
    """Standard deviations of new weights, which keep scores small without dividing by sqrt(D)."""
    transformers = pytest.importorskip(
        "transformers", reason="compares with transformers, not here"
    )
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 8, "vocab_size": 500}
    for proj in ("relu", "gated-gelu"):
        config = {**TINY, **sizes, "feed_forward_proj": proj}
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
        T5ForConditionalGeneration(T5Config(**config)).save_pretrained(tmp_path)
        for name, tensor in tensors_on_disk(tmp_path).items():
            expected = theirs.state_dict()[name].std().item()
            if tensor.numel() > 1000:
                assert tensor.std().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_layers": 10**9}, ["num_layers", "1000000000"]),
        ({"d_kv": 0}, ["d_kv", "0"]),
        ({"feed_forward_proj": "gated-max"}, ["feed_forward_proj", "gated-max"]),
        ({"relative_attention_max_distance": 3}, ["relative_attention_max_distance", "3"]),
        ({"eos_token_id": 99}, ["eos_token_id", "99"]),
        ({"is_decoder": True}, ["is_decoder", "True"]),
    ],
)
def test_impossible_configs_are_refused(tmp_path, change, words):
    tiny(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError) as error:
        T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert all(word in str(error.value) for word in [*words, "config.json"]), error.value


def test_bfloat16_trains(tmp_path):
    model = tiny(tmp_path).train()
    ids, mask, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids, mask, decoder_input_ids=decoder_inputs(labels, model.config))
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
