"""Parameter-efficient fine-tuning of a model, and LoRA adapters on disk in peft's layout.

    add_lora       LoRA updates beside chosen projections (nn/lora.py); trains them and the head
    bitfit         trains the biases and the head (Ben Zaken et al. 2022, "BitFit: Simple
                   parameter-efficient fine-tuning for Transformer-based masked language-models")
    save_adapter, load_adapter      adapter_config.json and adapter_model.safetensors

The `peft` library reads and writes the same two files: the updates, and the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from minift.errors import UserError
from minift.files import is_present, read_json_object, write_atomically, write_json
from minift.models.base import ModelType, PretrainedModel
from minift.nn.lora import LoraConfig, LoraLinear, lora_layers, matches_target
from minift.options import check_type, shorten
from minift.weights import TensorFile

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

PEFT_PREFIX = "base_model.model."  # the beginning of each tensor's name in peft
# The fields of adapter_config.json that minift reads, or that do not change the computation, and
# their types.  All others must be off: null, false or empty.  Another initialisation than these
# would change the frozen weights as well.
FIELD_TYPES: dict[str, Any] = {
    "peft_type": Literal["LORA"],
    "bias": Literal["none"],
    "init_lora_weights": bool | Literal["gaussian"],
    "r": int,
    "lora_alpha": float,
    "lora_dropout": float,
    "target_modules": list[str] | None,
    "modules_to_save": list[str] | None,
    **dict.fromkeys(("task_type", "base_model_name_or_path", "revision"), str | None),
    **dict.fromkeys(("inference_mode", "auto_mapping", "peft_version"), Any),
    **dict.fromkeys(("megatron_core", "qalora_group_size"), Any),
}


def add_lora(model: ModelType, config: LoraConfig | None = None) -> ModelType:
    """Add LoRA updates to a model in place, and freeze all other parameters but the head.

    Returns the model, whose outputs are unchanged.  `UserError` if the model lacks a target.
    `model.save_pretrained` writes the merged model, `save_adapter` only the trained parameters.
    """
    return attach(model, make_lora_layers(model, config or LoraConfig()))


def bitfit(model: ModelType) -> ModelType:
    """Freeze all parameters but the biases and the head, in place; returns the model.

    `UserError` for a model without biases in its linear layers and norms, such as T5.
    """
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    if not biases:
        raise UserError(
            f"BitFit trains biases, and {type(model).__name__} has none in its layers and norms; "
            "use LoRA instead"
        )
    return freeze_except(model, [*biases, *trained_parameters(model).values()])


def save_adapter(
    model: PretrainedModel,
    folder: str | Path,
    base: str | None = None,
    revision: str | None = None,
) -> None:
    """Write the updates and the head as peft does.

    base, revision: the folder or hub id of the pretrained model, which peft's `AutoPeftModel...`
        loads; None: it refuses the adapter.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA updates to save; add_lora makes them")
    lora = next(iter(layers.values())).config
    heads = (
        model.weight_map().checkpoint_names(name)[0].rpartition(".")[0]
        for name in trained_parameters(model)
    )
    config = {
        "peft_type": "LORA",
        "task_type": model.peft_task_type,
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_modules),
        "modules_to_save": list(dict.fromkeys(heads)) or None,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = adapter_tensors(model, layers)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / ADAPTER_CONFIG, config)
    write_atomically(
        Path(folder) / ADAPTER_WEIGHTS,
        lambda path: save_file(tensors, path, metadata={"format": "pt"}),
    )


@torch.no_grad()
def load_adapter(model: ModelType, folder: str | Path) -> ModelType:
    """Attach an adapter of minift or peft to the model that it was trained on, in place.

    Returns the model; the updates and the head are trainable.  `UserError` for an adapter that
    does not fit names the file and the value, and leaves the model unchanged.
    """
    config, saved_modules = read_adapter_config(Path(folder) / ADAPTER_CONFIG, model)
    layers = make_lora_layers(model, config)
    tensors = adapter_tensors(model, layers)
    for name in trained_parameters(model):
        (in_checkpoint,) = model.weight_map().checkpoint_names(name)
        # An adapter may come without a head, unless the model's own head is newly initialised.
        without_head = not any(f".{module}." in f".{in_checkpoint}" for module in saved_modules)
        if without_head and name not in model.new_parameters:
            del tensors[PEFT_PREFIX + in_checkpoint]

    path = Path(folder) / ADAPTER_WEIGHTS
    if not is_present(path):
        raise UserError(
            f"{folder}: no {ADAPTER_WEIGHTS} here (a pickle, adapter_model.bin, is not read); "
            "give a folder that holds an adapter"
        )
    file = TensorFile(path)
    for name in sorted({*tensors, *file.names}):
        shape = file.shape(name) if name in file.names else "missing"
        expected = tuple(tensors[name].shape) if name in tensors else "no part of the adapter"
        if shape != expected:
            raise UserError(
                f"{path}: the tensor {shorten(name)} is {shape}, but the model and "
                f"{ADAPTER_CONFIG} make it {expected}; load the adapter into the model that it was "
                "made for"
            )
    found = {name: file.tensor(name) for name in tensors}
    for name, tensor in tensors.items():
        tensor.copy_(found[name])
    return attach(model, layers)


