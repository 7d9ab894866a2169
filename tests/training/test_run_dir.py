"""The output folder: what a run may write, when it may begin, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support.running import ROOT, run_script

from minift import files
from minift.errors import UserError
from minift.files import MANIFEST
from minift.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from minift.models.config import CONFIG
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.text.tokenizer import TOKENIZER_FILES
from minift.training import run_dir
from minift.training.log import Log
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.run_dir import (
    ADAPTER,
    DECODING_FILES,
    EMPTY,
    EXPERIMENT_FILES,
    FILES,
    FINISHED,
    FOREIGN,
    OPTIONS,
    REFUSED,
    UNFINISHED,
    decoding_results,
    experiment,
    locked,
    made,
    run_lock,
    started,
    state_of,
    write_options,
)

SECRET = "a secret of the user's"
FLAGS = ("", "--resume", "--overwrite")


@dataclasses.dataclass(frozen=True)
class Options:
    """As much of the options as the folder asks for."""

    output_dir: Path | None
    resume: bool = False
    overwrite: bool = False
    train_file: tuple[Path, ...] = ()
    model: str | None = None


def with_flag(folder: Path | None, flag: str, **inputs) -> Options:
    return Options(folder, flag == "--resume", flag == "--overwrite", **inputs)


RESOLVED = dict.fromkeys(run_dir.RUN_KEYS - {"started_in"}, 0)


def make(folder: Path, state: str) -> Path:
    """A folder in a state, with what a new disk holds, a dot file and a dot folder in it."""
    (folder / "lost+found").mkdir(parents=True)
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "ab").write_text(SECRET)
    (folder / ".env").write_text(SECRET)
    if state == EMPTY:
        return folder
    (folder / "notes").mkdir()
    (folder / "notes" / "metrics.json").write_text(SECRET)
    (folder / "thesis.txt").write_text(SECRET)
    if state == FOREIGN:
        return folder
    write_options(folder, RESOLVED)
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        if name != OPTIONS and (name != "metrics.json" or state == FINISHED):
            (folder / name).write_text("ours")
    (folder / "state" / "mine.txt").write_text(SECRET)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refuse(words: str, taking: AbstractContextManager) -> None:
    """Assert that a folder is not taken."""
    with pytest.raises(UserError, match=words), taking:
        pass


def of_the_user(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if data == SECRET.encode()}


# The decision table: (state, flag) -> begins, continues or replaces; or words of the refusal.
TABLE = {
    (EMPTY, ""): "begins",
    (EMPTY, "--resume"): ["holds no run to resume", "leave --resume out"],
    (EMPTY, "--overwrite"): "begins",
    (FOREIGN, ""): ["holds notes, thesis.txt, and no run", "--output-dir"],
    (FOREIGN, "--resume"): ["holds notes, thesis.txt, and no run", "--output-dir"],
    (FOREIGN, "--overwrite"): ["holds notes, thesis.txt, and no run", "--output-dir"],
    (UNFINISHED, ""): ["already holds a run", "--resume", "--overwrite"],
    (UNFINISHED, "--resume"): "continues",
    (UNFINISHED, "--overwrite"): "replaces",
    (FINISHED, ""): ["already holds a run", "--resume", "--overwrite"],
    (FINISHED, "--resume"): ["finished", "--overwrite"],
    (FINISHED, "--overwrite"): "replaces",
}


@pytest.mark.parametrize(("state", "flag"), TABLE)
def test_the_decision_table(tmp_path, state, flag):
    folder = make(tmp_path / "out", state)
    assert state_of(folder) == state
    options, expected, before = with_flag(folder, flag), TABLE[state, flag], contents(folder)
    users = of_the_user(folder)
    if isinstance(expected, list):
        assert (state, flag) in REFUSED
        with pytest.raises(UserError) as refused, run_lock("task", options):
            pass
        assert all(word in str(refused.value) for word in (str(folder), *expected))
        assert contents(folder) == before
        return
    with run_lock("task", options) as taken:
        assert taken == folder
        assert contents(folder) == before  # until the inputs have been read
        with started(folder, options, {**RESOLVED, "seed": 9}):
            assert of_the_user(folder) == users
            ours = contents(folder).keys() - users
            if expected == "continues":
                assert contents(folder) == before
            else:
                assert ours == {OPTIONS}
                assert json.loads((folder / OPTIONS).read_text())["seed"] == 9
    assert state_of(folder) == UNFINISHED


def test_the_table_is_whole():
    states = (EMPTY, FOREIGN, UNFINISHED, FINISHED)
    assert set(TABLE) == {(state, flag) for state in states for flag in FLAGS}
    assert set(REFUSED) == {key for key, value in TABLE.items() if isinstance(value, list)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '"output_dir"',
        '{"seed": 1, "learning_rate": 0.1}',
        json.dumps({**RESOLVED, "started_in": 3}),
        json.dumps({**RESOLVED, "started_in": "/x", "digests": []}),
        json.dumps({**RESOLVED}),
        json.dumps({"experiment": "sweep", "started_in": "/x"}),
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\udcff{}",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_file_called_options_json_does_not_make_a_folder_a_runs(tmp_path, text, flag):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / OPTIONS).write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "model.safetensors").write_text(SECRET)
    before = contents(folder)
    with (
        pytest.raises(UserError, match=r"holds model\.safetensors, options\.json, and no run"),
        run_lock("task", with_flag(folder, flag)),
    ):
        pass
    assert contents(folder) == before


def test_a_link_to_the_options_of_another_run_does_not_either(tmp_path):
    other = make(tmp_path / "other", FINISHED)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / OPTIONS).symlink_to(other / OPTIONS)
    (folder / "config.json").write_text(SECRET)
    assert state_of(folder) == FOREIGN


def test_links_in_the_place_of_our_files_are_removed_and_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("state.json", "mine", "log"):
        (elsewhere / name).write_text(SECRET)
    folder = make(tmp_path / "out", UNFINISHED)
    (folder / "metrics.json").symlink_to(elsewhere / "nothing")
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").symlink_to(elsewhere / "log")
    (folder / "config.json").unlink()
    os.link(elsewhere / "mine", folder / "config.json")
    (folder / "adapter").rename(folder / "mine")
    (folder / "adapter").symlink_to(elsewhere)
    options = with_flag(folder, "--overwrite")
    with run_lock("task", options), started(folder, options, RESOLVED):
        names = {path.name for path in folder.iterdir()}
        kept = {".git", ".env", "lost+found", "notes", "thesis.txt"}
        assert names == {*kept, "state", "mine", OPTIONS}
    assert set(contents(elsewhere)) == {"state.json", "mine", "log"}
    assert len(of_the_user(elsewhere)) == 3


@pytest.mark.parametrize("name", ["log.jsonl", "model.safetensors", "state/state.json"])
def test_a_folder_in_the_place_of_our_file_is_not_deleted(tmp_path, name):
    folder = make(tmp_path / "out", UNFINISHED)
    (folder / name).unlink()
    (folder / name).mkdir()
    (folder / name / "mine").write_text(SECRET)
    before = contents(folder)
    for flag in ("--resume", "--overwrite"):
        with (
            pytest.raises(UserError, match=f"{name}: is no file, but a run writes a file there"),
            run_lock("task", with_flag(folder, flag)),
        ):
            pass
    assert contents(folder) == before


def test_a_file_in_the_place_of_our_folder_is_not_deleted(tmp_path):
    folder = make(tmp_path / "out", EMPTY)
    write_options(folder, RESOLVED)
    (folder / "state").write_text(SECRET)
    with (
        pytest.raises(UserError, match="state: is a file, where a run has a folder"),
        run_lock("task", with_flag(folder, "--overwrite")),
    ):
        pass
    assert (folder / "state").read_text() == SECRET


def test_what_decoding_writes_is_the_runs_only_with_its_first_file(tmp_path):
    folder = make(tmp_path / "out", FINISHED)
    (folder / "plot.png").write_text(SECRET)
    options = with_flag(folder, "--overwrite")
    refuse(r"plot\.png: is not minift's", decoding_results(folder, options))
    with run_lock("task", options), started(folder, options, RESOLVED):
        assert "plot.png" in of_the_user(folder)
    (folder / "plot.png").unlink()
    with decoding_results(folder, options):
        for name in DECODING_FILES:
            (folder / name).write_text("ours")
    with decoding_results(folder, options):  # a second time they are replaced
        pass
    dev = with_flag(None, "", train_file=(folder / "examples.md",))
    refuse("--train-file .*: lies in", decoding_results(folder, dev))
    with run_lock("task", options), started(folder, options, RESOLVED):
        assert not {*DECODING_FILES} & contents(folder).keys()


# ---- inputs in the output folder -----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_an_input_that_a_run_would_delete_is_refused_by_name(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    folder = make(Path("out"), UNFINISHED)
    outside = tmp_path / "base"
    outside.mkdir()
    (outside / "config.json").symlink_to(tmp_path / "out" / "config.json")
    Path("by-link").symlink_to("out")
    Path("chain").symlink_to("chain2")
    Path("chain2").symlink_to(tmp_path / "out" / "log.jsonl")
    (folder / "tokens.bin").unlink()
    (folder / "tokens.bin").symlink_to(outside / "config.json")
    before = contents(folder)
    files = ["out/log.jsonl", "out/../out/log.jsonl", "by-link/state/state.json", "chain"]
    files += [str(tmp_path / "out" / "predictions.dev.jsonl"), "out/tokens.bin"]
    cases = [{"train_file": (Path("other"), Path(name))} for name in files]
    cases += [{"model": name} for name in ("out", "./out/", "by-link", "out/adapter", str(outside))]
    for case in cases:
        name = "--model" if "model" in case else "--train-file"
        with (
            pytest.raises(UserError, match=f"{name} .*: lies in out under a name"),
            run_lock("task", with_flag(folder, flag, **case)),
        ):
            pass
    assert contents(folder) == before


def test_an_input_of_another_name_may_lie_in_the_output_folder(tmp_path):
    folder = make(tmp_path / "out", FINISHED)
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(SECRET)
    users = of_the_user(folder)
    inputs = {"train_file": (folder / "thesis.txt",), "model": str(folder / "base")}
    options = with_flag(folder, "--overwrite", **inputs)
    with run_lock("task", options), started(folder, options, RESOLVED):
        assert of_the_user(folder) == users


@pytest.mark.parametrize("script", ["train_classification", "pretrain"])
def test_scripts_do_not_delete_their_own_inputs(script, tiny_bert, reviews, tmp_path):
    """Not the model to start from, nor the text, though --overwrite asks for its folder."""
    write_options(tiny_bert, RESOLVED)
    before = contents(tiny_bert)
    flags = ["--train-file", reviews["train"], "--model", tiny_bert, "--overwrite"]
    flags += ["--output-dir", os.path.relpath(tiny_bert, tmp_path)]
    flags += ["--block-size", 16] if script == "pretrain" else []
    done = run_script(script, *flags, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--model {tiny_bert}: lies in tiny-bert under a name" in done.stderr.splitlines()[-1]
    assert contents(tiny_bert) == before


def test_a_link_that_is_planted_during_a_run_is_not_written_to(tmp_path):
    (tmp_path / "mine").write_text(SECRET)
    log = Log(tmp_path)
    log.write({"step": 1})
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written"):
        log.write({"step": 2})
    assert (tmp_path / "mine").read_text() == SECRET


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path, flag):
    folder = make(tmp_path / "out", UNFINISHED)
    left = [files.temporary_name(folder / name) for name in ("log.jsonl", "state", OPTIONS)]
    left += [files.temporary_name(folder / "adapter" / "adapter_config.json")]
    theirs = [".log.jsonl.12.tmp", ".mine.12-0123456789abcdef.tmp", ".cache.tmp"]
    for path in left:
        path.mkdir()
        (path / path.name).write_text("half")
    saved = files.temporary_name(folder / "state").with_suffix(".new")
    saved.mkdir()
    (saved / "state.json").write_text("newest")
    for name in theirs:
        (folder / name).write_text(SECRET)
    options, users = with_flag(folder, flag), of_the_user(folder)
    with run_lock("task", options), started(folder, options, RESOLVED):
        assert not any(path.exists() for path in (*left, saved))
        if flag == "--resume":
            assert (folder / "state" / "state.json").read_text() == "newest"
        else:
            assert set(contents(folder / "state")) == {"mine.txt"}
        assert of_the_user(folder) == users


def test_a_resumed_run_writes_no_adapter_through_a_link(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", FOREIGN)
    before = contents(elsewhere)
    folder = make(tmp_path / "out", UNFINISHED)
    (folder / "adapter").rename(folder / "mine")
    (folder / "adapter").symlink_to(elsewhere)
    options = with_flag(folder, "--resume")
    with run_lock("task", options), started(folder, options, RESOLVED):
        assert not os.path.lexists(folder / "adapter")
    assert contents(elsewhere) == before


def test_a_temporary_name_that_was_guessed_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("minift.files.secrets.token_hex", lambda _: "0" * 16)
    planted = files.temporary_name(tmp_path / "a.json")
    planted.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"a\.json: cannot be written \(File exists\)"):
        files.write_json(tmp_path / "a.json", {})
    assert not list((tmp_path / "mine").iterdir())
    planted.unlink()
    files.write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.json"]


# ---- two at once, and new folders ----------------------------------------------------------------


def test_a_folder_that_changed_while_the_inputs_were_read_is_asked_again(tmp_path):
    folder = tmp_path / "out"
    options = with_flag(folder, "")
    with run_lock("task", options):
        (folder / "thesis.txt").write_text(SECRET)
        with (
            pytest.raises(UserError, match=r"holds thesis\.txt, and no run"),
            started(folder, options, RESOLVED),
        ):
            pass
    assert set(contents(folder)) == {"thesis.txt"}


def test_folders_without_a_name_are_numbered_and_removed_if_they_stay_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with made(None, "task") as first, made(None, "task") as second:
        assert (str(first), str(second)) == ("runs/task-1", "runs/task-2")
        (second / "table.md").touch()
    assert [str(path) for path in Path("runs").iterdir()] == ["runs/task-2"]
    Path("runs/task-1").symlink_to("nowhere")
    with made(None, "task") as third:
        assert str(third) == "runs/task-3"
    taken = Path("taken")
    with made(taken, "task"), locked(taken):
        refuse("taken: another run is using it now", locked(taken))
    assert not taken.exists()
    with ExitStack() as other, made(taken, "task"):
        other.enter_context(locked(taken))  # it got the lock when this one had given it back
    assert taken.exists()
    taken.rmdir()
    make(taken, FINISHED)
    with locked(taken):  # a run that is refused anyway says why, and takes no lock
        refuse("already holds a run", run_lock("task", with_flag(taken, "")))
        refuse("another run is using it", run_lock("task", with_flag(taken, "--overwrite")))
    with pytest.raises(UserError), made(Path("a/b/c"), "task"):
        raise UserError("bad data")
    assert not Path("a").exists()


@pytest.mark.slow
def test_two_runs_started_together(tiny_bert, reviews, tmp_path):
    """In one folder one wins; without --output-dir both do."""
    command = [sys.executable, ROOT / "scripts" / "train_classification.py", "--model", tiny_bert]
    command += ["--train-file", reviews["train"], "--epochs", 1, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def both(*more):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        words = [str(word) for word in (*command, *more)]
        two = [subprocess.Popen(words, cwd=tmp_path, env=environment, **pipes) for _ in range(2)]
        return [(p.communicate()[1], p.returncode) for p in two]

    ended = both("--output-dir", "out")
    assert sorted(status for _, status in ended) == [0, 2]
    (refused,) = [stderr for stderr, status in ended if status == 2]
    assert "out: " in refused.splitlines()[-1]
    assert "Traceback" not in refused
    assert state_of(tmp_path / "out") == FINISHED
    assert [status for _, status in both()] == [0, 0]
    for number in (1, 2):
        assert state_of(tmp_path / "runs" / f"classification-{number}") == FINISHED


def test_a_bad_input_leaves_no_folder(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for script in ("train_classification", "compare_freezing", "pretrain"):
        flags = ["--train-file", "nowhere.tsv"]
        flags += [] if script == "pretrain" else ["--model", tiny_bert, "--dev-file", "no.tsv"]
        done = run_script(script, *flags, check=False, cwd=tmp_path)
        assert done.returncode == 2
        assert "nowhere.tsv: no such file" in done.stderr.splitlines()[-1]
        assert not (tmp_path / "runs").exists()


# ---- folders that cannot be used -----------------------------------------------------------------

UNUSABLE = {
    "dangling": "is a link that points nowhere",
    "dangling/below": "dangling is a link that points nowhere",
    "file": "file: is a file",
    "link to a file": "link to a file: is a file",
    "file/below": "file is a file",
    os.fsdecode(b"caf\xe9"): "is not UTF-8",
    "n" * 300: "is no usable --output-dir (File name too long)",
    "new/" + "n" * 300: "File name too long",
    "/".join(["n" * 100] * 40): "is no usable --output-dir (File name too long)",
    "loop": "Too many levels of symbolic links",
    "/proc/below": "cannot be written (No such file or directory)",
}
SCRIPTS = {
    "train_classification": [],
    "compare_freezing": [],
    "sweep classification": [],
    "find_lr classification": [],
    "compare_decoding": [],
    "compare_long_contexts": [],
    "compare_label_strategies": [],
    "pretrain": [],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.skipif(sys.platform != "linux", reason="the names and errors of Linux")
def test_a_folder_that_cannot_be_used_ends_each_script_with_one_line(
    script, tiny_bert, reviews, tmp_path
):
    (tmp_path / "file").touch()
    (tmp_path / "link to a file").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    flags = ["--train-file", reviews["train"]]
    flags += [] if script == "pretrain" else ["--model", tiny_bert]
    if not script.startswith(("pretrain", "find_lr")):
        flags += ["--dev-file", reviews["dev"]]
    for name, words in UNUSABLE.items():
        done = run_script(*script.split(), *flags, "--output-dir", name, check=False, cwd=tmp_path)
        assert done.returncode == 2, (name, done.stderr)
        assert words in done.stderr.splitlines()[-1], (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert sorted(os.listdir(tmp_path)) == before


def test_a_path_with_a_nul_is_refused():
    with pytest.raises(UserError, match="embedded null byte"), made(Path("a\0b"), "task"):
        pass


@pytest.mark.slow
def test_a_folder_that_is_removed_during_a_run_ends_it_with_one_line(tiny_bert, reviews, tmp_path):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--epochs", 4000]
    words = ["--output-dir", "out", "--logging-steps", 1, "--save-steps", 5]
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train_classification.py", *map(str, flags + words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while not (tmp_path / "out" / "state").exists() and process.poll() is None:
        time.sleep(0.01)
    (tmp_path / "out").rename(tmp_path / "away")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "cannot be written (No such file or directory)" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


# ---- real runs -----------------------------------------------------------------------------------


def test_the_list_holds_the_names_that_other_modules_have():
    adapter = {f"{ADAPTER}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    assert {CONFIG, MANIFEST, *TOKENIZER_FILES, *adapter} <= set(FILES)
    assert len(FILES) == len(set(FILES))


def test_a_run_writes_only_listed_files_and_a_second_keeps_the_others(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    folder = tmp_path / "out"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text(SECRET)
    (folder / ".env").write_text(SECRET)
    options = TrainOptions(
        output_dir=folder, epochs=1, lora_rank=2, save_steps=3, device="cpu", batch_size=8
    )
    run(ClassificationTask, task, options)
    written = contents(folder).keys() - {".git/HEAD", ".env"}
    assert written <= set(FILES)
    assert {"adapter/adapter_config.json", "metrics.json", "log.jsonl"} <= written
    (folder / "notes.txt").write_text(SECRET)
    (folder / "adapter" / "notes.txt").write_text(SECRET)
    plain = replace(options, overwrite=True, lora_rank=0)
    run(ClassificationTask, task, plain)
    users = {".git/HEAD", ".env", "notes.txt", "adapter/notes.txt"}
    assert of_the_user(folder).keys() == users
    assert contents(folder).keys() == (written | users) - {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }


def test_a_resumed_run_writes_through_no_link(tiny_bert, reviews, tmp_path):
    """Links that were planted in an unfinished run, and a file of the user's in its state."""
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    options = TrainOptions(
        output_dir=folder, epochs=2, save_steps=3, device="cpu", batch_size=8, logging_steps=1
    )
    run(ClassificationTask, task, replace(options, output_dir=tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_):
            raise SystemExit

        patch.setattr("minift.training.run.evaluate_best_model", killed)
        with pytest.raises(SystemExit):
            run(ClassificationTask, task, options)
    (folder / "state" / "notes.txt").write_text(SECRET)
    elsewhere.mkdir()
    log = (folder / "log.jsonl").read_bytes()
    (folder / "log.jsonl").rename(elsewhere / "log")
    (folder / "log.jsonl").symlink_to(elsewhere / "log")
    (elsewhere / "mine").write_text(SECRET)
    os.link(elsewhere / "mine", folder / "predictions.dev.jsonl")
    (folder / "metrics.json").symlink_to(elsewhere / "new")
    run(ClassificationTask, task, replace(options, resume=True))
    assert contents(elsewhere) == {"log": log, "mine": SECRET.encode()}
    assert contents(folder / "state") == {"notes.txt": SECRET.encode()}
    assert not any(path.is_symlink() for path in folder.iterdir())
    for name in ("log.jsonl", "predictions.dev.jsonl", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---- experiments ---------------------------------------------------------------------------------


def test_the_folder_of_an_experiment(tmp_path):
    folder = tmp_path / "out"
    with experiment(folder, "sweep", ["a-seed1"]):
        (folder / "a-seed1").mkdir()
        (folder / "logs").mkdir()
        write_options(folder / "a-seed1", RESOLVED)
    (folder / "mine.txt").write_text(SECRET)
    before = contents(folder)
    with experiment(folder, "sweep", ["a-seed1"]):  # the same goes on
        pass
    assert contents(folder) == before
    refuse("and nothing of compare that could be continued", experiment(folder, "compare", []))
    refuse("and no run of minift", run_lock("task", with_flag(folder, "--overwrite")))
    (folder / "b-seed1").mkdir()
    (folder / "b-seed1" / "mine").write_text(SECRET)
    (folder / "c-seed1").symlink_to(folder / "a-seed1")
    for name, words in {"b-seed1": "holds mine, and is not", "c-seed1": "is a link"}.items():
        refuse(f"{name}: {words}", experiment(folder, "sweep", ["a-seed1", name]))
    corpus = with_flag(None, "", train_file=(folder / "a-seed1" / "log.jsonl",))
    refuse("--train-file .*: lies in", experiment(folder, "sweep", ["a-seed1"], corpus))
    assert (folder / "b-seed1" / "mine").read_text() == SECRET


@pytest.mark.parametrize("state", [FOREIGN, UNFINISHED, FINISHED])
def test_an_experiment_begins_in_no_other_folder(tmp_path, state):
    folder = make(tmp_path / "out", state)
    (folder / "table.md").write_text(SECRET)
    before = contents(folder)
    refuse("out: holds .*nothing of sweep", experiment(folder, "sweep", []))
    assert contents(folder) == before


def test_an_experiment_without_a_run_leaves_nothing(tmp_path):
    folder = tmp_path / "out"
    with experiment(folder, "sweep", ["a"]):
        (folder / "logs").mkdir()
        (folder / "logs" / "a.log").touch()
    assert not folder.exists()
    (folder / "a").mkdir(parents=True)  # left by one that was killed, which only it can know
    write_options(folder, {"experiment": "sweep"})
    before = contents(folder)
    with experiment(folder, "sweep", ["a"]):
        pass
    assert contents(folder) == before
    assert (folder / "a").is_dir()
    (folder / "a").rmdir()
    (folder / OPTIONS).unlink()
    (folder / ".env").write_text(SECRET)
    with pytest.raises(UserError, match="bad data"), experiment(folder, "sweep", ["a"]):
        raise UserError("bad data")
    assert contents(folder) == {".env": SECRET.encode()}


@pytest.mark.slow
def test_a_sweep_writes_only_listed_files_and_overwrites_only_its_runs(
    tiny_bert, reviews, tmp_path
):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"]]
    flags += ["--output-dir", "out", "--epochs-list", 1, "--batch-sizes", 8, "--device", "cpu"]
    flags += ["--learning-rates", "1e-3", "1e30"]
    run_script("sweep", "classification", *flags, cwd=tmp_path)
    folder = tmp_path / "out"
    runs = [f"rate{rate}-epochs1-batch8-seed1" for rate in ("0.001", "1e+30")]
    allowed = {*EXPERIMENT_FILES, *(f"logs/{name}.log" for name in runs)}
    allowed |= {f"{name}/{file}" for name in runs for file in FILES}
    written = contents(folder).keys()
    assert written <= allowed
    theirs = ["notes.txt", "logs/notes.txt", f"{runs[0]}/notes.txt", "rate7-seed1/metrics.json"]
    (folder / "rate7-seed1").mkdir()
    for name in theirs:
        (folder / name).write_text(SECRET)
    outside = tmp_path / "outside"
    outside.write_text(SECRET)
    for name in ("table.md", "heatmap.png", f"logs/{runs[0]}.log"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
    run_script("sweep", "classification", *flags, "--overwrite", cwd=tmp_path)
    assert contents(folder).keys() == {*written, *theirs}
    assert of_the_user(folder).keys() == set(theirs)
    assert outside.read_text() == SECRET
