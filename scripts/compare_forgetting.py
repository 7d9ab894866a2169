"""Measure catastrophic forgetting: fine-tune on one task, then on another, with several remedies.

--first-train-file and --first-dev-file hold the first task, --train-file and --dev-file the second.
Writes a table of both tasks' scores, before and after, into --output-dir.  The same command
continues an interrupted comparison.
"""

from dataclasses import replace
from pathlib import Path

from minift import BertForSequenceClassification, hub
from minift.experiments.comparison import CompareOptions, finished_run, table_of_means
from minift.experiments.forgetting import TwoTaskOptions, TwoTasks
from minift.models.bert import BertConfig
from minift.pretraining.probe import ProbeOptions, probe_loss, train_probe
from minift.pretraining.run import PretrainOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, probe_options, repeat = command_line(
        TwoTaskOptions, TrainOptions, ProbeOptions, CompareOptions, description=__doc__
    )
    folder = options.output_dir or Path("runs/compare-forgetting")
    probe = None
    if probe_options.probe_file:
        probe = train_probe(task_options.model, probe_options, folder / "probe")
    layers = BertConfig.from_pretrained(hub.find_checkpoint(task_options.model)).num_hidden_layers
    learning_rate = options.with_learning_rate(task_options.default_learning_rate).learning_rate
    remedies = {
        "none": {},
        "a fifth of the learning rate": {"learning_rate": learning_rate / 5},
        "layer-wise decay, 0.7": {"layerwise_lr_decay": 0.7},
        "lower half frozen": {"freeze_embeddings": True, "freeze_layers": layers // 2},
        "head only": {"freeze_encoder": True, "learning_rate": None},
        "L2-SP, 50": {"l2_sp": 50.0},
        "replay": {},
        "LoRA, rank 8": {"lora_rank": 8, "lora_alpha": 16.0, "learning_rate": None},
        "WiSE-FT, 0.5": {"wise_ft_alpha": 0.5},
    }
    runs = []
    for seed in range(options.seed, options.seed + repeat.seeds):
        before = folder / f"first-seed{seed}"
        first = finished_run(
            TwoTasks,
            replace(task_options, stage="first", replay_ratio=0.0),
            replace(options, seed=seed, output_dir=before),
            "the first task",
        )
        loss_before = masked_lm_loss(before, folder / "probe", probe) if probe else None
        rows = []
        for name, changes in remedies.items():
            target = folder / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
            replay_ratio = task_options.replay_ratio if name == "replay" else 0.0
            second = finished_run(
                TwoTasks,
                replace(task_options, model=str(before), replay_ratio=replay_ratio),
                replace(options, seed=seed, output_dir=target, **changes),
                name,
            )
            row = {
                "remedy": name,
                "first, before": 100 * first["dev"]["accuracy"],
                "first, after": 100 * second["test"]["accuracy"],
                "second": 100 * second["dev"]["accuracy"],
                "second, Matthews": 100 * second["dev"]["matthews_correlation"],
                "trained": second["trained_parameters"],
                "seconds": second["train_seconds"],
            }
            if probe:
                row["masked-LM loss before"] = loss_before
                row["masked-LM loss after"] = masked_lm_loss(target, folder / "probe", probe)
            rows.append(row)
        runs.append(rows)
    print(f"\n{table_of_means(folder / 'table.md', runs, ('remedy', 'trained'))}\n\nin {folder}")


def masked_lm_loss(run: Path, folder: Path, probe: PretrainOptions) -> float:
    """Held-out loss of the probe in `folder` on the encoder of a finished run."""
    return probe_loss(BertForSequenceClassification.from_pretrained(run), folder, probe)


if __name__ == "__main__":
    run_script(main)
