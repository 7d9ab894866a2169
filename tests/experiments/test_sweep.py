"""A sweep: its grid, its table and plots, and how it continues after an interruption."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.running import ROOT, read_lines, read_metrics, run_script

from minift.errors import UserError
from minift.experiments.parallel import call_all
from minift.experiments.sweep import SweepOptions, choose_cells, draw, read_row, table_rows
from minift.reports.plots import curves, heat_map
from minift.tasks.base import Metric
from minift.tasks.registry import TASKS
from minift.training.options import TrainOptions


@pytest.fixture
def flags(tiny_bert, reviews, tmp_path):
    """A function: changed flags -> the command line of a small sweep into tmp_path/sweep."""

    def command(**changes):
        values = {
            "model": [tiny_bert],
            "train_file": [reviews["train"]],
            "dev_file": [reviews["dev"]],
            "output_dir": [tmp_path / "sweep"],
            "device": ["cpu"],
            "learning_rates": [1e-3, 5e-3],
            "epochs_list": [2, 4],
            "batch_sizes": [8],
            **changes,
        }
        named = ([f"--{name.replace('_', '-')}", *value] for name, value in values.items() if value)
        return ["classification", *(str(part) for parts in named for part in parts)]

    return command


def results(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def written(folder):
    """When each run of a sweep was finished."""
    paths = [*folder.glob("*/metrics.json"), *folder.glob("*/failed.json")]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_the_grid_and_cells_drawn_from_it():
    options = TrainOptions(learning_rate=1e-4, seed=7)
    search = {
        "learning_rates": (1e-5, 1e-4, 1e-5),
        "epochs_list": (1, 2),
        "batch_sizes": (8, 16, 32),
    }
    grid = choose_cells(SweepOptions(**search), options)
    assert len(grid) == len(set(grid)) == 12
    assert (grid[0], grid[-1]) == ((1e-5, 1, 8), (1e-4, 2, 32))

    def drawn(trials, seed):
        return choose_cells(
            SweepOptions(**search, trials=trials), TrainOptions(seed=seed, learning_rate=1)
        )

    assert set(drawn(12, 7)) == set(grid)
    assert drawn(9, 7)[:5] == drawn(5, 7) != drawn(5, 8)
    assert len(set(drawn(9, 7))) == 9
    with pytest.raises(UserError, match="--trials is 13, but the grid has 12 cells"):
        drawn(13, 7)
    around = choose_cells(SweepOptions(epochs_list=(1,), batch_sizes=(8,)), options)
    assert [cell.rate for cell in around] == [3.3e-5, 1e-4, 3e-4]


@pytest.mark.slow
def test_a_sweep_scores_its_runs_and_does_none_twice(flags, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    command = flags(
        learning_rates=[5e-3, 1e30], epochs_list=[8], seeds=[2], train_eval_samples=[20]
    )
    first = run_script("sweep", *command)
    good, bad = "rate0.005-epochs8-batch8-seed1", "rate1e+30-epochs8-batch8-seed2"
    assert f"{good}  accuracy 1.0000  gap" in first.stdout
    assert f"4/4  {bad}  failed at step" in first.stdout
    assert "first record" not in first.stdout
    assert "first record" in (folder / "logs" / f"{good}.log").read_text()
    rows = results(folder)
    assert [(row["rate"], row["seed"]) for row in rows] == [
        (5e-3, 1),
        (1e30, 1),
        (5e-3, 2),
        (1e30, 2),
    ]
    for row in rows[::2]:
        metrics = read_metrics(folder / f"rate0.005-epochs8-batch8-seed{row['seed']}")
        assert metrics["options"]["train_eval_samples"] == 20
        assert row["score"] == row["dev"]["accuracy"] == pytest.approx(metrics["dev"]["accuracy"])
        assert row["gap"] == row["train"]["accuracy"] - row["score"]
        assert row["seconds"] == metrics["seconds"]
        assert row["failed"] is None
    assert all("lower the learning rate" in row["failed"] for row in rows[1::2])
    table = (folder / "table.md").read_text()
    assert table in first.stdout
    assert [line.split(" | ")[3:4] + line.split(" | ")[-1:] for line in table.splitlines()[2:]] == [
        ["1.000 ± 0.000", "0 of 2 |"],
        ["-", "2 of 2 |"],
    ]
    plots = importlib.util.find_spec("matplotlib") is not None
    assert (folder / "heatmap.png").exists() == (folder / "curves.png").exists() == plots

    before = written(folder)
    assert len(before) == 4
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    again = run_script("sweep", *command)
    assert "4 runs, 4 of them done" in again.stdout
    assert "no plot: matplotlib is not installed" in again.stdout
    assert written(folder) == before
    assert results(folder) == rows
    other = run_script("sweep", *command, "--max-length", 20, check=False)
    assert other.returncode == 2
    assert "options.json: the run has --max-length None, not 20; choose" in other.stderr


@pytest.mark.slow
def test_several_jobs_give_the_scores_of_one(flags, tmp_path):
    scores = []
    for jobs in (1, 2):
        folder = tmp_path / f"jobs{jobs}"
        command = flags(
            output_dir=[folder], learning_rates=[5e-3, 1e30], epochs_list=[4], jobs=[jobs]
        )
        done = run_script("sweep", *command)
        assert done.stderr == ""
        # A line at the start, one for each run, the table, one at the end.
        lines = [line for line in done.stdout.splitlines() if line and "no plot" not in line]
        assert len(lines) == 1 + 2 + 4 + 1
        rows = results(folder)
        scores.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert scores[0] == scores[1]


@pytest.fixture
def ended(flags, tmp_path):
    """A function: the sweep as a process, ended by a signal when it is far enough."""

    def start_and_end(far_enough, number, **changes):
        process = subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "sweep.py", *flags(**changes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        while not far_enough() and process.poll() is None:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # all processes hear it, as from a terminal
        else:
            process.send_signal(number)
        # The pipes are closed when the last process that holds them has ended: the workers too.
        stderr = process.communicate(timeout=60)[1]
        return process.returncode, stderr, written(tmp_path / "sweep")

    return start_and_end


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_and_killed_goes_on(flags, ended, tmp_path):
    folder = tmp_path / "sweep"
    grid = {"learning_rates": [1e-3, 2e-3, 5e-3], "epochs_list": [5, 6], "jobs": [2]}
    status, stderr, first = ended(lambda: written(folder), signal.SIGINT, **grid)
    assert (status, "interrupted" in stderr) == (130, True), stderr
    assert 1 <= len(first) < 6
    status, stderr, second = ended(lambda: written(folder) != first, signal.SIGKILL, **grid)
    assert status == -signal.SIGKILL, stderr
    assert first.items() < second.items()
    assert len(second) < 6
    done = run_script("sweep", *flags(**{**grid, "jobs": [1]}))
    assert f"6 runs, {len(second)} of them done" in done.stdout
    assert done.stdout.count("-seed1  accuracy") == 6 - len(second)
    assert second.items() < written(folder).items()
    assert len(results(folder)) == 6


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_where_it_was(flags, ended, tmp_path):
    changes = {"learning_rates": [5e-3], "epochs_list": [20], "save_steps": [20]}
    name = "rate0.005-epochs20-batch8-seed1"
    saved = tmp_path / "sweep" / name / "state"
    status, stderr, done = ended(saved.exists, signal.SIGTERM, **changes)
    assert (status, done) == (128 + signal.SIGTERM, {})
    last = f"stopped in {name}, and saved; the same command with --resume continues"
    assert stderr.splitlines()[-1] == last
    run_script("sweep", *flags(**changes), "--resume")
    assert results(tmp_path / "sweep")[0]["score"] == 1.0
    assert "resuming at step" in (tmp_path / "sweep" / "logs" / f"{name}.log").read_text()


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path):
    logs = [tmp_path / "one", tmp_path / "two"]
    began = time.monotonic()
    with pytest.raises(ValueError, match="non-negative"):
        call_all(time.sleep, [(300,), (-1,)], logs, 2, print)
    with pytest.raises(UserError, match="--jobs is 2, and one of the processes was killed"):
        call_all(os._exit, [(1,)], logs[:1], 2, print)
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_file": ["nowhere.tsv"]}, ["nowhere.tsv", "no such file"]),
        ({"dev_file": None}, ["--dev-file is missing"]),
        ({"epochs": [3]}, ["--epochs: a sweep tries several; use --epochs-list"]),
        (
            {"learning_rate": [3e-5]},
            ["--learning-rate: a sweep tries several; use --learning-rates"],
        ),
        ({"trials": [5]}, ["--trials is 5", "4 cells"]),
        ({"batch_sizes": [8, 0]}, ["--batch-sizes has 0", "must be at least 1"]),
        ({"learning_rates": ["nan"]}, ["--learning-rates has nan"]),
        ({"metric_for_best_model": ["beauty"]}, ["--metric-for-best-model is 'beauty'"]),
        ({"output_dir": ["file"]}, ["file: is a file"]),
        ({"learning_rates": [1e30]}, ["sweep: every run failed, the first at step", "lower"]),
    ],
)
def test_what_the_user_has_to_mend_ends_the_sweep(flags, tmp_path, changes, words):
    (tmp_path / "file").touch()
    done = run_script("sweep", *flags(**changes), check=False, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(word in last for word in words), last
    assert not [*tmp_path.glob("sweep/*/metrics.json")]


def test_the_task_comes_first():
    done = run_script("sweep", "--epochs-list", 1, check=False)
    assert done.returncode == 2
    assert "the task is '--epochs-list'" in done.stderr
    assert f"{{{','.join(TASKS)}}} FLAGS" in done.stderr
    assert "--label-strategy" in run_script("sweep", "ner", "--help-all").stdout


@pytest.fixture
def made_up(tmp_path):
    """A function: dev and train scores of each epoch -> the options of a run that has them."""

    def run(rate, dev, train, seed=1, metric="f1"):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        lines = [{"step": 1, "loss": 0.5}]
        for epoch, (d, t) in enumerate(zip(dev, train, strict=True), 1):
            lines.append({"epoch": epoch, "dev": {metric: d, "more": 0}, "train": {metric: t}})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics = {"seconds": 10.0 * seed, "collapsed": max(dev) < 0.2}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return TrainOptions(
            output_dir=folder, learning_rate=rate, epochs=len(dev), batch_size=8, seed=seed
        )

    return run


def test_the_gap_is_that_of_the_best_evaluation(made_up):
    row = read_row(made_up(1e-3, [0.5, 0.75, 0.75, 0.6], [0.5, 0.875, 1.0, 1.0]), Metric("f1"))
    assert (row["score"], row["train_score"], row["gap"]) == (0.75, 0.875, 0.125)
    assert row["dev"] == {"f1": 0.75, "more": 0}
    loss = Metric("loss", higher_is_better=False)
    row = read_row(made_up(1e-3, [0.5, 0.25, 0.75], [0.5, 0.125, 0], metric="loss"), loss)
    assert (row["score"], row["train_score"], row["gap"]) == (0.25, 0.125, 0.125)  # lower: better


def test_a_finished_run_without_its_log_is_named(made_up):
    run = made_up(1e-3, [0.5], [0.5])
    log = run.output_dir / "log.jsonl"
    for text in ('{"step": 1, "loss": 0.5}\n', "cut of", "\udcff", '{"dev"'):
        log.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=r"log\.jsonl: does not hold the scores of the run"):
            read_row(run, Metric("f1"))
    log.unlink()
    with pytest.raises(UserError, match=r"log\.jsonl: no such file"):
        read_row(run, Metric("f1"))
    os.mkfifo(log)
    with pytest.raises(UserError, match=r"log\.jsonl: is a pipe"):
        read_row(run, Metric("f1"))


def test_the_table_has_the_best_cell_first_and_counts_failures(made_up):
    def table(metric):
        runs = [
            *(made_up(1e-3, [s / 4], [s / 4], s, metric.name) for s in (1, 2)),
            *(made_up(2e-3, [0.7], [0.9], s, metric.name) for s in (1, 2)),
            *(made_up(3e-3, [0.1], [0.1], s, metric.name) for s in (1, 2)),
            *(made_up(4e-3, [0.1], [0.1], s, metric.name) for s in (1, 2)),
        ]
        for run in runs[-2:]:
            (run.output_dir / "failed.json").write_text('{"error": "step 3"}')
        return table_rows([read_row(run, metric) for run in runs], metric)

    best, second, collapsed, failed = table(Metric("f1"))
    assert best == {
        "learning rate": 2e-3,
        "epochs": 1,
        "batch size": 8,
        "dev f1": "0.700 ± 0.000",
        "train f1": "0.900 ± 0.000",
        "gap": "0.200 ± 0.000",
        "seconds": "15 ± 7",
        "failed": "0 of 2",
    }
    assert (second["learning rate"], second["dev f1"]) == (1e-3, "0.375 ± 0.177")
    assert (collapsed["learning rate"], collapsed["failed"]) == (3e-3, "2 of 2")
    assert (failed["learning rate"], failed["dev f1"], failed["failed"]) == (4e-3, "-", "2 of 2")
    by_loss = table(Metric("loss", higher_is_better=False))
    assert [row["learning rate"] for row in by_loss] == [3e-3, 1e-3, 2e-3, 4e-3]


def test_curves_are_of_the_best_of_the_longest_runs(made_up, tmp_path, monkeypatch):
    runs = [
        made_up(1e-3, [0.9], [0.9]),
        made_up(1e-3, [0.5, 0.6], [0.7, 0.8]),
        made_up(1e-3, [0.5, 0.7], [0.7, 0.9]),
        made_up(2e-3, [0.3], [0.4]),
    ]
    drawn = {}
    monkeypatch.setattr("minift.experiments.sweep.heat_map", lambda *_: True)
    monkeypatch.setattr(
        "minift.experiments.sweep.curves", lambda path, panels, metric: not drawn.update(panels)
    )
    f1 = Metric("f1")
    assert draw(tmp_path, runs, [read_row(run, f1) for run in runs], f1)
    longest, other = (read_lines(runs[i].output_dir / "log.jsonl")[1:] for i in (2, 3))
    assert drawn == {
        "learning rate 0.001, batch size 8": longest,
        "learning rate 0.002, batch size 8": other,
    }


def test_without_matplotlib_no_older_plot_stays_beside_the_new_table(
    made_up, tmp_path, monkeypatch
):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    run, f1, folder = made_up(1e-3, [0.5], [0.6]), Metric("f1"), tmp_path / "sweep"
    folder.mkdir()
    for name in ("heatmap.png", "curves.png"):
        (folder / name).touch()
    for _ in range(2):
        assert not draw(folder, [run], [read_row(run, f1)], f1)
        assert not list(folder.iterdir())


def test_plots_are_png(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib, which is not here")
    scores = {(1e-5, 1, 16): 0.5, (1e-4, 1, 16): None, (1e-5, 2, 32): 0.75}
    assert heat_map(tmp_path / "heatmap.png", scores, "dev f1")
    lines = [{"epoch": i, "dev": {"f1": 1 / i}, "train": {"f1": 1}} for i in (1, 2)]
    assert curves(tmp_path / "curves.png", {"one": lines, "two": lines[:1]}, "f1")
    for name in ("heatmap.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
