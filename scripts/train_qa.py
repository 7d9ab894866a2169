"""Fine-tune a pretrained model to answer questions about a text with words of the text."""

from minift.tasks.qa import QaOptions, QaTask
from minift.train.loop import run
from minift.train.options import TrainOptions, command_line, run_script


def main() -> None:
    # Small batches: many steps from few questions, which a new head needs.
    defaults = {"epochs": 2, "batch_size": 8}
    task_options, options = command_line(
        QaOptions, TrainOptions, description=__doc__, defaults=defaults
    )
    run(QaTask, task_options, options)


if __name__ == "__main__":
    run_script(main)
