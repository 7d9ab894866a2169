"""Fine-tune a pretrained model to say in one sentence what a text says."""

from minift.experiments.comparison import train_script
from minift.tasks.summarization import USUAL, SummarizationOptions, SummarizationTask
from minift.training.options import run_script


def main() -> None:
    train_script(SummarizationTask, SummarizationOptions, __doc__, **USUAL)


if __name__ == "__main__":
    run_script(main)
