"""Compare decoding strategies of one summarization model: quality, diversity and time on dev data.

Uses the finished run in --output-dir, or trains one there with the flags of train_summarization.py.
Writes a table, example summaries and a plot beside it.
"""

from dataclasses import asdict, replace
from pathlib import Path

from minift.device import pick_device
from minift.errors import UserError
from minift.experiments.comparison import finished_run
from minift.experiments.decoding import (
    DecodingOptions,
    points,
    score_settings,
    side_by_side,
    table_rows,
)
from minift.files import write_json, write_text
from minift.reports.plots import scatter_plot
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.summarization import DEFAULTS, WITHOUT, SummarizationOptions, SummarizationTask
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions
from minift.training.run_dir import METRICS


def main() -> None:
    task_options, options, comparison = command_line(
        SummarizationOptions,
        TrainOptions,
        DecodingOptions,
        description=__doc__,
        defaults=DEFAULTS,
        without=WITHOUT,
    )
    folder = options.output_dir or Path("runs/compare-decoding")
    splits = SummarizationTask.read_splits(task_options)
    if "dev" not in splits:
        raise UserError("--dev-file is missing; give one, because the comparison uses it")
    records = splits["dev"][: comparison.limit or None]
    device = pick_device(options.device)
    if not (folder / METRICS).exists():
        finished_run(SummarizationTask, task_options, replace(options, output_dir=folder))
    decodings = score_settings(
        folder, records, comparison, options.batch_size, options.seed, device
    )

    table = markdown_table(table_rows(decodings, records, mean_and_spread))
    write_text(folder / "decoding.md", table + "\n")
    write_json(folder / "decoding.json", [asdict(decoding) for decoding in decodings])
    write_text(folder / "examples.md", side_by_side(decodings, records, comparison.examples))
    x, y, title = "distinct-2", "rougeL", f"Decoding strategies, {len(records)} documents"
    plotted = scatter_plot(folder / "plot.png", points(decodings, x, y), x, y, title)
    written = f"decoding.md, decoding.json, examples.md{', plot.png' if plotted else ''}"
    print(f"\n{table}\n\n{len(records)} documents; {folder} holds {written}")
    if not plotted:
        print("no plot: matplotlib is not installed (pip install 'minift[extra]')")


if __name__ == "__main__":
    run_script(main)
