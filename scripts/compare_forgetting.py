"""Measure catastrophic forgetting: fine-tune on one task, then on another, with several remedies.

--first-train-file and --first-dev-file hold the first task, --train-file and --dev-file the second.
Writes a table of both tasks' scores, before and after, into --output-dir.  The same command
with the same --output-dir continues an interrupted comparison.
"""

from minift.experiments.comparison import CompareOptions
from minift.experiments.forgetting import TwoTaskOptions
from minift.experiments.remedies import WITHOUT, compare_remedies
from minift.pretraining.probe import ProbeOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, probe_options, repeat = command_line(
        TwoTaskOptions,
        TrainOptions,
        ProbeOptions,
        CompareOptions,
        description=__doc__,
        without=WITHOUT,
    )
    compare_remedies(task_options, options, probe_options, repeat)


if __name__ == "__main__":
    run_script(main)
