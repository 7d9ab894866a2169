"""Random T5 models of two layers, by `transformers` too, and sources for them."""

from __future__ import annotations

import random

import pytest
import torch

TINY = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 37,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}


def reference(folder, seed: int = 1, **changes):
    transformers = pytest.importorskip(
        "transformers", reason="compares with transformers, not here"
    )
    changes = dict(changes)
    own_output = changes.pop("own output", False)
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**TINY, **changes}))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        elif "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter)
    if own_output:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return model.eval()


def sources(seed: int, batch: int = 4, width: int = 9):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 61, (batch, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, :3] = 0
    return ids, mask


def random_settings(draw: random.Random, beams: bool, sampling: bool = False) -> dict:
    """Settings of `generate` for both sides; a warper applies only with `sampling`."""
    settings = {
        "max_new_tokens": draw.choice([1, 2, 5, 12, 20]),
        "min_new_tokens": draw.choice([0, 0, 1, 4]),
        "no_repeat_ngram_size": draw.choice([0, 0, 1, 2, 3]),
        "repetition_penalty": draw.choice([1.0, 1.0, 1.3, 0.8]),
    }
    settings["min_new_tokens"] = min(settings["min_new_tokens"], settings["max_new_tokens"])
    if beams:
        settings["num_beams"] = draw.choice([2, 3, 5])
        settings["length_penalty"] = draw.choice([1.0, 0.0, 2.0, 0.6, -1.0])
        settings["early_stopping"] = draw.choice([True, False, "never"])
        settings["num_return_sequences"] = draw.randint(1, settings["num_beams"])
    if sampling:
        settings["do_sample"] = True
        settings["temperature"] = draw.choice([0.7, 1.0, 1.5])
        settings["top_k"] = draw.choice([0, 5, 40])  # 0 too, since transformers has another default
        settings["top_p"] = draw.choice([0.5, 0.8, 1.0])
    return settings
