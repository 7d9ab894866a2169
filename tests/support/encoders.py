"""The families of encoders, as `transformers` names and sizes them: a new family is one row."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import minift


@dataclass(frozen=True)
class Family:
    """A family of tiny random models.

    name: the beginning of its classes' names.
    sizes: fields of the config of `transformers`.
    variants: further configs to compare, each with the fields that it changes.
    token_types: the encoder has token types.
    """

    name: str
    sizes: dict[str, Any]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    token_types: bool = True

    def ours(self, kind: str) -> type:
        """minift's class, such as BertModel for "Model"."""
        return getattr(minift, f"{self.name}{kind}")

    def theirs(self, kind: str) -> type:
        return getattr(transformers(), f"{self.name}{kind}")

    def config(self, **changes: Any):
        return getattr(transformers(), f"{self.name}Config")(**{**self.sizes, **changes})

    def reference(self, kind: str, folder: Path, **changes: Any):
        """A random model of `transformers` in eval mode, saved in a folder."""
        torch.manual_seed(1)
        model = self.theirs(kind)(self.config(**changes)).eval()
        # transformers initialises biases with 0 and norms with 1, which would hide a mix-up.
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                is_norm = name.lower().endswith("norm.weight")
                torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.2)
        model.save_pretrained(folder)
        return model

    def encoder_of(self, theirs):
        """The bare encoder in a model of `transformers` with a head."""
        return getattr(theirs, self.name.lower())


def transformers():
    return pytest.importorskip("transformers", reason="compares with transformers, not here")


BERT = Family(
    "Bert",
    {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 24,
        "initializer_range": 0.2,  # far from zero, so that differences show
    },
    {
        "plain": {},
        "one head": {"num_attention_heads": 1},
        "narrow heads": {"hidden_size": 24, "num_attention_heads": 8},
        "deep": {"num_hidden_layers": 7},
        "tanh gelu": {"hidden_act": "gelu_new"},
        "relu": {"hidden_act": "relu"},
        "silu": {"hidden_act": "silu"},
        "one token type": {"type_vocab_size": 1},
        "large epsilon": {"layer_norm_eps": 1e-2},
        "five labels": {"num_labels": 5},
        "own head dropout": {"classifier_dropout": 0.4},
        "no pad token": {"pad_token_id": None},
    },
)


def random_variants(count: int) -> dict[str, dict[str, Any]]:
    """Sizes drawn at random, with names of DistilBERT's config."""
    draw = random.Random(0)
    return {
        f"random {i}": {
            "n_heads": (heads := draw.choice([1, 2, 3, 5])),
            "dim": heads * draw.choice([4, 6, 8]),
            "hidden_dim": draw.randint(3, 50),
            "n_layers": draw.randint(1, 5),
            "vocab_size": draw.randint(20, 200),
            "max_position_embeddings": draw.randint(11, 40),
            "activation": draw.choice(["gelu", "relu"]),
            "sinusoidal_pos_embds": draw.random() < 0.5,
        }
        for i in range(count)
    }


DISTILBERT = Family(
    "DistilBert",
    {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 37,
        "max_position_embeddings": 24,
        "initializer_range": 0.2,
    },
    {
        "plain": {},
        "sinusoidal": {"sinusoidal_pos_embds": True},
        "five labels": {"num_labels": 5},
        "own dropouts": {"seq_classif_dropout": 0.4, "qa_dropout": 0.3, "dropout": 0.5},
        "no pad token": {"pad_token_id": None},
        **random_variants(10),
    },
    token_types=False,
)

FAMILIES = {"bert": BERT, "distilbert": DISTILBERT}
# Family and variant -> both, for tests of every configuration.
CONFIGS = {
    f"{name}, {variant}": (family, changes)
    for name, family in FAMILIES.items()
    for variant, changes in family.variants.items()
}
