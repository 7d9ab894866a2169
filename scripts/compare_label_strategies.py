"""Compare how NER labels the subword tokens of a word and how it aggregates their predictions.

Takes the flags of train_ner.py.  Trains each label strategy with several seeds, scores each with
every aggregation strategy, and writes a table into --output-dir.
"""

from dataclasses import replace
from pathlib import Path

from minift.experiments.comparison import CompareOptions, compare
from minift.tasks.ner import NerOptions, NerTask, score_aggregation_strategies
from minift.text.alignment import LABEL_STRATEGIES
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, repeat = command_line(
        NerOptions,
        TrainOptions,
        CompareOptions,
        description=__doc__,
        without=dict.fromkeys(
            ("label_strategy", "aggregation_strategy"),
            "the comparison runs every strategy; leave it out",
        ),
    )
    compare(
        NerTask,
        {
            strategy: (
                replace(task_options, label_strategy=strategy, aggregation_strategy=None),
                options,
            )
            for strategy in LABEL_STRATEGIES
        },
        seeds=repeat.seeds,
        folder=options.output_dir or Path("runs/compare-label-strategies"),
        columns=["f1"],
        title="Label strategies",
        more=score_aggregation_strategies,
    )


if __name__ == "__main__":
    run_script(main)
