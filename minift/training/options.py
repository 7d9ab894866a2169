"""Options are dataclasses; this file makes a command line of them and ends a script decently."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from minift.errors import InputError, visible
from minift.tasks.base import check_range, option
from minift.training.schedules import SCHEDULES
from minift.training.signals import Stopped


@dataclass(frozen=True)
class TrainOptions:
    """How to train, whatever the task."""

    output_dir: Path | None = option(None, "Where the run goes; runs/TASK-N if not given.")
    resume: bool = option(False, "Go on with the run in --output-dir from its last saved state.")
    overwrite: bool = option(False, "Replace the run that --output-dir holds.")
    accept_changes: bool = option(
        False, "With --resume: go on although options, data or the model to start from changed."
    )
    epochs: int = option(4, "Passes over the training data.")
    batch_size: int = option(16, "Features in one forward pass.")
    accumulation: int = option(1, "Forward passes that make one step of the optimiser.")
    learning_rate: float | None = option(
        None,
        "Highest rate; if not given, the task's usual one, or what suits Adafactor (1e-3), "
        "--freeze-encoder (1e-2), LoRA and BitFit (ten times the usual).",
    )
    schedule: Literal[tuple(SCHEDULES)] = option(
        "linear", "How the rate moves, see training/schedules.py."
    )
    warmup_ratio: float = option(0.1, "Share of the steps in which the rate rises from zero.")
    layer_decay: float = option(1.0, "A layer learns at this share of the rate of the one above.")
    head_rate: float = option(1.0, "Rate of what stands above the layers, times --learning-rate.")
    optimizer: Literal["adamw", "adafactor"] = option(
        "adamw", "adafactor needs less memory; its rate is in proportion to what it changes."
    )
    weight_decay: float = option(0.01, "Decay of the weights; norms and biases have none.")
    max_grad_norm: float = option(1.0, "Gradients longer than this are scaled down to it.")
    l2_start: float = option(0.0, "As weight decay, but towards the pretrained weights.")
    freeze_encoder: bool = option(False, "Train the head alone, on features computed once.")
    freeze_below: int = option(
        0, "What does not learn: 1 the embeddings, 2 nor the first layer, 3 nor the second, ..."
    )
    unfreeze_epochs: int = option(
        0, "First the head alone, then a layer more from the top every so many epochs; 0: all."
    )
    reinit_layers: int = option(0, "Layers at the top, with all above them, that start anew.")
    lora_rank: int = option(0, "LoRA: rank of the updates that learn beside frozen weights; 0: no.")
    lora_alpha: float | None = option(None, "LoRA: updates times this / rank; if not given, rank.")
    lora_dropout: float = option(0.0, "LoRA: dropout of what goes into the updates.")
    lora_targets: tuple[str, ...] = option(
        (), "LoRA: projections with updates, by their names' ends; none: queries and values."
    )
    bitfit: bool = option(False, "Only the biases and the head learn.")
    average_last: float = option(
        0.0, "Share of the steps, at the end, whose weights are averaged for what is saved."
    )
    average_start: float = option(
        0.0, "Share of the pretrained weights in what is saved; keeps more of what they knew."
    )
    min_steps: int = option(0, "Least steps of the optimiser: more epochs where data is small.")
    batching: Literal["length", "random"] = option(
        "length", "length: texts of similar length share a batch."
    )
    eval_every: int = option(0, "Steps between two evaluations; 0: after each epoch.")
    train_sample: int = option(
        0, "Training records that are scored at each evaluation too, to see overfitting; 0: none."
    )
    early_stopping: int = option(0, "Evaluations without a better score before stopping; 0: never.")
    best_metric: str | None = option(None, "Metric that chooses the best model; the task's own.")
    log_every: int = option(20, "Steps between two lines in log.jsonl.")
    save_every: int = option(0, "STEPS between two saved states for --resume; 0: none.")
    recompute: bool = option(
        False, "Compute what layers need for their gradients again: less memory, more time."
    )
    compile: bool = option(
        False, "Compile the feed-forward layers: a wait of a minute or so, then faster on a GPU."
    )
    halve_batches: bool = option(
        False, "Where memory runs out, go on with smaller batches in steps as large as before."
    )
    skip_steps: int = option(0, "Steps whose loss is not finite that are left out, at most.")
    seed: int = option(1, "Seed of everything random.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("fp32", "fp32, or bf16: mixed precision, weights in fp32.")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "log_every"):
            check_range(self, name, 1)
        for name in ("eval_every", "early_stopping", "save_every", "weight_decay", "min_steps"):
            check_range(self, name, 0)
        for name in ("l2_start", "freeze_below", "unfreeze_epochs", "reinit_layers"):
            check_range(self, name, 0)
        for name in ("train_sample", "skip_steps"):
            check_range(self, name, 0)
        check_range(self, "lora_rank", 0, 1024)
        check_range(self, "lora_alpha", 1e-6, 1e6)
        for name in ("lora_dropout", "average_last", "average_start"):
            check_range(self, name, 0, 1)
        self._check_what_learns()
        check_range(self, "seed", 0, 2**32 - 1)
        check_range(self, "warmup_ratio", 0, 1)
        check_range(self, "layer_decay", 1e-6, 1)
        for name in ("learning_rate", "max_grad_norm", "head_rate"):
            check_range(self, name, 1e-12)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other; give one of them")
        if self.accept_changes and not self.resume:
            raise ValueError("--accept-changes belongs to --resume; give both or none")
        if self.resume and self.output_dir is None:
            raise ValueError("--resume needs the --output-dir of the run to go on with")
        check_device(self.device)
        check_precision(self.precision)

    def _check_what_learns(self) -> None:
        """`ValueError` if two options say it differently."""
        alone = ("freeze_encoder", "lora_rank", "bitfit")  # each says all of it
        partly = ("freeze_below", "unfreeze_epochs", "reinit_layers")
        for first, second in [*combinations(alone, 2), *product(alone, partly)]:
            if getattr(self, first) and getattr(self, second):
                flags = [f"--{name.replace('_', '-')}" for name in (first, second)]
                raise ValueError(
                    f"{' and '.join(flags)} exclude each other, since each says which parameters "
                    "learn; leave one of them out"
                )
        if not self.lora_rank and (self.lora_alpha or self.lora_dropout or self.lora_targets):
            raise ValueError("--lora-... is given without --lora-rank; give it a rank, such as 8")
        if self.average_start and self.reinit_layers:
            raise ValueError(
                "--average-start goes back to pretrained weights, which the layers of "
                "--reinit-layers have not; leave one of them out"
            )

    def with_rate(self, usual: float) -> TrainOptions:
        """The same with a learning rate: the one given, or else what is usual.

        Adafactor's steps are in proportion to what they change, so its rate suits any model.  What
        learns beside frozen weights bears, and needs, a higher one: updates and biases ten times as
        high, a new head alone 1e-2.
        """
        if self.learning_rate is not None:
            return self
        if self.optimizer == "adafactor":
            usual = 1e-3
        elif self.freeze_encoder:
            usual = 1e-2
        elif self.lora_rank or self.bitfit:
            usual = 10 * usual
        return dataclasses.replace(self, learning_rate=usual)


def check_device(name: str) -> None:
    """`ValueError` if this is no name of a device."""
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"--device is {name!r}; it must be auto, cpu, cuda or cuda:N")


def check_precision(name: str) -> None:
    """`ValueError` if this is no precision to train in; fp16's reason is said."""
    if name == "fp16":
        raise ValueError(
            "--precision is fp16, which overflows beyond 65,504: T5's feed-forward layers reach "
            "that, and small gradients vanish; use bf16 or fp32"
        )
    if name not in ("fp32", "bf16"):
        raise ValueError(f"--precision is {name!r}; it must be fp32 or bf16")


