"""Pre-train a T5 and its tokenizer from plain text, by filling gaps."""

from minift.pretrain.job import ModelOptions, PretrainOptions, pretrain
from minift.train.options import command_line, run_script


def main() -> None:
    pretrain(*command_line(ModelOptions, PretrainOptions, description=__doc__))


if __name__ == "__main__":
    run_script(main)
