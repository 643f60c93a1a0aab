"""The probe's images, numbers and state."""

import pytest
import torch
from torch import Tensor, nn

from components.data.dividing import stratified_indices
from components.foundation.errors import InputError
from components.foundation.params import typed
from components.ntk import metrics
from components.ntk.kernels import trace_kernel
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics.random_numbers import derived
from components.numerics.tensor_files import read_tensors, write_tensors

NUM_CLASSES = 6


def small_net() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, stride=2)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, NUM_CLASSES)
    )


def labelled(count: int) -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count) % NUM_CLASSES


def new_probe(size: int = 8) -> KernelProbe:
    return KernelProbe(ProbeSchedule(epochs=(0, 2), size=size, directions=4), *labelled(40), NUM_CLASSES, seed=5)


def nudge(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.ones_like(parameter))


def test_stratified_indices_are_balanced_seeded_and_unique() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 2)
    chosen = stratified_indices(labels, 17, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [8, 7, 2]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, stratified_indices(labels, 17, seed=0))
    assert not torch.equal(chosen, stratified_indices(labels, 17, seed=1))
    with pytest.raises(InputError, match="only 82 images"):
        stratified_indices(labels, 83, seed=0)


def test_without_epochs_the_size_does_not_matter() -> None:
    """No image is drawn, or decoded, for what is never measured."""
    never = KernelProbe(ProbeSchedule(epochs=(), size=41, directions=4), *labelled(40), NUM_CLASSES, seed=5)
    assert len(never.images) == len(never.labels) == 0 and not never.due(0) and not never.state_dict()
    with pytest.raises(InputError, match=r"ntk\.size: got 41, but there are only 40 images"):
        new_probe(size=41)


def test_probe_holds_pixels_and_measures_both_kinds() -> None:
    probe, model = new_probe(), small_net()
    assert probe.images.shape == (8, 3, 8, 8) and 0 < probe.images.max() <= 1
    assert (probe.due(0), probe.due(1), probe.due(2)) == (True, False, True)
    clean = probe.measure(model, 0, None)
    assert set(clean) == {
        f"ntk_clean_{name}"
        for name in (
            "distance_previous",
            "distance_first",
            "effective_rank",
            "participation_ratio",
            "intrinsic_dimension",
            "top10_mass",
            "top20_mass",
            "alignment",
            "trace",
        )
    }
    both = new_probe().measure(model, 0, 1 - probe.images)
    assert {name: both[name] for name in clean} == clean
    attacked = {name.replace("clean", "adversarial") for name in clean}
    assert set(both) - set(clean) == attacked | {"ntk_adversarial_distance_clean"}
    assert both["ntk_adversarial_trace"] != both["ntk_clean_trace"]


def test_probe_compares_attacked_with_clean_images() -> None:
    probe, model = new_probe(), small_net()
    clean, attacked = (
        trace_kernel(model, images, 4, seed=derived(5, "ntk directions")) for images in (probe.images, 1 - probe.images)
    )
    row = probe.measure(model, 0, 1 - probe.images)
    assert row["ntk_adversarial_distance_clean"] == metrics.kernel_distance(attacked, clean) > 0
    assert probe.measure(model, 2, probe.images)["ntk_adversarial_distance_clean"] < 1e-12


def test_probe_measures_distance_to_previous_and_first() -> None:
    probe, model = new_probe(), small_net()
    rows, taken = [], []
    for epoch in range(3):
        rows.append(probe.measure(model, epoch, None))
        taken.append(trace_kernel(model, probe.images, 4, seed=derived(5, "ntk directions")))
        nudge(model)
    assert rows[0]["ntk_clean_distance_previous"] == rows[0]["ntk_clean_distance_first"] == 0
    assert rows[2]["ntk_clean_distance_previous"] == metrics.kernel_distance(taken[2], taken[1])
    assert rows[2]["ntk_clean_distance_first"] == metrics.kernel_distance(taken[2], taken[0])
    assert rows[2]["ntk_clean_distance_first"] != rows[2]["ntk_clean_distance_previous"]


def test_velocity_is_per_epoch_which_may_be_a_fraction() -> None:
    probe, model, rows = new_probe(), small_net(), []
    for epoch in (0, 0.25, 2, 2):
        rows.append(probe.measure(model, epoch, 1 - probe.images))
        nudge(model)
    # The first one has no epochs before it, and a second look at an epoch none between.
    for row, elapsed in zip(rows, (None, 0.25, 1.75, None), strict=True):
        for kind in ("clean", "adversarial"):
            wanted = elapsed and row[f"ntk_{kind}_distance_previous"] / elapsed
            assert row.get(f"ntk_{kind}_velocity") == wanted != 0


def test_resumed_probe_gives_the_same_numbers(tmp_path) -> None:
    probe, model = new_probe(), small_net()
    probe.measure(model, 0, 1 - probe.images)
    # Through a file right after the first measurement, where first and previous are one tensor.
    write_tensors(tmp_path / "probe.safetensors", probe.state_dict())
    nudge(model)
    resumed = new_probe()
    resumed.load_state_dict(read_tensors(tmp_path / "probe.safetensors")[0])
    wanted = probe.measure(model, 2, 1 - probe.images)
    assert wanted["ntk_adversarial_velocity"] > 0
    assert resumed.measure(model, 2, 1 - probe.images) == wanted
    assert all(part.dtype == torch.float64 for part in resumed.state_dict().values())
    with pytest.raises(InputError, match=r"is \[8, 8\], want \[9, 9\]"):
        new_probe(size=9).load_state_dict(probe.state_dict())


def test_diverged_model_is_an_error_with_its_epoch() -> None:
    model = small_net()
    with torch.no_grad():
        model.get_parameter("4.weight").fill_(float("nan"))
    with pytest.raises(InputError, match="clean kernel of epoch 2 is not finite"):
        new_probe().measure(model, 2, None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("directions", 3, "at least 4"),
        ("directions", "sum", "directions"),
        ("size", 1, "at least 2"),
        ("epochs", [-1], "-1"),
    ],
)
def test_bad_schedule_is_refused(field: str, value: object, message: str) -> None:
    good = {"epochs": [0, 10], "size": 64, "directions": "exact"}
    assert typed(ProbeSchedule, good, "params.yaml: ntk").directions == "exact"
    assert typed(ProbeSchedule, good | {"directions": 4}, "params.yaml: ntk").epochs == (0, 10)
    with pytest.raises(InputError, match=message):
        typed(ProbeSchedule, good | {field: value}, "params.yaml: ntk")
