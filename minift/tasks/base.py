"""The interface between a task and the training loop, and the functions that all tasks share.

    records  ->  features  ->  batches  ->  loss                       training
                 features  ->  predictions  ->  score                  evaluation

The training loop, the checkpoints and the reports use only the protocol `Task`, so no line of them
depends on the task that runs.

Dimensions: B batch, T tokens of the longest text in the batch, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from minift import hub
from minift.data.batching import pad, progress_bar, sorted_batches
from minift.data.read import builtin
from minift.errors import UserError
from minift.files import write_manifest
from minift.models.base import CONFIG, PretrainedModel
from minift.models.registry import model_class
from minift.options import check_range, option
from minift.tasks.data_checks import overlaps
from minift.text.tokenizer import TOKENIZER_FILES, Tokenizer
from minift.weights import WEIGHTS


@dataclass(frozen=True)
class TaskOptions:
    """The model to start from and the data."""

    default_learning_rate: ClassVar[float] = 5e-5  # with all parameters trained

    model: str = option(
        "all-MiniLM-L6-v2", "Folder, name under weights/ or hub id of the model.", common=True
    )
    train_file: tuple[Path, ...] = option(
        (), "Training data, one file or several; default: the built-in set.", common=True
    )
    dev_file: Path | None = option(None, "Data that the best model is chosen on.", common=True)
    test_file: Path | None = option(
        None, "Data that the best model is scored on at the end.", common=True
    )
    max_length: int | None = option(
        None, "Maximum number of tokens of an input; default: the model's limit.", common=True
    )
    dropout: float | None = option(
        None, "Probability of every dropout in the model; 0: off; default: the checkpoint's."
    )
    label_smoothing: float = option(
        0.0, "Label smoothing: share of the target probability spread over all classes; 0: off."
    )
    from_scratch: bool = option(
        False, "Re-initialise all weights, to measure the contribution of pretraining."
    )

    def __post_init__(self) -> None:
        check_range(self, "max_length", 3)
        for name in ("dropout", "label_smoothing"):
            check_range(self, name, 0, 0.99)
        if isinstance(self.train_file, str | Path):  # one file, as people write it in Python
            object.__setattr__(self, "train_file", (Path(self.train_file),))
        if not self.train_file and (self.dev_file or self.test_file):
            raise ValueError("--dev-file and --test-file need a --train-file that they belong to")

    @property
    def training_data(self) -> str:
        """The training files, as error messages name them."""
        return ", ".join(map(str, self.train_file)) or "the built-in set"

    def files(self, built_in: str) -> dict[str, tuple[Path, ...]]:
        """Split name -> the files given, or else those of the built-in set.

        built_in: the file name of the built-in set, `{}` for the split: "reviews.{}.tsv".
        """
        if not self.train_file:
            return {s: (builtin(built_in.format(s)),) for s in ("train", "dev", "test")}
        later = {"dev": self.dev_file, "test": self.test_file}
        return {"train": self.train_file, **{s: (path,) for s, path in later.items() if path}}


class Feature(Protocol):
    """One input of the model, made from a record or from a part of it."""

    record: int  # index of the record in its split

    @property
    def length(self) -> int:
        """Number of tokens, special tokens included."""


class Batch(Protocol):
    """Features as tensors."""

    real_tokens: int  # without padding
    all_tokens: int  # with padding

    def to(self, device: Any) -> Batch: ...


class Task(Protocol):
    """Everything that depends on the task.  Immutable: training changes only the model.

    Tasks inherit the methods that have a body, and override them where needed.
    """

    name: str
    model_kind: type[PretrainedModel]  # the base class of the models that do the task
    metric: str  # chooses the best model; higher is better
    baseline_name: str  # describes the prediction that `baseline_score` scores

    @classmethod
    def from_options(cls, options: Any) -> tuple[Task, PretrainedModel, dict[str, Sequence[Any]]]:
        """Read the data and load a model for it: (task, model, split name -> records)."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[Task, PretrainedModel]:
        """The task and the model that `save` wrote, for prediction."""

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[Any]:
        """Records without labels, from lines of text or from a data file.

        questions: asked of every input; `UserError` if the task answers no questions.
        """

    def describe(self, records: Sequence[Any], features: Sequence[Any]) -> str:
        """The first record as text, tokens and labels, and counts; printed before training."""

    def input_key(self, record: Any) -> Hashable:
        """The model's input in a record, without the label; finds duplicate records."""

    def data_checks(
        self, splits: Mapping[str, Sequence[Any]], features: Mapping[str, Sequence[Feature]]
    ) -> list[str]:
        """Warnings about usable but doubtful data; printed before training."""
        return overlaps(self.input_key, splits)

    def featurize(self, records: Sequence[Any], training: bool = False) -> list[Feature]:
        """One or more features for each record.

        training: with the targets of training; a task may then omit some features.
        """

    def precompute_encoder_outputs(
        self, model: Any, features: Sequence[Feature], batch_size: int
    ) -> list[Feature]:
        """The same features with the frozen encoder's outputs, which are computed once."""

    def collate(self, features: Sequence[Feature]) -> Batch: ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the losses and their number (or total weight), scalars.

        The training loop divides the sum of all micro-batches of a step by their total number, so
        gradient accumulation equals one large batch, up to rounding and dropout.
        """

    def predict(self, model: Any, features: Sequence[Feature], batch_size: int) -> list[Any]:
        """One prediction for each record of the features, in the order of the records."""

    def score(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Metric name -> value.  Every metric that is a number can choose the best model."""

    def baseline_score(self, train: Sequence[Any], dev: Sequence[Any]) -> float:
        """The value of `metric` on the dev records for a prediction made without a model.

        A run whose best model is no better has collapsed (Mosbach et al. 2021, "On the stability
        of fine-tuning BERT").
        """

    def format_report(
        self, predictions: Sequence[Any], records: Sequence[Any], score: dict[str, Any]
    ) -> str:
        """The printed summary of a run: a table of scores, and some predictions."""

    def to_rows(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[dict]:
        """The lines of predictions.*.jsonl: for each record its input, gold, predicted, score."""

    def to_lines(
        self, predictions: Sequence[Any], records: Sequence[Any], colour: bool = False
    ) -> list[str]:
        """One string for each prediction, to be printed; `colour`: with a terminal's colours."""

    def exports(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Predictions in the formats of official scorers: name of a JSON file -> its content."""
        return {}

    def with_tuned(self, score: dict[str, Any]) -> Task:
        """The task with the values tuned on dev, such as the null threshold of QA."""
        return self

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Write the model and everything that `from_pretrained` needs."""


# ---- shared by the tasks -----------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFeature:
    """The tokens of a text or of one window; each task adds its own fields.

    encoder_outputs: (H,) for the text or (T, H) for its tokens, from a frozen encoder; else None.
    """

    record: int
    input_ids: list[int]
    token_type_ids: list[int]
    encoder_outputs: Tensor | None = field(default=None, kw_only=True)

    @property
    def length(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class TokenBatch:
    """The input of an encoder, and the labels.

    input_ids, attention_mask, token_type_ids: (B, T).
    labels: (B,) or (B, T), depending on the task; None in prediction.
    weights: (B,) factors of the losses; None: all 1.
    encoder_outputs: (B, H) or (B, T, H) from a frozen encoder; None: not precomputed.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor | None
    real_tokens: int
    all_tokens: int
    weights: Tensor | None = None
    encoder_outputs: Tensor | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def score_table(heading: str, scores: Mapping[str, Mapping[str, float]], support: str) -> list[str]:
    """Precision, recall, F1 and support of each label or type, as lines of text.

    heading, support: the headings of the first and of the last column.
    """
    width = max(map(len, [*scores, heading]))
    return [
        f"{heading:{width}}  precision  recall     f1  {support}",
        *(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}"
            f"  {row['support']:{len(support)}d}"
            for name, row in scores.items()
        ),
    ]


def token_batch(features: Sequence[TokenFeature], pad_id: int, **fields: Any) -> TokenBatch:
    """Features padded on the right to one length; `fields`: further fields of the batch."""
    input_ids = pad([feature.input_ids for feature in features], pad_id)  # (B, T)
    if features[0].encoder_outputs is not None:
        outputs = [feature.encoder_outputs for feature in features]
        padded = torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True)  # (B, H) or (B, T, H)
        fields["encoder_outputs"] = padded
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=pad([[1] * feature.length for feature in features], 0),
        token_type_ids=pad([feature.token_type_ids for feature in features], 0),
        real_tokens=sum(feature.length for feature in features),
        all_tokens=input_ids.numel(),
        **fields,
    )


def load_initial_model(
    options: TaskOptions, task: type[Task], labels: tuple[str, ...] | int | None, **changes: Any
) -> tuple[PretrainedModel, Tokenizer, int]:
    """The model that a run starts from, its tokenizer, and the maximum number of input tokens.

    labels: the names of the classes: a checkpoint fine-tuned on the same labels keeps its head and
        the order of its labels; any other gets a new head.  Or the number of the head's rows, if
        the rows mean the same for all data (an answer's start and end): a checkpoint fine-tuned for
        the task keeps its head.  Or None, if the task needs no head.
    changes: fields of the model's config.

    Raises `UserError` if model, tokenizer and `--max-length` do not fit together.
    """
    folder = hub.find_checkpoint(options.model)
    family = model_class(folder, task.model_kind, task.name)
    config = family.config_class.from_pretrained(folder)
    if options.dropout is not None:
        changes.update(config.with_dropout(options.dropout))
    if labels is None:
        model = family.from_pretrained(folder, **changes)
    elif isinstance(labels, int):
        model = family.from_pretrained(folder, num_labels=labels, **changes)
    else:
        same = config.labels is not None and set(config.labels) == set(labels)
        model = family.from_pretrained(
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


def refuse_questions(questions: Sequence[str], task: str) -> None:
    """`UserError` if `predict.py` was given questions for a task that answers none."""
    if questions:
        raise UserError(
            f"--question is {questions[0]!r:.60}, but the model was trained for {task}, which "
            "answers no questions; leave it out"
        )


def run_batches(
    task: Task,
    model: PretrainedModel,
    forward: Callable[..., Tensor],
    features: Sequence[Feature],
    batch_size: int,
    label: str,
) -> list[Tensor]:
    """The output for each feature, on the CPU, in float32; computed in batches of similar length.

    forward: (input_ids, attention_mask, token_type_ids), each (B, T) -> (B, ...).  Features with
        precomputed encoder outputs go through the model's head instead.
    label: of the progress bar.
    """
    outputs: dict[int, Tensor] = {}
    model.eval()
    batches = sorted_batches([feature.length for feature in features], batch_size)
    with torch.inference_mode():
        for indices in progress_bar(batches, label, len(batches)):
            batch = task.collate([features[i] for i in indices]).to(model.device)
            if batch.encoder_outputs is not None:
                rows = model.head(batch.encoder_outputs)
            else:
                rows = forward(batch.input_ids, batch.attention_mask, batch.token_type_ids)
            outputs.update(zip(indices, rows.float().cpu(), strict=True))
    return [outputs[i] for i in range(len(features))]


def with_encoder_outputs(
    task: Task, model: Any, features: Sequence[TokenFeature], batch_size: int
) -> list[Any]:
    """The features with the outputs of the frozen encoder.

    The encoder runs in eval mode, without dropout, so its outputs are the same in every epoch and
    are computed once.
    """
    outputs = run_batches(task, model, model.features, features, batch_size, "encode")
    extended = []
    for feature, output in zip(features, outputs, strict=True):  # (H,) or (T, H)
        unpadded = output if output.dim() == 1 else output[: feature.length].clone()
        extended.append(replace(feature, encoder_outputs=unpadded))
    return extended


# Settings of runs that an earlier version saved: they must not be ignored silently.
RENAMED_SETTINGS = {
    "long_text": "truncation",
    "way_back": "aggregation_strategy (mean is average)",
    "overlap": "doc_stride",
    "n_best": "n_best_size",
    "prefix": "source_prefix",
    "beam_stopping": "beam_early_stopping",
}


def save_task(model: PretrainedModel, tokenizer: Tokenizer, folder: Path, **settings: Any) -> None:
    """Save model and tokenizer; config.json keeps under "minift" the settings for prediction."""
    other_keys = {**model.config.other_keys, "minift": settings}
    model.config = replace(model.config, other_keys=other_keys)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, (CONFIG, WEIGHTS, *TOKENIZER_FILES))


def load_task(folder: Path, task: type[Task]) -> tuple[PretrainedModel, Tokenizer, dict[str, Any]]:
    """The model, the tokenizer and the settings that `save_task` saved."""
    model = model_class(folder, task.model_kind, task.name).from_pretrained(folder)
    settings = model.config.other_keys.get("minift", {})
    for name in settings:
        if name in RENAMED_SETTINGS:
            raise UserError(
                f'{folder / CONFIG}: the setting {name!r} under "minift" is now '
                f"{RENAMED_SETTINGS[name]!r}; rename it there"
            )
    return model, Tokenizer.from_pretrained(folder), settings
