"""Runs in random output folders: nothing of anybody else's changes, and what is finished is whole.

    python tests/folders.py --count 2000        by hand; prints the outcomes by folder and command

Each case makes a folder that may be missing, hold files, links, FIFOs and dot files of somebody's,
or a run, finished or not, of this or another task (support/worlds.py).  It starts one run or two at
the same moment through the scripts' command lines, perhaps ends them with a signal at one of their
operations on files, and starts them again until one ends by itself.  After each start:

- every path that no run had written is there, with its type, mode and contents; without --resume or
  --overwrite that holds for the paths of runs too; after a refusal for everything;
- a process has ended with status 0, with status 2 and one line, or as its signal demands;
- status 0 leaves a whole run and no temporary file; of two runs in one folder it is one's alone.

`--first SEED --count 1` repeats a case: the folder, flags and operations are the same, but two
processes at once take turns as the system decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzzing import seconds
from support import worlds
from support.fuzzes import Outcomes, command_line
from support.worlds import Listing, listing

from minift import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    Tokenizer,
)
from minift.files import sha256
from minift.models.bert import BertConfig, BertModel
from minift.predictor import predict_lines

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SECONDS = 60  # of a process; each takes a fraction of one
LARGE = 1500  # cases in which every kind must have occurred
OUTCOMES = ("refused", "finished", "killed", "together", "failed")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MANY = ("seeds", "sweep", "compare")  # commands that make several runs below their folder
OVERWRITE, RESUME = ("--overwrite",), ("--resume",)
FLAGS: tuple[tuple[str, ...], ...] = ((), OVERWRITE, RESUME, OVERWRITE + RESUME)
DEV_RECORDS = 5
TEXT = "the film was good , so it was bad ."


class Wrong(Exception):
    """A case came out wrong."""


# ---- commands and the runs that they have made ---------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a run reads: a model and reviews; other commands read the other files beside them."""

    model: Path
    train: Path
    dev: Path


@dataclass
class Bench:
    """Inputs, and folders with runs that cases copy; made once.

    runs: (command, "finished" or "unfinished") -> folders.
    names: command -> the paths below the folder of its finished run.
    operations: command -> how many operations on files a run makes.
    """

    place: Path
    runs: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        folder = self.place / "inputs"
        return Inputs(folder / "bert", folder / "train.tsv", folder / "dev.tsv")

    def argv(self, command: str, inputs: Inputs, flags: list[str]) -> list[str]:
        """A script and its flags."""
        model = ["--model", str(inputs.model), "--device", "cpu"]
        reviews = ["--train-file", str(inputs.train), "--dev-file", str(inputs.dev)]
        short = ["--batch-size", "4", "--epochs", "1"]
        folder = self.inputs.train.parent
        questions = [f"--{split}-file={folder / 'qa.json'}" for split in ("train", "dev")]
        text = ["--train-file", str(folder / "text.txt"), "--max-steps", "3"]
        text += ["--batch-size", "2", "--block-size", "8", "--eval-blocks", "2", "--eval-steps=1"]
        cells = ["--learning-rates", "1e-3", "--epochs-list", "1", "--batch-sizes", "4", "8"]
        script, more = {
            "train": ("train_classification", [*reviews, *short]),
            "qa": ("train_qa", [*questions, *short, "--max-length", "32"]),
            "pretrain": ("pretrain", text),
            "seeds": ("train_classification", [*reviews, *short, "--seeds", "2"]),
            "sweep": ("sweep", [*reviews, *cells]),
            "compare": ("compare_freezing", [*reviews, *short, "--seeds", "1"]),
        }[command]
        task = ["classification"] if command == "sweep" else []
        return [str(SCRIPTS / f"{script}.py"), *task, *model, *more, *flags]


