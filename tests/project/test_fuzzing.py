"""A few hundred changed folders and files; the programs named here try thousands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import fuzzing_data
import predicting
import pytest
from support.running import ROOT

# Other cases each day; a failure names the seed that reproduces its case.
FIRST = int(time.time()) // 86_400 * 1_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures processes as Linux does")
def test_changed_folders_of_models_load_or_are_refused():
    """`python tests/fuzzing.py --count 20000` tries more."""
    # In a process of its own, because a fork must find no threads.
    script = ROOT / "tests" / "fuzzing.py"
    command = [sys.executable, script, "--first", str(FIRST), "--count", "300"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"(accepted|refused|panicked|failed) +(\d+)", done.stdout)
    totals = {name: sum(int(n) for other, n in counts if other == name) for name, _ in counts}
    assert sum(totals.values()) == 300
    assert totals["accepted"] > 20
    assert totals["refused"] > 150


@pytest.mark.slow
def test_corrupted_files_of_data_are_read_or_refused():
    """`python tests/fuzzing_data.py --count 10000` tries more."""
    found, failures = fuzzing_data.fuzz(FIRST, 300)
    assert not failures, failures[:3]
    assert sum(found.values()) == 300
    assert sum(count for (_, fate), count in found.items() if fate == "refused") > 100
    assert sum(count for (_, fate), count in found.items() if fate == "accepted") > 20


@pytest.mark.slow
def test_predictions_of_mutated_files_have_one_result_for_each_record():
    """Two hundred; `python tests/predicting.py --count 5000` tries more."""
    found, failures = predicting.fuzz(FIRST, 200)
    assert not failures, failures[:3]
    assert sum(count for (_, fate), count in found.items() if fate == "predicted") > 80
    assert sum(count for (_, fate), count in found.items() if fate == "refused") > 20
