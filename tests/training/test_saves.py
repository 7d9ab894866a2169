"""Saves that fail halfway, disks that are full, files that changed behind our back."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.running import run_script
from torch import nn

from minift import BertForSequenceClassification, Tokenizer, files
from minift.errors import UserError
from minift.files import check_whole, read_json, remove_left_overs, write_json, write_manifest
from minift.tasks.loading import save_task
from minift.training import checkpoint
from minift.training.checkpoint import load_state, save_state
from minift.training.state import TrainerState

WRITES = 27  # operations of a save that may find the disk full
COMPLETE = 20  # the one that makes the new state the one that counts


def new_run(value: float):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


class FullDisk:
    """Every operation that writes counts; the one with number `at` fails, as on a full disk."""

    def __init__(self, monkeypatch, at: int):
        self.count, self.at = 0, at
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (Path, "write_bytes"),
            (Path, "touch"),
            (Path, "mkdir"),
            (checkpoint, "save_file"),
        ):
            monkeypatch.setattr(owner, name, self.failing(getattr(owner, name)))

    def failing(self, operation):
        def wrapped(*args, **kwargs):
            self.count += 1
            if self.count == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return operation(*args, **kwargs)

        return wrapped


def test_a_disk_that_is_full_at_any_write_leaves_the_last_good_state(tmp_path, monkeypatch):
    for at in range(1, WRITES + 2):
        folder = tmp_path / str(at)
        folder.mkdir()
        model, optimizer = new_run(1.0)
        save_state(folder, model, optimizer, TrainerState(step=7))
        later, _ = new_run(2.0)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, at)
            if at <= WRITES:
                with pytest.raises(UserError, match=f"{folder}.*No space left on device"):
                    save_state(folder, later, optimizer, TrainerState(step=8))
            else:
                save_state(folder, later, optimizer, TrainerState(step=8))
                assert disk.count == WRITES
        assert not list(folder.rglob("*.tmp"))
        saved, weight = (7, model.weight) if at <= COMPLETE else (8, later.weight)
        found, optimizer = new_run(3.0)
        assert load_state(folder, found, optimizer).step == saved
        assert torch.equal(found.weight, weight)
        # And a later save finds nothing in its way.
        save_state(folder, later, optimizer, TrainerState(step=9))
        assert load_state(folder, found, optimizer).step == 9


def test_the_model_of_before_stays_if_a_new_one_cannot_be_written(tiny_bert, tmp_path, monkeypatch):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    tokenizer = Tokenizer.from_pretrained(tiny_bert)
    folder = tmp_path / "model"
    save_task(model, tokenizer, folder)
    before = load_file(folder / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda _: Usage(1000))
        with pytest.raises(UserError, match=r"saving takes .* MB, but 0 MB are free"):
            model.save_pretrained(folder)
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    BertForSequenceClassification.from_pretrained(folder)


class Usage:
    def __init__(self, free: int):
        self.free = free


def test_what_is_not_what_was_saved_is_refused(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    folder = tmp_path / "model"
    save_task(model, Tokenizer.from_pretrained(tiny_bert), folder)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert set(read_json(folder / "manifest.json")["files"]) == set(names)
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        # A bit flipped, and an end cut off.
        flipped = bytes([*whole[:-1], whole[-1] ^ 1])
        for damaged in (flipped, whole[:-1]):
            path.write_bytes(damaged)
            reader = Tokenizer if "token" in name else BertForSequenceClassification
            with pytest.raises(UserError, match=f"{name}: differs from the checksum"):
                reader.from_pretrained(folder)
        path.write_bytes(whole)
    config = read_json(folder / "config.json")
    (folder / "manifest.json").unlink()  # the change is meant
    write_json(folder / "config.json", {**config, "hidden_dropout_prob": 0.3})
    changed = BertForSequenceClassification.from_pretrained(folder)
    assert changed.config.hidden_dropout_prob == 0.3


def test_a_damaged_state_is_refused(tmp_path):
    model, optimizer = new_run(1.0)
    save_state(tmp_path, model, optimizer, TrainerState(step=3))
    path = tmp_path / "state" / "state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"state\.safetensors: differs from the checksum"):
        load_state(tmp_path, model, optimizer)


def test_manifests_name_only_what_was_saved_together(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    write_manifest(tmp_path, ["a.json"])
    (tmp_path / "b.json").write_text("{}")
    check_whole(tmp_path / "a.json")
    check_whole(tmp_path / "b.json")
    check_whole(tmp_path / "missing.json")


def test_left_overs_of_killed_processes_are_removed(tmp_path, monkeypatch):
    def killed(temporary):
        temporary.with_name(".tmpAbCdEf").write_text("half")  # as the library safetensors does
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # as if nothing ran then
        with pytest.raises(SystemExit):
            files.write_atomically(tmp_path / "model.safetensors", killed)
    (left,) = tmp_path.iterdir()
    others = {
        ".model.safetensors.123.tmp": "not one of our names",
        ".mine.12-0123456789abcdef.tmp": "of a file that is not ours",
        ".model.safetensors.1-0123456789abcdef.tmp": "not a folder",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".model.safetensors.2-0123456789abcdef.tmp").symlink_to(tmp_path)
    remove_left_overs(tmp_path, {"model.safetensors"})
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here, which needs rights")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_run_on_a_small_disk_ends_with_one_line(tiny_bert, reviews, small_disk):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--save-steps", 2]
    flags += ["--output-dir", small_disk / "out"]
    (small_disk / "ballast").write_bytes(b"x" * 600_000)
    done = run_script("train_classification", *flags, check=False)
    assert done.returncode == 2
    assert "free disk space" in done.stderr.splitlines()[-1]
    assert not (small_disk / "out" / "model.safetensors").exists()
    (small_disk / "ballast").unlink()


def test_all_files_of_a_model_may_be_read_by_those_who_may_read_new_files(tiny_bert, tmp_path):
    before = os.umask(0o022)
    try:
        BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2).save_pretrained(
            tmp_path / "saved"
        )
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "saved").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {"0o644"}