def make_inputs(folder: Path) -> None:
    """A random BERT of a few KB and a dozen records of each kind."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "good",
        "bad",
        "film",
        "was",
        "so",
        "it",
        "a",
        "b",
        "c",
        ",",
        ".",
    ]
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


# ---- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """One process.  at: the operation on files at which it is ended, or waits for the other one.

    number: of the signal that ends it; 0: it waits; None: neither.
    """

    argv: list[str]
    working_folder: Path
    at: int = 0
    number: int | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class End:
    """How a process ended: "finished", "refused" or "killed", and its last line on stderr."""

    status: str
    message: str


def begin(start: Start, log: Path, which: int) -> int:
    """Run a script in a fork of this process, which has imported torch; returns its process id."""
    if pid := os.fork():
        return pid
    try:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for stream, name in ((1, "out"), (2, "err")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(log.with_suffix(f".{name}{which}"), flags), stream)
        os.chdir(start.working_folder)
        time.sleep(start.delay)
        operations = watch_operations(start, log)
        sys.argv = start.argv
        status: Any = 1
        try:
            runpy.run_path(start.argv[0], run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        log.with_suffix(f".operations{which}").write_text(str(operations[0]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    except BaseException as error:  # as the interpreter would end
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def watch_operations(start: Start, log: Path) -> list[int]:
    """Count this process's operations on files from now on, and do what a start demands at one."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        if event in ("os.putenv", "os.kill", "os.fork") or not concerns_us(arguments):
            return
        count[0] += 1
        if count[0] != start.at or start.number is None:
            return
        if start.number:
            os.kill(os.getpid(), start.number)
            return
        deadline = time.monotonic() + SECONDS / 2
        while not os.path.exists(log.with_suffix(".go")) and time.monotonic() < deadline:
            time.sleep(0.002)

    def concerns_us(arguments: tuple[Any, ...]) -> bool:
        """Whether an operation is on a relative path, or on one of temporary folders."""
        first = arguments[0] if arguments else 0
        if not isinstance(first, (str, bytes, os.PathLike)):
            return True
        path = os.fsdecode(first)
        return not os.path.isabs(path) or path.startswith(str(log.parent))

    sys.addaudithook(hook)
    return count


def finish(starts: list[Start], log: Path) -> tuple[list[End], list[int]]:
    """Run processes at the same time: how each ended, and the order in which they did."""
    for path in log.parent.glob(f"{log.name}.*"):
        path.unlink()
    running = {begin(start, log, i): i for i, start in enumerate(starts)}
    ends: dict[int, int | None] = {}
    deadline = time.monotonic() + SECONDS
    while running:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                ends[running.pop(pid)] = status
                log.with_suffix(".go").touch()
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                ends[running.pop(pid)] = None
        time.sleep(0.002)
    return [how_it_ended(ends[i], start, log, i) for i, start in enumerate(starts)], list(ends)


def how_it_ended(status: int | None, start: Start, log: Path, which: int) -> End:
    """`Wrong` for an end that no script may have."""
    printed = log.with_suffix(f".err{which}").read_text(errors="replace")
    lines = printed.splitlines() or [""]
    if status is None:
        raise Wrong(f"hangs: {' '.join(start.argv)}")
    code = os.waitstatus_to_exitcode(status)
    if start.number and code in (-start.number, 128 + start.number):
        return End("killed", lines[-1])
    if code == 0:
        return End("finished", lines[-1])
    others = [line for line in lines[:-1] if not line.startswith(("usage:", "warning:"))]
    if code != 2 or not lines[-1].startswith("error: ") or others:
        raise Wrong(f"status {code} of {' '.join(start.argv)}:\n{printed[-1500:]}")
    return End("refused", lines[-1])


# ---- one case's folder ---------------------------------------------------------------------------


@dataclass
class World:
    """One case: its folder, and what is known of it.

    given: the folder as on the command line; None: none is given.
    ours: the paths below `place` that a run has written.
    in_the_way: an input has the place of a file that a run writes.
    torn: an --overwrite was killed, so the folder may hold parts of two runs.
    """

    place: Path
    kind: str
    draw: Random
    command: str
    inputs: Inputs
    given: Path | None
    made_by: str = ""
    ours: set[str] = field(default_factory=set)
    in_the_way: bool = False
    torn: bool = False
    commands: list[str] = field(default_factory=list)  # what was started, and how it ended
    rows: list[tuple[str, str]] = field(default_factory=list)  # of the table

    @property
    def work(self) -> Path:
        return self.place / "work"

    @property
    def folder(self) -> Path:
        """The folder itself, behind any link."""
        return Path(os.path.realpath(self.work / (self.given or "runs")))

    def below(self, path: str) -> str | None:
        """A path of the world as one below the folder; None if it is not."""
        inside = os.path.relpath(self.place / path, self.folder)
        return None if inside == "." or inside.startswith("..") else inside

    def holds(self, name: str) -> bool:
        """Whether a run has written a file of this name in the folder."""
        path = self.folder / name
        return os.path.relpath(path, self.place) in self.ours and path.is_file()

    @property
    def theirs(self) -> list[str]:
        """The names in the folder that no run has written."""
        prefix = os.path.relpath(self.folder, self.place)
        return [n for n in names_in(self.folder) if os.path.join(prefix, n) not in self.ours]


