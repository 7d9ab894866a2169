"""Each kernel equals the plain formula that it replaces: values, gradients and probabilities.

Where an operator does not work, the plain formula is used.
"""

from __future__ import annotations

import copy
import runpy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from support.attention import MASKS
from torch import nn

from minift.nn import kernels
from minift.nn.attention import attention, packed_attention
from minift.nn.kernels import (
    MAX_PREPACKED_ROWS,
    dropout,
    gradient_values,
    has_varlen_attention,
    lerp_tensors_,
    prepacked_weights,
    scale_tensors_,
    sparse_embedding_gradients,
)
from minift.nn.layers import NoBiasLinear, RMSNorm
from minift.nn.packing import pack
from minift.training.optim import (
    average_and_clip_gradients,
    make_optimizer,
    set_learning_rate,
)


@pytest.fixture(autouse=True)
def _enabled(monkeypatch):
    """These tests are about the kernels, also where MINIFT_KERNELS turns them off."""
    monkeypatch.setattr(kernels, "ENABLED", True)
    kernels._succeeds.cache_clear()
    yield
    kernels._succeeds.cache_clear()


@pytest.mark.parametrize(("value", "enabled"), [("off", False), ("OFF", False), ("on", True)])
def test_a_variable_of_the_environment_turns_kernels_off(monkeypatch, value, enabled):
    monkeypatch.setenv("MINIFT_KERNELS", value)
    assert runpy.run_path(kernels.__file__)["ENABLED"] is enabled


@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError, NotImplementedError])
def test_an_operator_that_fails_is_tried_once_and_not_used(monkeypatch, error):
    calls = []

    def trial(number):
        calls.append(number)
        if number == 1:
            raise error("no such operator")
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert [kernels.usable(trial, number) for number in (1, 2, 1, 2)] == [False, True] * 2
    assert calls == [1, 2]
    monkeypatch.setattr(kernels, "ENABLED", False)
    assert not kernels.usable(trial, 2)


def test_trials_draw_no_random_numbers():
    state = torch.get_rng_state()
    kernels.usable(kernels._try_prepacking)
    kernels.usable(kernels._try_multi_tensor, torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_numbers_are_dropped_with_the_probability_asked_for(p):
    x = torch.ones(1_000_001, requires_grad=True)  # no multiple of four
    y = dropout(x, p)
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / len(x)) ** 0.5 + 2**-17  # five standard deviations
    assert y.mean().item() == pytest.approx(1.0, abs=5 * (p / (1 - p) / len(x)) ** 0.5 + 1e-4)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # what was dropped gets no gradient


def test_decisions_do_not_depend_on_each_other():
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for lag in (1, 2, 3, 4, 8):
        pair = torch.stack([dropped[:-lag], dropped[lag:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / 400_000**0.5
    by_quarter = dropped.view(-1, 4).mean(0)
    assert (by_quarter - 0.5).abs().max().item() < 5 * 0.5 / 100_000**0.5


def test_edge_cases_of_dropout():
    x = torch.randn(3, 5)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(3, 5))
    assert dropout(x[:0], 0.5).shape == (0, 5)
    assert dropout(x.bfloat16(), 0.5).dtype == torch.bfloat16
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5))
    kept = first != 0
    torch.testing.assert_close(first[kept], (x * 2)[kept])
    assert dropout(x.t(), 0.5).shape == (5, 3)


def test_dropout_without_the_kernel_is_that_of_torch(monkeypatch):
    monkeypatch.setattr(kernels, "ENABLED", False)
    x = torch.randn(3, 5)
    found, expected = (
        drop(x, 0.3) for drop in (dropout, nn.functional.dropout) if torch.manual_seed(3)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (0, 12)])
