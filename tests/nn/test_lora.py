"""LoRA starts as the identity, merges into the weights, and equals peft; BitFit."""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.encoders import DISTILBERT
from support.parity import assert_close, random_batch

from minift import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)
from minift.errors import UserError
from minift.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    add_lora,
    bitfit,
    load_adapter,
    save_adapter,
)
from minift.nn.kernels import dropout
from minift.nn.lora import LoraConfig, LoraUpdate, lora_layers, merge_lora
from minift.training.optim import parameter_groups

BERTS = {
    "sequence": BertForSequenceClassification,
    "tokens": BertForTokenClassification,
    "answers": BertForQuestionAnswering,
}
TINY_T5 = T5Config(
    vocab_size=61,
    d_model=24,
    d_kv=5,
    d_ff=37,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=10,
)
T5S = {
    "t5": TINY_T5,
    "gated": replace(TINY_T5, feed_forward_proj="gated-gelu"),
    "untied": replace(TINY_T5, tie_word_embeddings=False),
}
MODELS = [*BERTS, *T5S]
ALL = {
    **dict.fromkeys(BERTS, ("query", "key", "value", "dense")),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
    "gated": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    "untied": ("k", "wo"),
}


def tiny(name: str, tiny_bert):
    """A model in eval mode."""
    if name in BERTS:
        model = BERTS[name].from_pretrained(tiny_bert, num_labels=2)
    else:
        model = T5ForConditionalGeneration(T5S[name]).eval()
    return model