KINDS = {
    "missing": 7,
    "nested": 3,
    "empty": 6,
    "dots": 9,
    "foreign": 12,
    "foreign options": 9,
    "finished": 7,
    "unfinished": 8,
    "finished and files": 10,
    "unfinished and files": 9,
    "inputs": 8,
    "no folder": 2,
    "dangling link": 2,
    "runs": 9,
}


def make_world(bench: Bench, place: Path, draw: Random, command: str) -> World:
    """A folder of a random kind."""
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    if command in MANY and kind in ("inputs", "runs"):
        kind = "foreign"
    elsewhere = place / "elsewhere"
    (place / "work").mkdir(parents=True)
    worlds.put(elsewhere / "file.txt", "somebody's\n")
    worlds.put(elsewhere / "folder" / "file.txt", "somebody's\n")
    name = Path("deep") / "er" / "out" if kind == "nested" else Path("out")
    if draw.random() < 0.04:
        name = Path("caf\udce9")  # not UTF-8
    world = World(place, kind, draw, command, bench.inputs, None if kind == "runs" else name)
    if draw.random() < 0.3 and world.given is not None:
        world.given = world.work / name
    target = world.work / name
    if kind in ("missing", "nested"):
        return world
    if kind == "runs":
        make_runs(bench, world, elsewhere)
        return world
    if kind == "dangling link":
        target.symlink_to(draw.choice(("nothing", target.name, place / "no" / "thing")))
        return world
    if kind == "no folder":
        target.write_text("x") if draw.random() < 0.6 else os.mkfifo(target)
        return world
    if draw.random() < 0.15:
        linked = draw.choice((elsewhere / "output", world.work / "real output"))
        target.symlink_to(draw.choice((linked, os.path.relpath(linked, target.parent))))
        target = linked
    if "finished" in kind:
        put_run(bench, world, target, command, kind.split()[0])
    else:
        target.mkdir()
    if kind == "dots":
        worlds.put_dots(target, draw, elsewhere)
    elif kind == "foreign":
        worlds.put_clutter(target, draw, elsewhere)
    elif kind == "foreign options":
        real = bench.runs["train", "finished"][0] / "options.json"
        worlds.put_foreign_options(target, draw, elsewhere, real)
    elif kind.endswith("files"):
        worlds.put_clutter(target, draw, elsewhere, beside_run=True)
        if (target / "state").is_dir() and draw.random() < 0.1:
            worlds.put(target / "state" / "notes.txt", "somebody's\n")
    elif kind == "inputs":
        put_inputs(bench, world, target)
    return world


def put_run(bench: Bench, world: World, target: Path, command: str, how: str) -> None:
    """Copy a run, mostly of the same command."""
    draw = world.draw
    world.made_by = command if draw.random() < 0.75 else draw.choice(["train", "qa", "pretrain"])
    shutil.copytree(draw.choice(bench.runs[world.made_by, how]), target, symlinks=True)
    world.ours |= {str(path.relative_to(world.place)) for path in (target, *target.rglob("*"))}


def put_inputs(bench: Bench, world: World, target: Path) -> None:
    """Put the model or a data file into the output folder, perhaps beside a run."""
    draw = world.draw
    beside_run = draw.random() < 0.6
    if beside_run:
        shutil.rmtree(target)
        put_run(bench, world, target, "train", "finished")
    if draw.random() < 0.4:
        model = target if draw.random() < 0.6 else target / "model"
        if model != target or not beside_run:
            shutil.copytree(bench.inputs.model, model, dirs_exist_ok=True)
        world.inputs = replace(bench.inputs, model=model)
        world.in_the_way = model == target
        kept = [model / "config.json", model / "model.safetensors"]
    else:
        split = draw.choice(("train", "dev"))
        names = ["mine.jsonl", "log.jsonl", "predictions.test.jsonl", "predictions.dev.jsonl"]
        path = target / draw.choice(names if beside_run else names[:1])
        rows = getattr(bench.inputs, split).read_text().splitlines()
        fields = [dict(zip(("text", "label"), row.split("\t"), strict=True)) for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in fields))
        world.in_the_way = path.name != "mine.jsonl"
        kept = [path]
        if draw.random() < 0.4:
            link = world.work / "linked.jsonl"
            link.symlink_to(path)
            path = link
        world.inputs = replace(bench.inputs, **{split: path})
    world.ours -= {str(path.relative_to(world.place)) for path in kept}


