"""Which pieces of a split word to label, and which to ask: every strategy by every way back."""

from dataclasses import replace
from pathlib import Path

from minift.experiments.comparison import CompareOptions, compare
from minift.tasks.ner import NerOptions, NerTask, score_ways_back
from minift.text.alignment import STRATEGIES
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options, repeat = command_line(
        NerOptions, TrainOptions, CompareOptions, description=__doc__
    )
    compare(
        NerTask,
        {
            strategy: (replace(task_options, label_strategy=strategy, way_back=None), options)
            for strategy in STRATEGIES
        },
        seeds=repeat.seeds,
        folder=options.output_dir or Path("runs/compare-label-strategies"),
        columns=["f1"],
        title="Label strategies",
        more=score_ways_back,
    )


if __name__ == "__main__":
    run_script(main)
