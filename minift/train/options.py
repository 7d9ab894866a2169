"""Options are dataclasses; this file makes a command line of them and ends a script decently."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from minift.errors import InputError
from minift.tasks.base import check_range, option
from minift.train.schedules import SCHEDULES


@dataclass(frozen=True)
class TrainOptions:
    """How to train, whatever the task."""

    output_dir: Path | None = option(None, "Where the run goes; runs/TASK-N if not given.")
    resume: bool = option(False, "Go on with the run in --output-dir from its last saved state.")
    overwrite: bool = option(False, "Replace the run that --output-dir holds.")
    epochs: int = option(4, "Passes over the training data.")
    batch_size: int = option(16, "Features in one forward pass.")
    accumulation: int = option(1, "Forward passes that make one step of the optimiser.")
    learning_rate: float | None = option(
        None, "Highest rate; if not given, the task's usual one, or 1e-2 with --freeze-encoder."
    )
    schedule: Literal[tuple(SCHEDULES)] = option("linear", "How the rate falls after warm-up.")
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
    min_steps: int = option(0, "Least steps of the optimiser: more epochs where data is small.")
    batching: Literal["length", "random"] = option(
        "length", "length: texts of similar length share a batch."
    )
    eval_every: int = option(0, "Steps between two evaluations; 0: after each epoch.")
    early_stopping: int = option(0, "Evaluations without a better score before stopping; 0: never.")
    best_metric: str | None = option(None, "Metric that chooses the best model; the task's own.")
    log_every: int = option(20, "Steps between two lines in log.jsonl.")
    save_every: int = option(0, "STEPS between two saved states for --resume; 0: none.")
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
        if self.freeze_encoder and (self.freeze_below or self.unfreeze_epochs):
            raise ValueError(
                "--freeze-encoder leaves nothing to --freeze-below and --unfreeze-epochs; "
                "leave one of them out"
            )
        check_range(self, "seed", 0, 2**32 - 1)
        check_range(self, "warmup_ratio", 0, 1)
        check_range(self, "layer_decay", 1e-6, 1)
        for name in ("learning_rate", "max_grad_norm", "head_rate"):
            check_range(self, name, 1e-12)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other; give one of them")
        if self.resume and self.output_dir is None:
            raise ValueError("--resume needs the --output-dir of the run to go on with")
        check_device(self.device)
        check_precision(self.precision)

    def with_rate(self, usual: float) -> TrainOptions:
        """The same with a learning rate: the one given, or else what is usual.

        A new head on frozen features bears, and needs, a far higher one.
        """
        if self.learning_rate is not None:
            return self
        return dataclasses.replace(self, learning_rate=1e-2 if self.freeze_encoder else usual)


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
    """Run a script's `main`: status 2 and one line on stderr for bad input, 130 for Ctrl-C."""
    try:
        main()
    except InputError as error:
        sys.exit(_complain(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; a run with --save-every goes on with --resume", 130))
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stderr.close()
        sys.exit(0)
    sys.exit(0)


def _complain(message: str, status: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return status
