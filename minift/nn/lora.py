"""LoRA and BitFit: fine-tuning in which a small share of the parameters learns.

LoRA (Hu et al. 2022, "LoRA: Low-rank adaptation of large language models"): a pretrained matrix W
stays as it is, and what is added to it has rank R, a few numbers for each row and column:

    x ──┬──> W (O, H), frozen ───────────────────────────(+)──> W x + scale * B A x
        └──> dropout ──> A (R, H) ──> B (O, R) ──> * scale ─┘       scale = alpha / R

B starts at zero, so the model starts as it was.  Afterwards W + scale * B A is one matrix again
(`merge_lora`), and the model costs what it did before.

minift keeps query, key and value as one matrix, the field's adapters speak of three.  So a layer
has an update for each chosen part of its rows, here with the targets "query" and "value":

    qkv (3H, H)     query | + scale * B A
                    key   |
                    value | + scale * B A

On disk an adapter is adapter_config.json and adapter_model.safetensors, which the `peft` library
reads and writes: the updates, and the head.

BitFit (Ben Zaken et al. 2022, "BitFit: Simple parameter-efficient fine-tuning"): the biases learn,
and the head.

Dimensions: H width of the input, O rows of a projection, R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from minift.errors import InputError
from minift.files import read_json, write_atomically, write_json
from minift.models.base import ModelType, PretrainedModel, require_number
from minift.nn.layers import Dropout
from minift.weights import opened

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# model_type -> what the paper found to matter most, queries and values.
USUAL_TARGETS = {"bert": ("query", "value"), "t5": ("q", "v")}

INSIDE = "base_model.model."  # what peft's names of tensors begin with
# What a model is for, which the name of its class ends with -> peft's word for it.
TASK_TYPES = {
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "ConditionalGeneration": "SEQ_2_SEQ_LM",
}
# The only values that some of the fields of adapter_config.json may have here.  Other ways to begin
# than these change the frozen weights as well.
FIXED = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
# Fields that may have any value: those that are read, and those that change nothing in the
# computation.  All others must be off.
KNOWN = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "task_type"),
    *("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"),
    *("megatron_core", "qalora_group_size"),
)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """What LoRA adds to a model.

    rank: R.  alpha: the update is multiplied by alpha / rank.
    dropout: of what goes into A, in training.
    targets: which projections get an update, by the ends of their names in a checkpoint, such as
        "key" or "attention.output.dense"; none: queries and values.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number(self, "rank", 1, 1024)
        require_number(self, "alpha", 1e-6, 1e6, float)
        require_number(self, "dropout", 0, 1, float)


class Update(nn.Module):
    """What one projection learns: x (..., H) -> scale * B A x (..., O).

    R = 1, alpha = 2, A = [1 1], B = [1 0] upright: x = [3 4] -> A x = 7 -> 2 * B 7 = [14 0].
    """

    def __init__(self, rows: Tensor, settings: LoraSettings):
        """rows: (O, H), the weights that the update belongs to."""
        super().__init__()
        self.a = nn.Parameter(rows.new_empty(settings.rank, rows.shape[1]))
        self.b = nn.Parameter(rows.new_zeros(rows.shape[0], settings.rank))
        self.dropout = Dropout(settings.dropout)
        self.scale = settings.alpha / settings.rank
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as torch's linear layers start

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(self.dropout(x), self.a) * self.scale, self.b)


