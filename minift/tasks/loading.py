"""The model that a run starts from; and a task's model and settings, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minift.errors import NonFiniteError, UserError
from minift.files import write_json, write_manifest
from minift.generation.config import GenerationConfig
from minift.models.base import PretrainedModel
from minift.models.config import CONFIG, default_labels
from minift.models.seq2seq import Seq2SeqConfig
from minift.options import shorten
from minift.tasks.options import TaskOptions
from minift.text.tokenizer import TOKENIZER_FILES, Tokenizer
from minift.weights import WEIGHTS

GENERATION_CONFIG = "generation_config.json"

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
    labels: the names of the classes: a checkpoint fine-tuned on the same labels, one for each text,
        keeps its head and the order of its labels; any other gets a new head, also one whose head
        is incomplete.  Or the number of the head's rows, if
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
        wanted = replace(config, **changes)
    except ValueError as error:
        raise UserError(f"{options.model}: {error}; give another value") from None
    if labels is None:
        model = model_class.from_pretrained(folder, **changes)
    elif isinstance(labels, int):
        fits = model_class.head_fits(folder, replace(wanted, labels=default_labels(labels)))
        model = model_class.from_pretrained(
            folder, num_labels=labels, reset_head=not fits, **changes
        )
    else:
        same = config.labels is not None and set(config.labels) == set(labels)
        # A head for several labels at once, or for a number, was trained for another loss.
        same = same and config.problem_type in (None, "single_label_classification")
        same = same and model_class.head_fits(folder, wanted)
        model = model_class.from_pretrained(
            folder, labels=config.labels if same else labels, reset_head=not same, **changes
        )
    if options.from_scratch:
        model.apply(model.init_weights)
        model.load_report = None  # no weight of the checkpoint is left
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.check_fits(config.vocab_size)
    limit = config.max_tokens
    if options.max_length is not None and config.has_max_tokens and options.max_length > limit:
        raise UserError(
            f"--max-length is {options.max_length}, but {options.model} reads at most {limit} "
            "tokens; give a smaller value"
        )
    max_length = options.max_length or limit
    # The saved tokenizer has the task's limit, so that `transformers` truncates alike.
    return model, tokenizer.for_model(config.input_names, max_length), max_length


def save_task(
    model: PretrainedModel, tokenizer: Tokenizer, folder: str | Path, **settings: Any
) -> None:
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
    write_manifest(Path(folder), (CONFIG, WEIGHTS, *TOKENIZER_FILES))


def save_generation(
    model: PretrainedModel, folder: Path, generation: GenerationConfig, source_prefix: str
) -> None:
    """Write generation_config.json; call it before `save_task`.

    With it `generate` of `transformers` gives the task's predictions.  The pipeline "summarization"
    of its 4.x has beams and a length of its own, unless config.json has settings for it.
    """
    ids = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    settings = generation.to_dict()
    ids_of = {name: getattr(model.config, name) for name in ids}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / GENERATION_CONFIG, {**settings, **ids_of})
    params = {"summarization": {"prefix": source_prefix, **settings}}
    other_keys = {**model.config.other_keys, "task_specific_params": params}
    model.config = replace(model.config, other_keys=other_keys)


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
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.check_fits(model.config.vocab_size)
    return model, tokenizer.for_model(model.config.input_names), settings


def saved_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under "minift" in the contents of a config.json; {} if there are none.

    >>> saved_settings({"hidden_size": 8, "minift": {"task": "ner"}})
    {'task': 'ner'}
    """
    settings = config.get("minift")
    return settings if isinstance(settings, dict) else {}


def check_special_tokens(source: object, config: Seq2SeqConfig, tokenizer: Tokenizer) -> None:
    """Refuse an encoder-decoder whose config.json and tokenizer name different special tokens.

    It would be trained towards the end token of one and stop at that of the other.

    source: the checkpoint, for the message.
    """
    for name in ("eos_token", "pad_token"):
        ours, theirs = getattr(tokenizer, f"{name}_id"), getattr(config, f"{name}_id")
        if ours is None:
            raise UserError(
                f"{source}: the tokenizer has no {name}, which every summary needs; name it in "
                "tokenizer_config.json"
            )
        if ours != theirs:
            raise UserError(
                f"{source}: {name}_id is {theirs} in {CONFIG}, but the tokenizer's {name} "
                f"{shorten(tokenizer.convert_ids_to_tokens([ours])[0])} has the id {ours}; "
                "correct the wrong one"
            )
    start = config.decoder_start_token_id
    if start not in map(tokenizer.id_of, tokenizer.control_tokens):
        raise UserError(
            f"{source}: decoder_start_token_id is {start} in {CONFIG}, which is no special token "
            "of the tokenizer; correct it"
        )
