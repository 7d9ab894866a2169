"""Compare decoding strategies of one summarization model: quality, diversity and time on dev data.

Uses the finished run in --output-dir and its dev data (or those of --dev-file), or else trains one
there with the flags of train_summarization.py.  Writes a table, example summaries and a plot beside
it.
"""

from minift.experiments.decoding import WITHOUT, DecodingOptions, compare_decoding
from minift.tasks.summarization import SummarizationOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, comparison = command_line(
        SummarizationOptions,
        TrainOptions,
        DecodingOptions,
        description=__doc__,
        without=WITHOUT,
    )
    compare_decoding(task_options, options, comparison)


if __name__ == "__main__":
    run_script(main)
