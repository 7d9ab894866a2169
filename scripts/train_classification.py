"""Fine-tune a pretrained model to put one label on each text."""

from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.train.loop import run
from minift.train.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options = command_line(ClassificationOptions, TrainOptions, description=__doc__)
    run(ClassificationTask, task_options, options)


if __name__ == "__main__":
    run_script(main)
