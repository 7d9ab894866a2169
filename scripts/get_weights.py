"""Download checkpoints into weights/, where --model NAME finds them.

    python scripts/get_weights.py                              the default model
    python scripts/get_weights.py google/flan-t5-small         a model from the hub
    python scripts/get_weights.py owner/name --revision v1.0   a branch, tag or commit of it

Prints the folder of each checkpoint.
"""

from __future__ import annotations

from minift import hub
from minift.terminal import print_line
from minift.training.cli import ArgumentParser, parse_path, run_script


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME_OR_ID",
        default=[hub.DEFAULT_MODEL],
        help=f"hub id of a checkpoint (default: {hub.DEFAULT_MODEL})",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub (default: main)")
    parser.add_argument(
        "--to",
        type=parse_path,
        metavar="FOLDER",
        help="folder for the checkpoints (default: weights/)",
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        print_line(hub.download(name, options.revision, options.to))


if __name__ == "__main__":
    run_script(main)
