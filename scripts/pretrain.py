"""Pre-train a T5 or a BERT, and its tokenizer, from plain text."""

from minift.pretraining.base import ModelOptions
from minift.pretraining.run import PretrainOptions, pretrain
from minift.training.options import command_line, run_script


def main() -> None:
    pretrain(*command_line(ModelOptions, PretrainOptions, description=__doc__))


if __name__ == "__main__":
    run_script(main)
