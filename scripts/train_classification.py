"""Fine-tune a pretrained encoder to label texts, or pairs of texts, from labelled examples.

Reads TSV, CSV or JSONL files (default: the built-in reviews).  Writes the best model, its
metrics and its predictions into --output-dir.
"""

from minift.experiments.comparison import train_script
from minift.tasks.classification import ClassificationTask
from minift.training.cli import run_script


def main() -> None:
    train_script(ClassificationTask, __doc__)


if __name__ == "__main__":
    run_script(main)
