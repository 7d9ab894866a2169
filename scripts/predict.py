"""Predict with a model that a training script saved, for arguments, a file or standard input."""

import argparse
import os
import sys
from pathlib import Path

from minift.predictor import predict_lines
from minift.training.options import run_script
from minift.training.run import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, help="output directory of a training script")
    parser.add_argument("texts", nargs="*", help="texts; without any, a line of stdin is a text")
    parser.add_argument("--file", type=Path, help="a file in a format of the training data")
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        help="asked of each text, or of a whole --file of text (question answering; repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--int8", action="store_true", help="faster on a CPU, a little less exact")
    options = parser.parse_intermixed_args()
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
