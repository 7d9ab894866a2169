"""What the training loop knows of a task: records become features, features become batches, a
batch gives a loss, features give predictions, predictions give a score.

The loop, the checkpoints and the reports see only the protocol in this file, so they never ask
which task they run.  Below it stands what the tasks themselves share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from minift import hub
from minift.data.batching import pad, progress, sorted_batches
from minift.data.read import builtin
from minift.errors import InputError
from minift.files import write_manifest
from minift.models.base import CONFIG, PretrainedModel
from minift.models.registry import model_class
from minift.tasks.data_checks import overlaps
from minift.text.tokenizer import TOKENIZER_FILES, Tokenizer
from minift.weights import WEIGHTS


def option(default: Any, sentence: str) -> Any:
    """A field of an options dataclass with the sentence that --help shows."""
    return dataclasses.field(default=default, metadata={"help": sentence})


def check_range(options: object, name: str, low: float, high: float = float("inf")) -> None:
    """`ValueError` if an option is outside its bounds."""
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {bounds}")


@dataclass(frozen=True)
class TaskOptions:
    """Where a task's model and data come from."""

    usual_rate: ClassVar[float] = 5e-5  # learning rate of the whole model

    model: str = option("all-MiniLM-L6-v2", "Folder, name under weights/ or hub id to start from.")
    train_file: tuple[Path, ...] = option(
        (), "Training data, a file or several; without any the built-in set is used."
    )
    dev_file: Path | None = option(None, "Data that the best model is chosen on.")
    test_file: Path | None = option(None, "Data that the best model is tested on at the end.")
    max_length: int | None = option(
        None, "Longest input in tokens; if not given, the model's limit."
    )
    dropout: float | None = option(None, "Dropout of the whole model instead of the checkpoint's.")
    attention_dropout: float | None = option(None, "Dropout of what attention looks at alone.")
    head_dropout: float | None = option(None, "Dropout of what goes into the head alone.")
    label_smoothing: float = option(
        0.0, "Share of the probability spread evenly over all labels, tokens or places."
    )
    from_scratch: bool = option(
        False, "Start from random weights of the same shape: what is pre-training worth?"
    )

    def __post_init__(self) -> None:
        check_range(self, "max_length", 3)
        for name in ("dropout", "attention_dropout", "head_dropout", "label_smoothing"):
            check_range(self, name, 0, 0.99)
        if isinstance(self.train_file, str | Path):  # one file, as people write it in Python
            object.__setattr__(self, "train_file", (Path(self.train_file),))
        if not self.train_file and (self.dev_file or self.test_file):
            raise ValueError("--dev-file and --test-file need a --train-file that they belong to")

    @property
    def training_data(self) -> str:
        """What errors call it."""
        return ", ".join(map(str, self.train_file)) or "the built-in set"

    def files(self, built_in: str) -> dict[str, tuple[Path, ...]]:
        """Split name -> its files: those given, or else of the set that comes with minift.

        built_in: their name with `{}` for the split, as "reviews.{}.tsv".
        """
        if not self.train_file:
            return {s: (builtin(built_in.format(s)),) for s in ("train", "dev", "test")}
        later = {"dev": self.dev_file, "test": self.test_file}
        return {"train": self.train_file, **{s: (path,) for s, path in later.items() if path}}


class Feature(Protocol):
    """One model input, which knows its record."""

    record: int  # index of the record in its split

    @property
    def length(self) -> int:
        """Tokens, special ones included."""


class Batch(Protocol):
    """Features as tensors."""

    real_tokens: int  # without padding
    all_tokens: int  # with it

    def to(self, device: Any) -> Batch: ...


