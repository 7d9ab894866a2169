"""Questions -> windows: ours beside `datasets.map` with the reference's fast tokenizer."""

import statistics
from dataclasses import dataclass, replace

from benchmarks.peers import alternate, times_as_fast
from minift import hub
from minift.tasks.base import option
from minift.tasks.qa import QaTask
from minift.training.log import markdown_table


@dataclass(frozen=True)
class FeaturesOptions:
    """How long it is measured."""

    rounds: int = option(3, "Rounds in which both sides take turns.")


def features(task_options, measured):
    """Both make the training windows of the same questions; tokens and places are compared."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    if task_options.overlap is None:  # ours would depend on the question's length
        task_options = replace(task_options, overlap=(task_options.max_length or 384) // 3)
    task, _, splits = QaTask.start(task_options)
    records = splits["train"]
    room, stride = task.max_length, task_options.overlap
    tokenizer = transformers.AutoTokenizer.from_pretrained(hub.resolve(task_options.model))
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

    def prepare(part):
        """Windows and where the first answer lies in them, or (0, 0)."""
        encoded = tokenizer(
            part["question"],
            part["context"],
            truncation="only_second",
            max_length=room,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        starts, ends = [], []
        owners = encoded.pop("overflow_to_sample_mapping")
        for i, offsets in enumerate(encoded.pop("offset_mapping")):
            answers = part["answers"][owners[i]]
            start, end = 0, 0
            if answers["text"]:
                first = answers["answer_start"][0]
                last = first + len(answers["text"][0])
                parts = encoded.sequence_ids(i)
                own = [t for t, sequence in enumerate(parts) if sequence == 1]
                if offsets[own[0]][0] <= first and last <= offsets[own[-1]][1]:
                    start = max(t for t in own if offsets[t][0] <= first)
                    end = min(t for t in own if offsets[t][1] >= last)
            starts.append(start)
            ends.append(end)
        return {**encoded, "start_positions": starts, "end_positions": ends}

    def theirs(_):
        return table.map(
            prepare, batched=True, remove_columns=table.column_names, load_from_cache_file=False
        )

    seconds, found = alternate(
        {"minift": lambda _: task.featurize(records, training=True), "datasets.map": theirs},
        measured.rounds,
    )
    ours = [(f.ids, *f.answer) for f in found["minift"]]
    rows = found["datasets.map"]
    columns = ("input_ids", "start_positions", "end_positions")
    expected = list(zip(*(rows[column] for column in columns), strict=True))
    sep = tokenizer.sep_token_id
    same = sum(agree(a, b, sep) for a, b in zip(ours, expected, strict=False))
    times, spread = times_as_fast(*seconds.values())
    print(
        "\n"
        + markdown_table(
            [
                {
                    "features": f"{len(records):,} questions",
                    "minift, seconds": f"{statistics.median(seconds['minift']):.2f}",
                    "times as fast": times,
                    "from ... to": spread,
                    "same windows": f"{same} of {len(ours)} and {len(expected)}",
                }
            ]
        )
    )


def agree(ours, theirs, sep):
    """Whether two windows are the same: (ids, first token of the answer, its last).

    Our last window of a context is as long as the others and so begins earlier than theirs; an
    answer that lies there is in ours alone.
    """
    (a, *our_answer), (b, *their_answer) = ours, theirs
    context = b[b.index(sep) + 1 :]
    same_text = a[: b.index(sep)] == b[: b.index(sep)] and a[-len(context) :] == context
    moved = [place + len(a) - len(b) for place in their_answer] if any(their_answer) else [0, 0]
    return same_text and (our_answer == moved or (len(a) > len(b) and not any(their_answer)))
