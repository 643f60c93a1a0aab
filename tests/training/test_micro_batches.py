"""Gradient accumulation: parts of a batch give the gradient of the whole where no batch norm joins them."""

import copy
import itertools
import re
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import nn

from components.data.batch import Batch, num_parts
from components.data.loader import Loader
from components.distillation import DISTILLATIONS
from components.evaluation.batch_size import free_memory
from components.foundation.errors import InputError
from components.foundation.memory import within_memory
from components.methods import METHODS
from components.methods.parts.contract import Method, is_divisible
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.schedules.constant import Constant
from components.stages.training_stage import WRAPPERS
from components.training.loop import Plan, _backward, fit, start
from components.training.validation import Validation
from components.wrappers.awp import Awp, Perturbed
from components.wrappers.converge_smooth import Smoothed
from tests.parts.method_members import MEMBERS, OPTIONS, WRAPPED, matched
from tests.training.test_training import SGD, STILL, data, recipe

ALL = MEMBERS | WRAPPED | {"awp": lambda: Awp(gamma=0.05, start=0).build(MEMBERS["pgd_at"]())}
ALL |= {"igdm_b_mtard": lambda: matched("b_mtard")}
PARTED = {"igdm_adaad", "peer_robust", "peer_clean", *(name for name in OPTIONS if "mtard" in name)}
WHOLE = {"free_at", "fgsm_mep", "mixed", "ensemble_at", "adr", "ciard", "saad", "awp", *WRAPPED}
WHOLE -= PARTED


PAGE = Path(__file__).parents[2] / "docs/own-networks.md"


class Unmeasured:
    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"clean_accuracy": 0.0, "robust_accuracy": 0.0, "mean_accuracy": 0.0}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def plain_network() -> nn.Module:
    """No batch norm, and nothing that rounds differently for parts of a batch but sums."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))


def gradients(name: str, size: int | None, linf) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    fields = recipe(micro_batch=size, optimizer=SGD, average=None)
    state = start(plain_network(), ALL[name](), Unmeasured(), fields, seed=0)
    state.method.begin_epoch(0)
    images, labels = data(10)
    batch = Batch.of(images.float() / 255, labels)._replace(total=10)
    plan = Plan(fields, Constant(), linf, seed=0)
    # A batch that is not cut comes in between.
    _backward(state, batch, plan)
    state.method.loss(state.model, batch, linf, torch.Generator().manual_seed(3))
    state.optimizer.zero_grad()
    loss = _backward(state, batch, plan)
    found = [parameter.grad for parameter in state.optimizer.parameters if parameter.grad is not None]
    return found, {"total": loss.total, **loss.parts} | dict(state.method.named_buffers()), state.rng.get_state()


@pytest.mark.parametrize("size", [2, 3, 5, 10, 99])
@pytest.mark.parametrize("name", sorted(set(ALL) - WHOLE))
def test_parts_have_the_gradient_of_the_whole(name, size, linf):
    """Losses, numbers to log, the method's memory, the draws and the generator's state are those of the whole too."""
    (whole, losses, rng), (parts, other, again) = (gradients(name, each, linf) for each in (None, size))
    assert len(whole) == len(parts) > 0 and losses.keys() == other.keys()
    for one, two in zip(whole, parts, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6 * float(one.abs().max()) + 1e-9)
    for key, value in losses.items():
        assert other[key].tolist() == pytest.approx(value.tolist(), rel=1e-4, abs=1e-6), key
    assert torch.equal(rng, again)


def test_parts_are_even_as_many_on_each_process_and_never_of_one_image():
    for total, processes in itertools.product(range(4, 60), (1, 2)):
        shares = [len(range(rank, total, processes)) for rank in range(processes)]
        for size in range(2, 40):
            count = num_parts(total, processes, size)
            parts = []
            for share in shares:
                cut = list(Batch.of(torch.zeros(share, 1, 1, 1), torch.zeros(share)).cut(count))
                parts.append([len(part.images) for _, part in cut])
                assert torch.equal(torch.cat([part.indices for _, part in cut]), torch.arange(share))
            assert all(max(sizes) - min(sizes) <= 1 and min(sizes) >= 2 for sizes in parts)
            # One image more where a part would have a single one; shares may differ by one image too.
            assert max(map(max, parts)) <= (size if size > 3 else 4)
    assert (num_parts(27, 1, 13), num_parts(27, 2, 13), num_parts(27, 1, None), num_parts(5, 1, 2)) == (3, 2, 1, 2)


def test_looking_at_all_parts_first_moves_no_statistics(linf):
    """Batch norm counts the passes that are learned from: two views of each of two parts."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    fields = recipe(micro_batch=5, optimizer=SGD, average=None)
    state = start(network, MEMBERS["b_mtard"](), Unmeasured(), fields, seed=0)
    images, labels = data(10)
    batch = Batch.of(images.float() / 255, labels)._replace(total=10)
    _backward(state, batch, Plan(fields, Constant(), linf, seed=0))
    assert int(network.get_buffer("1.num_batches_tracked")) == 4
    assert state.method.get_buffer("balances.weights.counted") == 1


