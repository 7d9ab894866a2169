"""One summarization model, decoded in many ways: quality, variety and time, on the dev data.

A finished run in --output-dir is compared as it is; else the model is trained there first.
"""

from dataclasses import asdict, replace
from pathlib import Path

from minift.errors import InputError
from minift.experiments.comparison import finished_run
from minift.experiments.decoding import (
    DecodingOptions,
    points,
    score_settings,
    side_by_side,
    table_rows,
)
from minift.files import write_json, write_text
from minift.tasks.summarization import USUAL, SummarizationOptions, SummarizationTask
from minift.training.log import markdown_table, mean_and_spread, scatter_plot
from minift.training.options import TrainOptions, command_line, run_script
from minift.training.run import pick_device
from minift.training.run_dir import METRICS


def main() -> None:
    task_options, options, decoding = command_line(
        SummarizationOptions, TrainOptions, DecodingOptions, description=__doc__, defaults=USUAL
    )
    folder = options.output_dir or Path("runs/compare-decoding")
    splits = SummarizationTask.read_splits(task_options)
    if "dev" not in splits:
        raise InputError("--dev-file is missing; give one, since the comparison is made on it")
    records = splits["dev"][: decoding.limit or None]
    device = pick_device(options.device)
    if not (folder / METRICS).exists():
        finished_run(SummarizationTask, task_options, replace(options, output_dir=folder))
    found = score_settings(folder, records, decoding, options.batch_size, options.seed, device)

    table = markdown_table(table_rows(found, records, mean_and_spread))
    write_text(folder / "decoding.md", table + "\n")
    write_json(folder / "decoding.json", [asdict(one) for one in found])
    write_text(folder / "examples.md", side_by_side(found, records, decoding.examples))
    x, y, title = "distinct-2", "rougeL", f"Ways to decode, {len(records)} documents"
    plotted = scatter_plot(folder / "plot.png", points(found, x, y), x, y, title)
    written = f"decoding.md, decoding.json, examples.md{', plot.png' if plotted else ''}"
    print(f"\n{table}\n\nof {len(records)} documents; in {folder}: {written}")
    if not plotted:
        print("no plot: matplotlib is not installed (pip install 'minift[extra]')")


if __name__ == "__main__":
    run_script(main)
