"""Fine-tune a pretrained encoder-decoder to summarize documents, from examples with summaries.

Reads JSONL files (default: the built-in reports).  Writes the best model, its metrics and
its predictions into --output-dir.
"""

from minift.experiments.comparison import train_script
from minift.tasks.summarization import SummarizationTask
from minift.training.cli import run_script


def main() -> None:
    train_script(SummarizationTask, __doc__)


if __name__ == "__main__":
    run_script(main)