@pytest.mark.parametrize("size", [2, 26])
def test_networks_that_reach_a_single_pixel_train_in_parts(size, linf):
    """Batches of 27 in parts of 26 left one image, which batch norm refuses there."""
    fields = recipe(micro_batch=size, batch_size=27, optimizer=SGD, average=None)
    network = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    state = start(network, MEMBERS["standard"](), Unmeasured(), fields, seed=0)
    images, labels = data(27)
    _backward(state, Batch.of(images.float() / 255, labels)._replace(total=27), Plan(fields, Constant(), linf, seed=0))


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_needs_the_whole_batch_is_refused_in_one_line(name):
    method = ALL[name]()
    own = {option: option.rpartition("_")[0] for option in OPTIONS}
    awp = dict.fromkeys(("awp", "awp_igdm_ciard"), "perturbation")
    called = {**dict.fromkeys(WRAPPED, "smoothing"), **own, **awp}.get(name, name)
    with pytest.raises(InputError, match=rf"^recipe\.micro_batch: {called} needs the whole batch at once .want null.$"):
        start(plain_network(), method, Unmeasured(), recipe(micro_batch=4), seed=0)


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_a_method_is_called_as_params_yaml_calls_it(name):
    method = MEMBERS[name]()
    assert method.name == name in METHODS | DISTILLATIONS
    assert is_divisible(method.fields) == method.divisible == (name not in WHOLE)


def test_the_page_lists_what_can_be_trained_in_parts():
    """A new method, or one that changes sides, changes the page too."""
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("  | ")]
    told = {row[1].strip(): [set(re.findall("`(.+?)`", cell)) for cell in row[2:4]] for row in rows}
    for name, table in (("teachers", METHODS), ("students", DISTILLATIONS)):
        able = {member for member, kind in table.items() if get_type_hints(kind.build)["return"].divisible}
        assert told[name] == [able, table.keys() - able]
    for option, wrapper in (("perturbation", Perturbed), ("smoothing", Smoothed)):
        assert not wrapper.divisible and option in WRAPPERS
    assert told["around them"] == [{"igdm"}, set(WRAPPERS)]


def test_a_method_of_ones_own_is_called_as_its_class():
    class Own(Method): ...

    assert Own().name == "Own"


@pytest.mark.parametrize(
    ("micro_batch", "divisible", "epochs", "line"),
    [
        (None, True, (), "batch_size (8), or set micro_batch to less than that"),
        (None, False, (0,), "batch_size (8), or ntk.size (50)"),
        (4, True, (0,), "micro_batch (4), or ntk.size (50)"),
    ],
)
def test_the_remedy_names_what_bounds_the_memory(micro_batch, divisible, epochs, line):
    ntk = ProbeSchedule(epochs=epochs, size=50, directions=4)
    fields = recipe(batch_size=8, micro_batch=micro_batch)
    assert fields.at_a_time == (micro_batch or 8)
    assert fields.remedy("train", divisible, ntk) == f"lower train.recipe.{line}"


def test_measurements_go_through_in_parts(linf):
    """Those of the attack on the kernel's images too."""
    images, labels = data(20)
    sizes, network = list[int](), plain_network()
    probe = KernelProbe(ProbeSchedule(epochs=(0,), size=9, directions=4), images, labels, 3, seed=0)

    def measure(model: nn.Module, epoch: float, images_adv: torch.Tensor | None) -> dict[str, float]:
        assert images_adv is not None and images_adv.shape == probe.images.shape
        return {"seen": 9.0}

    probe.measure = measure
    network.register_forward_pre_hook(lambda module, told: sizes.append(len(told[0])))
    Validation(images, labels, MEMBERS["pgd_at"]().fields.attack, linf, 3, probe, seed=0)(network, 0)
    assert max(sizes) == 3


def test_a_run_in_parts_ends_where_the_whole_does(linf, tmp_path):
    ends = []
    for size in (None, 3):
        fields = recipe(epochs=2, micro_batch=size, average=None)
        state = start(plain_network(), MEMBERS["pgd_at"](), Unmeasured(), fields, seed=0)
        images, labels = data()
        loader = Loader(images, labels, fields.batch_size, STILL, num_classes=3)
        assert len(list(fit(state, loader, Plan(fields, Constant(), linf, seed=0), tmp_path / str(size)))) == 3
        ends.append(copy.deepcopy(state.model.state_dict()))
    for name in ends[0]:
        assert torch.allclose(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-5)


def test_a_tensor_that_no_memory_holds_is_such_a_lack():
    with pytest.raises(InputError, match="out of memory"), within_memory("lower batch_size"):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_lack_of_memory_on_a_gpu_is_one_line_and_what_is_free_is_known():
    device = torch.device("cuda")
    with (
        pytest.raises(InputError, match=r"^out of memory \(GPU.*\): lower batch_size$"),
        within_memory("lower batch_size"),
    ):
        torch.empty(2**50, dtype=torch.uint8, device=device)
    assert 0 < free_memory(device) <= torch.cuda.mem_get_info(device)[1]