class Task(Protocol):
    """The whole story of a task.  Frozen: what training changes lives in the model.

    The methods with a body suit most tasks as they are.
    """

    name: str
    metric: str  # the metric that the best model is chosen by; more is better
    trivial_answer: str  # what `trivial_score` is the score of

    @classmethod
    def start(cls, options: Any) -> tuple[Task, PretrainedModel, dict[str, Sequence[Any]]]:
        """Read the data, load the model that fits it: (task, model, split name -> records)."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[Task, PretrainedModel]:
        """The task and the model that a run saved, for prediction."""

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[Any]:
        """Records without gold answers, from raw lines or from a data file.

        questions: to be asked of every input, where the task is about questions.
        """

    def describe(self, records: Sequence[Any], features: Sequence[Any]) -> str:
        """The first record as text, tokens and labels, and the counts: shown before training."""

    def asked(self, record: Any) -> Hashable:
        """What the model is asked of a record, without the answer."""

    def doubts(
        self, splits: Mapping[str, Sequence[Any]], features: Mapping[str, Sequence[Feature]]
    ) -> list[str]:
        """What may be wrong with data that can be used: shown before training, for a person."""
        return overlaps(self.asked, splits)

    def featurize(self, records: Sequence[Any], training: bool = False) -> list[Feature]:
        """One feature or more for each record; in training a task may leave some out."""

    def freeze(self, model: Any, features: Sequence[Feature], batch_size: int) -> list[Feature]:
        """The same features with what the frozen encoder makes of them, computed once."""

    def collate(self, features: Sequence[Feature]) -> Batch: ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the losses and their count (or weight), so that accumulation is exact."""

    def predict(self, model: Any, features: Sequence[Feature], batch_size: int) -> list[Any]:
        """One prediction for each record that the features come from, in the records' order."""

    def score(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Metrics; those of one number can choose the best model."""

    def trivial_score(self, train: Sequence[Any], dev: Sequence[Any]) -> float:
        """What `metric` is on dev records where no model is asked: a run must beat it.

        A run on few data that does not has collapsed (Mosbach et al. 2021, "On the stability of
        fine-tuning BERT").
        """

    def explain(
        self, predictions: Sequence[Any], records: Sequence[Any], score: dict[str, Any]
    ) -> str:
        """What was learned, for a person: a table of the score and some predictions."""

    def rows(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[dict]:
        """What predictions.*.jsonl says of each record: asked, gold, predicted, score."""

    def lines(
        self, predictions: Sequence[Any], records: Sequence[Any], colour: bool = False
    ) -> list[str]:
        """A line or more for a person on each prediction; `colour`: they go to a terminal."""

    def exports(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Predictions in formats of the field: name of a JSON file -> what it holds."""
        return {}

    def tuned(self, score: dict[str, Any]) -> Task:
        """The task with what the dev score decides beside the weights, such as a threshold."""
        return self

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Write the model and everything that `from_pretrained` needs."""


# ---- what tasks share --------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFeature:
    """A text, or one window of it, as an encoder reads it; tasks add what is theirs.

    vectors: what a frozen encoder made of it, or None: (H,) of the text or (T, H) of its tokens.
    """

    record: int
    ids: list[int]
    types: list[int]
    vectors: Tensor | None = field(default=None, kw_only=True)

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TokenBatch:
    """Features as an encoder reads them.

    ids, mask, types: (B, T).  labels: (B,) or (B, T), as the task has them; None in prediction.
    weights: (B,) what the loss of each counts, or None.  vectors: what a frozen encoder made of
    them, (B, H) or (B, T, H), or None.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor
    labels: Tensor | None
    real_tokens: int
    all_tokens: int
    weights: Tensor | None = None
    vectors: Tensor | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def score_table(what: str, scores: Mapping[str, Mapping[str, float]], counted: str) -> list[str]:
    """Precision, recall and F1 of each label or type, as lines of text."""
    width = max(map(len, [*scores, what]))
    return [
        f"{what:{width}}  precision  recall     f1  {counted}",
        *(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}"
            f"  {row['support']:{len(counted)}d}"
            for name, row in scores.items()
        ),
    ]


def token_batch(features: Sequence[TokenFeature], pad_id: int, **more: Any) -> TokenBatch:
    """Features side by side, padded at the right; `more`: the labels and what else a task has."""
    ids = pad([feature.ids for feature in features], pad_id)
    if features[0].vectors is not None:
        vectors = [feature.vectors for feature in features]  # (H,) are all of one length
        more["vectors"] = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)
    return TokenBatch(
        ids=ids,
        mask=pad([[1] * feature.length for feature in features], 0),
        types=pad([feature.types for feature in features], 0),
        real_tokens=sum(feature.length for feature in features),
        all_tokens=ids.numel(),
        **more,
    )


