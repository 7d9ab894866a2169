"""Special tokens: their names, and the rule that a text never holds one.

A model has learned the meaning of [SEP] and </s> where the tokenizer put them.  The same characters
typed in a text must not end it or count as padding.  So minift reads control tokens in a text as
text:

    text                            "a [SEP] b"
    tokens of minift                a  [  sep  ]  b
    of transformers, by default     a  [SEP]  b           (with split_special_tokens=True as above)

Control tokens are those that stand for no text: the named ones, such as pad_token and eos_token,
and T5's sentinels <extra_id_0>, <extra_id_1>, ...  A marker that was added to a checkpoint so that
texts can contain it, such as [E1] in `additional_special_tokens`, stays one token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import models

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# In the order of their ids in vocabularies that minift trains.
WORDPIECE_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
UNIGRAM_SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
NONCHARACTER = "\U0010ffff"  # of Unicode: no text has it
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def content(token: str | Mapping[str, Any]) -> str:
    """The text of a special token, which may be stored together with its settings."""
    return token.get("content") if isinstance(token, Mapping) else token


def default_tokens(backend: tokenizers.Tokenizer) -> dict[str, str]:
    """The names of the special tokens in BERT's or T5's kind of vocabulary, if it has them.

    The padding token is named in any case, because no tokenizer can do without it.
    """
    kinds = {models.WordPiece: WORDPIECE_SPECIAL_TOKENS, models.Unigram: UNIGRAM_SPECIAL_TOKENS}
    usual = dict(kinds.get(type(backend.model), {}))
    if (unknown := unknown_token(backend)) is not None:
        usual["unk_token"] = unknown
    return {
        name: token
        for name, token in usual.items()
        if name == "pad_token" or backend.token_to_id(token) is not None
    }


def unknown_token(backend: tokenizers.Tokenizer) -> str | None:
    """The token that the model of a pipeline gives for an unknown subword; None: it has none."""
    try:
        found = backend.model.tokenize(NONCHARACTER)
    except Exception:  # the library's, where a vocabulary lacks the token that it names
        return None
    return backend.id_to_token(found[0].id) if len(found) == 1 else None


def control_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> list[str]:
    """The special tokens of a pipeline that stand for no text, the longest first.

    config: the tokenizer's settings, with the named tokens.
    """
    named = {content(config[name]) for name in NAMES if name in config}
    added = [token for token in backend.get_added_tokens_decoder().values() if token.special]
    sentinels = {token.content for token in added if SENTINEL.fullmatch(token.content)}
    known = {token for token in named | sentinels if backend.token_to_id(token) is not None}
    return sorted(known, key=lambda token: (-len(token), token))


def without_tokens(backend: tokenizers.Tokenizer, names: Iterable[str]) -> tokenizers.Tokenizer:
    """The same pipeline with the same ids, in which no text contains these tokens.

    Each gets a name that no text has.  To remove only the rule that cuts special tokens out of a
    text (`encode_special_tokens` of the library) would not do: Unigram finds "</s>" among the
    subword tokens of its vocabulary.
    """
    # It begins with a space too, at which every pipeline splits words.
    hidden = {name: f" {NONCHARACTER}{i}" for i, name in enumerate(names)}
    state = json.loads(backend.to_str())
    model = state["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
    if "unk_token" in model:
        model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    if "merges" in model:  # of BPE: a token that merges make would be found in a text
        model["merges"] = [
            (first, second)
            for first, second in model["merges"]
            if not {first, second, first + second[len(prefix) :]} & hidden.keys()
        ]
    for added in state["added_tokens"]:
        added["content"] = hidden.get(added["content"], added["content"])
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def spelled_in(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds these tokens in a text."""
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")