def read_adapter_config(path: Path, model: PretrainedModel) -> tuple[LoraConfig, list[str]]:
    """The config, and the modules that were saved whole; `UserError` names what is unsupported."""
    values = read_json_object(path)
    for name, value in {"peft_type": None, **values}.items():
        off = value is None or value is False or value in ("", [], {})
        try:
            check_type(name, value, FIELD_TYPES.get(name, Any))
        except ValueError as error:
            raise UserError(
                f"{path}: {error}; restore the file, or fold the adapter into its model with peft"
            ) from None
        if name not in FIELD_TYPES and not off:
            shown = name if name.isidentifier() and len(name) < 80 else shorten(name)
            raise UserError(
                f"{path}: {shown} is {shorten(value)}, which minift's LoRA does not do; fold the "
                "adapter into its model with peft"
            )
    listed, saved = values.get("target_modules") or [], values.get("modules_to_save") or []
    # One list may serve several kinds of model, so names that this model lacks are passed over.
    names = [name for stack in target_projections(model).values() for name in stack.values()]
    targets = tuple(end for end in listed if any(matches_target(name, [end]) for name in names))
    if not targets:
        raise UserError(
            f"{path}: target_modules is {shorten(listed)}, which are no projections of "
            f"{type(model).__name__}; load the adapter into the model that it was made for"
        )
    rank, alpha = values.get("r", 8), values.get("lora_alpha", 8)
    dropout = values.get("lora_dropout", 0.0)
    try:
        config = LoraConfig(rank=rank, alpha=alpha, dropout=dropout, target_modules=targets)
    except ValueError as error:
        raise UserError(f"{path}: of r, lora_alpha and lora_dropout, {error}") from None
    return config, saved


def target_projections(model: PretrainedModel) -> dict[str, dict[str, str]]:
    """Our name of each layer that may have updates -> the projections in it, see `LoraLinear`."""
    if lora_layers(model):
        raise ValueError("the model has LoRA already; merge_lora gives one without")
    excluded = {id(parameter) for parameter in trained_parameters(model).values()}
    found = {}
    for name, module in model.named_modules():
        # A head is trained whole; an output layer with a row for each token stays frozen.
        targeted = isinstance(module, nn.Linear) and name not in model.lora_excluded
        if targeted and id(module.weight) not in excluded:
            weights = model.weight_map().checkpoint_names(f"{name}.weight")
            in_checkpoint = [weight.removesuffix(".weight") for weight in weights]
            found[name] = {n.rpartition(".")[2]: n for n in in_checkpoint}
    return found


def make_lora_layers(model: PretrainedModel, config: LoraConfig) -> dict[str, LoraLinear]:
    """The layers that will replace the model's own, by our names of them."""
    stacks = target_projections(model)
    names = [name for stack in stacks.values() for name in stack.values()]
    targets = config.target_modules or model.default_target_modules
    for target in targets:
        if not any(matches_target(name, [target]) for name in names):
            available = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise UserError(
                f"the target {target!r} of LoRA is no projection of {type(model).__name__}; "
                f"give some of {available}"
            )
    config = replace(config, target_modules=targets)
    return {
        name: LoraLinear(model.get_submodule(name), stack, config)
        for name, stack in stacks.items()
        if any(matches_target(part, targets) for part in stack.values())
    }


def attach(model: ModelType, layers: Mapping[str, LoraLinear]) -> ModelType:
    """Put the layers into the model in place; only their updates and the head are trainable."""
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return freeze_except(model, adapter_tensors(model, layers).values())


def freeze_except(model: ModelType, parameters: Iterable[Tensor]) -> ModelType:
    """Freeze all other parameters, in place; returns the model."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return model


def trained_parameters(model: PretrainedModel) -> dict[str, Tensor]:
    """The parameters without a pretrained value: a task's head, and those the checkpoint lacked."""
    head = dict(model.head_parameters()) if model.label_rows is not None else {}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in head or name in model.new_parameters
    }


def adapter_tensors(model: PretrainedModel, layers: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """peft's names -> the parameters themselves, of everything that an adapter holds."""
    tensors = {
        f"{PEFT_PREFIX}{layer.names[part]}.lora_{matrix.upper()}.weight": getattr(update, matrix)
        for layer in layers.values()
        for part, update in layer.updates.items()
        for matrix in "ab"
    }
    for name, parameter in trained_parameters(model).items():
        (in_checkpoint,) = model.weight_map().checkpoint_names(name)
        tensors[PEFT_PREFIX + in_checkpoint] = parameter
    return tensors
