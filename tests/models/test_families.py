"""A family and an objective must provide everything that their base classes demand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from minift.models.base import PretrainedModel
from minift.models.bert import BertConfig, BertModel
from minift.models.config import ModelSize, PretrainedConfig
from minift.models.encoder import Encoder
from minift.models.heads import (
    EncoderForQuestionAnswering,
    EncoderForTokenClassification,
    EncoderWithHead,
)
from minift.models.masked_lm import EncoderForMaskedLM
from minift.models.registry import FAMILIES, families_with, family_model
from minift.models.seq2seq import DecoderLayer, Seq2SeqModel
from minift.pretraining.base import Objective
from minift.pretraining.run import OBJECTIVES

TINY = {"hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "num_layers": 2}
MODELS = [model for models in FAMILIES.values() for model in models]


def new_model(model_class: type[PretrainedModel], dropout: float = 0.1) -> PretrainedModel:
    ids = {"pad_token_id": 0, "eos_token_id": 1}
    size = {"vocab_size": 30, "max_tokens": 16, "dropout": dropout, **ids, **TINY}
    return model_class(model_class.config_class.from_size(ModelSize(**size)))


@pytest.mark.parametrize("base", [Encoder, EncoderWithHead, Seq2SeqModel, DecoderLayer])
def test_a_forgotten_method_is_an_error_when_the_model_is_first_made(base):
    class Forgetful(base):
        encoder_class, config_class, pool = BertModel, BertConfig, BertModel.pool

    with pytest.raises(TypeError, match="abstract"):
        Forgetful(BertConfig())


def test_a_forgotten_attribute_is_an_error_too():
    with pytest.raises(TypeError, match="NoConfig does not say its config_class"):

        class NoConfig(Encoder):
            pass

    with pytest.raises(
        TypeError, match=r"NoPool says that it has a pooler, but defines no pool\(\)"
    ):

        class NoPool(Encoder):
            config_class = BertConfig

    class NoNames(EncoderForMaskedLM):
        encoder_class = BertModel

    with pytest.raises(TypeError, match="NoNames does not say its head_names, tied_names"):
        NoNames(BertConfig())

    @dataclass(frozen=True, kw_only=True)
    class NoSize(PretrainedConfig):
        max_tokens = 5

    with pytest.raises(TypeError, match=r"abstract.*from_size"):
        NoSize()


def test_an_objective_that_forgets_something_is_refused():
    with pytest.raises(TypeError, match="Forgetful must define model_kind"):

        class Forgetful(Objective):
            pass

    class NoLoss(OBJECTIVES[0]):
        loss = Objective.loss

    with pytest.raises(TypeError, match=r"abstract.*loss"):
        NoLoss(None, None)


@pytest.mark.parametrize("model_class", MODELS, ids=lambda m: m.__name__)
def test_every_model_answers_what_training_and_adapters_ask(model_class):
    model = new_model(model_class)
    assert model_class.__name__.lower().startswith(model.config.model_type)
    depths = model.layer_depths()
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert set(depths.values()) == {0, 1, 2, 3}
    for stack in model.layer_stacks():
        assert len(stack) == 2
        assert all(isinstance(layer.feed_forward, torch.nn.Module) for layer in stack)
    names = [name for p in model.state_dict() for name in model.weight_map().checkpoint_names(p)]
    assert len(names) == len(set(names))
    for target in model.default_target_modules:
        assert any(f".{target}.weight" in f".{name}" for name in names)
    changed = model_class.config_class.with_dropout(0.3)
    assert set(changed) == set(model.config.dropouts)
    assert all(hasattr(model.config, name) for name in changed)
    assert (model.head is None) == isinstance(model, Seq2SeqModel)
    if model.label_rows is not None:
        assert len(model.get_parameter(model.label_rows)) == 2
        assert model.label_rows in dict(model.head_parameters())
        assert model.peft_task_type is not None


@pytest.mark.parametrize("model_class", MODELS, ids=lambda m: m.__name__)
def test_one_option_reaches_every_dropout_of_every_model_and_head(model_class):
    config = new_model(model_class).config
    model = model_class(replace(config, **config.with_dropout(0.3)))
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    # By design, BERT has none before the scores of spans, and DistilBERT none after attention.
    is_bert, spans = model.config.model_type == "bert", EncoderForQuestionAnswering
    missing = {"head.dropout"} if is_bert and isinstance(model, spans) else set()
    if model.config.model_type == "distilbert":
        missing |= {name for name in rates if name.endswith(".attention.dropout")}
    assert rates == {name: 0.0 if name in missing else 0.3 for name in rates}
    attention = [m for m in model.modules() if hasattr(m, "attention_dropout")]
    assert attention
    assert {m.train().attention_dropout for m in attention} == {0.3}
    if model.head is not None and "MaskedLM" not in model_class.__name__:
        assert any(name.startswith("head.") for name in rates)


def test_a_kind_of_model_is_found_in_the_families_that_have_it():
    for name in families_with(EncoderForTokenClassification):
        assert issubclass(family_model(name, EncoderForTokenClassification), EncoderWithHead)
        assert family_model(name, Seq2SeqModel) is None
    assert "t5" in families_with(Seq2SeqModel)
    assert family_model("unheard-of", Seq2SeqModel) is None
    assert family_model(["bert"], EncoderForMaskedLM) is None
    assert set(families_with(EncoderForMaskedLM)) >= {"bert"}
