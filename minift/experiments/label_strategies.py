"""Comparing how NER labels the subword tokens of a word and how it aggregates their predictions.

text/alignment.py explains both.  The label strategy is a choice of training, so each has its own
runs; the aggregation strategy is one of prediction, so all are scored on each run's outputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from minift import metrics
from minift.experiments.comparison import CompareOptions, check_dev_file, compare
from minift.tasks.batches import head_logits, run_batches
from minift.tasks.ner import NerOptions, NerTask
from minift.text.alignment import AGGREGATION_STRATEGIES, LABEL_STRATEGIES
from minift.training.options import TrainOptions

# Options that the comparison varies; its script has no flags for them.
WITHOUT = dict.fromkeys(
    ("label_strategy", "aggregation_strategy"),
    "the comparison runs every strategy; leave it out",
)


def compare_label_strategies(
    task_options: NerOptions, options: TrainOptions, repeat: CompareOptions
) -> list[dict[str, Any]]:
    """Train with each label strategy and score with each aggregation strategy.

    Returns a table row for each label strategy.  Writes the files of `compare`.  Raises `UserError`
    if there is no dev data.
    """
    check_dev_file(task_options)
    return compare(
        NerTask,
        {
            strategy: (
                replace(task_options, label_strategy=strategy, aggregation_strategy=None),
                options,
            )
            for strategy in LABEL_STRATEGIES
        },
        seeds=repeat.seeds,
        output_dir=options.output_dir,
        experiment_name="compare-label-strategies",
        columns=["f1"],
        title="Label strategies",
        more=score_aggregation_strategies,
    )


def score_aggregation_strategies(
    folder: Path, options: NerOptions, batch_size: int = 32
) -> dict[str, float]:
    """Dev F1 of a finished run with each aggregation strategy, and of its own with argmax decoding.

    options: those of the run, which name the dev data.
    """
    task, model = NerTask.from_pretrained(folder)
    records = NerTask.read_splits(options)["dev"]
    features = task.featurize(records)
    outputs = run_batches(task.collate, model, head_logits, features, batch_size, "predict")

    def f1(**changes: Any) -> float:
        changed = replace(task, options=replace(task.options, **changes))
        predictions = changed.decode(features, outputs)
        return metrics.entity_f1([p.tags for p in predictions], [r.tags for r in records])["f1"]

    scores = {f"by {name}": f1(aggregation_strategy=name) for name in AGGREGATION_STRATEGIES}
    return {**scores, "own, argmax": f1(decoding="argmax")}
