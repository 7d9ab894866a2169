"""The READMEs are true: scripts parse their commands, the tour names every file, the forty lines
train."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys

import pytest
from support.running import ROOT, read_metrics, run_script

from minift.experiments import comparison
from minift.tasks.registry import TASKS
from minift.training import cli

READMES = ["README.md", "minift/README.md", "scripts/README.md", "tests/README.md"]
READMES += ["weights/README.md", "weights/minift-t5-mini/README.md"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """(README, script and its arguments) of each call of a script."""
    found = []
    for name in READMES:
        for block in blocks(name, "(?:bash|sh)"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|", line):
                    words = shlex.split(part, comments=True)
                    at = [i for i, word in enumerate(words) if word.startswith("scripts/")]
                    if at:
                        found.append((name, tuple(words[at[0] :])))
    return sorted(set(found))


COMMANDS = commands()
# All are used in the same way, so a new one needs no command of its own.
TRAINING_SCRIPTS = {f"train_{task}.py" for task in TASKS}


class Parsed(SystemExit):
    """The command line was understood; nothing more is to be done."""


@pytest.mark.parametrize(
    "command", [words for _, words in COMMANDS], ids=[" ".join(words)[:90] for _, words in COMMANDS]
)
def test_the_script_understands_the_command(command, monkeypatch):
    """The script runs until its options are made, validated and all."""
    script, *arguments = command
    real = cli.command_line

    def parse_only(*classes, **settings):
        raise Parsed(real(*classes, **settings))

    def parse_words(parser, args=None, namespace=None):
        raise Parsed(cli.ArgumentParser.parse_known_args(parser, args, namespace))

    monkeypatch.setattr(cli, "command_line", parse_only)
    monkeypatch.setattr(comparison, "command_line", parse_only)
    monkeypatch.setattr(cli.ArgumentParser, "parse_intermixed_args", parse_words)
    if script.endswith("get_weights.py"):
        monkeypatch.setattr(cli.ArgumentParser, "parse_args", parse_words)
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except Parsed:
        return
    except SystemExit as ended:
        pytest.fail(f"exit status {ended.code}: {shown.getvalue()[-300:]}")
    pytest.fail("the script did not read its command line")


def test_there_are_commands_of_every_script():
    named = {words[0].removeprefix("scripts/") for _, words in COMMANDS}
    assert named | TRAINING_SCRIPTS == {path.name for path in (ROOT / "scripts").glob("*.py")}


def test_the_first_two_commands_install_and_run():
    train, test = blocks("README.md", "bash")[:2]
    assert train.strip().endswith("scripts/train_classification.py")
    assert test.strip().endswith("pytest")
    assert all("pip install -e" in block for block in (train, test))


def test_the_tour_names_every_file_once():
    named = re.findall(r"^\| `([\w/]+\.py)` \|", text_of("minift/README.md"), re.MULTILINE)
    there = [
        str(path.relative_to(ROOT / "minift"))
        for path in (ROOT / "minift").rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert sorted(named) == sorted(there)


def test_scripts_readme_names_every_script():
    named = re.findall(r"^\| `(\w+\.py)` \|", text_of("scripts/README.md"), re.MULTILINE)
    assert len(named) == len(set(named))
    # A new task needs a row only in the tour, which then names its script.
    tour = {name for name in TRAINING_SCRIPTS if f"scripts/{name}" in text_of("minift/README.md")}
    assert {*named, *tour} == {path.name for path in (ROOT / "scripts").glob("*.py")}


@pytest.mark.parametrize("name", READMES)
def test_paths_in_it_exist(name):
    """Links, and files of minift that are named in passing."""
    text = text_of(name)
    for link in re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / name).parent / link).exists(), link
    for path in re.findall(r"`((?:minift|scripts|tests)/[\w/.-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path


def forty_lines() -> str:
    (code,) = blocks("minift/README.md", "python")
    return code


@pytest.mark.slow
def test_fine_tuning_takes_forty_lines_and_nothing_of_training(tiny_bert, capsys):
    code = forty_lines()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 40
    assert "minift.training" not in code
    assert "minift.tasks" not in code
    small = code.replace('"all-MiniLM-L6-v2"', repr(str(tiny_bert))).replace(
        "max_length=128", "max_length=32"
    )
    assert small.count(str(tiny_bert)) == 1
    exec(compile(small.replace(", 2, 16, 5e-5", ", 1, 64, 1e-3"), "forty lines", "exec"), {})
    word, accuracy = capsys.readouterr().out.split()
    assert word == "accuracy"
    assert 0.3 < float(accuracy) <= 1


@pytest.mark.slow
def test_the_forty_lines_reach_what_the_tour_says(minilm, capsys):
    exec(compile(forty_lines(), "forty lines", "exec"), {})
    accuracy = float(capsys.readouterr().out.split()[-1])
    said = float(re.search(r"accuracy of ([0-9.]+)", text_of("minift/README.md"))[1])
    assert accuracy == pytest.approx(said, abs=0.03)  # processors round differently


def python_of_readme() -> str:
    (code,) = blocks("README.md", "python")
    return code


@pytest.mark.slow
def test_the_python_of_readme_runs(minilm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of_readme(), "README", "exec"), {})
    assert (tmp_path / "my-model" / "model.safetensors").exists()
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_names_are_learned_from_the_built_in_sentences(tiny_bert, tmp_path):
    done = run_script("train_ner", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True)
    assert "entities  LOC" in done.stdout
    metrics = read_metrics(tmp_path / "runs" / "ner-1")
    assert set(metrics["test"]["per_type"]) == {"LOC", "MISC", "ORG", "PER"}


@pytest.mark.slow
def test_the_main_job_runs_on_the_built_in_set(tiny_bert, tmp_path):
    """As README's first command, with a model that is random and small."""
    done = run_script(
        "train_classification", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True
    )
    assert "most confident correct predictions" in done.stdout
    metrics = read_metrics(tmp_path / "runs" / "classification-1")
    assert {"dev", "test"} <= metrics.keys()
    # A second run without flags does not disturb the first.
    run_script(
        "train_classification", "--model", tiny_bert, "--epochs", 1, cwd=tmp_path, process=True
    )
    assert (tmp_path / "runs" / "classification-2" / "metrics.json").exists()
