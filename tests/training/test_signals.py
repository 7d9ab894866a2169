"""Runs that a signal stops, that share a folder, or that are resumed with changes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.running import ROOT, read_lines, run_script

from minift.errors import UserError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.optim import set_learning_rate
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.run_dir import run_lock
from minift.training.signals import Interrupted, Stopped, StopRequest


@pytest.fixture
def start(tiny_bert, reviews, tmp_path):
    """A function: changes of options -> the task's options and those of a run of 26 steps."""

    def options(**changes):
        task = ClassificationOptions(
            model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
        )
        settings = {"epochs": 2, "batch_size": 4, "device": "cpu", "output_dir": tmp_path / "out"}
        return task, TrainOptions(**{**settings, **changes})

    return options


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_behind_a_saved_step(start, tmp_path, monkeypatch, capsys, number):
    task, options = start(output_dir=tmp_path / "straight")
    run(ClassificationTask, task, options)
    stopped = replace(options, output_dir=tmp_path / "stopped")
    steps = []

    def kill_in_the_fifth_step(*args):
        set_learning_rate(*args)
        steps.append(args)
        if len(steps) == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr("minift.training.loop.set_learning_rate", kill_in_the_fifth_step)
        with pytest.raises(Stopped, match=r"after step 5 of 26, and saved.*--resume") as ended:
            run(ClassificationTask, task, stopped)
    assert ended.value.signal == number
    assert signal.getsignal(number) is before
    run(ClassificationTask, task, replace(stopped, resume=True))
    assert "resuming at step 5 of 26" in capsys.readouterr().out
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [read_lines(tmp_path / name / "log.jsonl") for name in ("straight", "stopped")]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_scripts_exit_with_the_signals_status(start, tmp_path):
    task, options = start(epochs=4000)
    command = ["--model", task.model, "--train-file", task.train_file[0], "--dev-file"]
    command += [task.dev_file, "--output-dir", options.output_dir, "--epochs", 4000]
    script = ROOT / "scripts" / "train_classification.py"
    process = subprocess.Popen(
        [sys.executable, script, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    log = options.output_dir / "log.jsonl"
    while not (log.exists() and log.read_text()) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"--resume and --output-dir {options.output_dir}" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert (options.output_dir / "state" / "state.json").exists()


def test_a_second_signal_ends_at_once():
    def stop_twice():
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal has done nothing")

    with pytest.raises(KeyboardInterrupt):
        stop_twice()


def test_a_signal_that_came_too_late_for_the_loop_still_ends():
    def finish_the_loop():
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as ended:
        finish_the_loop()
    assert ended.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_stopped_in_its_last_step_is_finished_by_resume(start, tmp_path, monkeypatch):
    task, options = start(output_dir=tmp_path / "straight")
    straight = run(ClassificationTask, task, options)
    steps = []

    def kill_in_the_last_step(*args):
        set_learning_rate(*args)
        steps.append(args)
        if len(steps) == 26:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = replace(options, output_dir=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("minift.training.loop.set_learning_rate", kill_in_the_last_step)
        with pytest.raises(Stopped, match=r"after step 26 of 26"):
            run(ClassificationTask, task, stopped)
    resumed = run(ClassificationTask, task, replace(stopped, resume=True))
    assert resumed["dev"] == straight["dev"]
    assert read_lines(stopped.output_dir / "log.jsonl") == read_lines(
        options.output_dir / "log.jsonl"
    )


def test_elsewhere_than_in_the_main_thread_no_signal_is_taken():
    found = []

    def work():
        with StopRequest() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_two_runs_cannot_share_a_folder(start, tmp_path):
    task, options = start()
    with (
        run_lock("classification", options),
        pytest.raises(UserError, match="out: another run is using it now"),
    ):
        run(ClassificationTask, task, replace(options, overwrite=True))
    assert not (options.output_dir / "metrics.json").exists()
    run(ClassificationTask, task, replace(options, overwrite=True))


@pytest.fixture
def interrupted(start, monkeypatch):
    """A function: changes of options -> those of a run that was stopped in its third step."""

    def interrupt(**changes):
        task, options = start(**changes)
        with monkeypatch.context() as patch:
            patch.setattr(
                StopRequest,
                "requested",
                property(lambda self: signal.SIGTERM, lambda *_: None),
                raising=False,
            )
            with pytest.raises(Stopped):
                run(ClassificationTask, task, options)
        return task, replace(options, resume=True)

    return interrupt


def test_what_changed_is_named_and_may_be_meant(interrupted, reviews, tiny_bert, tmp_path, capsys):
    task, options = interrupted()
    for changes, name in (
        ({"batch_size": 5}, "--batch-size 4, not 5"),
        ({"seed": 7}, "--seed 1, not 7"),
        ({"learning_rate": 0.5}, "--learning-rate 5e-05, not 0.5"),
    ):
        with pytest.raises(UserError, match=f"the run has {name}; resume it with the same"):
            run(ClassificationTask, task, replace(options, **changes))
    with pytest.raises(UserError, match="--dev-file"):
        run(ClassificationTask, replace(task, dev_file=reviews["test"]), options)

    text = reviews["train"].read_text()
    reviews["train"].write_text(text.replace("awful", "bad", 1))
    with pytest.raises(UserError, match="the train data have changed since the run started"):
        run(ClassificationTask, task, options)
    reviews["train"].write_text(text)
    tensors = load_file(tiny_bert / "model.safetensors")
    save_file({name: -x for name, x in tensors.items()}, tiny_bert / "model.safetensors")
    with pytest.raises(UserError, match="the weights have changed since the run started"):
        run(ClassificationTask, task, options)

    with pytest.raises(ValueError, match="--accept-changes belongs to --resume"):
        replace(options, resume=False, accept_changes=True)
    meant = replace(options, seed=7, accept_changes=True)
    run(ClassificationTask, task, meant)
    assert "resuming at step 1 of 26" in capsys.readouterr().out


def test_pretraining_stops_and_goes_on_too(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(f"the film {n} was so good and so was the food" for n in range(900))
    )
    size = ["--d-model", 16, "--d-ff", 16, "--num-layers", 1, "--num-heads", 1]
    flags = ["--train-file", text, "--output-dir", tmp_path / "out", *size, "--vocab-size", 150]
    flags += ["--max-steps", 3, "--batch-size", 2, "--block-size", 8, "--eval-blocks", 4]
    with monkeypatch.context() as patch:
        patch.setattr(
            StopRequest,
            "requested",
            property(lambda self: signal.SIGINT, lambda *_: None),
            raising=False,
        )
        done = run_script("pretrain", *flags, check=False)
    assert done.returncode == 130
    assert "stopped after step 1 of 3, and saved" in done.stderr.splitlines()[-1]
    assert "resuming at step 1 of 3" in run_script("pretrain", *flags, "--resume").stdout


def test_what_stopped_a_run_passes_from_process_to_process():
    sent = pickle.loads(pickle.dumps(Stopped(15, "stopped after step 3")))
    assert (sent.signal, str(sent)) == (15, "stopped after step 3")


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_folder_that_was_claimed_halfway_may_be_taken_again(start, monkeypatch):
    task, options = start()
    run(ClassificationTask, task, options)
    again = replace(options, overwrite=True)

    def killed(*_args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(
            "minift.training.run_dir.write_json", killed
        )  # all old files are gone by then
        with pytest.raises(SystemExit):
            run(ClassificationTask, task, again)
    (options.output_dir / ".options.json.123.tmp").write_text("{")
    run(ClassificationTask, task, again)
