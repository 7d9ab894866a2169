"""Contexts longer than the model: windows, overlaps and the threshold of "no answer", measured."""

from dataclasses import replace
from pathlib import Path

from minift.errors import InputError
from minift.experiments.comparison import CompareOptions, finished_run, table_of_means
from minift.experiments.long_contexts import (
    LongContextOptions,
    join_paragraphs,
    score_thresholds,
    score_windows,
)
from minift.tasks.qa import QaOptions, QaTask
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options, long, repeat = command_line(
        QaOptions, TrainOptions, LongContextOptions, CompareOptions, description=__doc__
    )
    folder = options.output_dir or Path("runs/compare-long-contexts")
    splits = QaTask.read_splits(task_options)
    if "dev" not in splits:
        raise InputError("--dev-file is missing; give one, since the comparison is made on it")
    joined = join_paragraphs(splits["dev"], long.join)
    windows, thresholds = [], []
    for seed in range(options.seed, options.seed + repeat.seeds):
        target = folder / f"seed{seed}"
        finished_run(QaTask, task_options, replace(options, seed=seed, output_dir=target))
        windows.append(score_windows(target, joined, long, options.batch_size))
        thresholds.append(score_thresholds(target, splits["dev"], options.batch_size))
    for name, runs, keys in (
        ("windows", windows, ("window", "overlap")),
        ("thresholds", thresholds, ("no answer",)),
    ):
        print(f"\n{table_of_means(folder / f'{name}.md', runs, keys)}\n\nin {folder}/{name}.md")


if __name__ == "__main__":
    run_script(main)
