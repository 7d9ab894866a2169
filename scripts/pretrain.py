"""Pre-train a model and its tokenizer on plain text; or continue from a checkpoint.

Reads text files with a blank line between documents.  Writes the model, its tokenizer and the
held-out loss into --output-dir.
"""

from minift.pretraining.base import ModelOptions
from minift.pretraining.run import PretrainOptions, pretrain
from minift.training.cli import command_line, run_script


def main() -> None:
    pretrain(*command_line(ModelOptions, PretrainOptions, description=__doc__))


if __name__ == "__main__":
    run_script(main)
