"""The config of a model, read from config.json and written back.

`to_dict` describes the model that is saved: its labels, its class, its sizes.  Of the keys that
minift does not read, those about another head, another task or the file itself are dropped
(`DROPPED_KEYS`), all others are written back.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from minift.errors import UserError
from minift.files import is_present, read_json_object
from minift.options import check_fields, check_type, is_one_of, shorten

ConfigType = TypeVar("ConfigType", bound="PretrainedConfig")

CONFIG = "config.json"
# model_type in config.json of a model that `transformers` would compute otherwise is this and the
# family's name: "minift-bert".  `transformers` goes by model_type and refuses a name it lacks.
OWN_PREFIX = "minift-"
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Keys of config.json that describe the file and not the model; `to_dict` omits them.
DROPPED_KEYS = frozenset(
    {
        # the head, which is written from the model, and the task before this one
        *("num_labels", "_num_labels", "label2id", "finetuning_task", "task_specific_params"),
        # the file: its place, the program that wrote it, the precision and the code of its weights
        *("_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"),
        *("quantization_config", "auto_map"),
        # generation: of the task before this one; that of a new one is in generation_config.json
        *("prefix", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample"),
        *("early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
        *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
        *("num_return_sequences", "forced_bos_token_id", "forced_eos_token_id"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
        *("begin_suppress_tokens", "output_scores", "return_dict_in_generate"),
    }
)

# The types of the keys that are read although they are no fields of a config.
KEY_TYPES: dict[str, Any] = {
    "model_type": str | None,
    "architectures": list[str] | None,
    "num_labels": int | None,
    "minift": dict[str, Any],  # settings for prediction, see tasks/loading.py
}
# So that a config.json that is written can be read, whatever its labels.
MAX_LABELS, MAX_LABEL_CHARS = 100_000, 1_000_000

# Fields of a config that `to_dict` writes in another way, or not at all.
NOT_WRITTEN = ("labels", "problem_type", "head_error", "other_keys", "attn_implementation")


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The size of a new model of any family.

    max_tokens: of the longest input.  dropout: the probability of every dropout.
    pad_token_id, eos_token_id: of the tokenizer; None: it has no end token.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_tokens: int
    dropout: float
    pad_token_id: int
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(ABC):
    """The fields that every family's config.json shares."""

    model_type: ClassVar[str]
    # Fields of config.json that change the computation: name -> the values that the family
    # implements.  A checkpoint with another value is refused.
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {}
    disk_names: ClassVar[Mapping[str, str]] = {}  # field -> its key in config.json, if another
    dropouts: ClassVar[Sequence[str]] = ()  # the fields that are probabilities of a dropout
    has_max_tokens: ClassVar[bool] = True  # no text may exceed `max_tokens`

    labels: tuple[str, ...] | None = None  # class names, in the order of the logits
    problem_type: str | None = None  # of a head on whole texts, one of PROBLEM_TYPES; None: unknown
    # Why id2label or problem_type cannot be used; an error only if the checkpoint's head is.
    head_error: str | None = None
    # "sdpa": torch's kernels; "eager": the formula written out
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    architectures: tuple[str, ...] = ()  # the model class that was saved
    # The keys of config.json that minift does not read; `to_dict` writes them back.
    other_keys: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(type(self), vars(self))
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"label names must differ, not {list(self.labels)}")

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Maximum number of tokens of a text, special tokens included."""

    @property
    def has_token_types(self) -> bool:
        """Whether the model tells the first text of a pair from the second by token types."""
        return False

    @property
    def input_names(self) -> list[str]:
        """The tokenizer's outputs that the model takes, as `transformers` names them."""
        types = ["token_type_ids"] if self.has_token_types else []
        return ["input_ids", *types, "attention_mask"]

    @classmethod
    @abstractmethod
    def from_size(cls: type[ConfigType], size: ModelSize) -> ConfigType:
        """The config of a new model of this size, for pre-training."""

    @classmethod
    def with_dropout(cls, probability: float) -> dict[str, float]:
        """The fields that set every dropout to this probability."""
        return dict.fromkeys(cls.dropouts, probability)

    @classmethod
    def from_dict(cls: type[ConfigType], values: Mapping[str, Any], **overrides: Any) -> ConfigType:
        """A config from the contents of a config.json.

        overrides: fields with other values than in the file.
        Raises `ValueError`, which names the field, for an unsupported value.
        """
        check_keys(values)
        ours = {theirs: name for name, theirs in cls.disk_names.items()}
        values = {ours.get(key, key): value for key, value in values.items()}
        values.pop("attn_implementation", None)  # how somebody ran the model, not what it is
        found = values.pop("model_type", None)
        if family_name(found) != cls.model_type:
            raise ValueError(f"model_type is {shorten(found)}, not {cls.model_type!r}")
        for name, allowed in cls.supported_values.items():
            if not is_one_of(value := values.get(name, allowed[0]), allowed):
                raise ValueError(f"{name} is {shorten(value)}; only {allowed[0]!r} is supported")
        values |= read_head_keys(values.pop("id2label", None), values.pop("problem_type", None))
        values["architectures"] = tuple(values.get("architectures") or ())
        own = {f.name for f in dataclasses.fields(cls)} - {"other_keys"}
        known = {name: value for name, value in values.items() if name in own}
        other_keys = {
            name: value for name, value in values.items() if name not in own | DROPPED_KEYS
        }
        unknown = set(overrides) - own
        if unknown:
            raise TypeError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
        return cls(**{**known, **overrides}, other_keys=other_keys)

    @classmethod
    def from_pretrained(cls: type[ConfigType], folder: str | Path, **overrides: Any) -> ConfigType:
        """The config in a checkpoint's folder; `UserError` names the file if it is unusable."""
        path = Path(folder) / CONFIG
        values = read_config(Path(folder))
        try:
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            message = str(error)
            for name, key in cls.disk_names.items():
                message = re.sub(rf"\b{name}\b", key, message)
            raise UserError(f"{path}: {message}; use the config.json of the checkpoint") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json, under the names that `transformers` uses."""
        own = {
            self.disk_names.get(f.name, f.name): getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in NOT_WRITTEN
        }
        values = {**self.other_keys, **own, "model_type": self.model_type, "dtype": "float32"}
        if self.problem_type is not None:
            values["problem_type"] = self.problem_type
        if self.labels is not None:
            values["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            values["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return values


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a checkpoint's config.json.

    `UserError` says what the folder is, where it holds no model.
    """
    path = folder / CONFIG
    if is_present(path):
        values = read_json_object(path)
        try:
            check_keys(values)
        except ValueError as error:
            raise UserError(f"{path}: {error}; use the config.json of the checkpoint") from None
        return values
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {found}; give the folder of a model")
    if is_present(folder / "adapter_config.json"):
        raise UserError(
            f"{folder}: holds a LoRA adapter and no {CONFIG}; give the folder of the whole model, "
            "which training saved beside it"
        )
    models = sorted(inner.parent.name for inner in folder.glob(f"*/{CONFIG}"))
    inside = f" ({', '.join(models)[:200]} in it hold one)" if models else ""
    raise UserError(f"{folder}: holds no {CONFIG}{inside}; give the folder of a model")


