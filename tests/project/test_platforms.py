"""Where minift is imported from, and what it does without modules that only Unix has."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
from support.running import ROOT

# Hides the modules that Windows lacks, then runs a script as usual.
WITHOUT_UNIX = """
import runpy, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_without_the_modules_of_unix_trains_and_predicts(tiny_bert, reviews, tmp_path):
    def run(script: str, *words: object) -> str:
        command = [sys.executable, "-c", WITHOUT_UNIX, ROOT / "scripts" / f"{script}.py", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = ("--train-file", reviews["train"], "--dev-file", reviews["dev"], "--save-steps", 2)
    folder = tmp_path / "out"
    run("train_classification", "--model", tiny_bert, *data, "--epochs", 1, "--output-dir", folder)
    assert "accuracy" in json.loads((folder / "metrics.json").read_text())["dev"]
    assert json.loads(run("predict", folder, "so good", "--json"))["predicted"] in ("neg", "pos")


@pytest.mark.slow
def test_an_editable_install_works_in_the_folder_that_holds_the_checkout(tmp_path):
    installed = {package.name.lower() for package in importlib.metadata.distributions()}
    for package in {"pip", "setuptools"} - installed:
        pytest.skip(f"{package} is not installed")
    checkout, prefix = tmp_path / "minift", tmp_path / "prefix"
    shutil.copytree(ROOT / "minift", checkout / "minift")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    install = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    install += ["--no-index", "--ignore-installed", "--prefix", str(prefix), "-e", str(checkout)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (packages,) = {path.parent for path in prefix.rglob("*minift*.dist-info")}
    program = (
        f"import site; site.addsitedir({str(packages)!r}); import importlib.util as util; "
        "print(util.find_spec('minift').origin)"
    )
    # Without the packages of this environment, of which minift may be one; the current folder comes
    # first, as for a script or a notebook.
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=True,
    )
    assert found.stdout.strip() == str(checkout / "minift" / "__init__.py")