def test_the_gradient_of_the_norm_equals_that_of_the_formula(shape):
    norm = RMSNorm(12, epsilon=1e-3)
    torch.nn.init.normal_(norm.weight)
    x, dy = torch.randn(2, *shape)
    if len(x):
        x[0] = 0  # nothing to divide by but epsilon

    def formula(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    inputs = [t.detach().requires_grad_() for t in (x, norm.weight)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, expected = norm(inputs[0]), formula(*exact)
    assert type(y.grad_fn).__name__.startswith("_RMSNormFunction")
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), y)
    # The weight that takes part is the parameter, so its gradient is found there.
    y.backward(dy)
    for got, want in zip(
        (inputs[0].grad, norm.weight.grad),
        torch.autograd.grad(expected, exact, dy.double()),
        strict=True,
    ):
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("rows", [(1,), (8,), (3, 4)])
def test_prepacked_weights_give_the_same_products(rows):
    layer, x = NoBiasLinear(16, 24), torch.randn(*rows, 16)
    expected = layer(x)
    with torch.no_grad(), prepacked_weights([layer], num_rows=8):
        assert layer.prepacked is not None
        with prepacked_weights([layer], num_rows=8):  # nested: does nothing
            pass
        assert layer.prepacked is not None
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.prepacked is None


def test_many_rows_take_the_plain_weights():
    """Their number varies, and the operator would keep code for each number."""
    layer, few = NoBiasLinear(16, 24), MAX_PREPACKED_ROWS
    with torch.no_grad(), prepacked_weights([layer], num_rows=8):
        layer.prepacked = layer.prepacked * 2  # so that the two products differ
        for rows, times in ((few, 2), (few + 1, 1)):
            x = torch.randn(rows, 16)
            torch.testing.assert_close(layer(x), times * (x @ layer.weight.T))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inside", [True, False], ids=["packed inside", "packed outside"])
