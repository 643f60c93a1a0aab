"""Training that processes share is the training of one process; their states agree, and resume is exact."""

from pathlib import Path

import pytest
import torch
from torch import nn

from components.data.batch import Batch
from components.foundation.storage import read_json
from components.models.parts.batch_norm import SynchronisedBatchNorm2d, synchronised
from components.numerics import random_numbers as noise
from components.numerics.random_numbers import Part
from components.numerics.tensor_files import read_tensors
from tests.parts import parallel_worker
from tests.parts.method_members import MEMBERS
from tests.parts.parallel_worker import Kind
from tests.parts.processes import on_two_gpus, require_close, together

TRAININGS = [*MEMBERS, *parallel_worker.VARIANTS]
# So many that the gates of ConvergeSmooth open.
EPOCHS = "3"
# Attacks up a divergence start where its gradient all but vanishes: rounding decides about signs. A gradient of a
# gradient (GradAlign) and a boosted loss (MART) magnify rounding, too. The weights of one
# process, moved by a ten millionth, end as far apart.
SENSITIVE = {"gradalign", "hat", "lbgat", "mart", "trades", "smoothed_trades"}


def same_seed() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_parts_draw_the_rows_of_what_one_process_draws():
    images = torch.zeros(7, 1, 2, 2)
    whole, parts = Part.share(same_seed(), 0, 1, 7), [Part.share(same_seed(), rank, 3, 7) for rank in range(3)]
    for draw in (noise.uniform, noise.normal):
        for shape in (None, (), (2, 3)):
            drawn = draw(whole, images, shape)
            assert drawn.shape == (7, *(images.shape[1:] if shape is None else shape))
            for rank, part in enumerate(parts):
                assert torch.equal(draw(part, images[rank::3], shape), drawn[rank::3])
    # As without parts: sharing changes no number of a training that is not shared.
    assert torch.equal(noise.uniform(Part.share(same_seed(), 0, 1, 7), images), noise.uniform(same_seed(), images))


def test_parts_stay_in_step_however_often_a_subset_is_drawn_from():
    images = torch.zeros(8, 1, 2, 2)
    whole, parts = Part.share(same_seed(), 0, 1, 8), [Part.share(same_seed(), rank, 2, 8) for rank in range(2)]
    chosen = torch.tensor([True, False, True, True, False, False, True, True])
    some = noise.subset(whole, chosen)
    drawn = torch.zeros(8, 3)
    drawn[chosen] = noise.uniform(some, images[chosen], (3,))
    for rank, part in enumerate(parts):
        mine = chosen[rank::2]
        subset = noise.subset(part, mine)
        assert torch.equal(noise.uniform(subset, images[rank::2][mine], (3,)), drawn[rank::2][mine])
        for _ in range(rank):
            noise.uniform(subset, images[rank::2][mine])
    after = noise.uniform(whole, images)
    assert all(torch.equal(noise.uniform(part, images[rank::2]), after[rank::2]) for rank, part in enumerate(parts))
    with pytest.raises(ValueError, match="got 3 images, want the 4 that this draws for"):
        noise.uniform(parts[0], images[:3])


def test_parts_of_a_batch_are_all_of_it(rng):
    images = torch.rand(11, 3, 4, 4, generator=rng)
    batch = Batch.of(images, torch.arange(11))
    parts = [batch.part(rank, 4) for rank in range(4)]
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(11))
    assert {len(part.labels) for part in parts} == {2, 3} and {part.total for part in parts} == {11}
    for part in parts:
        assert torch.equal(part.images, images[part.indices]) and torch.equal(part.indices, part.labels)
        assert len(part.placement.down) == len(part.images)


@pytest.mark.parametrize("fields", [{"momentum": 0.1}, {"momentum": None}, {"affine": False}], ids=str)
def test_synchronised_batch_norm_alone_is_batch_norm(fields, rng):
    """Values, gradients and buffers of torch's own layer, with a mean that is large beside the deviation."""
    torch.manual_seed(0)
    layers = [kind(3, dtype=torch.float64, **fields) for kind in (nn.BatchNorm2d, SynchronisedBatchNorm2d)]
    layers[1].load_state_dict(layers[0].state_dict())
    found = []
    for layer in layers:
        images = torch.rand(5, 3, 4, 4, dtype=torch.float64, generator=same_seed()).add(100).requires_grad_()
        layer(images)  # the running statistics of two batches
        values = layer(images)
        (values.sin() * images).sum().backward()
        found.append([values, images.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()])
        layer.eval()
        found[-1].append(layer(images))
    assert all(torch.allclose(left, right, atol=1e-9) for left, right in zip(*found, strict=True))


def test_layers_are_themselves_again_and_one_process_needs_no_other():
    model = nn.Sequential(nn.BatchNorm2d(2))
    with synchronised(model):
        assert type(model[0]) is nn.BatchNorm2d


