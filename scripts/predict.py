"""Predict with a model that a training script saved, for texts given as arguments, a file or stdin.

Prints one result for each text, in order; with --json, one JSON object a line; with --csv, a header
and one record for each text.  Each further line of a printed result begins with two blanks.
Each line of stdin, of a .txt or of a .tsv is a text (a .txt is one document for summarization), as
is each record of a .csv, .json or .jsonl and each sentence of a file of tagged words.  A blank text
has no result: an empty line, null with --json, no entities.  Labels are not needed and are ignored.

Inputs are read as a stream, some thousand at a time (in a terminal one by one), so there may be any
number of them.  A line, and a .txt that is one document, may have ten million bytes.  The first
thousand records of a file decide about its scheme of tags and its columns in CSV.
"""

import dataclasses
import sys
from typing import get_type_hints

from minift.device import check_device, pick_device
from minift.options import check_range, flag_of
from minift.predictor import lines_of, predict_lines
from minift.tasks.registry import TASKS
from minift.terminal import print_line, print_record, shows_colours
from minift.training.cli import METAVARS, ArgumentParser, parse_path, run_script
from minift.training.options import MAX_BATCH_SIZE


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=parse_path, help="output directory of a training script")
    parser.add_argument("texts", nargs="*", help="texts (default: each line of stdin is a text)")
    parser.add_argument("--file", type=parse_path, help="file in a format of the training data")
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        help="question to ask of each text, or of a plain text --file as a whole; repeatable (qa)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--csv",
        action="store_true",
        help="print the fields of --json as CSV: exactly, but escaped on a terminal",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="texts (or windows of them) in a forward pass (default: 32)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="8-bit integer linear layers: faster on a CPU, slightly less exact; auto is the CPU",
    )
    names = add_column_flags(parser)
    options = parser.parse_intermixed_args()
    try:
        check_device(options.device)
        check_range(options, "batch_size", 1, MAX_BATCH_SIZE)
    except ValueError as error:
        parser.error(str(error))
    columns = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if options.file and options.texts:
        parser.error(f"--file is {options.file}, but there is also a text; give one of them")
    if options.json and options.csv:
        parser.error("--json and --csv are two formats; give one of them")
    if columns and not options.file:
        parser.error(f"{flag_of(next(iter(columns)))} is a column of a --file; give one")
    if options.device == "auto" and options.int8:
        options.device = "cpu"
    inputs_are_typed = not (options.file or options.texts) and sys.stdin is not None
    inputs_are_typed = inputs_are_typed and sys.stdin.isatty()
    inputs = options.file or options.texts or lines_of(sys.stdin)
    device = pick_device(options.device)
    for line in predict_lines(
        options.model_dir,
        inputs,
        options.question,
        options.json,
        shows_colours(),
        options.batch_size,
        device,
        options.int8,
        as_csv=options.csv,
        columns=columns,
        at_once=inputs_are_typed,
    ):
        (print_record if options.csv else print_line)(line)


def add_column_flags(parser: ArgumentParser) -> list[str]:
    """Flags for the columns of every task's files; returns their names."""
    group = parser.add_argument_group("columns of --file (default: those of the training data)")
    names: dict[str, None] = {}
    for task in TASKS.values():
        hints = get_type_hints(task.options_class)
        for field in dataclasses.fields(task.options_class):
            if field.name in task.options_class.column_options and field.name not in names:
                names[field.name] = None
                hint = hints[field.name] if hints[field.name] in (int, str) else str
                sentence = field.metadata["help"].replace("%", "%%")
                metavar = METAVARS.get(hint, "NAME")
                group.add_argument(flag_of(field.name), type=hint, metavar=metavar, help=sentence)
    return list(names)


if __name__ == "__main__":
    run_script(main)
