"""Predict with a model that a training script saved, for texts given as arguments, a file or stdin.

Prints one result for each text, in order; with --json, one JSON object a line.
"""

import os
import sys

from minift.device import check_device, pick_device
from minift.options import check_range
from minift.predictor import predict_lines
from minift.training.cli import ArgumentParser, parse_path, run_script
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
        help="8-bit integer linear layers: faster on a CPU, slightly less exact",
    )
    options = parser.parse_intermixed_args()
    try:
        check_device(options.device)
        check_range(options, "batch_size", 1, MAX_BATCH_SIZE)
    except ValueError as error:
        parser.error(str(error))
    inputs = options.file or options.texts or sys.stdin
    device = pick_device(options.device)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in predict_lines(
        options.model_dir,
        inputs,
        options.question,
        options.json,
        colour,
        options.batch_size,
        device,
        options.int8,
    ):
        print(line, flush=True)


if __name__ == "__main__":
    run_script(main)
