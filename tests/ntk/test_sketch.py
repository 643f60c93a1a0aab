"""Projected gradients: without bias, inside the stated error, and the same whatever the memory."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.ntk.kernels import tangent_kernels
from components.ntk.sketch import Sketch, sketch
from tests.parts.tangent_networks import random_images, relative_error, small_net, tiny_transformer

SEEDS = 60
Kind = Literal["full", "per_class", "trace"]


def estimates(k: int, seeds: int = SEEDS) -> tuple[list[Sketch], dict[str, Tensor]]:
    model, images = small_net().double(), random_images(4).double()
    exact = tangent_kernels(model, images, {"full", "per_class", "trace"})
    wanted = {kind: exact[kind] for kind in ("full", "per_class", "trace")}
    return [sketch(model, images, k, seed) for seed in range(seeds)], wanted


def test_estimates_have_no_bias_and_the_error_that_is_stated() -> None:
    sketches, wanted = estimates(k=48)
    for kind in ("full", "per_class", "trace"):
        each = torch.stack([getattr(one, kind)() for one in sketches])
        # Of single classes the worst one's error is stated.
        parts = each.unbind(1) if kind == "per_class" else [each]
        kernels = wanted[kind].unbind(0) if kind == "per_class" else [wanted[kind]]
        errors = [
            float(((one - exact).flatten(1).norm(dim=1) / exact.norm()).square().mean().sqrt())
            for one, exact in zip(parts, kernels, strict=True)
        ]
        stated = torch.tensor([one.error(kind) for one in sketches])
        # The root mean square of 60 is known to about a sixth; the bound is nearly tight.
        assert 0.7 * stated.mean() < max(errors) < 1.2 * stated.mean(), kind
        assert stated.std() < 0.2 * stated.mean()
        # The mean of 60 is within 3 of its standard errors: |mean error| is their root mean square or so.
        for one, exact, error in zip(parts, kernels, errors, strict=True):
            assert relative_error(one.mean(0), exact) < 2 * error / SEEDS**0.5, kind


def test_four_times_as_many_dimensions_halve_the_error() -> None:
    few, wanted = estimates(k=32, seeds=20)
    many, _ = estimates(k=512, seeds=20)
    spread = [
        torch.tensor([relative_error(one.full(), wanted["full"]) for one in each]).square().mean().sqrt()
        for each in (few, many)
    ]
    assert 0.18 < spread[1] / spread[0] < 0.35


def test_more_dimensions_than_parameters_are_exact() -> None:
    """Each parameter has a place of its own, and signs cancel."""
    model, images = small_net().double().requires_grad_(False), random_images(3).double()
    model.get_parameter("head.weight").requires_grad_(True)
    estimate = sketch(model, images, 100, seed=0)
    assert relative_error(estimate.full(), tangent_kernels(model, images, {"full"})["full"]) < 1e-12


def test_parts_agree_and_memory_changes_rounding_alone() -> None:
    for build in (small_net, tiny_transformer):
        model, images = build().double(), random_images(5).double()
        whole = sketch(model, images, 64, seed=3)
        assert whole.features.shape == (5, 6, 64) and whole.features.dtype == torch.float64
        assert relative_error(whole.per_class(), whole.full().diagonal(dim1=1, dim2=3).permute(2, 0, 1)) < 1e-12
        assert relative_error(whole.trace(), whole.per_class().sum(0)) < 1e-12
        part = sketch(model, images, 64, seed=3, memory=0.5 * whole.choice.mib)
        assert part.choice.mib <= 0.5 * whole.choice.mib and part.choice != whole.choice
        assert relative_error(part.features, whole.features) < 1e-12
        assert relative_error(sketch(model, images[2:4], 64, seed=3).features, whole.features[2:4]) < 1e-12
        assert relative_error(sketch(model, images, 64, seed=4).features, whole.features) > 0.1


def test_no_dimension_and_too_little_memory_are_one_line() -> None:
    with pytest.raises(InputError, match="k: got 0, want at least 1"):
        sketch(small_net(), random_images(2), 0, seed=0)
    with pytest.raises(InputError, match=r"memory: got 0\.001 MiB, want at least 1 for 2 images"):
        sketch(small_net(), random_images(2), 8, seed=0, memory=0.001)
