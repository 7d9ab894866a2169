"""Fine-tune a pretrained model to put one label on each text."""

from minift.experiments.comparison import train_script
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.options import run_script


def main() -> None:
    train_script(ClassificationTask, ClassificationOptions, __doc__)


if __name__ == "__main__":
    run_script(main)