def ends(folder: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return read_tensors(folder / f"{name}.{rank}.safetensors")[0]


def worker(
    folder: Path,
    kind: Kind,
    names: list[str],
    epochs: str = EPOCHS,
    batch_norm: str = "synchronised",
    stop: str = "9",
):
    """Trainings by two processes, on the CPU or on a GPU each."""
    folder.mkdir(exist_ok=True)
    together(["-m", "tests.parts.parallel_worker", str(folder), kind, epochs, batch_norm, stop, *names])


@pytest.fixture(scope="module", params=["cpu", on_two_gpus("cuda")])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Where processes train: over gloo, or over NCCL."""
    return request.param


@pytest.fixture
def device(kind: Kind) -> torch.device:
    """Where one process trains, to compare with."""
    return parallel_worker.prepared(kind)


@pytest.fixture(scope="module")
def two(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every training, and the derivatives of batch norm, by two processes."""
    folder = tmp_path_factory.mktemp("parallel") / "two"
    worker(folder, kind, ["gradients", *TRAININGS])
    return folder


@pytest.mark.slow
def test_derivatives_are_those_of_one_process(two, device, tmp_path):
    parallel_worker.gradients(tmp_path, device)
    require_close(ends(tmp_path, "gradients"), ends(two, "gradients"), 1e-12)
    require_close(ends(tmp_path, "gradients"), ends(two, "gradients", 1), 1e-12)


@pytest.mark.slow
def test_processes_with_unequal_shares_cut_into_as_many_parts(kind, device, tmp_path):
    """Of 27 images one process has 14 and one 13, where parts have 13 at most: both have two parts, and batch norm
    goes over what the processes have of each."""
    worker(tmp_path, kind, ["in_parts_standard", "in_parts_b_mtard"])
    images, labels = (tensor[:27].to(device) for tensor in parallel_worker.data())
    torch.manual_seed(1)
    model = parallel_worker.TinyNet().to(device).train()
    shares = [torch.arange(27)[rank::2] for rank in range(2)]
    parts = [torch.cat([shares[0][:7], shares[1][:6]]), torch.cat([shares[0][7:], shares[1][6:]])]
    assert [len(part) for part in parts] == [13, 14]
    losses = nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1)
    loss = torch.stack([losses(model(images[part].float() / 255), labels[part]) for part in parts])
    (loss.sum() / 27).backward()
    want = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    want["loss"] = loss.detach().sum().reshape(1) / 27
    for rank in range(2):
        found = ends(tmp_path, "in_parts_standard", rank)
        require_close(want, {name: found[name] for name in want}, 1e-4)
    # One process has three parts; balances see the whole batch, whoever has it in how many parts.
    both = [ends(tmp_path, "in_parts_b_mtard", rank) for rank in range(2)]
    parallel_worker.in_parts(tmp_path, device, "b_mtard")
    for one in both:
        require_close(ends(tmp_path, "in_parts_b_mtard"), one, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(name, two, device, tmp_path):
    """The loss curve of one process with the same whole batch; the same state, bit for bit, on both."""
    parallel_worker.train(name, tmp_path, int(EPOCHS), "synchronised", device=device)
    left, right = ends(two, name), ends(two, name, 1)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    both, one = [read_json(two / f"{name}.{rank}.json") for rank in range(2)], read_json(tmp_path / f"{name}.0.json")
    assert both[0] == both[1] and both[0]["passes"] == one["passes"]
    assert len(one["history"]) == 4
    for record, expected in zip(both[0]["history"], one["history"], strict=True):
        compared = {key: value for key, value in expected.items() if name not in SENSITIVE or key == "train_loss"}
        slack = 1e-3 if name in SENSITIVE else 1e-4
        assert {key: record[key] for key in compared} == pytest.approx(compared, rel=slack, abs=slack)
    require_close(ends(tmp_path, name), left, 0.1 if name in SENSITIVE else 1e-3)


@pytest.mark.slow
def test_stopped_and_continued_equals_uninterrupted(two, kind, device, tmp_path):
    """Bit for bit by as many processes; by one process, but for rounding."""
    cut = tmp_path / "cut"
    worker(cut, kind, TRAININGS, stop="2")
    assert {len(read_json(cut / f"{name}.1.json")["history"]) for name in TRAININGS} == {2}
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (cut / "pgd_at").iterdir():
        (alone / "pgd_at").mkdir(exist_ok=True)
        (alone / "pgd_at" / file.name).write_bytes(file.read_bytes())
    worker(cut, kind, TRAININGS)
    for name in TRAININGS:
        whole, again = ends(two, name), ends(cut, name)
        assert whole.keys() == again.keys(), name
        assert [key for key in whole if not torch.equal(whole[key], again[key])] == [], name
        assert read_json(two / f"{name}.0.json") == read_json(cut / f"{name}.1.json")
    parallel_worker.train("pgd_at", alone, int(EPOCHS), "synchronised", device=device)
    require_close(ends(two, "pgd_at"), ends(alone, "pgd_at"), 1e-4)


@pytest.mark.slow
def test_batch_norm_of_each_process_ends_in_one_model(two, kind, tmp_path):
    names = [name for name in ("pgd_at", "swa", "adr", "lbgat", "trades") if name in TRAININGS]
    worker(tmp_path, kind, names, batch_norm="per_process")
    for name in names:
        left, right = ends(tmp_path, name), ends(tmp_path, name, 1)
        assert all(torch.equal(left[key], right[key]) for key in left), name
        mean = "model/features.1.running_mean"
        assert (left[mean] - ends(two, name)[mean]).abs().max() > 1e-5, name
        assert read_json(tmp_path / f"{name}.0.json") == read_json(tmp_path / f"{name}.1.json")


def test_a_batch_too_small_for_all_is_refused(tmp_path, monkeypatch):
    from components.foundation.errors import InputError
    from components.numerics import parallel
    from components.training import loop as training

    monkeypatch.setattr(parallel, "world_size", lambda: 8)
    batch = Batch.of(torch.zeros(12, 1, 8, 8), torch.zeros(12, dtype=torch.int64)).part(0, 8)
    with pytest.raises(InputError, match="got a batch of 12 for 8 processes, want at least 2 each"):
        training._stream(None, batch)  # pyright: ignore[reportArgumentType]
