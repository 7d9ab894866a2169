"""Compare window lengths and doc strides on contexts longer than the model, and null thresholds.

Takes the flags of train_qa.py.  Trains a model for each seed, joins neighbouring dev paragraphs
into long contexts, and writes a table of windows and one of null thresholds into --output-dir.
"""

from minift.experiments.comparison import CompareOptions
from minift.experiments.long_contexts import LongContextOptions, compare_long_contexts
from minift.tasks.qa import QaOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, comparison, repeat = command_line(
        QaOptions, TrainOptions, LongContextOptions, CompareOptions, description=__doc__
    )
    compare_long_contexts(task_options, options, comparison, repeat)


if __name__ == "__main__":
    run_script(main)
