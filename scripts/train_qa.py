"""Fine-tune a pretrained encoder to answer questions with spans of their contexts.

Reads SQuAD JSON, v1.1 or v2.0 (default: the built-in questions).  Writes the best model, its
metrics and its predictions into --output-dir.
"""

from minift.experiments.comparison import train_script
from minift.tasks.qa import QaTask
from minift.training.cli import run_script


def main() -> None:
    train_script(QaTask, __doc__)


if __name__ == "__main__":
    run_script(main)
