"""Fine-tune a pretrained model to tag the named entities of a text."""

from minift.experiments.comparison import train_script
from minift.tasks.ner import NerOptions, NerTask
from minift.training.options import run_script


def main() -> None:
    # Names need more passes over the few sentences of the built-in set than reviews do.
    train_script(NerTask, NerOptions, __doc__, epochs=5)


if __name__ == "__main__":
    run_script(main)
