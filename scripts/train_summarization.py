"""Fine-tune a pretrained model to say in one sentence what a text says."""

from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.train.loop import run
from minift.train.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options = command_line(
        SummarizationOptions,
        TrainOptions,
        description=__doc__,
        defaults={"epochs": 10, "batch_size": 8},
    )
    run(SummarizationTask, task_options, options)


if __name__ == "__main__":
    run_script(main)
