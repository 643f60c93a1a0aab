"""Every architecture, at two image shapes: shapes, gradients, evaluation mode, widths, published sizes, bad input."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import scaled

# What other libraries build has tests of its own.
OWN = [name for name, kind in MODELS.items() if not hasattr(kind, "library")]
RUNNING = {"estimator": "running", "momentum": 0.1}
FIELDS: dict[str, dict[str, Any]] = {name: {} for name in OWN} | {"wide_resnet": {"depth": 10, "widen_factor": 2}}
SHAPES = [(1, 8, 8), (3, 32, 32)]
EACH = pytest.mark.parametrize("name", OWN)
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def build(name: str, shape: tuple[int, int, int], num_classes: int = 5, seed: int = 0, **fields: Any) -> nn.Module:
    spec = {"name": name, "width": 0.25, "batch_norm": RUNNING} | FIELDS[name] | fields
    identity = Normalization(method="none", offset=(0.0,) * shape[0], scale=(1.0,) * shape[0])
    torch.manual_seed(seed)
    return member(MODELS, spec, "test").build(num_classes, shape, identity)


def images_of(shape: tuple[int, int, int], count: int = 4) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def count_parameters(name: str, width: float = 1.0, **fields: Any) -> int:
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10, width=width, **fields)
    return sum(parameter.numel() for parameter in model.parameters())


@EACH
@EACH_SHAPE
def test_logits_have_one_row_per_image_and_gradients_reach_everything(name: str, shape: tuple[int, int, int]) -> None:
    model, images = build(name, shape).train(), images_of(shape).requires_grad_()
    logits = model(images)
    assert logits.shape == (4, 5) and logits.isfinite().all()
    # Squares: the mean of a batch-normalised map has no gradient of its own.
    logits.square().sum().backward()
    for label, tensor in [("images", images), *model.named_parameters()]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), label


@EACH
@EACH_SHAPE
@pytest.mark.parametrize("estimator", ["running", "cumulative", "batch"])
def test_no_images_have_no_logits(name: str, shape: tuple[int, int, int], estimator: str) -> None:
    model = build(name, shape, batch_norm={"estimator": estimator, "momentum": 0.1}).eval()
    assert model(images_of(shape, 0)).shape == (0, 5)


@EACH
@EACH_SHAPE
@pytest.mark.parametrize("estimator", ["running", "cumulative"])
def test_evaluation_does_not_depend_on_the_batch(name: str, shape: tuple[int, int, int], estimator: str) -> None:
    model, images = build(name, shape, batch_norm={"estimator": estimator, "momentum": 0.1}), images_of(shape)
    model.train()(images)
    model.eval()
    together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * float(together.detach().abs().max()))


@EACH
def test_batch_estimator_uses_the_batch_in_evaluation_too(name: str) -> None:
    model, images = build(name, (3, 32, 32), batch_norm={"estimator": "batch", "momentum": 0.1}), images_of((3, 32, 32))
    assert not any("running" in key for key in model.state_dict())
    torch.testing.assert_close(model.eval()(images), model.train()(images))
    assert not torch.allclose(model(images)[:2], model(images[:2]), rtol=1e-2)


@EACH
@EACH_SHAPE
def test_channels_last_gives_the_same_logits(name: str, shape: tuple[int, int, int]) -> None:
    model, images = build(name, shape).eval(), images_of(shape)
    expected = model(images)
    got = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.detach().abs().max()))


@EACH
@pytest.mark.parametrize("shape", [(2, 9, 13), (1, 28, 28), (3, 64, 48)])
def test_any_size_and_channel_count(name: str, shape: tuple[int, int, int]) -> None:
    assert build(name, shape, num_classes=2, width=0.125).eval()(images_of(shape, 2)).shape == (2, 2)


@EACH
def test_width_multiplies_the_channels(name: str) -> None:
    narrow, full, wide = (count_parameters(name, width=width) for width in (0.5, 1.0, 2.0))
    assert 2 * narrow < full and 2 * full < wide


@EACH
def test_first_layer_normalises(name: str) -> None:
    normalization = Normalization(method="standardize", offset=(0.5,), scale=(0.25,))
    spec = {"name": name, "width": 0.25, "batch_norm": RUNNING} | FIELDS[name]
    torch.manual_seed(0)
    model = member(MODELS, spec, "test").build(5, (1, 8, 8), normalization).eval()
    plain, images = build(name, (1, 8, 8)).eval(), images_of((1, 8, 8))
    torch.testing.assert_close(model(images), plain((images - 0.5) / 0.25))


@EACH
def test_seed_decides_the_weights(name: str) -> None:
    first, again, other = (build(name, (1, 8, 8), seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    kernels = [key for key in first if key.startswith("features") and first[key].ndim == 4]
    assert kernels and not any(torch.equal(first[key], other[key]) for key in kernels)


@EACH
def test_too_small_images_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="images of 7x32 pixels: every architecture needs at least 8x8"):
        build(name, (3, 7, 32))


def test_first_weights_have_he_variance() -> None:
    for name, weight in build("mobilenet_v2", (3, 32, 32), width=1.0).named_parameters():
        if weight.ndim == 4 and weight.numel() > 5000:
            assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05), name


@pytest.mark.parametrize(
    ("name", "fields", "published"),
    [
        ("resnet18", {}, 11_173_962),
        ("resnet56", {}, 853_018),
        # The form without a last batch norm, and that layer's 2 x 512.
        ("preact_resnet18", {}, 11_171_146 + 1_024),
        ("wide_resnet", {"depth": 28, "widen_factor": 10}, 36_479_194),
        ("wide_resnet", {"depth": 34, "widen_factor": 10}, 46_160_474),
        # The form with convolutions as shortcuts, less those and the first block's expansion.
        ("mobilenet_v2", {}, 2_296_922 - 59_152 - 1_088),
    ],
)
def test_parameters_as_published(name: str, fields: dict[str, Any], published: int) -> None:
    assert count_parameters(name, **fields) == published


def test_channel_counts_are_multiples_of_eight() -> None:
    assert [scaled(64, width) for width in (0.01, 0.25, 0.3, 1.0, 1.5)] == [8, 16, 16, 64, 96]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"width": 0}, "test.width: got 0, want more than 0"),
        ({"width": "wide"}, "test.width: got 'wide', want a fraction"),
        ({"batch_norm": RUNNING | {"estimator": "unbiased"}}, "'running', 'cumulative' or 'batch'"),
        ({"batch_norm": RUNNING | {"momentum": 0}}, "test.batch_norm.momentum: got 0, want more than 0"),
        ({"depth": 29}, "got depth 29, want 6 n [+] 4"),
        ({"layers": 3}, "test.layers: unknown key"),
    ],
)
def test_wrong_fields_are_one_line(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        build("wide_resnet", (3, 32, 32), **fields)
    assert "\n" not in str(caught.value)


def batches() -> list[Tensor]:
    rng = torch.Generator().manual_seed(2)
    return [torch.randn(4, 3, 2, 2, generator=rng) for _ in range(3)]


def per_channel(batch: Tensor) -> Tensor:
    return batch.transpose(0, 1).flatten(1)


def test_running_statistics_average_exponentially_with_unbiased_variance() -> None:
    layer, mean, variance = BatchNorm(estimator="running", momentum=0.3).layer(3), torch.zeros(3), torch.ones(3)
    for batch in batches():
        layer(batch)
        mean = 0.7 * mean + 0.3 * per_channel(batch).mean(1)
        variance = 0.7 * variance + 0.3 * per_channel(batch).var(1, correction=1)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)


def test_cumulative_statistics_are_plain_means_over_batches() -> None:
    layer = BatchNorm(estimator="cumulative", momentum=0.3).layer(3)
    for batch in batches():
        layer(batch)
    torch.testing.assert_close(layer.running_mean, torch.stack([per_channel(one).mean(1) for one in batches()]).mean(0))
    variances = [per_channel(one).var(1, correction=1) for one in batches()]
    torch.testing.assert_close(layer.running_var, torch.stack(variances).mean(0))


@pytest.mark.parametrize("estimator", ["running", "cumulative", "batch"])
def test_training_normalises_with_the_biased_variance(estimator: Any) -> None:
    batch = batches()[0]
    out = per_channel(BatchNorm(estimator=estimator, momentum=0.1).layer(3)(batch))
    values = per_channel(batch)
    spread = (values.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(out, (values - values.mean(1, keepdim=True)) / spread)