def make_runs(bench: Bench, world: World, elsewhere: Path) -> None:
    """The folder runs/, in which a start without --output-dir takes the next number."""
    draw, runs = world.draw, world.work / "runs"
    how = draw.choices(("missing", "link", "folder", "no folder"), (3, 1, 5, 1))[0]
    if how == "link":
        runs.symlink_to(elsewhere / "folder")
    elif how == "folder":
        runs.mkdir()
    elif how == "no folder":
        runs.write_text("x") if draw.random() < 0.5 else runs.symlink_to("nothing")
        return
    for number in draw.sample(range(1, 4), draw.randrange(4) if runs.is_dir() else 0):
        path = runs / f"classification-{number}"
        if draw.random() < 0.3:
            put_run(bench, world, path, "train", draw.choice(("finished", "unfinished")))
        else:
            worlds.put_anything(path, draw, elsewhere)


# ---- what must be true ---------------------------------------------------------------------------

EITHER = {"finished", "refused"}


def expected(world: World, flags: tuple[str, ...]) -> set[str]:
    """How a start that nothing disturbs may end: "finished", "refused", or either.

    Either, where a name that a run needs is taken by something that no run wrote.
    """
    if len(flags) == 2:
        return {"refused"}
    if world.given is None:
        runs = world.work / "runs"
        no_folder = worlds.is_taken(runs) and not runs.is_dir()
        return {"refused"} if no_folder or flags == RESUME else {"finished"}
    given = world.work / world.given
    if worlds.is_taken(given) and not given.is_dir():
        return {"refused"}
    names, theirs = names_in(world.folder), world.theirs
    conflict = not str(world.given).isprintable() or any(map(is_needed, theirs))
    fresh = all(name.startswith(".") for name in names)
    if world.command in MANY or world.made_by in MANY:
        expected_here = world.made_by in ("", world.command) and all(n[0] == "." for n in theirs)
        return {"finished"} if expected_here and not conflict and flags != RESUME else EITHER
    is_run = world.holds("options.json")
    uncertain = conflict or world.torn or world.kind == "inputs"
    if flags == RESUME:
        if not is_run or world.holds("metrics.json"):
            return {"refused"}
        if not uncertain and world.command == world.made_by:
            return {"finished"}
        return EITHER if uncertain else {"refused"}
    if fresh:
        return EITHER if conflict else {"finished"}
    if not flags or (world.in_the_way and is_run):
        return {"refused"}
    if not is_run and any(not name.startswith(".") for name in theirs):
        return EITHER if world.torn else {"refused"}
    return EITHER if conflict or world.kind == "inputs" else {"finished"}


def names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def is_needed(name: str) -> bool:
    """Whether a run may need a name for itself."""
    names = (*worlds.RUN_NAMES, "options.json", "state", "logs", "classification-seed1")
    return name in (*names, *worlds.TEMPORARY_FOLDERS, *worlds.TEMPORARY_NAMES)


def check_changes(world: World, before: Listing, strict: bool, may_replace: bool) -> None:
    """Compare the world with a listing from before some starts, and note what they have made.

    strict: nothing may have changed, apart from temporary files of killed runs.
    may_replace: what runs wrote may have changed.
    """
    after = listing(world.place)
    changed = {path for path in before if after.get(path) != before[path]}
    if not may_replace or strict:
        spared = {path for path in changed & world.ours if worlds.is_temporary(path)}
    else:
        spared = world.ours
    if wrong := changed - spared:
        lines = (f"    {path!r} was {before[path]}, is {after.get(path)}" for path in sorted(wrong))
        raise Wrong("changed or gone:\n" + "\n".join(lines))
    new = after.keys() - before.keys()
    if strict and new:
        raise Wrong(f"left behind by a refusal: {sorted(new)}")
    ours = world.ours | new
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


