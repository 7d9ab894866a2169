"""Where inf and nan begin is found and named, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minift.errors import UserError
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.nonfinite import first_not_finite, stop_if_not_finite
from minift.training.options import TrainOptions
from minift.training.run import run


class Root(nn.Module):
    """The gradient of the square root at 0 is infinite, its value is not."""

    def forward(self, x):
        return x.sqrt()


def chain(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def test_the_first_layer_whose_output_is_not_finite():
    model = chain(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    x = torch.ones(2, 3)
    assert first_not_finite(model, lambda: model(x).sum()) is None
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")
    assert first_not_finite(model, lambda: model(x).sum()) == "the output of 1"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_gradient_that_is_not_finite_though_all_outputs_are():
    model = chain(nn.Linear(3, 3), nn.Linear(3, 3), Root())
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    found = first_not_finite(model, lambda: model(torch.ones(1, 3)).sum())
    assert found == "the gradient at the output of 1"


def test_the_loss_itself():
    model = chain(nn.Linear(3, 3))
    found = first_not_finite(model, lambda: model(torch.ones(1, 3)).sum() / 0)
    assert found == "the loss"


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.1.feed_forward.down",
        "decoder.layers.0.cross_attention.query",
        "decoder.norm",
    ],
)
def test_a_layer_of_t5(name):
    config = T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.get_submodule(name).weight.fill_(3e38)
    ids, labels = torch.randint(2, 30, (2, 5)), torch.randint(2, 30, (2, 4))

    def loss():
        return model.target_loss(ids, torch.ones_like(ids), labels)[0]

    with pytest.raises(UserError, match=rf"step 7: .* first in the output of {name};.* 0\.01"):
        stop_if_not_finite(torch.tensor(float("nan")), model, [loss], 7, 0.01)
    stop_if_not_finite(torch.tensor(1.0), model, [], 7, 0.01)


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_stops_before_the_step_is_taken(tiny_bert, reviews, tmp_path, monkeypatch, after):
    honest = ClassificationTask.loss
    calls = []

    def loss(self, model, batch):
        calls.append({n: p.detach().clone() for n, p in model.named_parameters()})
        if len(calls) > after:
            with torch.no_grad():
                model.encoder.layers[1].attention.output.bias[0] = float("nan")
        return honest(self, model, batch)

    monkeypatch.setattr(ClassificationTask, "loss", loss)
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    options = TrainOptions(output_dir=tmp_path / "out", batch_size=4, device="cpu")
    words = (
        rf"step {after + 1}: .*encoder\.layers\.1\.attention\.output;.* not taken.*learning rate"
    )
    with pytest.raises(UserError, match=words):
        run(ClassificationTask, task, options)
    assert len(calls) == after + 2  # the step itself, and once more to find where
    assert not (tmp_path / "out" / "model.safetensors").exists()