def outputs(model):
    if isinstance(model, T5ForConditionalGeneration):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(2, 61, (3, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        targets = torch.randint(2, 61, (3, 6), generator=generator)
        return model(ids, mask, decoder_input_ids=targets)
    ids, mask, *types = random_batch(model.config, seed=0)
    found = model(ids, mask, *types)
    found = torch.stack(found, -1) if isinstance(found, tuple) else found
    return found[mask.bool()] if found.shape[:2] == mask.shape else found


def randomise(model) -> None:
    """Give random values to all trainable parameters, as training would."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def test_the_worked_example():
    update = LoraUpdate(torch.zeros(2, 2), LoraConfig(rank=1, alpha=2.0))
    with torch.no_grad():
        update.a.copy_(torch.tensor([[1.0, 1.0]]))
        update.b.copy_(torch.tensor([[1.0], [0.0]]))
    assert update(torch.tensor([3.0, 4.0])).tolist() == [14.0, 0.0]


@pytest.mark.parametrize("name", MODELS)
def test_lora_changes_no_output_and_trains_only_updates_and_head(tiny_bert, name):
    model = tiny(name, tiny_bert)
    before = outputs(model)
    assert add_lora(model, LoraConfig(rank=2, dropout=0.5, target_modules=ALL[name])) is model
    assert not any(module.training for module in model.modules())  # still in eval mode
    assert_close("outputs", outputs(model), before, 2e-6)

    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    updates = {n for n, _ in model.named_parameters() if ".updates." in n}
    head = {"head.weight", "head.bias"} if name in BERTS else set()
    assert trainable == updates | head
    assert updates
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in trainable}
    groups = parameter_groups(model, weight_decay=0.0)
    assert {n for group in groups for n in group["names"]} == trainable

    model.train()
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(2):  # in the first step A has no gradient, since B is zero
        outputs(model).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())
    for layer in lora_layers(model).values():
        for update in layer.updates.values():
            assert update.b.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_merged_equals_unmerged(tiny_bert, name):
    model = tiny(name, tiny_bert)
    plain = {n: p.clone() for n, p in model.state_dict().items()}
    settings = LoraConfig(rank=3, alpha=5.0, target_modules=ALL[name])
    randomise(add_lora(model, settings))
    before = outputs(model)
    state = {n: p.clone() for n, p in model.state_dict().items()}
    merged = merge_lora(model)
    assert not lora_layers(merged)
    assert merged.state_dict().keys() == plain.keys()
    assert all(p.requires_grad for p in merged.parameters())
    assert_close("merged", outputs(merged), before)
    # The given model is unchanged.
    assert torch.equal(outputs(model), before)
    assert all(torch.equal(model.state_dict()[n], p) for n, p in state.items())
    assert not all(p.requires_grad for p in model.parameters())
    assert merge_lora(merged) is merged


@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_lora_is_saved_merged_in_the_ordinary_layout(tmp_path, tiny_bert, name):
    model = tiny(name, tiny_bert)
    randomise(add_lora(model, LoraConfig(target_modules=ALL[name])))
    model.save_pretrained(tmp_path / "saved")
    assert lora_layers(model)
    again = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(again), outputs(merge_lora(model)))


@pytest.mark.parametrize("name", T5S)
def test_generation_with_lora_equals_that_of_the_merged_model(name):
    model = T5ForConditionalGeneration(T5S[name]).eval()
    randomise(add_lora(model, LoraConfig(rank=4, target_modules=ALL[name])))
    ids = torch.randint(2, 61, (3, 9))
    merged = merge_lora(model)
    for beams in (1, 3):
        found = model.generate(ids, max_new_tokens=12, num_beams=beams)
        assert torch.equal(found, merged.generate(ids, max_new_tokens=12, num_beams=beams))
    # What is generated step by step is what the whole target's scores say.
    found = model.generate(ids, max_new_tokens=6)
    logits = model(ids, decoder_input_ids=found[:, :-1])
    before = found[:, 1:] != model.config.pad_token_id
    assert torch.equal(logits.argmax(-1)[before], found[:, 1:][before])


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_adapter_is_loaded_bit_for_bit(tmp_path, tiny_bert, name):
    model = tiny(name, tiny_bert)
    base = {n: p.clone() for n, p in model.state_dict().items()}
    randomise(
        add_lora(model, LoraConfig(rank=3, alpha=5.0, dropout=0.25, target_modules=ALL[name]))
    )
    save_adapter(model, tmp_path / "adapter", base="somewhere")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
    }
    config = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == "somewhere"

    again = tiny(name, tiny_bert)
    if name in T5S:
        again.load_state_dict(base)
    assert load_adapter(again, tmp_path / "adapter") is again
    for n, p in model.state_dict().items():
        assert torch.equal(again.state_dict()[n], p), n
    assert torch.equal(outputs(again), outputs(model))
    for (n, p), (_, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad, n
    first, second = (next(iter(lora_layers(m).values())).config for m in (model, again))
    assert first == second
    # Saved once more, the files are the same.
    save_adapter(again, tmp_path / "again", base="somewhere")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        files = [tmp_path / folder / name for folder in ("adapter", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_head_of_an_adapter_replaces_that_of_the_checkpoint(tmp_path, tiny_bert):
    model = tiny("sequence", tiny_bert)
    model.save_pretrained(tmp_path / "tuned")
    randomise(add_lora(model))
    save_adapter(model, tmp_path / "adapter")
    again = load_adapter(
        BERTS["sequence"].from_pretrained(tmp_path / "tuned"), tmp_path / "adapter"
    )
    assert torch.equal(outputs(again), outputs(model))


def test_a_new_pooler_is_trained_and_saved_with_the_head(tmp_path, tiny_bert):
    tensors = load_file(tiny_bert / "model.safetensors")
    bare = {n: t for n, t in tensors.items() if not n.startswith("pooler.")}
    save_file(bare, tiny_bert / "model.safetensors", metadata={"format": "pt"})
    model = tiny("sequence", tiny_bert)
    randomise(add_lora(model, LoraConfig(target_modules=("dense",))))
    assert "bert.pooler" not in lora_layers(model)
    assert model.encoder.pooler.weight.requires_grad
    save_adapter(model, tmp_path)
    again = load_adapter(tiny("sequence", tiny_bert), tmp_path)
    assert torch.equal(outputs(again), outputs(model))


def test_a_masked_language_model_keeps_its_head(tiny_bert):
    """It was pretrained, so it is no new head of a task: it may have updates."""
    ours = BertForMaskedLM.from_pretrained(tiny_bert, reset_head=True)
    ours.load_report = None  # as if the checkpoint had had the head
    add_lora(ours, LoraConfig(target_modules=("query", "dense")))
    assert "head.dense" in lora_layers(ours)
    assert all(".updates." in n for n, p in ours.named_parameters() if p.requires_grad)


# Each setting does something.


def test_the_added_matrix_has_the_rank(tiny_bert):
    for rank in (1, 3):
        model = BertModel.from_pretrained(tiny_bert)
        before = {n: p.clone() for n, p in model.state_dict().items()}
        randomise(add_lora(model, LoraConfig(rank=rank)))
        merged = merge_lora(model).state_dict()
        name = "layers.1.attention.qkv.weight"
        query, key, value = (merged[name] - before[name]).chunk(3)
        assert torch.linalg.matrix_rank(query, rtol=1e-4) == rank
        assert torch.linalg.matrix_rank(value, rtol=1e-4) == rank
        assert not key.any()


def test_alpha_over_rank_is_the_scale():
    x, rows = torch.randn(5, 6), torch.zeros(4, 6)
    update = LoraUpdate(rows, LoraConfig(rank=2, alpha=6.0))
    torch.nn.init.normal_(update.b)
    assert_close("update", update(x), 3.0 * x @ update.a.T @ update.b.T)


def test_dropout_applies_to_the_input_and_only_in_training():
    update = LoraUpdate(torch.zeros(4, 6), LoraConfig(rank=2, alpha=2.0, dropout=0.5))
    torch.nn.init.normal_(update.b)
    x = torch.ones(3, 6)
    assert torch.equal(update.eval()(x), update(x))
    torch.manual_seed(3)
    dropped = dropout(x, 0.5)
    torch.manual_seed(3)
    assert_close("dropped", update.train()(x), dropped @ update.a.T @ update.b.T)


def test_dropout_applies_in_a_model_in_training(tiny_bert):
    for dropout_rate in (0.0, 0.5):
        off = dict.fromkeys(BertConfig.dropouts, 0.0)
        model = BertModel.from_pretrained(tiny_bert, **off)
        randomise(add_lora(model, LoraConfig(dropout=dropout_rate)))
        ids = torch.randint(5, 50, (2, 7))
        hidden, _ = model(ids)
        trained, _ = model.train()(ids)
        assert torch.equal(hidden, trained) == (dropout_rate == 0.0)


def test_a_is_initialised_as_in_torchs_linear_layers():
    a = LoraUpdate(torch.zeros(4, 400), LoraConfig(rank=100)).a
    bound = 1 / math.sqrt(400)
    assert bound * 0.99 < a.abs().max() <= bound
    assert abs(a.mean()) < bound / 50


ATTENTION = "bert.encoder.layer.i.attention"
ENCODER, DECODER = "encoder.block.i.layer.i", "decoder.block.i.layer.i"


@pytest.mark.parametrize(
    ("name", "targets", "places"),
    [
        ("sequence", (), {f"{ATTENTION}.self.query", f"{ATTENTION}.self.value"}),
        ("sequence", ("key",), {f"{ATTENTION}.self.key"}),
        (
            "sequence",
            ("output.dense", "pooler.dense"),
            {f"{ATTENTION}.output.dense", "bert.encoder.layer.i.output.dense", "bert.pooler.dense"},
        ),
        ("sequence", ("layer.1.attention.self.key",), {f"{ATTENTION}.self.key"}),
        (
            "t5",
            (),
            {f"{stack}.SelfAttention.{part}" for stack in (ENCODER, DECODER) for part in "qv"}
            | {f"{DECODER}.EncDecAttention.{part}" for part in "qv"},
        ),
        ("t5", ("EncDecAttention.k",), {f"{DECODER}.EncDecAttention.k"}),
        ("gated", ("wi_1",), {f"{stack}.DenseReluDense.wi_1" for stack in (ENCODER, DECODER)}),
    ],
)
def test_targets_are_where_updates_are(tiny_bert, name, targets, places):
    model = add_lora(tiny(name, tiny_bert), LoraConfig(target_modules=targets))
    found = [layer.names[part] for layer in lora_layers(model).values() for part in layer.updates]
    assert {re.sub(r"\.\d+", ".i", full) for full in found} == places
    if "layer.1.attention.self.key" in targets:
        assert found == ["bert.encoder.layer.1.attention.self.key"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": True}, "rank is True"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"dropout": 1.5}, "dropout is 1.5"),
    ],
)
def test_impossible_settings_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        LoraConfig(**values)


def test_a_missing_target_is_named(tiny_bert):
    model = BertModel.from_pretrained(tiny_bert)
    with pytest.raises(UserError, match=r"'querry'.*BertModel.*query, key, value, dense"):
        add_lora(model, LoraConfig(target_modules=("value", "querry")))
    assert not lora_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    for head in ("classifier", "lm_head"):
        for name in ("sequence", "untied"):
            with pytest.raises(UserError, match=head):
                add_lora(tiny(name, tiny_bert), LoraConfig(target_modules=(head,)))


def test_lora_is_added_once_and_saved_only_if_there(tmp_path, tiny_bert):
    model = BertModel.from_pretrained(tiny_bert)
    with pytest.raises(ValueError, match="no LoRA updates"):
        save_adapter(model, tmp_path / "adapter")
    save_adapter(add_lora(model), tmp_path / "adapter")
    for again in (add_lora, lambda model: load_adapter(model, tmp_path / "adapter")):
        with pytest.raises(ValueError, match="already"):
            again(model)


def test_at_most_two_percent_are_trainable_in_a_model_of_minilms_shape():
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):
        model = add_lora(BertForSequenceClassification(config), LoraConfig(rank=8))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 6 * 2 * (8 * 384 + 384 * 8) + 2 * 384 + 2
    assert trainable / sum(p.numel() for p in model.parameters()) < 0.02


# What is refused.


@pytest.fixture
def adapter(tmp_path, tiny_bert):
    """A folder with an adapter for the tiny BERT with a head of two labels."""
    model = tiny("sequence", tiny_bert)
    save_adapter(add_lora(model, LoraConfig(rank=2)), tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder, **values):
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(tiny_bert, adapter, *words: str, name: str = "sequence"):
    """Loading leaves the model unchanged; the message names the file and all the words."""
    model = tiny(name, tiny_bert)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_adapter(model, adapter)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(adapter), *words):
        assert word in message, message
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[n], p) for n, p in before.items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("bias", "all"),
        ("use_dora", True),
        ("use_rslora", True),
        ("rank_pattern", {"query": 4}),
        ("alpha_pattern", {"query": 4}),
        ("layers_to_transform", 0),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("lora_bias", True),
        ("exclude_modules", "key"),
        ("something_of_tomorrow", 3),
        ("target_modules", "query"),
        ("target_modules", ["q_proj"]),
        ("target_modules", [3]),
        ("modules_to_save", "classifier"),
        ("r", "8"),
        ("r", 10**9),
        ("lora_alpha", None),
        ("lora_dropout", 2),
    ],
)
def test_unsupported_options_of_peft_are_refused_by_name(tiny_bert, adapter, name, value):
    load_adapter(tiny("sequence", tiny_bert), adapter)
    change(adapter, **{name: value})
    refused(tiny_bert, adapter, ADAPTER_CONFIG, name, repr(value))


def test_tensors_that_do_not_fit_are_named(tiny_bert, adapter):
    path = adapter / ADAPTER_WEIGHTS
    tensors = load_file(path)
    query = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight"
    for name in (query, "base_model.model.classifier.bias"):
        save_file({n: t for n, t in tensors.items() if n != name}, path)
        refused(
            tiny_bert, adapter, ADAPTER_WEIGHTS, name, "missing", str(tuple(tensors[name].shape))
        )
    save_file({**tensors, "base_model.model.shared.weight": torch.ones(7, 3)}, path)
    refused(tiny_bert, adapter, "base_model.model.shared.weight", "(7, 3)", "no part")
    save_file({**tensors, query: torch.ones(32, 5)}, path)
    refused(tiny_bert, adapter, query, "(32, 5)", "(32, 2)")
    save_file({**tensors, query: torch.ones(32, 2, dtype=torch.int64)}, path)
    refused(tiny_bert, adapter, query, "int64")
    save_file(tensors, path)
    change(adapter, r=3)
    refused(tiny_bert, adapter, "lora_A.weight", "(2, 32)", "(3, 32)")


def test_missing_and_damaged_files_are_refused(tiny_bert, adapter):
    path = adapter / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    refused(tiny_bert, adapter, ADAPTER_WEIGHTS, "safetensors")
    path.rename(adapter / "adapter_model.bin")
    refused(tiny_bert, adapter, ADAPTER_WEIGHTS, "pickle")
    (adapter / ADAPTER_CONFIG).write_text("[]")
    refused(tiny_bert, adapter, ADAPTER_CONFIG, "object")
    (adapter / ADAPTER_CONFIG).unlink()
    refused(tiny_bert, adapter, ADAPTER_CONFIG, "no such file")


def test_an_adapter_without_a_head_needs_a_model_that_has_one(tmp_path, tiny_bert, adapter):
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    head = {n: t for n, t in tensors.items() if "classifier" in n}
    save_file({n: t for n, t in tensors.items() if n not in head}, adapter / ADAPTER_WEIGHTS)
    change(adapter, modules_to_save=None)
    refused(tiny_bert, adapter, "classifier", "missing")

    tiny("sequence", tiny_bert).save_pretrained(tmp_path / "tuned")
    model = load_adapter(BERTS["sequence"].from_pretrained(tmp_path / "tuned"), adapter)
    whole = BERTS["sequence"].from_pretrained(tmp_path / "tuned")
    assert torch.equal(model.head.weight, whole.head.weight)


# BitFit.


@pytest.mark.parametrize("name", BERTS)
def test_bitfit_trains_biases_and_the_head(tiny_bert, name):
    model = tiny(name, tiny_bert)
    assert bitfit(model) is model
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {
        name
        for name, _ in model.named_parameters()
        if name.endswith(".bias") or name == "head.weight"
    }
    outputs(model).square().mean().backward()
    assert model.encoder.layers[0].attention.qkv.bias.grad.abs().max() > 0


def test_bitfit_has_nothing_to_train_in_t5():
    with pytest.raises(UserError, match=r"T5ForConditionalGeneration has none.*LoRA"):
        bitfit(T5ForConditionalGeneration(TINY_T5))


# Live, beside peft.


@pytest.fixture
def peft():
    pytest.importorskip("transformers", reason="compares with transformers, not here")
    return pytest.importorskip("peft", reason="compares with peft, not here")


REFERENCES = {
    "sequence": ("SEQ_CLS", {}, ["query", "value"]),
    "sequence, all": ("SEQ_CLS", {}, ["query", "key", "value", "dense"]),
    "sequence, linear": ("SEQ_CLS", {}, "all-linear"),
    "tokens": ("TOKEN_CLS", {}, ["key", "output.dense"]),
    "answers": ("QUESTION_ANS", {}, None),
    "distilbert": ("SEQ_CLS", {}, ["q_lin", "v_lin"]),
    "distilbert, all": ("SEQ_CLS", {}, ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]),
    "t5": ("SEQ_2_SEQ_LM", {}, None),
    "t5, all": ("SEQ_2_SEQ_LM", {}, ["q", "k", "v", "o", "wi", "wo"]),
    "gated": (
        "SEQ_2_SEQ_LM",
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        ["k", "o", "wi_1", "wo"],
    ),
}


def peft_base(name: str, changes):
    """A random model of `transformers` in eval mode."""
    import transformers

    torch.manual_seed(1)
    kind = name.split(",")[0]
    if kind == "distilbert":
        config = DISTILBERT.config(n_layers=2, initializer_range=0.1)
        return transformers.DistilBertForSequenceClassification(config).eval()
    if kind in BERTS:
        config = transformers.BertConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
            max_position_embeddings=24,
            initializer_range=0.1,
        )
        return getattr(transformers, BERTS[kind].__name__)(config).eval()
    left_out = ("architectures", "dtype", "model_type", "scale_decoder_outputs")
    values = {k: v for k, v in TINY_T5.to_dict().items() if k not in left_out}
    config = transformers.T5Config(**{**values, **changes})
    return transformers.T5ForConditionalGeneration(config).eval()


def their_outputs(model):
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()  # peft's own forward for answers leaves token types out
    config = model.config
    if config.model_type == "t5":
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(2, 61, (3, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        targets = torch.randint(2, 61, (3, 6), generator=generator)
        return model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
    inputs = random_batch(config, seed=0)
    found, mask = model(*inputs), inputs[1]
    if hasattr(found, "start_logits"):
        return torch.stack((found.start_logits, found.end_logits), -1)[mask.bool()]
    return found.logits[mask.bool()] if found.logits.dim() == 3 else found.logits


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_adapters_go_from_peft_to_minift_and_back(tmp_path, peft, name):
    task_type, changes, targets = REFERENCES[name]
    theirs = peft_base(name, changes)
    base = tmp_path / "base"
    theirs.save_pretrained(base)
    settings = {"r": 3, "lora_alpha": 7, "lora_dropout": 0.2, "target_modules": targets}
    if "distilbert" in name:  # peft takes only the second layer of its head for the head
        settings["modules_to_save"] = ["pre_classifier", "classifier"]
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(task_type=task_type, **settings)).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")

    kinds = {**BERTS, "distilbert": DistilBertForSequenceClassification}
    kinds |= dict.fromkeys(T5S, T5ForConditionalGeneration)
    kind = kinds[name.split(",")[0]]
    ours = load_adapter(kind.from_pretrained(base), tmp_path / "theirs")
    plain = outputs(kind.from_pretrained(base))
    expected, found = their_outputs(theirs), outputs(ours)
    assert (plain - found).abs().max() > 0.01  # the adapter does something
    tolerance = 3e-5 if kind is T5ForConditionalGeneration else 1e-5  # as without LoRA
    assert_close("logits", found, expected, tolerance)
    assert_close("logits of the merged", outputs(merge_lora(ours)), expected, tolerance)

    # Gradients of A, B and the head, under the names on disk.
    found.square().mean().backward()
    expected.square().mean().backward()
    wanted = {
        re.sub(r"(modules_to_save\.)?default\.", "", n): p.grad
        for n, p in theirs.named_parameters()
        if p.requires_grad
    }
    gradients = {
        f"base_model.model.{layer.names[part]}.lora_{matrix}.weight": parameter.grad
        for layer in lora_layers(ours).values()
        for part, update in layer.updates.items()
        for matrix, parameter in (("A", update.a), ("B", update.b))
    }
    for n, parameter in ours.head_parameters():
        (in_checkpoint,) = kind.weight_map().checkpoint_names(n)
        gradients[f"base_model.model.{in_checkpoint}"] = parameter.grad
    assert gradients.keys() == wanted.keys()
    assert sum(p.requires_grad for p in ours.parameters()) == len(wanted)
    for n, gradient in wanted.items():
        assert_close(f"gradient of {n}", gradients[n], gradient, tolerance)

    # And back: what we write, with other numbers in it, peft reads.
    randomise(ours)
    save_adapter(ours, tmp_path / "ours")
    again = peft_base(name, changes)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        again = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    assert type(again) is type(theirs)
    config = again.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 7, 0.2)
    assert_close("logits in peft", their_outputs(again), outputs(ours), tolerance)
    mine, its = (load_file(tmp_path / side / ADAPTER_WEIGHTS) for side in ("ours", "theirs"))
    assert {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in its.items()}
