"""Compare how NER labels the subword tokens of a word and how it aggregates their predictions.

Takes the flags of train_ner.py.  Trains each label strategy with several seeds, scores each with
every aggregation strategy, and writes a table into --output-dir.
"""

from minift.experiments.comparison import CompareOptions
from minift.experiments.label_strategies import WITHOUT, compare_label_strategies
from minift.tasks.ner import NerOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, repeat = command_line(
        NerOptions, TrainOptions, CompareOptions, description=__doc__, without=WITHOUT
    )
    compare_label_strategies(task_options, options, repeat)


if __name__ == "__main__":
    run_script(main)
