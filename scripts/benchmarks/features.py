"""Speed from questions to windows of tokens: minift, and `datasets.map` with a fast tokenizer."""

import statistics
from dataclasses import dataclass, replace

from benchmarks.peers import alternate, speed_columns
from minift import hub
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.tasks.qa import QaTask
from minift.terminal import print_line


@dataclass(frozen=True)
class FeaturesOptions:
    """Measurement."""

    rounds: int = option(3, "Rounds in which both sides run, in turn.")

    def __post_init__(self) -> None:
        check_range(self, "rounds", 1, 100_000)


def features(task_options, measurement):
    """Time both sides on the same training questions; compare their tokens and answer positions."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    if task_options.doc_stride is None:  # minift's default depends on the question's length
        task_options = replace(task_options, doc_stride=(task_options.max_length or 384) // 3)
    task, _, splits = QaTask.from_options(task_options)
    records = splits["train"]
    max_length, stride = task.max_length, task_options.doc_stride
    tokenizer = transformers.AutoTokenizer.from_pretrained(hub.find_checkpoint(task_options.model))
    table = datasets.Dataset.from_list(
        [
            {
                "question": record.question,
                "context": record.context,
                "answers": {
                    "text": [answer.text for answer in record.answers],
                    "answer_start": [answer.start for answer in record.answers],
                },
            }
            for record in records
        ]
    )

    def prepare(batch):
        """The windows, and the token positions of the first answer in each, or (0, 0)."""
        encoded = tokenizer(
            batch["question"],
            batch["context"],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        starts, ends = [], []
        question_of_window = encoded.pop("overflow_to_sample_mapping")
        for i, offsets in enumerate(encoded.pop("offset_mapping")):
            answers = batch["answers"][question_of_window[i]]
            start, end = 0, 0
            if answers["text"]:
                first = answers["answer_start"][0]
                last = first + len(answers["text"][0])
                context = [t for t, part in enumerate(encoded.sequence_ids(i)) if part == 1]
                if offsets[context[0]][0] <= first and last <= offsets[context[-1]][1]:
                    start = max(t for t in context if offsets[t][0] <= first)
                    end = min(t for t in context if offsets[t][1] >= last)
            starts.append(start)
            ends.append(end)
        return {**encoded, "start_positions": starts, "end_positions": ends}

    def peer(_):
        return table.map(
            prepare, batched=True, remove_columns=table.column_names, load_from_cache_file=False
        )

    seconds, results = alternate(
        {"minift": lambda _: task.featurize(records, training=True), "datasets.map": peer},
        measurement.rounds,
    )
    ours = [(f.input_ids, *f.answer) for f in results["minift"]]
    rows = results["datasets.map"]
    columns = ("input_ids", "start_positions", "end_positions")
    expected = list(zip(*(rows[column] for column in columns), strict=True))
    sep = tokenizer.sep_token_id
    same = sum(same_window(a, b, sep) for a, b in zip(ours, expected, strict=False))
    print_line(
        "\n"
        + markdown_table(
            [
                {
                    "features": f"{len(records):,} questions",
                    "minift, seconds": f"{statistics.median(seconds['minift']):.2f}",
                    **speed_columns(*seconds.values()),
                    "same windows": f"{same} of {len(ours)} and {len(expected)}",
                }
            ]
        )
    )


def same_window(ours, peer, sep):
    """Whether two windows agree; a window is (ids, first token of the answer, its last token).

    minift's last window of a context is as long as the others, so it begins earlier than the
    peer's; an answer between the two beginnings is in minift's window only.
    """
    (a, *minift_answer), (b, *peer_answer) = ours, peer
    context = b[b.index(sep) + 1 :]
    same_text = a[: b.index(sep)] == b[: b.index(sep)] and a[-len(context) :] == context
    moved = [place + len(a) - len(b) for place in peer_answer] if any(peer_answer) else [0, 0]
    return same_text and (minift_answer == moved or (len(a) > len(b) and not any(peer_answer)))
