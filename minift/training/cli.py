"""The command line: flags from options dataclasses, help, renamed flags, and how a script ends."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import re
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from minift.errors import UserError
from minift.options import flag_of
from minift.terminal import (
    discard_output,
    escaping_streams,
    flush_stdout,
    print_last_line,
    print_line,
)
from minift.training.signals import Stopped, end_quietly, ends_on_signals

# A flag's old name -> the flag to use now, with a remark.  Of several, the error names the first
# that the script has; without any of them, the old name is an unknown flag.
RENAMED_FLAGS: dict[str, tuple[str, ...]] = {
    "--way-back": ("--aggregation-strategy (mean is now average)",),
    "--other-windows": ("--negative-windows",),
    "--beam-stopping": ("--beam-early-stopping",),
    "--accumulation": ("--gradient-accumulation-steps",),
    "--eval-every": ("--eval-steps",),
    "--save-every": ("--save-steps",),
    "--log-every": ("--logging-steps",),
    "--freeze-below": (
        "--freeze-layers (one less than the old value), or --freeze-embeddings for 1",
    ),
    "--l2-start": ("--l2-sp",),
    "--recompute": ("--gradient-checkpointing",),
    "--schedule": ("--lr-scheduler-type",),
    "--layer-decay": ("--layerwise-lr-decay",),
    "--head-rate": ("--head-lr-multiplier",),
    "--early-stopping": ("--early-stopping-patience",),
    "--best-metric": ("--metric-for-best-model",),
    "--train-sample": ("--train-eval-samples",),
    "--unfreeze-epochs": ("--gradual-unfreezing",),
    "--average-last": ("--swa-fraction",),
    "--average-start": ("--wise-ft-alpha (1 minus the old value)",),
    "--halve-batches": ("--auto-micro-batch",),
    "--skip-steps": ("--max-skipped-steps",),
    "--lora-targets": ("--lora-target-modules",),
    "--overlap": ("--doc-stride",),
    "--overlaps": ("--doc-strides",),
    "--n-best": ("--n-best-size",),
    "--prefix": ("--source-prefix",),
    "--long-text": ("--truncation",),
    "--batching": ("--group-by-length or --no-group-by-length",),
    "--attention-dropout": ("--dropout (which sets all dropouts)",),
    "--head-dropout": ("--dropout (which sets all dropouts)",),
    "--sentences": ("--gap-sentence-ratio",),
    "--lead": ("--lead-ratio",),
    "--whole": ("--full-text-ratio",),
    "--chunk": ("--block-size",),
    "--held-out": ("--eval-blocks",),
    "--text": ("--probe-file", "--train-file of pretrain.py"),
    "--steps": ("--max-steps",),
    "--warmup": ("--warmup-ratio (a share of the steps)",),
    "--replay": ("--replay-ratio",),
    "--draws": ("--num-samples",),
    "--windows": ("--max-lengths",),
    "--rates": ("--learning-rates",),
    "--epoch-counts": ("--epochs-list",),
}

METAVARS = {int: "N", float: "X", Path: "PATH"}  # what the help calls a value


def parse_path(text: str) -> Path:
    """The path of a flag's value; an empty one, as of an unset variable, is an error.

    `Path("")` would be the current directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; give a file or a folder")
    return Path(text)


INTERRUPTED = "interrupted; a run with --save-steps continues with --resume"

PARSERS = {Path: parse_path}  # how a value is read, where the type itself does not


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one-line errors, underscores in flags, and errors that name renamed flags.

    A flag may be written --batch_size or --batch-size.  --help shows the flags in `common`,
    --help-all shows all.
    """

    def __init__(self, **settings: Any):
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.color = False  # Python 3.14 colours a help text, and terminal.py escapes all but ours
        self.common: set[str] = set()  # destinations that --help shows; empty: all
        self.refused: dict[str, str] = {}  # flag that this script does not have -> why

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(self._prepare(args), namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_intermixed_args(self._prepare(args), namespace)

    def _prepare(self, args: Sequence[str] | None) -> list[str]:
        """The arguments with dashes in every flag before "--"; shows the help for --help-all."""
        args = sys.argv[1:] if args is None else args
        end = args.index("--") if "--" in args else len(args)
        prepared = [*map(self._normalize_flag, args[:end]), *args[end:]]
        if "--help-all" in prepared[:end]:  # before a missing argument is an error
            self.common = set()
            self.print_help()
            self.exit()
        return prepared

    def _normalize_flag(self, word: str) -> str:
        """Turn the underscores of a flag into dashes; an old name ends with an error."""
        if not word.startswith("--"):
            return word
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in self.refused:
            self.error(f"{flag}: {self.refused[flag]}")
        if flag in RENAMED_FLAGS and flag not in self._option_string_actions:
            for new in RENAMED_FLAGS[flag]:
                if new.split()[0] in self._option_string_actions:
                    self.error(f"{flag} is now {new}")
        return f"{flag}{equals}{value}"

    def format_help(self) -> str:
        hidden = [a for a in self._actions if self.common and a.dest not in self.common]
        if not hidden:
            return super().format_help()
        sentences = [action.help for action in hidden]
        try:
            for action in hidden:
                action.help = argparse.SUPPRESS
            text = super().format_help()
        finally:
            for action, sentence in zip(hidden, sentences, strict=True):
                action.help = sentence
        return f"{text}\n--help-all shows {len(hidden)} more flags, in groups.\n"

    def error(self, message: str) -> NoReturn:
        """End the script with status 2; the last line on stderr is the error."""
        help_flag = "--help-all" if "--help-all" in self._option_string_actions else "--help"
        print_line(f"usage: {self.prog} [FLAGS]", to_stderr=True)
        print_line(
            f"error: {' '.join(message.split())} ({help_flag} lists all flags)", to_stderr=True
        )
        self.exit(2)


def command_line(
    *classes: type,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    without: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each options dataclass, filled from the command line.

    A flag is a field's name with dashes; its help is the field's sentence.  Unknown flags, values
    of the wrong type and combinations that a dataclass refuses end the script with status 2.

    description: printed above the flags, such as the script's docstring.
    defaults: field -> the default of this script, where it differs from the dataclass's.
    without: field that has no flag here -> why, and what to do; said when it is given.
    argv: the arguments; None: those of the process.
    """
    parser = make_parser(*classes, description=description, defaults=defaults, without=without)
    values = vars(parser.parse_args(argv))
    instances = []
    for cls in classes:
        names = [field.name for field in dataclasses.fields(cls) if field.name in values]
        own = {n: tuple(values[n]) if isinstance(values[n], list) else values[n] for n in names}
        try:
            instances.append(cls(**own))
        except ValueError as error:
            parser.error(str(error))
    return tuple(instances)