def test_mixed_precision_takes_the_plain_weights(kind, inside):
    """The operator for prepacked weights refuses bfloat16 or ignores autocast."""
    layer, x = NoBiasLinear(16, 24), torch.randn(8, 16, dtype=kind)
    autocast = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), autocast:
        expected = layer(x)
    before, after = (autocast, nullcontext()) if inside else (nullcontext(), autocast)
    with torch.no_grad(), before, prepacked_weights([layer], num_rows=8), after:
        assert (layer.prepacked is None) is inside
        found = layer(x)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_a_compiled_layer_takes_the_plain_weights():
    """Inductor has no translation of the operator for prepacked weights."""
    layer, x, operators = NoBiasLinear(16, 24), torch.randn(8, 16), []

    def backend(graph, inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled, expected = torch.compile(layer, backend=backend), layer(x)
    with torch.no_grad(), prepacked_weights([layer], num_rows=8):
        assert layer.prepacked is not None
        torch.testing.assert_close(compiled(x), expected)
    assert any("linear" in name for name in operators)
    assert not any("mkldnn" in name for name in operators)


def without_one_dnn(patch):
    patch.setattr(torch.ops, "mkldnn", SimpleNamespace())


def with_kernels_off(patch):
    patch.setattr(kernels, "ENABLED", False)


@pytest.mark.parametrize("change", [without_one_dnn, with_kernels_off])
def test_without_the_operator_weights_are_not_prepacked(change, monkeypatch):
    layer, x = NoBiasLinear(16, 24), torch.randn(8, 16)
    expected = layer(x)
    change(monkeypatch)
    with torch.no_grad(), prepacked_weights([layer], num_rows=8):
        assert layer.prepacked is None
        assert torch.equal(layer(x), expected)


def varlen_kernel(q, k, v, layout, scale):
    """torch's variable-length attention, sequence by sequence; q, k, v: (S, N, D)."""
    query_offsets, key_offsets, max_queries, max_keys = layout
    assert query_offsets.dtype is key_offsets.dtype is torch.int32
    assert max_queries == max(query_offsets.diff())
    assert max_keys == max(key_offsets.diff())
    outputs = []
    for i in range(len(key_offsets) - 1):
        queries, keys = (slice(*ends[i : i + 2].tolist()) for ends in (query_offsets, key_offsets))
        heads = (x.transpose(0, 1) for x in (q[queries], k[keys], v[keys]))
        outputs.append(attention(*heads, scale=scale).transpose(0, 1))
    return torch.cat(outputs)


class Kernels:
    """In place of torch.ops.aten: its two kernels for a GPU, with the arguments that they take."""

    @staticmethod
    def _efficient_attention_forward(q, k, v, bias, *layout_and_flags, scale):
        *layout, dropout, mask, trains = layout_and_flags
        assert (bias, dropout, mask, trains) == (None, 0, 0, True)
        return [varlen_kernel(q[0], k[0], v[0], layout, scale)[None]]

    @staticmethod
    def _flash_attention_forward(q, k, v, *layout_and_flags, scale):
        *layout, dropout, causal, debug = layout_and_flags
        assert (dropout, causal, debug) == (0, False, False)
        if q.dtype is torch.float32:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return [varlen_kernel(q, k, v, layout, scale)]


class KernelsOfAT4(Kernels):
    """A GPU of compute capability 7.5: neither kernel takes bfloat16."""

    @staticmethod
    def _efficient_attention_forward(q, *arguments, scale):
        if q.dtype is torch.bfloat16:
            raise RuntimeError("no kernel found to launch!")
        return Kernels._efficient_attention_forward(q, *arguments, scale=scale)

    @staticmethod
    def _flash_attention_forward(*_, scale):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


class KernelsThatTakeOtherArguments:
    @staticmethod
    def _flash_attention_forward(q, k, v, *, cu_seqlens):
        return [q]

    # No memory-efficient kernel at all.


def query_on_a_gpu(dtype=torch.bfloat16, width=8):
    """As much of a query as the choice of a kernel looks at; the trial itself runs on the CPU."""
    return SimpleNamespace(
        is_cuda=True, device=torch.device("cpu"), dtype=dtype, shape=(5, 2, width)
    )


@pytest.mark.parametrize(
    ("operators", "dtype", "expected"),
    [
        (Kernels, torch.float32, kernels._memory_efficient),
        (Kernels, torch.float16, kernels._flash),
        (Kernels, torch.bfloat16, kernels._flash),
        (KernelsOfAT4, torch.float32, kernels._memory_efficient),
        (KernelsOfAT4, torch.float16, kernels._memory_efficient),
        (KernelsOfAT4, torch.bfloat16, None),
        (KernelsThatTakeOtherArguments, torch.float16, None),
        (SimpleNamespace(), torch.float32, None),
    ],
)
def test_a_gpu_gets_the_first_kernel_that_runs(monkeypatch, operators, dtype, expected):
    monkeypatch.setattr(torch.ops, "aten", operators)
    q = query_on_a_gpu(dtype)
    assert kernels._varlen_kernel(q) is expected
    assert has_varlen_attention(q) is (expected is not None)
    monkeypatch.setattr(kernels, "ENABLED", False)
    assert not has_varlen_attention(q)


def test_a_kernel_whose_gradient_fails_is_not_used(monkeypatch):
    def refuse(gradient):
        raise RuntimeError("FlashAttention backward for head dim > 192 requires A100")

    class Refusing(Kernels):
        @staticmethod
        def _flash_attention_forward(q, *arguments, scale):
            [mixed] = Kernels._flash_attention_forward(q, *arguments, scale=scale)
            if q.shape[-1] > 192:
                mixed.register_hook(refuse)
            return [mixed]

    monkeypatch.setattr(torch.ops, "aten", Refusing)
    assert kernels._varlen_kernel(query_on_a_gpu(width=192)) is kernels._flash
    assert kernels._varlen_kernel(query_on_a_gpu(width=200)) is kernels._memory_efficient


def test_a_cpu_has_no_variable_length_kernel():
    assert not has_varlen_attention(torch.ones(5, 2, 8))


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_variable_length_kernels_get_the_offsets_of_the_sequences(
    rows, kind, cls_only, monkeypatch
):
    packing = pack(torch.tensor(rows))
    x = torch.randn(len(packing.index), 3, 3, 8, dtype=kind)
    kernel = kernels._memory_efficient if kind is torch.float32 else kernels._flash
    results = []
    for chosen in (None, kernel):
        leaf = x.clone().requires_grad_()
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_varlen_kernel", lambda q, chosen=chosen: chosen)
            if chosen:
                patch.setattr(torch.ops, "aten", Kernels)
            q, k, v = leaf.unbind(1)
            mixed = packed_attention(
                packing.cls_tokens(q) if cls_only else q, k, v, packing, cls_only=cls_only
            )
        mixed.square().sum().backward()
        results.append((mixed, leaf.grad))
    close = 1e-5 if kind is torch.float32 else 5e-2
    torch.testing.assert_close(results[0], results[1], atol=close, rtol=close)


class Bag(nn.Module):
    """The mean of some rows of a table, and a line through it."""

    def __init__(self):
        super().__init__()
        self.weight_map = nn.Embedding(50, 8)
        self.line = nn.Linear(8, 1)

    def forward(self, ids):
        return self.line(self.weight_map(ids).mean(1)).squeeze(-1)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_sparse_gradients_train_as_dense_ones_do(monkeypatch, name):
    """Over steps that accumulate, clip and use rows twice; rows that are not used move alike."""
    monkeypatch.setattr(kernels, "MIN_SPARSE_SIZE", 400)
    plain, apart = Bag(), Bag()
    apart.load_state_dict(plain.state_dict())
    optimizers = []
    for model in (plain, apart):
        group = {"params": list(model.parameters()), "weight_decay": 0.1, "factor": 1.0}
        optimizers.append(make_optimizer(name, [group]))
        set_learning_rate(optimizers[-1], 0.05)
    sparse_embedding_gradients(apart, optimizers[1])
    for _ in range(6):
        batches = [torch.randint(0, 30, (4, 3)) for _ in range(2)]
        norms = []
        for model, optimizer in zip((plain, apart), optimizers, strict=True):
            for ids in batches:
                model(ids).square().sum().backward()
            assert model.weight_map.weight.grad.is_sparse == (model is apart)
            norms.append(average_and_clip_gradients(model, torch.tensor(8.0), max_norm=0.05))
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(*norms)
    for a, b in zip(plain.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(apart.weight_map.weight[40:], Bag().weight_map.weight[40:])


def test_the_values_of_a_gradient():
    dense = torch.randn(4, 2)
    assert gradient_values(dense) is dense
    table = nn.Embedding(5, 1, sparse=True)
    (table(torch.tensor([3, 1, 3])) * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
    sparse = table.weight.grad
    assert not sparse.is_coalesced()
    assert gradient_values(sparse).tolist() == [[2.0], [5.0]]
    coalesced = sparse.coalesce()
    gradient_values(coalesced).mul_(2)
    assert coalesced.to_dense().flatten().tolist() == [0.0, 4.0, 0.0, 10.0, 0.0]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_many_tensors_are_changed_as_one_by_one(kind, monkeypatch):
    tensors = [torch.randn(3, dtype=kind), torch.randn(2, 4, dtype=kind)]
    ends = [torch.randn_like(tensor) for tensor in tensors]
    results = []
    for enabled in (True, False):
        monkeypatch.setattr(kernels, "ENABLED", enabled)
        changed = copy.deepcopy(tensors)
        scale_tensors_(changed, torch.tensor(0.3))
        lerp_tensors_(changed, ends, 0.7)
        results.append(changed)
    assert kernels._succeeds.cache_info().currsize == 1
    torch.testing.assert_close(*results)
    expected = [0.3 * (1 - 0.7) * a + 0.7 * b for a, b in zip(tensors, ends, strict=True)]
    close = 1e-6 if kind is torch.float32 else 2e-2
    torch.testing.assert_close(results[1], expected, atol=close, rtol=close)
    scale_tensors_([], torch.tensor(0.3))
    lerp_tensors_([], [], 0.3)