def load_start(
    options: TaskOptions, task: str, labels: tuple[str, ...] | int | None, **changes: Any
) -> tuple[PretrainedModel, Tokenizer, int]:
    """Model, tokenizer and longest input that a run starts from; `InputError` if they do not fit.

    A checkpoint fine-tuned on the same labels keeps its head, and its order of them; any other gets
    a new head.  Where all heads of a task mean the same, `labels` is how many rows they have, and a
    checkpoint fine-tuned for the task keeps its head; None: the task needs no head.
    changes: fields of the model's config.
    """
    folder = hub.resolve(options.model)
    family = model_class(folder, task)
    config = family.config_class.from_pretrained(folder)
    if options.dropout is not None:
        changes.update(dict.fromkeys(config.dropouts.values(), options.dropout))
    for place, rate in (("attention", options.attention_dropout), ("head", options.head_dropout)):
        if rate is not None and place not in config.dropouts:
            raise InputError(
                f"--{place}-dropout is {rate}, but {config.model_type} has one rate for the whole "
                "model; give --dropout"
            )
        if rate is not None:
            changes[config.dropouts[place]] = rate
    if labels is None:
        model = family.from_pretrained(folder, **changes)
    elif isinstance(labels, int):
        model = family.from_pretrained(folder, num_labels=labels, **changes)
    else:
        same = config.labels is not None and set(config.labels) == set(labels)
        model = family.from_pretrained(
            folder, labels=config.labels if same else labels, new_head=not same, **changes
        )
    if options.from_scratch:
        model.apply(model.init_weights)
        model.report = None  # nothing that was read is left
    tokenizer = Tokenizer.from_pretrained(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{config.vocab_size}; use the tokenizer that belongs to the model"
        )
    limit = config.max_position_embeddings
    if options.max_length is not None and config.hard_limit and options.max_length > limit:
        raise InputError(
            f"--max-length is {options.max_length}, but {options.model} reads at most {limit} "
            "tokens; give a smaller one"
        )
    return model, tokenizer, options.max_length or limit


def refuse_questions(questions: Sequence[str], task: str) -> None:
    if questions:
        raise InputError(
            f"--question is {questions[0]!r:.60}, but the model was trained for {task}, which "
            "answers no questions; leave it out"
        )


def run_batches(
    task: Task,
    model: PretrainedModel,
    forward: Callable[..., Tensor],
    features: Sequence[Feature],
    size: int,
    label: str,
) -> list[Tensor]:
    """One output for each feature, on the CPU, computed in batches of similar length.

    forward: (ids, mask, types) -> (B, ...); where a frozen encoder has done its part already, the
    model's head on its vectors instead.
    """
    outputs: dict[int, Tensor] = {}
    model.eval()
    batches = sorted_batches([feature.length for feature in features], size)
    with torch.inference_mode():
        for indices in progress(batches, label, len(batches)):
            batch = task.collate([features[i] for i in indices]).to(model.device)
            if batch.vectors is not None:
                rows = model.get_submodule(model.head)(batch.vectors)
            else:
                rows = forward(batch.ids, batch.mask, batch.types)
            outputs.update(zip(indices, rows.float().cpu(), strict=True))
    return [outputs[i] for i in range(len(features))]


def freeze_features(
    task: Task, model: Any, features: Sequence[TokenFeature], batch_size: int
) -> list[Any]:
    """The features with what the frozen encoder makes of them.

    Without dropout it says the same of a text each time, so it is asked once.
    """
    rows = run_batches(task, model, model.features, features, batch_size, "encode")
    frozen = []
    for feature, row in zip(features, rows, strict=True):
        own = row if row.dim() == 1 else row[: feature.length].clone()  # without padding
        frozen.append(replace(feature, vectors=own))
    return frozen


def save_task(model: PretrainedModel, tokenizer: Tokenizer, folder: Path, **settings: Any) -> None:
    """Model, tokenizer, and in config.json, under "minift", the settings that prediction needs."""
    model.config = replace(model.config, extra={**model.config.extra, "minift": settings})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, (CONFIG, WEIGHTS, *TOKENIZER_FILES))


def load_task(folder: Path, task: str) -> tuple[PretrainedModel, Tokenizer, dict[str, Any]]:
    """What `save_task` saved."""
    model = model_class(folder, task).from_pretrained(folder)
    settings = model.config.extra.get("minift", {})
    return model, Tokenizer.from_pretrained(folder), settings
