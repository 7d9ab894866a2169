"""The interface of a task, and everything of a task that has a default.

    records  ->  features  ->  batches  ->  loss                       training
                 features  ->  predictions  ->  score                  evaluation

A task is a subclass of `Task` with six methods of its own, `read`, `featurize`, `collate`, `loss`,
`predict` and `score`, and a `Display` that shows it.  The training loop, the checkpoints and the
reports know tasks only through these two classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from minift import hub
from minift.data.read import numbered
from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.models.config import CONFIG
from minift.models.registry import model_class
from minift.options import LARGEST, check_fields, check_type, flag_of
from minift.tasks.batches import Batch, Feature, with_encoder_outputs
from minift.tasks.data_checks import overlaps, spelled_special_tokens, unknown_tokens
from minift.tasks.defaults import TrainDefaults
from minift.tasks.display import Display
from minift.tasks.loading import load_initial_model, load_task, save_task, saved_settings
from minift.tasks.options import TaskOptions
from minift.text.tokenizer import Tokenizer

TaskType = TypeVar("TaskType", bound="Task")


@dataclass(frozen=True)
class Metric:
    """A number of a task's score that may choose the best model, and which way it is better."""

    name: str
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """The factor after which more is better: 1 or -1."""
        return 1 if self.higher_is_better else -1

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is better than another; equal values are not.

        >>> Metric("accuracy").is_better(0.9, than=0.8), Metric("loss", False).is_better(0.9, 0.8)
        (True, False)
        """
        return self.sign * value > self.sign * than


@dataclass(frozen=True)
class Task(ABC):
    """Everything that depends on the task.  Immutable: training changes only the model.

    A subclass sets the class attributes without a value, or Python refuses its definition, and
    implements the six abstract methods, or Python refuses to make an instance.
    """

    name: ClassVar[str]
    model_kind: ClassVar[type[PretrainedModel]]  # base class of the models that do the task
    options_class: ClassVar[type[TaskOptions]]
    display_class: ClassVar[type[Display]]
    metrics: ClassVar[tuple[Metric, ...]]  # may choose the best model; the first is the default
    builtin_files: ClassVar[str] = ""  # of the built-in set, {} for the split; empty: there is none
    answers_questions: ClassVar[bool] = False  # about each input of a prediction
    baseline_name: ClassVar[str] = ""  # describes the prediction that `baseline_score` scores
    # Below so many training records, the recipe of training/defaults.py is the default; 0: never.
    few_records: ClassVar[int] = 0
    # Training options without a meaning for the task -> why, and what to do.
    unsupported_options: ClassVar[Mapping[str, str]] = {}
    # Options and further fields that prediction needs; saved with the model, under "minift" in
    # config.json.
    saved_options: ClassVar[tuple[str, ...]] = ()
    saved_fields: ClassVar[tuple[str, ...]] = ()

    options: TaskOptions
    tokenizer: Tokenizer
    max_length: int  # maximum number of tokens of an input, special tokens included
    labels: tuple[str, ...]  # names of the head's rows, in the order of the logits

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        required = ("name", "model_kind", "options_class", "display_class", "metrics")
        if missing := [name for name in required if not hasattr(cls, name)]:
            raise TypeError(f"{cls.__name__} does not say its {', '.join(missing)}; see Task")

    # ---- what each task does in its own way ----------------------------------------------------

    @classmethod
    @abstractmethod
    def read(
        cls, source: Path | Iterable[str], options: Any, *, require_labels: bool = True
    ) -> Iterable[Any]:
        """The records of a file; or, for prediction, those of lines of text.

        A record is a frozen dataclass with `id` and `where`, as `TextRecord` in data/read.py.
        require_labels: whether a record without a label is an error, as in training.
        Raises `UserError`, with file and line, for bad input.
        """

    @abstractmethod
    def featurize(self, records: Sequence[Any], training: bool = False) -> list[Any]:
        """One or more features for each record, each of which is a `Feature`.

        training: with the targets of training; a task may then omit some features.
        """

    @abstractmethod
    def collate(self, features: Sequence[Any]) -> Batch:
        """The features as tensors, padded to one length."""

    @abstractmethod
    def loss(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Sum of the losses and their number (or total weight), scalars.

        The training loop divides the sum of all micro-batches of a step by their total number, so
        gradient accumulation equals one large batch, up to rounding and dropout.
        """

    @abstractmethod
    def predict(self, model: Any, features: Sequence[Any], batch_size: int) -> list[Any]:
        """One prediction for each record of the features, in the order of the records."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Metric name -> value: all of `metrics` that the data allow, and more to show."""

    # ---- the data and the model ----------------------------------------------------------------

    @classmethod
    def model_class(cls, folder: Path) -> type[PretrainedModel]:
        """The class of the model for a checkpoint's folder; `UserError` if its family has none."""
        return model_class(folder, cls.model_kind, cls.name)

    @classmethod
    def from_options(
        cls: type[TaskType], options: Any
    ) -> tuple[TaskType, PretrainedModel, dict[str, list[Any]]]:
        """Read the data and load a model for it: (task, model, split name -> records)."""
        splits = cls.read_splits(options)
        return *cls.from_records(options, splits), splits

    @classmethod
    def from_records(
        cls: type[TaskType], options: Any, splits: Mapping[str, Sequence[Any]]
    ) -> tuple[TaskType, PretrainedModel]:
        """The task and the model for records in memory."""
        labels, changes = cls.labels_of(options, splits), cls.config_changes(options)
        folder = hub.find_checkpoint(options.model)
        model, tokenizer, max_length = load_initial_model(
            options, folder, cls.model_class(folder), labels, **changes
        )
        # A fine-tuned checkpoint may have the same labels in another order.
        return cls(options, tokenizer, max_length, model.config.labels or ()).fit(splits), model

    @classmethod
    def read_splits(cls, options: Any) -> dict[str, list[Any]]:
        """Split name -> records, from the files given or else from the built-in set."""
        if not options.train_file and not cls.builtin_files:
            raise UserError(f"--train-file is missing; give one, {cls.name} has no built-in set")
        return {
            split: numbered(record for path in paths for record in cls.read(path, options))
            for split, paths in options.files(cls.builtin_files).items()
        }

    @classmethod
    def labels_of(
        cls, options: Any, splits: Mapping[str, Sequence[Any]]
    ) -> tuple[str, ...] | int | None:
        """The names of the head's rows, or their number; None for a model without a head.

        Raises `UserError` for data that cannot be trained on.
        """
        return None

    @classmethod
    def config_changes(cls, options: Any) -> dict[str, Any]:
        """Fields of the model's config that the options change."""
        return {}

    @classmethod
    def train_defaults(cls, options: Any) -> TrainDefaults:
        """The training options that suit the task and the model of its options."""
        return TrainDefaults()

    def fit(self: TaskType, splits: Mapping[str, Sequence[Any]]) -> TaskType:
        """The task with everything that it takes from the training data, such as class weights.

        Raises `UserError` for a record of any split that does not fit the training data.
        """
        return self

    def has_trained(self, model: PretrainedModel) -> bool:
        """Whether the model, head included, is one that minift has trained for this task."""
        trained = saved_settings(model.config.other_keys).get("task") == self.name
        return trained and model.load_report is not None and not model.new_parameters

    def precompute_encoder_outputs(
        self, model: Any, features: Sequence[Any], batch_size: int
    ) -> list[Any]:
        """The same features with the frozen encoder's outputs, which are computed once."""
        return with_encoder_outputs(self.collate, model, features, batch_size)

    # ---- the score -----------------------------------------------------------------------------

    @classmethod
    def metric_named(cls, name: str | None) -> Metric:
        """The metric of `--metric-for-best-model`; None: the task's default.

        Raises `UserError`, which names the choices, for any other name.
        """
        for metric in cls.metrics:
            if name in (None, metric.name):
                return metric
        raise UserError(
            f"--metric-for-best-model is {name!r}, which {cls.name} does not compute; use one of "
            f"{', '.join(metric.name for metric in cls.metrics)}"
        )

    def baseline_score(self, train: Sequence[Any], dev: Sequence[Any]) -> float | None:
        """The value of the first metric on the dev records for a prediction made without a model.

        A run whose best model is no better has collapsed (Mosbach et al. 2021, "On the stability
        of fine-tuning BERT").  None: there is no such prediction.
        """
        return None

    def with_tuned(self: TaskType, score: dict[str, Any]) -> TaskType:
        """The task with the values tuned on dev, such as the null threshold of QA."""
        return self

    # ---- checks and texts ----------------------------------------------------------------------

    @property
    def display(self) -> Display:
        """Everything about showing this task."""
        return self.display_class(self)

    def input_key(self, record: Any) -> Hashable:
        """The model's input in a record, without the label; finds duplicate records.

        Default: all fields of the record, so that only equal records are duplicates.
        """
        ignored = ("id", "where", "extra")
        return tuple(value for name, value in vars(record).items() if name not in ignored)

    def data_checks(
        self, splits: Mapping[str, Sequence[Any]], features: Mapping[str, Sequence[Feature]]
    ) -> list[str]:
        """Warnings about usable but doubtful data; printed before training."""
        return [
            *overlaps(self.input_key, splits),
            *spelled_special_tokens(self.tokenizer, splits),
            *unknown_tokens(features, self.tokenizer),
        ]

    # ---- prediction with a saved model ---------------------------------------------------------

    def save(self, model: PretrainedModel, folder: str | Path) -> None:
        """Write the model and everything that `from_pretrained` needs."""
        settings = {"task": self.name, "max_length": self.max_length}
        settings |= {name: getattr(self.options, name) for name in self.saved_options}
        settings |= {name: getattr(self, name) for name in self.saved_fields}
        save_task(model, self.tokenizer, folder, **settings)

    def adapter_base(self, model: PretrainedModel) -> tuple[str | None, str | None]:
        """The checkpoint that a LoRA adapter belongs to and its revision, for `save_adapter`.

        None: the weights are of no checkpoint, or `transformers` would compute the model otherwise.
        """
        if self.options.from_scratch or model.unlike_transformers is not None:
            return None, None
        return hub.lasting_name(self.options.model)

    @classmethod
    def from_pretrained(
        cls: type[TaskType], folder: str | Path
    ) -> tuple[TaskType, PretrainedModel]:
        """The task and the model that `save` wrote, for prediction.

        A setting that config.json does not hold has its default.  Raises `UserError` for a value
        that is not allowed.
        """
        folder = Path(folder)
        model, tokenizer, saved = load_task(folder, cls.model_class(folder))
        limit = model.config.max_tokens
        max_length = saved.get("max_length", limit)
        path = folder / CONFIG
        cls.check_saved(path, saved)
        try:
            check_type("max_length", max_length, int)
            highest = limit if model.config.has_max_tokens else LARGEST
            if not 3 <= max_length <= highest:
                raise ValueError(f"max_length is {max_length}; it must be from 3 to {highest}")
            options = cls.options_class(**{n: saved[n] for n in cls.saved_options if n in saved})
        except ValueError as error:
            raise UserError(f'{path}: {error}; correct it under "minift"') from None
        fields = {name: saved[name] for name in cls.saved_fields if name in saved}
        labels = model.config.labels or ()
        return cls(options, tokenizer, max_length, labels, **fields), model

    @classmethod
    def check_saved(cls, path: Path, saved: Mapping[str, Any]) -> None:
        """Raise `UserError` for a saved setting of another type, or out of its field's bounds.

        path: of the config.json that holds the settings.
        """
        for kind, names in ((cls.options_class, cls.saved_options), (cls, cls.saved_fields)):
            try:
                check_fields(kind, {name: saved[name] for name in names if name in saved})
            except ValueError as error:
                raise UserError(f'{path}: {error}; correct it under "minift"') from None

    def read_inputs(
        self,
        inputs: str | Path | Iterable[str],
        questions: Sequence[str] = (),
        columns: Mapping[str, Any] | None = None,
    ) -> Iterable[Any]:
        """Records for prediction, from lines of text or from a data file, labels optional.

        They are read one by one, so the memory does not grow with their number.

        inputs: the lines, or the path of the file.
        questions: asked of every input; `UserError` if the task answers no questions.
        columns: where this file has its columns, `token_column` -> 1, instead of where the
            training data had them; `UserError` for a column that the task does not read.
        """
        columns = columns or {}
        self._check_inputs(questions, columns)
        source = Path(inputs) if isinstance(inputs, str) else inputs
        return self.inputs_of(source, questions, columns)

    def inputs_of(
        self, source: Path | Iterable[str], questions: Sequence[str], columns: Mapping[str, Any]
    ) -> Iterable[Any]:
        """`read_inputs`, after the checks of its arguments."""
        return self.read(source, replace(self.options, **columns), require_labels=False)

    def _check_inputs(self, questions: Sequence[str], columns: Mapping[str, Any]) -> None:
        """`UserError` for questions or columns that the task does not take."""
        if questions and not self.answers_questions:
            raise UserError(
                f"--question is {questions[0]!r:.60}, but the model was trained for {self.name}, "
                "which answers no questions; leave it out"
            )
        for name in columns:
            if name not in self.options.file_columns:
                raise UserError(
                    f"{flag_of(name)} is {columns[name]!r:.60}, but the model was trained for "
                    f"{self.name}, whose files have no such column; leave it out"
                )

    def check_inputs(self, records: Iterable[Any], warn: Callable[[str], object]) -> Iterable[Any]:
        """Yield the records of a file that is predicted, and warn at the end of doubtful ones."""
        return records
