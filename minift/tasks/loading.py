"""The model that a run starts from; and a task's model and settings, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minift.errors import NonFiniteError, UserError
from minift.files import write_manifest
from minift.models.base import CONFIG, PretrainedModel
from minift.tasks.options import TaskOptions
from minift.text.tokenizer import TOKENIZER_FILES, Tokenizer
from minift.weights import WEIGHTS

# Settings of runs that an earlier version saved: they must not be ignored silently.
RENAMED_SETTINGS = {
    "long_text": "truncation",
    "way_back": "aggregation_strategy (mean is average)",
    "overlap": "doc_stride",
    "n_best": "n_best_size",
    "prefix": "source_prefix",
    "beam_stopping": "beam_early_stopping",
}


def load_initial_model(
    options: TaskOptions,
    folder: Path,
    model_class: type[PretrainedModel],
    labels: tuple[str, ...] | int | None,
    **changes: Any,
) -> tuple[PretrainedModel, Tokenizer, int]:
    """The model that a run starts from, its tokenizer, and the maximum number of input tokens.

    folder, model_class: of the checkpoint that `options.model` names.
    labels: the names of the classes: a checkpoint fine-tuned on the same labels keeps its head and
        the order of its labels; any other gets a new head.  Or the number of the head's rows, if
        the rows mean the same for all data (an answer's start and end): a checkpoint fine-tuned for
        the task keeps its head, and one with another number of labels gets a new head.  Or None, if
        the task needs no head.
    changes: fields of the model's config.

    Raises `UserError` if model, tokenizer and `--max-length` do not fit together.
    """
    config = model_class.config_class.from_pretrained(folder)
    if options.dropout is not None:
        changes.update(config.with_dropout(options.dropout))
    try:
        replace(config, **changes)
    except ValueError as error:
        raise UserError(f"{options.model}: {error}; give another value") from None
    if labels is None:
        model = model_class.from_pretrained(folder, **changes)
    elif isinstance(labels, int):
        other = config.labels is not None and len(config.labels) != labels
        model = model_class.from_pretrained(folder, num_labels=labels, reset_head=other, **changes)
    else:
        same = config.labels is not None and set(config.labels) == set(labels)
        model = model_class.from_pretrained(
            folder, labels=config.labels if same else labels, reset_head=not same, **changes
        )
    if options.from_scratch:
        model.apply(model.init_weights)
        model.load_report = None  # no weight of the checkpoint is left
    tokenizer = Tokenizer.from_pretrained(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, but the model only "
            f"{config.vocab_size} embeddings; use the tokenizer that belongs to the model"
        )
    limit = config.max_tokens
    if options.max_length is not None and config.has_max_tokens and options.max_length > limit:
        raise UserError(
            f"--max-length is {options.max_length}, but {options.model} reads at most {limit} "
            "tokens; give a smaller value"
        )
    return model, tokenizer, options.max_length or limit


def save_task(model: PretrainedModel, tokenizer: Tokenizer, folder: Path, **settings: Any) -> None:
    """Save model and tokenizer; config.json keeps under "minift" the settings for prediction.

    Raises `NonFiniteError` if a weight is inf or nan, as after a last step that was too large.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NonFiniteError(
                f"{name} of the trained model is not finite; lower the learning rate"
            )
    other_keys = {**model.config.other_keys, "minift": settings}
    model.config = replace(model.config, other_keys=other_keys)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, (CONFIG, WEIGHTS, *TOKENIZER_FILES))


def load_task(
    folder: Path, model_class: type[PretrainedModel]
) -> tuple[PretrainedModel, Tokenizer, dict[str, Any]]:
    """The model, the tokenizer and the settings that `save_task` saved; {} for other checkpoints.

    Raises `UserError` for a setting that has another name now.
    """
    model = model_class.from_pretrained(folder)
    settings = saved_settings(model.config.other_keys)
    for name in settings:
        if name in RENAMED_SETTINGS:
            raise UserError(
                f'{folder / CONFIG}: the setting {name!r} under "minift" is now '
                f"{RENAMED_SETTINGS[name]!r}; rename it there"
            )
    return model, Tokenizer.from_pretrained(folder), settings


def saved_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under "minift" in the contents of a config.json; {} if there are none.

    >>> saved_settings({"hidden_size": 8, "minift": {"task": "ner"}})
    {'task': 'ner'}
    """
    settings = config.get("minift")
    return settings if isinstance(settings, dict) else {}
