"""Folders of models, changed at random: each loads and computes, or is refused with one line.

    python tests/fuzzing.py --count 20000          by hand; prints the outcomes by kind of folder

Tiny models of all families and tasks, adapters, shards, and the tokenizer files of old checkpoints.
A case changes a file or two: bytes; JSON values of odd types and absurd sizes, keys twice or gone;
the header of the weights; or the name is a link to nowhere, a FIFO, a device, a folder, unreadable,
empty, 10 GB of nothing.  Then it takes the path of a script: the task of the folder, its model, a
prediction, or the start of a run.

A case fails if it raises anything but a `UserError` of one line that names the folder, if a model
that was accepted cannot compute, if a file that is none or that differs from the manifest was
accepted, and beyond two seconds or 500 MB.  Each is a forked process, whose own processor time and
peak memory are measured, so other programs on the machine do not matter; one that waits for 30
seconds hangs.  Every case has its own seed, which repeats it: `--first SEED --count 1`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

# Before the imports that read them: a fork must find no threads.
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import torch
from support.fuzzes import Outcomes, command_line, tally
from support.model_folders import Folder, change, make_folders, may_not_read

from minift.errors import UserError

CPU_SECONDS, MEMORY = 2.0, 500_000_000
WAIT_SECONDS = 30  # by the clock, for what waits without computing
MAX_ADDRESS_SPACE = 16 * 2**30  # of a child, to protect the machine
NOBODY = 65534
LONGEST_MESSAGE = 1000


def run_apart(work: Callable[[], tuple[str, str]], log: Path) -> tuple[str, str]:
    """`work` in a forked process: its (outcome, message), or "failed" and why.

    log: takes the stderr of the process.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            before = memory("VmRSS")
            limit = memory("VmSize") + MAX_ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            outcome, why = work()
            answer = json.dumps([outcome, why[-8000:], memory("VmHWM") - before])
            os.write(writer, answer.encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        hangs = not select.select([pipe], [], [], WAIT_SECONDS)[0]
        if hangs:
            os.kill(pid, signal.SIGKILL)
        answer = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    printed = log.read_text(errors="replace")[-2000:]
    cpu = usage.ru_utime + usage.ru_stime
    if hangs:
        return "failed", f"hangs: no answer within {WAIT_SECONDS} s, {cpu:.1f} s computed"
    if not answer:
        return "failed", f"the process died (status {status}): {printed}"
    outcome, why, peak = json.loads(answer)
    if outcome != "failed" and "panicked" in printed:
        return "failed", f"a library prints: {printed}"
    if outcome != "failed" and (cpu > CPU_SECONDS or peak > MEMORY):
        return "failed", f"takes {cpu:.1f} s and {peak / 1e6:.0f} MB, then: {outcome} {why}"
    return outcome, why


def memory(name: str) -> int:
    """A size of this process in bytes, such as VmHWM, the peak of its memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def try_folder(target: Folder, folder: Path, draw: random.Random) -> tuple[str, str]:
    """("accepted" | "refused" | "failed", message) of a folder that was changed."""
    if may_not_read(folder) and os.getuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)  # root may read everything
    try:
        target.use(folder, draw)
    except UserError as error:
        message = str(error)
        # A folder that can be used may leave no room for one of the inputs.
        says_where = str(folder) in message or message.startswith("input ")
        if "\n" in message or not says_where or len(message) > LONGEST_MESSAGE:
            return "failed", f"does not name the folder in one short line: {message[:500]}"
        return "refused", message
    except BaseException:
        return "failed", traceback.format_exc()
    return "accepted", ""


def try_case(seed: int, targets: list[Folder], place: Path) -> tuple[str, str, str]:
    """(kind of folder, outcome, message) of one case."""
    draw = random.Random(seed)
    target = draw.choice(targets)
    case = place / "case"
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    case.chmod(0o777)
    folder = case / "model"
    shutil.copytree(place / target.name, folder)
    told, must_be_refused = change(folder, target.files, draw)
    outcome, why = run_apart(lambda: try_folder(target, folder, draw), place / "stderr")
    if outcome == "accepted" and must_be_refused:
        outcome, why = "failed", "accepted"
    return target.name, outcome, f"{told}\n{why}"


def fuzz(first: int, count: int) -> Outcomes:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        place.chmod(0o755)
        targets = make_folders(place)
        for target in targets:  # the valid folders are used, and everything is imported
            for seed in range(5):
                target.use(place / target.name, random.Random(seed))
        gc.collect()
        gc.freeze()  # the children need not copy what the parent has
        return tally(range(first, first + count), lambda seed: try_case(seed, targets, place))


if __name__ == "__main__":
    command_line(__doc__, fuzz, 20_000, ("accepted", "refused", "failed"))
