"""Winograd's convolutions against direct ones: values, both gradients, and who computes which way."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from components.attacks.parts.ascent import input_gradient
from components.data.normalization import Normalization
from components.foundation.params import member
from components.models import MODELS
from components.numerics import winograd
from components.numerics.compute import training_arithmetic
from components.numerics.winograd import fewer_multiplications

SHAPES = [(1, 8, 8, 4, 4), (3, 8, 16, 8, 12), (5, 16, 8, 16, 4), (2, 130, 129, 4, 8)]
"""Images, channels in, channels out, height, width; the slabs below cut some batches unevenly."""


@pytest.fixture(autouse=True)
def small_layers_gain(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)
    monkeypatch.setattr(winograd, "LEAST_WORK", 1)
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 7)


def layer(channels_in: int = 8, channels_out: int = 8, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels_in, channels_out, 3, **({"padding": 1, "bias": False} | options))


def direct(images: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(images.double(), weight.double(), padding=1)


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).detach().abs().max()) <= 2e-5 * float(expected.detach().abs().max())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_those_of_direct_sums(shape, memory_format):
    num, channels_in, channels_out, height, width = shape
    convolution = layer(channels_in, channels_out).to(memory_format=memory_format)
    images = torch.randn(num, channels_in, height, width).contiguous(memory_format=memory_format).requires_grad_()
    with fewer_multiplications():
        results = convolution(images)
    gradient = torch.randn_like(results)
    # Outside the block, as training takes its gradients.
    found = torch.autograd.grad(results, [images, convolution.weight], gradient)
    expected = direct(images, convolution.weight)
    wanted = torch.autograd.grad(expected, [images, convolution.weight], gradient.double())
    assert type(results.grad_fn).__name__ == "_WinogradBackward"
    assert all(map(close, (results, *found), (expected, *wanted)))


def test_second_derivatives_are_those_of_direct_sums():
    convolution, images = layer(), torch.randn(3, 8, 8, 8, requires_grad=True)
    along = torch.randn(3, 8, 8, 8)

    def of_gradient_norm(results: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = torch.autograd.grad((results.relu() ** 2 * along).sum(), images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [images, weight])

    with fewer_multiplications():
        found = of_gradient_norm(convolution(images), convolution.weight)
    assert all(map(close, found, of_gradient_norm(direct(images, convolution.weight), convolution.weight)))


def test_an_attack_computes_no_weight_gradient(monkeypatch):
    monkeypatch.setattr(winograd, "_weight_gradient", None)  # whose call would fail
    model, images = nn.Sequential(layer(), nn.Flatten()), torch.randn(2, 8, 4, 4)
    with fewer_multiplications():
        gradient = input_gradient(model, images, lambda logits: logits.sum(1))
    assert close(gradient, input_gradient(model, images, lambda logits: logits.sum(1)))


def test_frozen_weights_get_no_gradient():
    convolution, images = layer().requires_grad_(False), torch.randn(2, 8, 4, 4, requires_grad=True)
    with fewer_multiplications():
        convolution(images).sum().backward()
    assert images.grad is not None and convolution.weight.grad is None


def test_kernels_are_transformed_once_and_again_when_the_weight_changes(monkeypatch):
    calls, transform = [], winograd._kernel_tiles
    monkeypatch.setattr(winograd, "_kernel_tiles", lambda weight: (calls.append(1), transform(weight))[1])
    convolution, images = layer(), torch.randn(2, 8, 4, 4)
    other = {"weight": torch.randn_like(convolution.weight)}
    with fewer_multiplications(), torch.no_grad():
        before = [convolution(images) for _ in range(3)][-1]
        assert len(calls) == 1
        assert close(functional_call(convolution, other, images), direct(images, other["weight"]))
        convolution.weight.mul_(2)
        assert close(convolution(images), 2 * before) and len(calls) == 3


def test_a_later_change_of_the_weight_is_an_error_as_it_is_in_torch():
    convolution, images = layer(), torch.randn(2, 8, 4, 4, requires_grad=True)
    with fewer_multiplications():
        results = convolution(images)
    with torch.no_grad():
        convolution.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        results.sum().backward()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"stride": 2}, 8),
        ({"padding": 0}, 8),
        ({"dilation": 2, "padding": 2}, 8),
        ({"groups": 2}, 8),
        ({"bias": True}, 8),
        ({"padding_mode": "circular"}, 8),
        ({"dtype": torch.float64}, 8),
        ({}, 6),
        ({"channels_in": 4}, 8),
    ],
)
def test_what_does_not_fit_is_computed_as_torch_does(options, size):
    convolution = layer(**options)
    images = torch.randn(2, convolution.in_channels, size, size, dtype=convolution.weight.dtype)
    with fewer_multiplications():
        found = convolution(images)
    assert torch.equal(found, convolution(images))


def test_too_little_work_is_computed_as_torch_does(monkeypatch):
    convolution, images = layer(), torch.randn(2, 8, 4, 4)
    work = 9 * 8 * 8 * 2 * 4 * 4
    for least, direct_again in ((work, False), (work + 1, True)):
        monkeypatch.setattr(winograd, "LEAST_WORK", least)
        with fewer_multiplications():
            assert (convolution(images).grad_fn.name() == "ConvolutionBackward0") is direct_again


def test_outside_the_block_nothing_changes():
    convolution, images = layer(), torch.randn(2, 8, 4, 4)
    with pytest.raises(ZeroDivisionError), fewer_multiplications():
        raise ZeroDivisionError
    assert convolution(images).grad_fn.name() == "ConvolutionBackward0"


@pytest.mark.parametrize(
    ("precision", "gains", "fast"), [("auto", True, True), ("auto", False, False), ("float32", True, False)]
)
def test_training_computes_so_where_precision_is_free_and_the_processor_gains(precision, gains, fast, monkeypatch):
    monkeypatch.setattr(winograd, "gains_here", lambda: gains)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # none that auto would take bfloat16 for
    with training_arithmetic(torch.device("cpu"), precision):
        name = layer()(torch.randn(2, 8, 4, 4)).grad_fn.name()
    assert (name == "_WinogradBackward") is fast


def test_a_training_step_of_resnet18_is_the_same_but_for_rounding():
    torch.manual_seed(0)
    spec = {"name": "resnet18", "width": 0.25, "batch_norm": {"estimator": "running", "momentum": 0.1}}
    normalization = Normalization(method="standardize", offset=(0.5,) * 3, scale=(0.25,) * 3)
    plain = member(MODELS, spec, "model").build(10, (3, 32, 32), normalization).train()
    fast, images, labels = copy.deepcopy(plain), torch.rand(8, 3, 32, 32), torch.arange(8)
    loss = functional.cross_entropy(plain(images), labels)
    with fewer_multiplications():
        fast_loss = functional.cross_entropy(fast(images), labels)
    assert fast_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    fast_loss.backward()
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert float((one.grad - other.grad).norm() / one.grad.norm()) < 1e-3, name