def check_whole(bench: Bench, world: World, folder: Path, command: str, seeds: set[int]) -> None:
    """`Wrong` unless a folder holds one finished run, of one of these seeds, and nothing beside."""
    top = os.path.relpath(folder, world.place)
    found = {os.path.relpath(path, top) for path in world.ours if path.startswith(f"{top}/")}
    found = {path for path in found if os.path.lexists(folder / path)}
    if left := [path for path in found if worlds.is_temporary(path) or "state" in Path(path).parts]:
        raise Wrong(f"left behind by a finished run: {sorted(left)}")
    names = bench.names[command]
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
    files = json.loads((folder / "manifest.json").read_text())["files"]
    if not {"config.json", "model.safetensors"} <= files.keys():
        raise Wrong(f"manifest.json lists only {sorted(files)}")
    for name, saved in files.items():
        path = folder / name
        if saved != {"bytes": path.stat().st_size, "sha256": sha256(path)}:
            raise Wrong(f"{name} differs from manifest.json")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    if [row["step"] for row in log] != sorted(row["step"] for row in log) or not log:
        raise Wrong(f"log.jsonl has the steps {[row['step'] for row in log]}")
    if command == "pretrain":
        BertForMaskedLM.from_pretrained(folder)
        Tokenizer.from_pretrained(folder)
        return
    rows = [json.loads(s) for s in (folder / "predictions.dev.jsonl").read_text().splitlines()]
    if len(rows) != DEV_RECORDS:
        raise Wrong(f"predictions.dev.jsonl has {len(rows)} lines")
    again = predict_lines(folder, [row["text"] for row in rows], as_json=True)
    for row, other in zip(rows, map(json.loads, again), strict=True):
        if row["predicted"] != other["predicted"] or abs(row["score"] - other["score"]) > 1e-4:
            raise Wrong(f"the saved model predicts {other}, but predictions.dev.jsonl has {row}")


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
    at = draw.randint(1, bench.operations[world.command])
    if to_kill:
        starts[chosen] = replace(starts[chosen], at=at, number=int(draw.choice(SIGNALS)))
    elif together and draw.random() < 0.7:
        starts[chosen] = replace(starts[chosen], at=at, number=0)
    if together:
        starts[0] = replace(starts[0], delay=draw.uniform(0, 0.15))
    foreseen = [expected(world, flags) for flags in all_flags]
    was_run = world.holds("options.json") if world.given is not None else False
    before, inputs = listing(world.place), listing(bench.inputs.train.parent)
    world.commands += [" ".join([*start.argv, f"[{start.at}, {start.number}]"]) for start in starts]

    ends, order = finish(starts, bench.place / "printed")
    world.rows += [
        (f"flags: {' '.join(f) or 'none'}", e.status) for f, e in zip(all_flags, ends, strict=True)
    ]
    for flags, end in zip(all_flags, ends, strict=True):
        row = f"flags: {' '.join(flags) or 'none'}"
        world.rows += [(row, end.status), *([(row, "together")] if together else [])]
    world.commands += [f"    {end.status}: {end.message}" for end in ends]
    statuses = [end.status for end in ends]
    is_refusal = set(statuses) == {"refused"} or all(f == {"refused"} for f in foreseen)
    replaced = world.command in MANY or any(all_flags)
    check_changes(world, before, is_refusal, replaced)
    if listing(bench.inputs.train.parent) != inputs:
        raise Wrong("the inputs have changed")
    check_ends(world, all_flags, foreseen, statuses)

    if "refused" not in statuses or "finished" in statuses:
        world.made_by = world.command
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
    worlds.remove(place)
    world = make_world(bench, place, draw, command)
    together, outcomes, why = draw.random() < 0.25, set(), ""
    outcomes |= {"together"} if together else set()
    try:
        for attempt in range(4):
            to_kill = attempt < 3 and draw.random() < (0.35 if attempt else 0.5)
            with seconds(SECONDS):
                ends = try_starts(bench, world, together and not attempt, attempt > 0, to_kill)
            outcomes |= {end.status for end in ends}
            if all(end.status != "killed" for end in ends):
                break
    except Exception as error:
        outcomes = {"failed"}
        reason = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        why = "\n".join([*world.commands, reason])
    rows = [
        (f"{name}", o)
        for name in (f"folder: {world.kind}", f"command: {command}")
        for o in outcomes
    ]
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
    used = [kind for kind in KINDS if kind not in ("no folder", "dangling link")]
    rows = [(f"folder: {kind}", o) for kind in used for o in ("finished", "killed", "together")]
    rows += [(f"folder: {kind}", "refused") for kind in KINDS]
    rows += [(f"command: {c}", o) for c in ("train", "pretrain", *MANY) for o in OUTCOMES[:3]]
    flags = [" ".join(flags) or "none" for flags in FLAGS[:3]]
    return rows + [(f"flags: {f}", o) for f in flags for o in OUTCOMES[:4]]


if __name__ == "__main__":
    command_line(__doc__, fuzz, count=2000, outcomes=OUTCOMES)
