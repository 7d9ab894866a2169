"""Worlds: an output folder of a random kind with what surrounds it, and how a run in it may end.

work        the working directory of a run
work/OUT    its output folder, or a link to it
elsewhere   files and folders that links lead to
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from support import clutter

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
MANY = ("seeds", "sweep", "compare")  # commands that make several runs below their folder
OVERWRITE, RESUME = ("--overwrite",), ("--resume",)
FLAGS: tuple[tuple[str, ...], ...] = ((), OVERWRITE, RESUME, OVERWRITE + RESUME)


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


@dataclass
class World:
    """One case: its folder, and what is known of it.

    given: the folder as on the command line; None: none is given.
    ours: the paths below `place` that a run has written.
    links: in a run's folder, with the names of its files; another run may replace them.
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
    links: set[str] = field(default_factory=set)
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
    clutter.put(elsewhere / "file.txt", "somebody's\n")
    clutter.put(elsewhere / "folder" / "file.txt", "somebody's\n")
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
        if draw.random() < 0.2:
            clutter.put_backup(target, elsewhere / "backup")
    else:
        target.mkdir()
    if kind == "dots":
        clutter.put_dots(target, draw, elsewhere)
    elif kind == "foreign":
        clutter.put_clutter(target, draw, elsewhere)
    elif kind == "foreign options":
        real = bench.runs["train", "finished"][0] / "options.json"
        clutter.put_foreign_options(target, draw, elsewhere, real)
    elif kind.endswith("files"):
        inner = [path.parent for path in target.glob("*/metrics.json")]  # of a comparison
        place = draw.choice(inner) if inner and draw.random() < 0.4 else target
        clutter.put_clutter(place, draw, elsewhere, beside_run=True)
        links = [path for path in place.iterdir() if path.is_symlink()]
        links = [path for path in links if path.name in clutter.RUN_FILES]
        world.links = {str(path.relative_to(world.place)) for path in links}
        if (target / "state").is_dir() and draw.random() < 0.1:
            clutter.put(target / "state" / "notes.txt", "somebody's\n")
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
            clutter.put_anything(path, draw, elsewhere)


EITHER = {"finished", "refused"}


def expected(world: World, flags: tuple[str, ...]) -> set[str]:
    """How a start that nothing disturbs may end: "finished", "refused", or either.

    Either, where a name that a run needs is taken by something that no run wrote.
    """
    if len(flags) == 2:
        return {"refused"}
    if world.given is None:
        runs = world.work / "runs"
        no_folder = clutter.is_taken(runs) and not runs.is_dir()
        return {"refused"} if no_folder or flags == RESUME else {"finished"}
    given = world.work / world.given
    if clutter.is_taken(given) and not given.is_dir():
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
    names = (*clutter.RUN_FILES, *clutter.RUN_NAMES, "logs", "classification-seed1")
    return name in (*names, *clutter.TEMPORARY_FOLDERS, *clutter.TEMPORARY_NAMES)
