"""Which parameters are trained: all, the upper layers, the head, LoRA updates, or biases.

                     embeddings   layer 0   layer 1   ...   top layer   head
(no option)               x          x         x                x        x
freeze_embeddings                    x         x                x        x
freeze_layers 1                                x                x        x
gradual_unfreezing 1      x <- x <- x <- x <- x <- x <- x <- x <- x   first x
reinit_layers 1           x          x         x               new      new
freeze_encoder                                                           x
lora_rank                   updates beside the target projections        x
bitfit                    b          b         b                b        x       b: the biases
"""

from __future__ import annotations

import math

from minift.errors import UserError
from minift.models.adapters import add_lora, bitfit
from minift.models.base import PretrainedModel
from minift.nn.lora import LoraConfig, lora_layers
from minift.options import flag_of
from minift.training.options import TrainOptions


def prepare_parameters(model: PretrainedModel, options: TrainOptions) -> list[str]:
    """Freeze, re-initialise or add parameters, in place; returns the re-initialised modules.

    `UserError` for more layers than the model has, or a method that does not fit the model.
    """
    for name in ("freeze_layers", "reinit_layers"):
        if getattr(options, name) > model.num_layers:
            raise UserError(
                f"{flag_of(name)} is {getattr(options, name)}, but the model has "
                f"{model.num_layers} layers; give at most {model.num_layers}"
            )
    reinitialised = reinit_layers(model, options.reinit_layers) if options.reinit_layers else []
    if options.lora_rank:
        config = LoraConfig(
            rank=options.lora_rank,
            alpha=float(options.lora_alpha or options.lora_rank),
            dropout=options.lora_dropout,
            target_modules=options.lora_target_modules,
        )
        add_lora(model, config)
    elif options.bitfit:
        bitfit(model)
    elif options.freeze_encoder:
        freeze_all_but_head(model)
    else:
        freeze_lower_layers(model, options.frozen_depth)
    for name, off in (("l2_sp", 0), ("wise_ft_alpha", 1)):
        value = getattr(options, name)
        if value != off and not pretrained_parameters(model, options):
            raise UserError(
                f"{flag_of(name)} is {value}, which keeps parameters near the checkpoint's values, "
                "but no trained parameter begins with one; leave it out"
            )
    return reinitialised


def pretrained_parameters(model: PretrainedModel, options: TrainOptions) -> set[str]:
    """The names of the trained parameters that begin with the checkpoint's values.

    A new head and re-initialised layers do not, nor does anything in a model trained from scratch.
    Of a LoRA update B A, B does: it begins with 0, which leaves the checkpoint's matrix unchanged.
    """
    if model.load_report is None:
        return set()
    lowest = model.num_layers + 1 - options.reinit_layers if options.reinit_layers else math.inf
    depths, updates = model.layer_depths(), lora_layers(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and name not in model.new_parameters
        and depths[name] < lowest
        and not any(name.startswith(f"{layer}.") and name.endswith(".a") for layer in updates)
    }


def freeze_all_but_head(model: PretrainedModel) -> None:
    """Make only the head trainable, in place."""
    model.requires_grad_(False)
    for _, parameter in model.head_parameters():
        parameter.requires_grad = True


def freeze_lower_layers(model: PretrainedModel, depth: int) -> None:
    """Freeze everything below a depth, in place; see `PretrainedModel.layer_depths`."""
    depths = model.layer_depths()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = depths[name] >= depth


def lowest_trainable_depth(model: PretrainedModel, epoch: int, options: TrainOptions) -> int:
    """With gradual unfreezing, the depth from which parameters are trained in an epoch (from 0).

    The head first, then one more layer from the top every `gradual_unfreezing` epochs, down to the
    lowest layer that is not frozen (Howard and Ruder 2018, ULMFiT).
    """
    unfrozen = epoch // options.gradual_unfreezing
    return max(options.frozen_depth, model.num_layers + 1 - unfrozen)


def reinit_layers(model: PretrainedModel, count: int) -> list[str]:
    """Re-initialise the top layers, pooler and head in place; returns the modules' names.

    The top layers are specialised to the pre-training task; with few data, new ones train better
    (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning").
    """
    lowest, depths = model.num_layers + 1 - count, model.layer_depths()
    reinitialised: list[str] = []
    for name, module in model.named_modules():
        own = [parameter for parameter, _ in module.named_parameters(prefix=name)]
        within = any(name.startswith(f"{outer}.") for outer in reinitialised)
        if own and not within and all(depths[one] >= lowest for one in own):
            module.apply(model.init_weights)
            reinitialised.append(name)
    return reinitialised