class LoraLinear(nn.Module):
    """A frozen linear layer, and an update for some of the projections stacked in it.

    names: the projections from the top row to the bottom, the last part of their name in a
    checkpoint -> all of it: {"query": "bert.encoder.layer.0.attention.self.query", "key": ...}.
    """

    def __init__(self, plain: nn.Linear, names: Mapping[str, str], settings: LoraSettings):
        super().__init__()
        self.plain, self.names, self.settings = plain, names, settings
        self.updates = nn.ModuleDict(
            {
                part: Update(rows, settings)
                for part, rows in self.parts(plain.weight, 0).items()
                if ends_with(names[part], settings.targets)
            }
        )
        self.train(plain.training)

    def parts(self, stacked: Tensor, dim: int) -> dict[str, Tensor]:
        """A view for each projection of what is stacked along a dimension."""
        return dict(zip(self.names, stacked.chunk(len(self.names), dim), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(self.plain(x), -1)  # (..., O) each
        for part, update in self.updates.items():
            parts[part] = parts[part] + update(x)  # (..., O)
        return torch.cat(list(parts.values()), -1) if len(parts) > 1 else parts[part]

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """The plain layer, its weights changed in place."""
        rows = self.parts(self.plain.weight, 0)  # (O, H) each
        for part, update in self.updates.items():
            rows[part] += update.scale * (update.b @ update.a)
        return self.plain


def add_lora(model: ModelType, settings: LoraSettings | None = None) -> ModelType:
    """Put updates into a model, in place, and let only them and the head learn.

    Returns the model, whose outputs are still the same.  `InputError` if it lacks a target.
    `model.save_pretrained` writes the merged model, `save_adapter` what was learned alone.
    """
    return install(model, new_layers(model, settings or LoraSettings()))


def merge_lora(model: ModelType) -> ModelType:
    """A plain model with the same outputs: a copy in which W + scale * B A has taken W's place.

    All of the copy may learn.  The model given stays as it is; one without LoRA is itself returned.
    """
    if not lora_layers(model):
        return model
    merged = copy.deepcopy(model)
    for name, layer in lora_layers(merged).items():
        merged.set_submodule(name, layer.merge())
    return merged.requires_grad_(True)


def bitfit(model: ModelType) -> ModelType:
    """Let only the biases and the head learn, in place; returns the model.

    T5 is refused: neither its linear layers nor its norms have biases.  What its checkpoints call
    relative_attention_bias is a table of embeddings, a row for each bucket of distances.
    """
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    if not biases:
        raise InputError(
            f"BitFit trains biases, and {type(model).__name__} has none in its layers and norms; "
            "use LoRA instead"
        )
    return learn_only(model, [*biases, *head_parameters(model).values()])


def save_adapter(model: PretrainedModel, folder: str | Path, base: str | None = None) -> None:
    """Write the updates and the head as peft does.

    base: the folder or hub id of the model that was adapted, for those who want to look it up.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no updates to save; add_lora makes them")
    settings = next(iter(layers.values())).settings
    head = [model.table.theirs(name)[0].rpartition(".")[0] for name in head_parameters(model)]
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(type(model).__name__.partition("For")[2]),
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(settings.targets),
        "modules_to_save": list(dict.fromkeys(head)) or None,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = adapter_tensors(model, layers)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_json(Path(folder) / ADAPTER_CONFIG, config)
    write_atomically(
        Path(folder) / ADAPTER_WEIGHTS,
        lambda path: save_file(tensors, path, metadata={"format": "pt"}),
    )


@torch.no_grad()
def load_adapter(model: ModelType, folder: str | Path) -> ModelType:
    """Put an adapter of ours or of peft into the model that it was made for, in place.

    Returns the model, whose updates and head may go on learning.  `InputError` for an adapter that
    does not fit: it names the file and the value, and the model is then as it was.
    """
    settings, saved = read_adapter_config(Path(folder) / ADAPTER_CONFIG, model)
    layers = new_layers(model, settings)
    tensors = adapter_tensors(model, layers)
    for name in head_parameters(model):
        (theirs,) = model.table.theirs(name)
        # An adapter need not bring a head along, unless the model's own has learned nothing yet.
        its_own = not any(f".{module}." in f".{theirs}" for module in saved)
        if its_own and name not in new_names(model):
            del tensors[INSIDE + theirs]

    path = Path(folder) / ADAPTER_WEIGHTS
    if not path.is_file():
        raise InputError(
            f"{folder}: no {ADAPTER_WEIGHTS} here (a pickle, adapter_model.bin, is not read); "
            "give a folder that holds an adapter"
        )
    with opened(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in sorted({*tensors, *found}):
        shape = tuple(found[name].shape) if name in found else "missing"
        due = tuple(tensors[name].shape) if name in tensors else "no part of the adapter"
        if shape != due:
            raise InputError(
                f"{path}: the tensor {name!r} is {shape}, but the model and {ADAPTER_CONFIG} make "
                f"it {due}; load the adapter into the model that it was made for"
            )
        if not found[name].is_floating_point():
            raise InputError(f"{path}: {name!r} holds {found[name].dtype}, not weights")
    for name, tensor in tensors.items():
        tensor.copy_(found[name])
    return install(model, layers)


def read_adapter_config(path: Path, model: PretrainedModel) -> tuple[LoraSettings, list[str]]:
    """The settings, and the modules that were saved whole; what we cannot do is refused by name."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: it is not a JSON object; restore the file")
    for name, value in {"peft_type": None, **config}.items():
        off = value is None or value is False or value in ("", [], {})
        if value not in FIXED[name] if name in FIXED else name not in KNOWN and not off:
            raise InputError(
                f"{path}: {name} is {value!r:.80}, which minift's LoRA does not do; "
                "fold the adapter into its model with peft"
            )
    for name in ("target_modules", "modules_to_save"):
        value = config.get(name) or []
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise InputError(f"{path}: {name} is {value!r:.80}; write it as a list of names")
    listed, saved = config.get("target_modules") or [], config.get("modules_to_save") or []
    # One list may serve several kinds of model, so names that this one lacks are passed over.
    names = [name for stack in projections(model).values() for name in stack.values()]
    targets = tuple(end for end in listed if any(ends_with(name, [end]) for name in names))
    if not targets:
        raise InputError(
            f"{path}: target_modules is {listed!r:.80}, which are no projections of "
            f"{type(model).__name__}; load the adapter into the model that it was made for"
        )
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    dropout = config.get("lora_dropout", 0.0)
    try:
        return LoraSettings(rank=rank, alpha=alpha, dropout=dropout, targets=targets), saved
    except ValueError as error:
        raise InputError(f"{path}: of r, lora_alpha and lora_dropout, {error}") from None


def projections(model: PretrainedModel) -> dict[str, dict[str, str]]:
    """Our name for each layer that may have updates -> what is stacked in it, see `LoraLinear`."""
    if lora_layers(model):
        raise ValueError("the model has LoRA already; merge_lora gives a plain one")
    head = {id(parameter) for parameter in head_parameters(model).values()}
    found = {}
    for name, module in model.named_modules():
        # The head learns without LoRA; T5's output has one row for each token, and stays as it is.
        if isinstance(module, nn.Linear) and id(module.weight) not in head and name != "lm_head":
            theirs = [n.removesuffix(".weight") for n in model.table.theirs(f"{name}.weight")]
            found[name] = {n.rpartition(".")[2]: n for n in theirs}
    return found


def new_layers(model: PretrainedModel, settings: LoraSettings) -> dict[str, LoraLinear]:
    """The layers that shall take the place of the model's own, by our names for them."""
    stacks = projections(model)
    names = [name for stack in stacks.values() for name in stack.values()]
    targets = settings.targets or USUAL_TARGETS.get(model.config.model_type, ())
    for target in targets:
        if not any(ends_with(name, [target]) for name in names):
            there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise InputError(
                f"the target {target!r} of LoRA is no projection of {type(model).__name__}; "
                f"give some of {there}"
            )
    settings = replace(settings, targets=targets)
    return {
        name: LoraLinear(model.get_submodule(name), stack, settings)
        for name, stack in stacks.items()
        if any(ends_with(part, targets) for part in stack.values())
    }


def install(model: ModelType, layers: Mapping[str, LoraLinear]) -> ModelType:
    """Put the layers in their places; they and the head learn."""
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return learn_only(model, adapter_tensors(model, layers).values())


def learn_only(model: ModelType, parameters: Iterable[Tensor]) -> ModelType:
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return model


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def new_names(model: PretrainedModel) -> tuple[str, ...]:
    """Our names for the parameters that the checkpoint lacked."""
    return model.report.new if model.report else ()


def head_parameters(model: PretrainedModel) -> dict[str, Tensor]:
    """What pretraining knows nothing of: the head of a task and all that the checkpoint lacked."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in new_names(model) or (model.labelled and name.startswith(f"{model.head}."))
    }


def adapter_tensors(model: PretrainedModel, layers: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """peft's names -> the parameters themselves, of all that an adapter holds."""
    tensors = {
        f"{INSIDE}{layer.names[part]}.lora_{matrix.upper()}.weight": getattr(update, matrix)
        for layer in layers.values()
        for part, update in layer.updates.items()
        for matrix in "ab"
    }
    for name, parameter in head_parameters(model).items():
        (theirs,) = model.table.theirs(name)
        tensors[INSIDE + theirs] = parameter
    return tensors


def ends_with(name: str, ends: Iterable[str]) -> bool:
    """Whether the last parts of a dotted name are one of `ends`, as peft finds its targets.

    >>> ends_with("layer.0.attention.output.dense", ["query", "output.dense"])
    True
    >>> ends_with("layer.0.attention.output.dense", ["put.dense"])
    False
    """
    return any(f".{name}".endswith(f".{end}") for end in ends)
