"""Fine-tuned on one task, then on another: what is left of the first, and which remedy costs what.

--first-train-file and --first-dev-file are the first task's, --train-file and --dev-file the
second's.  A comparison that was interrupted goes on where it stopped.
"""

from dataclasses import replace
from pathlib import Path

from minift import BertForSequenceClassification, hub
from minift.experiments.comparison import CompareOptions, finished_run, table_of_means
from minift.experiments.forgetting import TwoTaskOptions, TwoTasks
from minift.models.bert import BertConfig
from minift.pretraining.probe import ProbeOptions, probe_loss, train_probe
from minift.pretraining.run import PretrainOptions
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options, probe_options, repeat = command_line(
        TwoTaskOptions, TrainOptions, ProbeOptions, CompareOptions, description=__doc__
    )
    folder = options.output_dir or Path("runs/compare-forgetting")
    probe = None
    if probe_options.text:
        probe = train_probe(task_options.model, probe_options, folder / "probe")
    layers = BertConfig.from_pretrained(hub.resolve(task_options.model)).num_hidden_layers
    rate = options.with_rate(task_options.usual_rate).learning_rate
    remedies = {
        "none": {},
        "a fifth of the rate": {"learning_rate": rate / 5},
        "layer-wise rates, 0.7": {"layer_decay": 0.7},
        "lower half frozen": {"freeze_below": 1 + layers // 2},
        "head alone": {"freeze_encoder": True, "learning_rate": None},
        "pull towards the start": {"l2_start": 50.0},
        "replay": {},
        "LoRA, rank 8": {"lora_rank": 8, "lora_alpha": 16.0, "learning_rate": None},
        "half way back": {"average_start": 0.5},
    }
    runs = []
    for seed in range(options.seed, options.seed + repeat.seeds):
        before = folder / f"first-seed{seed}"
        first = finished_run(
            TwoTasks,
            replace(task_options, stage="first", replay=0.0),
            replace(options, seed=seed, output_dir=before),
            "the first task",
        )
        known = masked_words(before, folder / "probe", probe) if probe else None
        rows = []
        for name, changes in remedies.items():
            target = folder / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
            replay = task_options.replay if name == "replay" else 0.0
            second = finished_run(
                TwoTasks,
                replace(task_options, model=str(before), replay=replay),
                replace(options, seed=seed, output_dir=target, **changes),
                name,
            )
            row = {
                "remedy": name,
                "first before": 100 * first["dev"]["accuracy"],
                "first after": 100 * second["test"]["accuracy"],
                "second": 100 * second["dev"]["accuracy"],
                "second, Matthews": 100 * second["dev"]["matthews_correlation"],
                "trained": second["trained_parameters"],
                "seconds": second["train_seconds"],
            }
            if probe:
                row["masked words before"] = known
                row["after"] = masked_words(target, folder / "probe", probe)
            rows.append(row)
        runs.append(rows)
    print(f"\n{table_of_means(folder / 'table.md', runs, ('remedy', 'trained'))}\n\nin {folder}")


def masked_words(run: Path, folder: Path, probe: PretrainOptions) -> float:
    """The loss of the probe in `folder` behind the encoder of a finished run."""
    return probe_loss(BertForSequenceClassification.from_pretrained(run), folder, probe)


if __name__ == "__main__":
    run_script(main)
