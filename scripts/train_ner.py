"""Fine-tune a pretrained model to tag the named entities of a text."""

from minift.tasks.ner import NerOptions, NerTask
from minift.train.loop import run
from minift.train.options import TrainOptions, command_line, run_script


def main() -> None:
    # Names need more passes over the few sentences of the built-in set than reviews do.
    defaults = {"epochs": 5}
    task_options, options = command_line(
        NerOptions, TrainOptions, description=__doc__, defaults=defaults
    )
    run(NerTask, task_options, options)


if __name__ == "__main__":
    run_script(main)