def make_parser(
    *classes: type,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    without: Mapping[str, str] | None = None,
) -> ArgumentParser:
    """The parser of `command_line`: a group of flags for each dataclass."""
    parser = ArgumentParser(description=description, usage="%(prog)s [FLAGS]")
    parser.add_argument(
        "--help-all", action="store_true", default=argparse.SUPPRESS, help="show all flags and exit"
    )
    parser.common = {"help", "help_all"}
    defaults, without = defaults or {}, without or {}
    parser.refused = {flag_of(name): reason for name, reason in without.items()}
    for cls in classes:
        group = parser.add_argument_group(cls.__doc__.strip().splitlines()[0].rstrip("."))
        hints = get_type_hints(cls)
        has_common = any(field.metadata["common"] for field in dataclasses.fields(cls))
        for field in dataclasses.fields(cls):
            if field.metadata["flag"] and field.name not in without:
                sentence = field.metadata["help"]
                if field.name in defaults:  # the sentence may name the dataclass's default
                    sentence, *named = re.split(r"\W+[Dd]efault:", sentence)
                    sentence += "." if named else ""
                default = defaults.get(field.name, field.default)
                _add_flag(group, field.name, hints[field.name], default, sentence)
                if field.metadata["common"] or not has_common:
                    parser.common.add(field.name)
    return parser


def _add_flag(group: Any, field: str, hint: Any, default: Any, sentence: str) -> None:
    flag, sentence = flag_of(field), sentence.replace("%", "%%")
    if hint is bool:
        if default:
            action: Any = argparse.BooleanOptionalAction
            sentence += f" --no-{flag.removeprefix('--')} turns it off."
        else:
            action = "store_true"
        group.add_argument(flag, action=action, default=default, help=sentence)
        return
    if default not in (None, ()) and "default" not in sentence.lower():
        sentence += f" (default: {_format_default(default)})"
    if get_origin(hint) in (Union, types.UnionType):  # X | None
        (hint,) = (choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:  # tuple[X, ...]: one value or several
        kind = get_args(hint)[0]
        name, kind = METAVARS.get(kind, "NAME"), PARSERS.get(kind, kind)
        group.add_argument(flag, type=kind, nargs="+", default=default, metavar=name, help=sentence)
    elif get_origin(hint) is Literal:
        group.add_argument(flag, choices=get_args(hint), default=default, help=sentence)
    else:
        name, kind = METAVARS.get(hint, "NAME"), PARSERS.get(hint, hint)
        group.add_argument(flag, type=kind, default=default, metavar=name, help=sentence)


def _format_default(default: Any) -> str:
    if isinstance(default, str) and default != default.strip():
        return repr(default)
    if isinstance(default, float):
        return f"{default:g}"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def as_dict(*options: Any) -> dict[str, Any]:
    """Resolved options as one dictionary for JSON, to be printed and stored with the result."""
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
    """Run a script's `main` and exit.

    A `UserError` ends with status 2 and one line on stderr, Ctrl-C and SIGTERM within two seconds
    with one line and status 128 + the signal's number, also those that stopped a run after saving
    its state.  Any other exception ends with its traceback and status 1.  Whatever is printed
    meanwhile, by Python or a library too, has its control characters escaped.
    """
    threads = set(threading.enumerate())
    with escaping_streams(), ends_on_signals(lambda: print_last_line(INTERRUPTED)):
        try:
            status = _call(main)
        except KeyboardInterrupt as error:
            status = 128 + getattr(error, "signal", signal.SIGINT)
            # Python waits for both when it ends, and here the wait has an end.
            for thread in set(threading.enumerate()) - threads:
                if not thread.daemon:
                    thread.join()
            with suppress(OSError):
                flush_stdout()
            _print_last(INTERRUPTED)
    atexit.register(end_quietly)  # registered last, so it is called first
    sys.exit(status)


def _call(main: Callable[[], object]) -> int:
    """Call `main`; the exit status.  An error is printed on stderr."""
    try:
        main()
        flush_stdout()
        return 0
    except UserError as error:
        _print_last(f"error: {' '.join(str(error).split())}")
        return 2
    except Stopped as stopped:
        _print_last(str(stopped))
        return 128 + stopped.signal
    except BrokenPipeError:  # the reader of our output has closed the pipe
        discard_output()
        return 0
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # not Exception alone: a panic of Rust code is none
        _print_last(traceback.format_exc().rstrip())
        return 1


def _print_last(message: str) -> None:
    with suppress(OSError, UserError):  # stderr is closed, or its disk is full
        print_line(message, to_stderr=True)
