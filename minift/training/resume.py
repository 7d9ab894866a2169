"""What a resumed run must share with the run that it continues: options, data, initial weights.

options.json holds the resolved options, digests of the data and the initial weights, and the folder
that the run was started in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.options import flag_of
from minift.training.options import TrainOptions
from minift.training.run_dir import OPTIONS, read_options

# Options that a resumed run may change, because they do not change the result.
MAY_DIFFER = {"output_dir", "resume", "overwrite", "save_steps", "accept_changes", "workers"}
# Options that --accept-changes does not cover, because the saved moments and weights mean something
# only with the same parameters.
FIXED = {
    *("optimizer", "freeze_encoder", "freeze_embeddings", "freeze_layers", "reinit_layers"),
    *("bitfit", "lora_rank", "lora_alpha", "lora_target_modules", "from_scratch", "pooling"),
}


def check_same_options(
    folder: Path, resolved: Mapping[str, Any], remedy: str, accept_changes: bool = False
) -> None:
    """`UserError` that names the first option in which the run in a folder differs.

    Two paths of one file are equal.
    accept_changes: check only those options that no run can continue without.
    """
    before = read_options(folder)
    started_in = before.get("started_in", "")
    for name, value in resolved.items():
        if name in MAY_DIFFER or (accept_changes and name not in FIXED):
            continue
        if before.get(name) != value and not _same_files(before.get(name), value, started_in):
            raise UserError(
                f"{folder / OPTIONS}: the run has {flag_of(name)} {before.get(name)!r:.200}, "
                f"not {value!r}; {remedy}"
            )


def _same_files(before: Any, value: Any, started_in: str) -> bool:
    """Whether two values are paths, or lists of paths, of the same files."""
    if isinstance(before, list) and isinstance(value, list) and len(before) == len(value):
        return all(_same_files(*pair, started_in) for pair in zip(before, value, strict=True))
    if not (isinstance(before, str) and isinstance(value, str) and os.path.exists(value)):
        return False
    return os.path.realpath(os.path.join(started_in, before)) == os.path.realpath(value)


def check_same_start(folder: Path, digests: Mapping[str, str], options: TrainOptions) -> None:
    """`UserError` if the data or the initial weights of a run have changed since it started.

    With --accept-changes only for changes with which no run can continue: of the labels, whose
    order is that of the head's rows; and of initial weights that the rest of the run needs.
    """
    before = read_options(folder).get("digests", {})
    needed = {"labels"}
    if options.l2_sp or options.wise_ft_alpha < 1 or options.freeze_encoder:
        needed.add("weights")
    for name, value in digests.items():
        if before.get(name) != value and (name in needed or not options.accept_changes):
            remedy = "accept the change with --accept-changes"
            if name in needed:
                remedy = "start again with --overwrite"
            raise UserError(
                f"{folder / OPTIONS}: the {name} have changed since the run started; restore them, "
                f"or {remedy}"
            )


def records_digest(records: Sequence[Any]) -> str:
    """SHA-256 of the contents of records, wherever they were read."""
    digest = hashlib.sha256()
    for record in records:
        contents = {name: value for name, value in vars(record).items() if name != "where"}
        digest.update(repr(contents).encode())
    return digest.hexdigest()


def digests(splits: Mapping[str, Sequence[Any]], model: PretrainedModel) -> dict[str, str]:
    """SHA-256 of a run's inputs, by name: "train data", ..., "labels", "weights".

    The labels are in the order of the head's rows.
    """
    labels = hashlib.sha256(repr(model.config.labels).encode()).hexdigest()
    found = {}
    for split, records in splits.items():
        found[f"{split} data"] = records_digest(records)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    return {**found, "labels": labels, "weights": digest.hexdigest()}
