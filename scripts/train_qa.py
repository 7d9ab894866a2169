"""Fine-tune a pretrained model to answer questions about a text with words of the text."""

from minift.experiments.comparison import train_script
from minift.tasks.qa import QaOptions, QaTask
from minift.training.options import run_script


def main() -> None:
    # Small batches: many steps from few questions, which a new head needs.
    train_script(QaTask, QaOptions, __doc__, epochs=2, batch_size=8)


if __name__ == "__main__":
    run_script(main)