def command_line(
    *classes: type,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    argv: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each options dataclass, filled from the command line.

    A flag is a field's name with dashes, its help the field's sentence.  Unknown flags, values of
    the wrong type and combinations that a dataclass refuses end the script with status 2.
    defaults: values that suit this script better than those of the dataclasses.
    """
    parser = _Parser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for cls in classes:
        group = parser.add_argument_group(cls.__doc__.strip().splitlines()[0])
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            _add_flag(group, field, hints[field.name])
    parser.set_defaults(**(defaults or {}))
    values = vars(parser.parse_args(argv))
    instances = []
    for cls in classes:
        own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        own = {name: tuple(v) if isinstance(v, list) else v for name, v in own.items()}
        try:
            instances.append(cls(**own))
        except ValueError as error:
            parser.error(str(error))
    return tuple(instances)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def _add_flag(group: Any, field: dataclasses.Field, hint: Any) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    sentence = field.metadata["help"].replace("%", "%%")
    if hint is bool:
        group.add_argument(flag, action="store_true", help=sentence)
        return
    if get_origin(hint) in (Union, types.UnionType):  # X | None
        (hint,) = (choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:  # tuple[X, ...]: one value or several
        group.add_argument(
            flag, type=get_args(hint)[0], nargs="+", default=field.default, help=sentence
        )
    elif get_origin(hint) is Literal:
        group.add_argument(flag, choices=get_args(hint), default=field.default, help=sentence)
    else:
        group.add_argument(flag, type=hint, default=field.default, help=sentence)


def as_dict(*options: Any) -> dict[str, Any]:
    """Resolved options as JSON can hold them, to be printed and stored with the result."""
    merged: dict[str, Any] = {}
    for instance in options:
        merged.update(dataclasses.asdict(instance))
    for name, value in merged.items():
        if isinstance(value, Path):
            merged[name] = str(value)
        elif isinstance(value, tuple):
            merged[name] = [str(part) for part in value]
    return merged


def run_script(main: Callable[[], object]) -> NoReturn:
    """Run a script's `main`: status 2 and one line on stderr for bad input, 130 for Ctrl-C.

    A run that was asked to stop by a signal has saved itself, and exits with 128 + its number.
    """
    try:
        main()
    except InputError as error:
        sys.exit(_complain(f"error: {error}", 2))
    except Stopped as stopped:
        sys.exit(_complain(str(stopped), 128 + stopped.signal))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; a run with --save-every goes on with --resume", 130))
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stderr.close()
        sys.exit(0)
    sys.exit(0)


def _complain(message: str, status: int) -> int:
    print(visible(" ".join(message.split())), file=sys.stderr)
    return status
