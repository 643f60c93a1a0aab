"""The kernel against closed forms and brute force; which models it refuses; that it leaves the model alone."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.ntk import grams, kernels
from components.ntk.kernels import trace_kernel
from tests.parts.tangent_networks import NUM_CLASSES, brute_force, random_images, relative_error, small_net, trace_of


def test_linear_model_has_its_closed_form() -> None:
    images = random_images(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, NUM_CLASSES))
    flat = images.flatten(1).double()
    wanted = NUM_CLASSES * (flat @ flat.T + 1)
    kernel = trace_kernel(model, images, "exact", seed=0)
    assert kernel.dtype == torch.float64
    assert relative_error(kernel, wanted) < 1e-6


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chunk", [1, 3000, grams.CHUNK])
def test_exact_kernel_is_the_trace_of_the_full_kernel(chunk: int, memory_format: torch.memory_format) -> None:
    model, images = small_net().to(memory_format=memory_format), random_images(5)
    wanted = trace_of(brute_force(model, images))
    kernel = trace_kernel(model, images.to(memory_format=memory_format), "exact", seed=0, chunk=chunk)
    assert relative_error(kernel, wanted) < 1e-5


@pytest.mark.parametrize("by_pairs", [True, False])
def test_both_forms_of_a_convolution_agree(by_pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # One pixel and many channels ask for pairs, many pixels and one channel for weight gradients.
    taken = []
    real = grams._Weights._pair_gram
    monkeypatch.setattr(grams._Weights, "_pair_gram", lambda *args: taken.append(1) or real(*args))
    side, channels = (3, 32) if by_pairs else (8, 2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, channels, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(4, channels, side, side, generator=torch.Generator().manual_seed(1))
    wanted = trace_of(brute_force(model, images))
    assert relative_error(trace_kernel(model, images, "exact", seed=0), wanted) < 1e-5
    assert bool(taken) == by_pairs


def test_frozen_parameters_are_left_out() -> None:
    model, images = small_net(), random_images(4)
    whole = trace_kernel(model, images, "exact", seed=0)
    for name in ("stem.weight", "last.bias", "stem_norm.weight", "head.weight"):
        model.get_parameter(name).requires_grad_(False)
    kernel = trace_kernel(model, images, "exact", seed=0)
    assert relative_error(kernel, trace_of(brute_force(model, images))) < 1e-5
    assert relative_error(kernel, whole) > 1e-2


def test_random_signs_are_unbiased_and_more_of_them_are_better() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 20))
    images = random_images(4)
    exact = trace_kernel(model, images, "exact", seed=0)

    def estimates(directions: int) -> Tensor:
        return torch.stack([trace_kernel(model, images, directions, seed) for seed in range(60)])

    few, many = estimates(4), estimates(16)
    spread_few, spread_many = ((each - exact).square().sum((1, 2)).mean().sqrt() / exact.norm() for each in (few, many))
    # The mean of 60 is within 3 standard errors; 4 times the directions halve the error.
    assert relative_error(few.mean(0), exact) < 3 * spread_few / 60**0.5
    assert 0.35 < spread_many / spread_few < 0.65


def test_signs_depend_on_the_seed_only() -> None:
    model, images = small_net(), random_images(4)
    kernel = trace_kernel(model, images, 4, seed=3)
    torch.manual_seed(99)
    assert torch.equal(kernel, trace_kernel(model, images, 4, seed=3))
    assert relative_error(trace_kernel(model, images, 4, seed=4), kernel) > 1e-3


def test_logits_that_sum_to_zero_still_have_a_kernel() -> None:
    # The sum of logits, a common shortcut, has no gradient here at all.
    class ZeroSum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, NUM_CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            logits = self.linear(images.flatten(1))
            return logits - logits.mean(1, keepdim=True)

    images, model = random_images(4), ZeroSum()
    flat = images.flatten(1).double()
    full = brute_force(model, images)
    assert full.sum((1, 3)).abs().max() < 1e-9
    wanted = (NUM_CLASSES - 1) * (flat @ flat.T + 1)
    assert relative_error(trace_kernel(model, images, "exact", seed=0), wanted) < 1e-6
    assert trace_kernel(model, images, 4, seed=0).trace() > 0.1 * wanted.trace()


@pytest.mark.parametrize("directions", ["exact", 4])
def test_kernel_is_symmetric_and_has_no_negative_eigenvalue(directions: kernels.Directions) -> None:
    kernel = trace_kernel(small_net(), random_images(12), directions, seed=0)
    assert relative_error(kernel, kernel.T) < 1e-6
    eigenvalues = torch.linalg.eigvalsh(kernel)
    assert eigenvalues[0] > -1e-6 * eigenvalues[-1]


def test_a_part_of_the_images_has_a_part_of_the_kernel() -> None:
    model, images = small_net(), random_images(7)
    whole = trace_kernel(model, images, 4, seed=0)
    assert relative_error(trace_kernel(model, images[:3], 4, seed=0), whole[:3, :3]) < 1e-5


def test_model_is_left_as_it_was() -> None:
    model, images = small_net(), random_images(4)
    model.get_submodule("last").eval()
    model.get_parameter("head.bias").grad = torch.full((NUM_CLASSES,), 3.0)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    with torch.no_grad():
        trace_kernel(model, images, 4, seed=0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    grads = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert grads == {"head.bias"} and bool((model.get_parameter("head.bias").grad == 3).all())
    assert torch.equal(torch.get_rng_state(), rng)


def test_model_is_left_as_it_was_after_an_error() -> None:
    model = small_net()
    with pytest.raises(RuntimeError):
        trace_kernel(model, torch.rand(2, 5, 8, 8), "exact", seed=0)
    assert model.training and not any(module._forward_hooks for module in model.modules())


class Centred(nn.Linear):
    """Every image is seen beside the mean of the batch."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - input.mean(0))


class ForMany(nn.Module):
    """A second layer, for large batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layers[0](images)
        return self.layers[1](hidden) if len(images) > 3 else hidden


REFUSED = {
    "batch statistics": (
        nn.Sequential(
            OrderedDict(norm=nn.BatchNorm1d(4, affine=False, track_running_stats=False), head=nn.Linear(4, 3))
        ),
        "norm has no running statistics",
    ),
    "frozen": (nn.Linear(4, 3).requires_grad_(False), "no parameter requires a gradient"),
    "no logits": (nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), "want logits"),
    "centred by the batch": (Centred(4, 3), "depend on the other images"),
    "another function of many": (ForMany(), "something else for 5 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_model_without_a_kernel_is_refused(case: str) -> None:
    model, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        trace_kernel(model, torch.rand(5, 4), "exact", seed=0)
    assert "\n" not in str(caught.value)


def test_unused_layers_add_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, NUM_CLASSES))
    images = random_images(3)
    kernel = trace_kernel(model, images, "exact", seed=0)
    model[1].register_module("spare", nn.Linear(3, 3))
    assert torch.equal(trace_kernel(model, images, "exact", seed=0), kernel)


def test_too_few_directions_are_refused() -> None:
    with pytest.raises(InputError, match="at least 4"):
        trace_kernel(nn.Sequential(nn.Flatten(), nn.Linear(192, 9)), random_images(2), 3, seed=0)
