"""Runs in random output folders: nothing of anybody else's changes, and what is finished is whole.

    python tests/folders.py --count 2000        by hand; prints the outcomes by folder and command

Each case makes a folder that may be missing, hold files, links, FIFOs and dot files of somebody's,
or a run, finished or not, of this or another task (support/worlds.py).  It starts one run or two at
the same moment through the scripts' command lines, perhaps ends them with a signal at one of their
operations on files, and starts them again until one ends by itself.  After each start:

- every path that no run had written is there, with its type, mode and contents; without --resume or
  --overwrite that holds for the paths of runs too; after a refusal for everything;
- a process has ended with status 0, with status 2 and one line, or as its signal demands;
- status 0 leaves a whole run and no temporary file; of two runs in one folder it is one's alone;
- a run that was killed, and resumed or replaced, has the results of an undisturbed one.

`--first SEED --count 1` repeats a case: the folder, flags and operations are the same, but two
processes at once take turns as the system decides, and some are killed after a random time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from support import clutter
from support.clutter import Listing, listing
from support.fuzzes import Outcomes, command_line
from support.starts import End, Start, Wrong, finish
from support.worlds import (
    FLAGS,
    KINDS,
    MANY,
    OVERWRITE,
    RESUME,
    Bench,
    World,
    expected,
    make_world,
)

from minift import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    Tokenizer,
)
from minift.files import sha256
from minift.models.bert import BertConfig, BertModel
from minift.predictor import predict_lines

LARGE = 1500  # cases in which every kind must have occurred
OUTCOMES = ("refused", "finished", "killed", "together", "failed")
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
DEV_RECORDS = 5
TEXT = "the film was good , so it was bad ."


# ---- inputs, and runs that cases copy ------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """A random BERT of a few KB and a dozen records of each kind."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *dict.fromkeys(TEXT.split())]
    bert = folder / "bert"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(words) + "\n")
    (bert / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(bert)
    rows = [
        f"the {word} film was {'so ' * i}{word}\t{label}\n"
        for i in range(6)
        for word, label in (("good", "pos"), ("bad", "neg"))
    ]
    (folder / "train.tsv").write_text("".join(rows))
    (folder / "dev.tsv").write_text("".join(rows[2 : 2 + DEV_RECORDS]))
    (folder / "text.txt").write_text("\n\n".join([TEXT] * 20))
    answers = [{"text": "good", "answer_start": 13}]
    questions = [{"id": str(i), "question": "it was", "answers": answers} for i in range(4)]
    articles = [{"title": "a", "paragraphs": [{"context": TEXT, "qas": questions}]}]
    (folder / "qa.json").write_text(json.dumps({"version": "1.1", "data": articles}))


@contextlib.contextmanager
def make_bench() -> Iterator[Bench]:
    """Inputs and runs of each command, finished and killed at several moments."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place).resolve())
        make_inputs(bench.inputs.train.parent)
        # What a process would import at its first use is imported before it is forked.
        for model in (BertForSequenceClassification, BertForQuestionAnswering):
            model.from_pretrained(bench.inputs.model, num_labels=2)
        for command in ("train", "qa", "pretrain", *MANY):
            folder = bench.place / "runs" / command
            folder.mkdir(parents=True)
            argv = bench.argv(command, bench.inputs, ["--save-steps", "1", "--output-dir"])
            log = bench.place / "printed"
            straight = Start([*argv, str(folder / "finished")], bench.place)
            if (ended := finish([straight], log)[0][0]).status != "finished":
                raise SystemExit(f"{command}: {ended}")
            bench.runs[command, "finished"] = [folder / "finished"]
            bench.names[command] = set(listing(folder / "finished"))
            bench.operations[command] = int(log.with_suffix(".operations0").read_text())
            for i in range(1, 7):
                at = bench.operations[command] * (i + 2) // 9
                killed = Start([*argv, str(folder / f"killed{i}")], bench.place, at, signal.SIGKILL)
                finish([killed], log)
            bench.runs[command, "unfinished"] = sorted(folder.glob("killed*"))
        yield bench


# ---- what must be true ---------------------------------------------------------------------------


def check_changes(world: World, before: Listing, strict: bool, may_replace: bool) -> bool:
    """Compare the world with a listing from before some starts, and note what they have made.

    strict: nothing may have changed, apart from temporary files of killed runs.
    may_replace: what runs wrote may have changed.
    Returns whether anything but a temporary file has changed.
    """
    after = listing(world.place)
    changed = {path for path in before if after.get(path) != before[path]}
    if not may_replace or strict:
        spared = {path for path in changed & world.ours if clutter.is_temporary(path)}
    else:
        spared = world.ours | world.links
    if wrong := changed - spared:
        lines = (f"    {path!r} was {before[path]}, is {after.get(path)}" for path in sorted(wrong))
        raise Wrong("changed or gone:\n" + "\n".join(lines))
    new = after.keys() - before.keys()
    if strict and new:
        raise Wrong(f"left behind by a refusal: {sorted(new)}")
    ours = world.ours | new | (changed & world.links)
    for path in new:
        place = world.place / path
        inside = world.below(path)
        if inside is None and place != world.folder and place not in world.folder.parents:
            raise Wrong(f"written outside of the output folder: {path!r}")
        parents = [str(Path(inside).parents[i]) for i in range(len(Path(inside or "").parents) - 1)]
        top = os.path.relpath(world.folder, world.place)
        if strangers := [name for name in parents if os.path.join(top, name) not in ours]:
            raise Wrong(f"written into somebody's folder {strangers[0]!r}: {path!r}")
    world.ours = ours
    return not all(map(clutter.is_temporary, changed | new))


def check_whole(bench: Bench, world: World, folder: Path, command: str, seeds: set[int]) -> None:
    """`Wrong` unless a folder holds one finished run, of one of these seeds, and nothing beside."""
    top = os.path.relpath(folder, world.place)
    there = set(listing(folder))
    theirs = {path for path in there if os.path.join(top, path) not in world.ours}
    holders = {str(parent) for path in theirs for parent in Path(path).parents}  # of their files
    names = bench.names[command]
    found = there - theirs - (holders - names)
    if command in MANY:  # a run of another command may be beside its runs
        tops = {Path(name).parts[0] for name in names}
        found = {path for path in found if Path(path).parts[0] in tops}
    if left := [p for p in found if clutter.is_temporary(p) or "state" in Path(p).parts]:
        raise Wrong(f"left behind by a finished run: {sorted(left)}")
    if not names <= found or (command not in MANY and names != found):
        raise Wrong(f"files of a finished run: {sorted(found)}, not {sorted(names)}")
    if command in MANY:
        json.loads((folder / "results.json").read_text())
        for name in names:
            if name.endswith("/metrics.json"):
                check_finished_run(folder / Path(name).parent, "train", {1, 2})
    else:
        check_finished_run(folder, command, seeds)


def check_finished_run(folder: Path, command: str, seeds: set[int]) -> None:
    """`Wrong` unless the files of one finished run agree with each other."""
    metrics = json.loads((folder / "metrics.json").read_text())
    options = json.loads((folder / "options.json").read_text())
    if metrics["options"]["seed"] != options["seed"] or options["seed"] not in seeds:
        raise Wrong(f"seeds {metrics['options']['seed']}, {options['seed']}, not of {seeds}")
    log = read_log(folder)
    if [row["step"] for row in log] != sorted(row["step"] for row in log) or not log:
        raise Wrong(f"log.jsonl has the steps {[row['step'] for row in log]}")
    if command == "pretrain":
        BertForMaskedLM.from_pretrained(folder)
        Tokenizer.from_pretrained(folder)
        return
    files = json.loads((folder / "manifest.json").read_text())["files"]
    if not {"config.json", "model.safetensors"} <= files.keys():
        raise Wrong(f"manifest.json lists only {sorted(files)}")
    for name, saved in files.items():
        path = folder / name
        if saved != {"bytes": path.stat().st_size, "sha256": sha256(path)}:
            raise Wrong(f"{name} differs from manifest.json")
    rows = [json.loads(s) for s in (folder / "predictions.dev.jsonl").read_text().splitlines()]
    if len(rows) != DEV_RECORDS:
        raise Wrong(f"predictions.dev.jsonl has {len(rows)} lines")
    again = predict_lines(folder, [row["text"] for row in rows], as_json=True)
    for row, other in zip(rows, map(json.loads, again), strict=True):
        if row["predicted"] != other["predicted"] or abs(row["score"] - other["score"]) > 1e-4:
            raise Wrong(f"the saved model predicts {other}, but predictions.dev.jsonl has {row}")


def check_as_undisturbed(bench: Bench, world: World, seed: int) -> None:
    """`Wrong` unless a run that was killed on the way, or begun in another's place, has the results
    of the same run in a new folder.
    """
    folder = bench.place / "undisturbed"
    clutter.remove(folder)
    flags = ["--seed", str(seed), "--output-dir", str(folder)]
    straight = Start(bench.argv(world.command, world.inputs, flags), world.work)
    (end,), _ = finish([straight], bench.place / "printed")
    if end.status != "finished":
        raise Wrong(f"the same run in a new folder is {end.status}: {end.message}")
    if read_log(folder) != read_log(world.folder):
        raise Wrong("log.jsonl is not that of an undisturbed run")
    if sha256(folder / "model.safetensors") != sha256(world.folder / "model.safetensors"):
        raise Wrong("model.safetensors is not that of an undisturbed run")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl, without the speed that pre-training measures."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "text_tokens_per_second"} for row in rows]


# ---- one case ------------------------------------------------------------------------------------


def draw_flags(world: World, again: bool) -> tuple[str, ...]:
    """Random flags; again: after a kill."""
    if world.given is None and world.draw.random() < 0.9:
        return ()
    weights = (10, 45, 43, 2) if again else (35, 35, 22, 8)
    return world.draw.choices(FLAGS, weights)[0]


def seed_for(world: World, flags: tuple[str, ...], fresh_seed: int) -> int:
    """A resumed run needs the seed that it was started with; comparisons always have the first."""
    if world.command in MANY:
        return 1
    if flags == RESUME and world.given is not None and world.holds("options.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads((world.folder / "options.json").read_text())["seed"])
    return fresh_seed


def try_starts(bench: Bench, world: World, together: bool, again: bool, to_kill: bool) -> list[End]:
    """Start one run or two, check what they have left, and return how they ended."""
    draw, count = world.draw, 2 if together else 1
    all_flags = [draw_flags(world, again) for _ in range(count)]
    if together and draw.random() < 0.6:
        all_flags[1] = all_flags[0]
    seeds = [seed_for(world, flags, draw.randrange(2, 10**6)) for flags in all_flags]
    starts = []
    for flags, seed in zip(all_flags, seeds, strict=True):
        more = ["--seed", str(seed), *flags]
        if draw.random() < 0.5:
            more += ["--save-steps", "1"]
        if world.given is not None:
            more += ["--output-dir", str(world.given)]
        argv = bench.argv(world.command, world.inputs, more)
        starts.append(Start(argv, world.work))
    chosen = draw.randrange(count)
    operations = bench.operations[world.command]
    at = draw.randint(1, operations if draw.random() < 0.7 else operations // 6)
    if to_kill and draw.random() < 0.25:
        starts[chosen] = replace(starts[chosen], after=draw.uniform(0.01, 0.5))
    elif to_kill:
        starts[chosen] = replace(
            starts[chosen], at=at, number=int(signal.Signals[draw.choice(SIGNALS)])
        )
    elif together and draw.random() < 0.7:
        starts[chosen] = replace(starts[chosen], at=at, number=0)
    if together:
        starts[0] = replace(starts[0], delay=draw.uniform(0, 0.15))
    foreseen = [expected(world, flags) for flags in all_flags]
    was_run = world.holds("options.json") if world.given is not None else False
    before, inputs = listing(world.place), listing(bench.inputs.train.parent)
    world.commands += [
        " ".join([*start.argv, f"[{start.at}, {start.number}, {start.after:.2f}]"])
        for start in starts
    ]

    ends, order = finish(starts, bench.place / "printed")
    for flags, end in zip(all_flags, ends, strict=True):
        row = f"flags: {' '.join(flags) or 'none'}"
        world.rows += [(row, end.status), *([(row, "together")] if together else [])]
    world.commands += [f"    {end.status}: {end.message}" for end in ends]
    statuses = [end.status for end in ends]
    is_refusal = set(statuses) == {"refused"} or all(f == {"refused"} for f in foreseen)
    replaced = world.command in MANY or any(all_flags)
    if check_changes(world, before, is_refusal, replaced):
        world.made_by = world.command
    if listing(bench.inputs.train.parent) != inputs:
        raise Wrong("the inputs have changed")
    check_ends(world, all_flags, foreseen, statuses)

    killed = [i for i, status in enumerate(statuses) if status == "killed"]
    world.torn |= any(all_flags[i] == OVERWRITE and (was_run or together) for i in killed)
    finished = [i for i, status in enumerate(statuses) if status == "finished"]
    if world.given is None:
        check_runs(bench, world, [seeds[i] for i in finished])
    elif finished:
        last = max(finished, key=order.index)
        if not any(all_flags[i] and order.index(i) > order.index(last) for i in killed):
            world.torn = False
            check_whole(bench, world, world.folder, world.command, {seeds[i] for i in finished})
            if world.command not in MANY and (RESUME in all_flags or again):
                options = json.loads((world.folder / "options.json").read_text())
                check_as_undisturbed(bench, world, options["seed"])
    return ends


def check_ends(
    world: World,
    all_flags: list[tuple[str, ...]],
    foreseen: list[set[str]],
    statuses: list[str],
) -> None:
    """`Wrong` if a start was refused without a reason, or should have been."""
    together = len(statuses) > 1 and world.given is not None
    if "killed" in statuses and together:
        return  # the other one may find a run, half of one or none
    for status, allowed in zip(statuses, foreseen, strict=True):
        if status not in allowed | ({"refused"} if together else {"killed"}):
            raise Wrong(f"{status}, but expected {' or '.join(sorted(allowed))}")
    if not together:
        return
    if {"finished"} in foreseen and "finished" not in statuses:
        raise Wrong("both are refused")
    most = 1 + all_flags.count(OVERWRITE) if world.command not in MANY else 2
    if statuses.count("finished") > most:
        raise Wrong("both have finished in one folder")


def check_runs(bench: Bench, world: World, seeds: list[int]) -> None:
    """`Wrong` unless each seed has a whole run in a folder of its own below runs/."""
    of_seed: dict[int, list[Path]] = {}
    for path in sorted(world.ours):
        options = world.place / path
        if options.name == "options.json" and options.is_file():
            seed = json.loads(options.read_text())["seed"]
            of_seed.setdefault(seed, []).append(options.parent)
    for seed in seeds:
        if len(folders := of_seed.get(seed, [])) != 1:
            raise Wrong(f"the run of seed {seed} is in {folders}")
        check_whole(bench, world, folders[0], world.command, {seed})


def try_case(bench: Bench, seed: int) -> tuple[list[tuple[str, str]], str]:
    """The outcomes of a case, as (row, column) of the table, and why it failed; else ""."""
    draw = Random(seed)
    command = draw.choices(("train", "pretrain", *MANY), (88, 4, 4, 2, 2))[0]
    place = bench.place / "world"
    clutter.remove(place)
    world = make_world(bench, place, draw, command)
    together, outcomes, why = draw.random() < 0.25, set(), ""
    outcomes |= {"together"} if together else set()
    try:
        for attempt in range(4):
            to_kill = attempt < 3 and draw.random() < (0.35 if attempt else 0.5)
            ends = try_starts(bench, world, together and not attempt, attempt > 0, to_kill)
            outcomes |= {end.status for end in ends}
            if all(end.status != "killed" for end in ends):
                break
    except Exception as error:
        outcomes = {"failed"}
        reason = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        why = "\n".join([*world.commands, reason])
    names = (f"folder: {world.kind}", f"command: {command}")
    rows = [(name, outcome) for name in names for outcome in sorted(outcomes)]
    return [*rows, *world.rows], why


def fuzz(first: int, count: int) -> Outcomes:
    """Try the cases of `count` seeds; a large number must have had every kind of case."""
    found: Counter[tuple[str, str]] = Counter()
    failures = []
    with make_bench() as bench:
        for seed in range(first, first + count):
            rows, why = try_case(bench, seed)
            found.update(rows)
            if why:
                failures.append((seed, rows[0][0], why))
    if count >= LARGE:
        missing = [pair for pair in must_occur() if not found[pair]]
        failures += [(first, row, f"never {column}") for row, column in missing]
    return found, failures


def must_occur() -> list[tuple[str, str]]:
    """The (row, column) of the table that a large fuzz must have filled."""
    rows = [(f"folder: {kind}", outcome) for kind in KINDS for outcome in ("refused", "together")]
    used = [kind for kind in KINDS if kind not in ("no folder", "dangling link", "foreign options")]
    rows += [(f"folder: {kind}", outcome) for kind in used for outcome in ("finished", "killed")]
    rows += [(f"command: {c}", o) for c in ("train", "pretrain", *MANY) for o in OUTCOMES[:3]]
    flags = [" ".join(flags) or "none" for flags in FLAGS[:3]]
    return rows + [(f"flags: {f}", o) for f in flags for o in OUTCOMES[:4]]


if __name__ == "__main__":
    command_line(__doc__, fuzz, count=2000, outcomes=OUTCOMES)
