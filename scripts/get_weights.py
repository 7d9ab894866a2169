"""Fetch weights by name, so that `--model NAME` finds them under weights/ from then on.

    python scripts/get_weights.py                              the default model
    python scripts/get_weights.py google/flan-t5-small         one from the hub
    python scripts/get_weights.py owner/name --revision v1.0   one revision of it

Prints the folder of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minift import hub
from minift.training.options import run_script


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME_OR_ID", default=[hub.DEFAULT_MODEL])
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="put them here, not in weights/")
    options = parser.parse_args(arguments)
    for name in options.names:
        print(hub.keep(name, options.revision, options.to))


if __name__ == "__main__":
    run_script(main)
