"""Which parameters learn: all, those above a layer, a new top, low-rank updates, or biases alone.

              embeddings   layer 0   layer 1   ...   top layer   head
(nothing)          x          x         x                x        x
freeze_below 2                           x                x        x
unfreeze_epochs         x <- x <- x <- x <- x <- x <- x <- x  first x
reinit_layers 1    x          x         x               anew     anew
freeze_encoder                                                    x
lora_rank                 updates beside chosen projections       x
bitfit           b          b         b                b          x       b: the biases
"""

from __future__ import annotations

from minift.errors import InputError
from minift.models.base import PretrainedModel
from minift.nn.lora import LoraSettings, add_lora, bitfit
from minift.training.options import TrainOptions


def choose_what_learns(model: PretrainedModel, options: TrainOptions) -> list[str]:
    """Prepare a model as the options say, in place; returns the modules that start anew.

    `InputError` for a depth that the model does not have, or a method that it cannot do.
    """
    for name, most in {"freeze_below": 1, "reinit_layers": 0}.items():
        if getattr(options, name) > model.top_layer + most:
            raise InputError(
                f"--{name.replace('_', '-')} is {getattr(options, name)}, but the model has "
                f"{model.top_layer} layers; give at most {model.top_layer + most}"
            )
    anew = restart_layers(model, options.reinit_layers) if options.reinit_layers else []
    if options.lora_rank:
        settings = LoraSettings(
            rank=options.lora_rank,
            alpha=float(options.lora_alpha or options.lora_rank),
            dropout=options.lora_dropout,
            targets=options.lora_targets,
        )
        add_lora(model, settings)
    elif options.bitfit:
        bitfit(model)
    elif options.freeze_encoder:
        learn_head(model)
    else:
        learn_above(model, options.freeze_below)
    return anew


def learn_head(model: PretrainedModel) -> None:
    """Let learn the head alone, in place."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(f"{model.head}.")


def learn_above(model: PretrainedModel, depth: int) -> None:
    """Let learn what is at this depth or above it, in place; see `PretrainedModel.depth_of`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = model.depth_of(name) >= depth


def lowest_that_learns(model: PretrainedModel, epoch: int, options: TrainOptions) -> int:
    """The depth from which on parameters learn in an epoch (the first is 0).

    Unfreezing from the top (Howard and Ruder 2018): the head alone, then one layer more with each
    `unfreeze_epochs` (at least 1), down to the lowest that learns at all.
    """
    thawed = epoch // options.unfreeze_epochs
    return max(options.freeze_below, model.top_layer + 1 - thawed)


def restart_layers(model: PretrainedModel, count: int) -> list[str]:
    """Give the top layers, and all that stands above them, new weights in place; their names.

    The top of a pretrained model is made for its old task; on few data it is better to start there
    anew (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning").
    """
    lowest = model.top_layer + 1 - count
    restarted: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        within = any(name.startswith(f"{outer}.") for outer in restarted)
        if own and not within and all(model.depth_of(one) >= lowest for one in own):
            module.apply(model.init_weights)
            restarted.append(name)
    return restarted
