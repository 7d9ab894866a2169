"""The options of every task: the model to start from, and the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minift.data.read import builtin
from minift.options import check_range, convert_paths, option


@dataclass(frozen=True)
class TaskOptions:
    """The model to start from and the data."""

    default_learning_rate: ClassVar[float] = 5e-5  # with all parameters trained
    column_options: ClassVar[tuple[str, ...]] = ()  # fields that say where a file has its columns

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
        convert_paths(self)
        if not self.train_file and (self.dev_file or self.test_file):
            raise ValueError("--dev-file and --test-file need a --train-file that they belong to")

    @property
    def training_data(self) -> str:
        """The training files, as error messages name them."""
        return ", ".join(map(str, self.train_file)) or "the built-in set"

    @property
    def file_columns(self) -> dict[str, Any]:
        """The options that say where a file has its columns: name -> value."""
        return {name: getattr(self, name) for name in self.column_options}

    def files(self, built_in: str) -> dict[str, tuple[Path, ...]]:
        """Split name -> the files given, or else those of the built-in set.

        built_in: the file name of the built-in set, `{}` for the split: "reviews.{}.tsv".
        """
        if not self.train_file:
            return {s: (builtin(built_in.format(s)),) for s in ("train", "dev", "test")}
        later = {"dev": self.dev_file, "test": self.test_file}
        return {"train": self.train_file, **{s: (path,) for s, path in later.items() if path}}