def check_keys(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a key in `KEY_TYPES` has another type."""
    for name, kind in KEY_TYPES.items():
        if name in values:
            check_type(name, values[name], kind)


def family_name(model_type: object) -> object:
    """The family of a model_type: "bert" of "bert" and of "minift-bert"."""
    return model_type.removeprefix(OWN_PREFIX) if isinstance(model_type, str) else model_type


def read_head_keys(id2label: Any, problem_type: Any) -> dict[str, Any]:
    """The fields of a config that describe the head, from the values in config.json.

    >>> read_head_keys({"0": "neg", "1": "pos"}, None)["labels"]
    ('neg', 'pos')
    >>> read_head_keys({"1": "neg", "2": "pos"}, None)["head_error"]
    "id2label must map '0', '1', ... to names that differ, not {'1': 'neg', '2': 'pos'}"
    """
    labels, error = None, None
    if id2label is not None:
        numbers = list(map(str, range(len(id2label)))) if isinstance(id2label, dict) else []
        if 0 < len(numbers) <= MAX_LABELS and set(id2label) == set(numbers):
            names = [id2label[number] for number in numbers]
            if all(isinstance(name, str | int) and not isinstance(name, bool) for name in names):
                labels = tuple(map(str, names))
        if labels is None or len(set(labels)) != len(labels):
            labels = None
            error = f"id2label must map '0', '1', ... to names that differ, not {shorten(id2label)}"
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        error = (
            f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, not {shorten(problem_type)}"
        )
        problem_type = None
    return {"labels": labels, "problem_type": problem_type, "head_error": error}


def default_labels(count: int) -> tuple[str, ...]:
    """The names that `transformers` gives to classes without names."""
    return tuple(f"LABEL_{i}" for i in range(count))
