"""Fine-tune a pretrained model to say in one sentence what a text says."""

from minift.tasks.summarization import USUAL, SummarizationOptions, SummarizationTask
from minift.train.compare import train_script
from minift.train.options import run_script


def main() -> None:
    train_script(SummarizationTask, SummarizationOptions, __doc__, **USUAL)


if __name__ == "__main__":
    run_script(main)
