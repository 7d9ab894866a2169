"""Fine-tune a pretrained encoder for named entity recognition, from tagged sentences.

Reads CoNLL or JSONL files (default: the built-in sentences).  Writes the best model, its metrics
and its predictions into --output-dir.
"""

from minift.experiments.comparison import train_script
from minift.tasks.ner import NerTask
from minift.training.cli import run_script


def main() -> None:
    train_script(NerTask, __doc__)


if __name__ == "__main__":
    run_script(main)
