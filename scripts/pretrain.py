"""Pre-train a T5 or a BERT, and its tokenizer, from plain text."""

from minift.pretrain.base import ModelOptions
from minift.pretrain.job import PretrainOptions, pretrain
from minift.train.options import command_line, run_script


def main() -> None:
    pretrain(*command_line(ModelOptions, PretrainOptions, description=__doc__))


if __name__ == "__main__":
    run_script(main)
