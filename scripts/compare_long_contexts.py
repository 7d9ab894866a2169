"""Compare window lengths and doc strides on contexts longer than the model, and null thresholds.

Takes the flags of train_qa.py.  Trains a model for each seed, joins neighbouring dev paragraphs
into long contexts, and writes a table of windows and one of null thresholds into --output-dir.
"""

from dataclasses import replace
from pathlib import Path

from minift.errors import UserError
from minift.experiments.comparison import CompareOptions, finished_run, table_of_means
from minift.experiments.long_contexts import (
    LongContextOptions,
    join_paragraphs,
    score_thresholds,
    score_windows,
)
from minift.tasks.qa import QaOptions, QaTask
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, comparison, repeat = command_line(
        QaOptions, TrainOptions, LongContextOptions, CompareOptions, description=__doc__
    )
    folder = options.output_dir or Path("runs/compare-long-contexts")
    splits = QaTask.read_splits(task_options)
    if "dev" not in splits:
        raise UserError("--dev-file is missing; give one, because the comparison uses it")
    joined = join_paragraphs(splits["dev"], comparison.join)
    windows, thresholds = [], []
    for seed in range(options.seed, options.seed + repeat.seeds):
        target = folder / f"seed{seed}"
        finished_run(QaTask, task_options, replace(options, seed=seed, output_dir=target))
        windows.append(score_windows(target, joined, comparison, options.batch_size))
        thresholds.append(score_thresholds(target, splits["dev"], options.batch_size))
    for name, runs, keys in (
        ("windows", windows, ("window", "doc stride")),
        ("thresholds", thresholds, ("no answer",)),
    ):
        print(f"\n{table_of_means(folder / f'{name}.md', runs, keys)}\n\nin {folder}/{name}.md")


if __name__ == "__main__":
    run_script(main)
