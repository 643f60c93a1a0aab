"""Statistics against float64 brute force and closed forms, and the layer that applies them."""

import pytest
import torch

from components.data.normalization import Normalization, Normalize, fit_normalization


def images(num: int = 40, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(10, 240, (num, channels, 8, 8), generator=rng, dtype=torch.uint8)


def test_standardize_equals_brute_force_in_float64():
    pixels = images().double() / 255
    found = fit_normalization(images(), "standardize")
    assert found.offset == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-13)
    assert found.scale == pytest.approx(pixels.std((0, 2, 3), unbiased=False).tolist(), rel=1e-13)


def test_minmax_equals_brute_force_in_float64():
    pixels = images().double() / 255
    found = fit_normalization(images(), "minmax")
    low, high = pixels.amin((0, 2, 3)), pixels.amax((0, 2, 3))
    assert found.offset == tuple(low.tolist())
    assert found.scale == tuple((high - low).tolist())


def test_every_grey_level_once_has_the_moments_of_the_uniform_law():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = fit_normalization(ramp, "standardize")
    assert found.offset[0] == pytest.approx(0.5, rel=1e-14)
    # The variance of n equally likely integers is (n² - 1) / 12.
    assert found.scale[0] == pytest.approx(((256**2 - 1) / 12) ** 0.5 / 255, rel=1e-14)


def test_two_levels_have_mean_and_spread_of_a_coin():
    coin = torch.tensor([0, 255, 255, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    assert fit_normalization(coin, "standardize").offset[0] == pytest.approx(0.75)
    assert fit_normalization(coin, "standardize").scale[0] == pytest.approx((0.75 * 0.25) ** 0.5)


def test_sums_stay_exact_where_float32_would_drift():
    many = torch.full((3000, 1, 80, 80), 255, dtype=torch.uint8)
    many[0] = 254
    mean = fit_normalization(many, "standardize").offset[0]
    assert mean == pytest.approx(1 - 1 / (255 * 3000), rel=1e-14)


def test_channels_are_separate():
    stack = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 255.0), torch.eye(4) * 255]).to(torch.uint8)[None]
    found = fit_normalization(stack, "standardize")
    assert found.offset == (0.0, 1.0, 0.25)


@pytest.mark.parametrize("method", ["standardize", "minmax"])
def test_a_constant_channel_keeps_scale_one(method):
    grey = torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)
    assert fit_normalization(grey, method) == Normalization(method=method, offset=(51 / 255,), scale=(1.0,))


def test_none_is_the_identity():
    found = fit_normalization(images(), "none")
    pixels = images().float() / 255
    assert torch.equal(Normalize(found)(pixels), pixels)


@pytest.mark.parametrize("method", ["standardize", "minmax"])
def test_the_layer_gives_what_the_method_promises(method):
    pixels = images().float() / 255
    seen = Normalize(fit_normalization(images(), method))(pixels)
    assert seen.shape == pixels.shape
    if method == "standardize":
        assert seen.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
        assert seen.std((0, 2, 3), unbiased=False).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    else:
        assert seen.amin((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
        assert seen.amax((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_the_statistics_travel_in_the_state_dict():
    layer = Normalize(fit_normalization(images(), "standardize"))
    other = Normalize(fit_normalization(images(), "none"))
    other.load_state_dict(layer.state_dict())
    assert not list(layer.parameters())
    assert torch.equal(other.offset, layer.offset) and torch.equal(other.scale, layer.scale)
