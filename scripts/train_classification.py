"""Fine-tune a pretrained model to put one label on each text."""

from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.train.compare import train_script
from minift.train.options import run_script


def main() -> None:
    train_script(ClassificationTask, ClassificationOptions, __doc__)


if __name__ == "__main__":
    run_script(main)
