"""Methods as modules: what children and buffers they have, what their state holds, and that copies are independent."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.errors import InputError
from components.methods.parts.contract import Loss, Method, Teacher, needs
from components.methods.parts.memory import Memory
from components.methods.parts.mixed_batch import MixedMethod
from components.schedules.constant import Constant
from components.training.layers import trained_parameters
from components.training.loop import _networks
from components.wrappers.awp import Awp
from components.wrappers.igdm import Igdm
from tests.parts.method_members import MEMBERS, OPTIONS, WRAPPED, frozen
from tests.parts.smoothing_parts import smoothing
from tests.parts.tiny_net import TinyNet
from tests.training.test_training import new_run, recipe

AWP = Awp(gamma=0.05, start=0)
ALL: dict[str, Callable[[], Method]] = {
    **MEMBERS,
    **WRAPPED,
    "awp_lbgat": lambda: AWP.build(MEMBERS["lbgat"]()),
    "smoothed_awp_lbgat": lambda: around(AWP.build(MEMBERS["lbgat"]())),
    "smoothed_awp_hat": lambda: around(AWP.build(MEMBERS["hat"]())),
}
every = pytest.mark.parametrize("name", ALL)
# The members that learn from frozen networks, and from how many.
TAUGHT = dict.fromkeys(("ensemble_at", "hat", "cktat", "smoothed_awp_hat", "igdm_adaad", "smoothed_awp_igdm_akd"), 1)
TAUGHT |= dict.fromkeys(("rslad", "ard", "iad_1", "adaad", "akd", "saad"), 1)
TAUGHT |= dict.fromkeys(("b_mtard", "mtard", "kd_swa", "iad_2"), 2)
TAUGHT |= dict.fromkeys((name for name in OPTIONS if "mtard" in name), 2)
TAUGHT |= dict.fromkeys(("ciard", "ciard_eval", "ciard_attacked", "awp_igdm_ciard"), 1)
ACCOMPANIED = {"lbgat", "awp_lbgat", "smoothed_awp_lbgat", "peer", "peer_robust", "peer_clean"}
# With a network that they move by themselves.
MOVING = {"ciard", "ciard_eval", "ciard_attacked", "awp_igdm_ciard"}
ACCOMPANIED |= MOVING
WEIGHED = {f"balances.weights.{name}" for name in ("current", "first_losses", "counted")}
BALANCED = WEIGHED | {"balances.temperatures.current"}
# What is remembered after an epoch of one step.
REMEMBERED = {
    "free_at": {"memory.delta"},
    "fgsm_mep": {"memory.tensors.seen", "memory.tensors.delta", "memory.tensors.momentum"},
    "mixed": {"clock.steps"},
    "ensemble_at": {"clock.steps"},
    "adr": {f"average.{name}".replace(".", "/").replace("/", ".", 1) for name in TinyNet().state_dict()},
    "b_mtard": BALANCED,
    "mtard": WEIGHED,
    "ciard": BALANCED
    | {f"robust_teacher.{name}" for name in TinyNet().state_dict()}
    | {f"descent.{name.replace('.', '/')}" for name, _ in TinyNet().named_parameters()},
    "lbgat": {f"companion.{name}" for name in TinyNet().state_dict()},
    "peer": {f"peer.{name}" for name in TinyNet().state_dict()},
}


def around(method: Method) -> Method:
    return smoothing(stride_min=0.0, stride_max=0.0, weight_centralisation=0.1).build(method, Constant(), 9)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def epoch(tiny, images, labels, linf) -> Callable[[Method, int], Loss]:
    """Runs an epoch of one step, up to the backward pass."""

    def run(method: Method, number: int) -> Loss:
        method.train()
        method.begin_epoch(number)
        model = copy.deepcopy(tiny)
        with torch.no_grad():
            model.head.bias.add_(torch.tensor([0.1, 0.0, -0.1]) * number)
        loss = method.loss(model, Batch.of(images, labels), linf, seeded(number))
        loss.total.backward()
        method.end_epoch(model)
        return loss

    return run


def state_of(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.allclose(left[k], right[k], 0, 0, True) for k in left)


@every
def test_teachers_stay_frozen_and_out_of_the_state(name, epoch):
    method = ALL[name]()
    taught = [network for network in method.networks() if isinstance(network, Teacher)]
    assert len(taught) == TAUGHT.get(name, 0)
    assert [type(network) for network in method.companions()] == ([TinyNet] if name in ACCOMPANIED else [])
    before = [copy.deepcopy(teacher.network.state_dict()) for teacher in taught]
    epoch(method, 0)
    assert all(not module.training for teacher in taught for module in teacher.modules())
    modules = (module for companion in method.companions() for module in companion.modules())
    assert all(module.training == (name != "ciard_eval") for module in modules)
    trained, state = set(trained_parameters(TinyNet(), method).values()), method.state_dict()
    for teacher, tensors in zip(taught, before, strict=True):
        assert same(dict(teacher.network.state_dict()), dict(tensors)) and not trained & set(teacher.parameters())
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not {tensor.data_ptr() for tensor in tensors.values()} & {tensor.data_ptr() for tensor in state.values()}
    assert not any("teacher" in key.replace("robust_teacher", "" if name in MOVING else "teacher") for key in state)
    # Torch knows all of them, so that they move with the method.
    assert all(tensor.dtype != torch.float32 for tensor in [*method.double().parameters(), *method.buffers()])


@every
def test_what_is_remembered_are_buffers_and_companions(name, epoch):
    method = ALL[name]()
    epoch(method, 0)
    if name in MEMBERS:
        assert set(method.state_dict()) == REMEMBERED.get(name, set())
    companions = {
        id(tensor) for network in method.companions() for tensor in network.state_dict(keep_vars=True).values()
    }
    buffers = {id(buffer) for buffer in method.buffers()}
    assert {id(tensor) for tensor in method.state_dict(keep_vars=True).values()} <= buffers | companions


@every
def test_two_in_one_list_are_independent_and_copies_too(name, epoch):
    both = nn.ModuleList([ALL[name](), ALL[name]()])
    first, second = (method for method in both if isinstance(method, Method))
    epoch(first, 0)
    untouched, moved = state_of(second), state_of(first)
    copied = copy.deepcopy(first)
    losses = [epoch(method, 1).total for method in (first, copied)]
    assert torch.equal(*losses) and same(state_of(first), state_of(copied)) and same(state_of(second), untouched)
    if name in REMEMBERED and name != "lbgat":  # nothing has stepped its companion
        assert not same(state_of(first), moved)
    copied.begin_epoch(2)
    for tensor in copied.state_dict().values():
        tensor.zero_()
    assert not any(a.data_ptr() == b.data_ptr() for a in copied.buffers() for b in first.buffers() if a.numel())


@every
def test_a_state_is_restored_over_any_other(name, epoch):
    """Also that of a list of methods, strictly: torch misses nothing and finds nothing that it does not know."""
    new, worn = nn.ModuleList([ALL[name]()]), nn.ModuleList([ALL[name]()])
    fresh = {key: tensor.clone() for key, tensor in new.state_dict().items()}
    (method,) = worn
    assert isinstance(method, Method)
    epoch(method, 0)
    held = {key: tensor.clone() for key, tensor in worn.state_dict().items()}
    worn.load_state_dict(fresh)
    assert same(dict(worn.state_dict()), fresh)
    new.load_state_dict(held)
    assert same(dict(new.state_dict()), held)


@every
def test_processes_average_companions_and_no_teacher_or_memory(name, epoch, linf, tmp_path):
    state = new_run(ALL[name](), linf, tmp_path, recipe())[0]
    epoch(state.method, 0)
    averaged = {id(buffer) for network in _networks(state) for buffer in network.buffers()}
    companions = {id(buffer) for network in state.method.companions() for buffer in network.buffers()}
    assert averaged & {id(buffer) for buffer in state.method.buffers()} == companions
    assert bool(companions) == (name in ACCOMPANIED)
    assert {id(buffer) for buffer in state.model.buffers()} <= averaged


def test_a_build_says_what_it_needs():
    both, robust = ("kd_swa", "iad_2"), ("rslad", "ard", "iad_1", "adaad", "akd", "saad")
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(both, ("clean_teacher", "robust_teacher"))
    wanted |= dict.fromkeys(("b_mtard", "mtard", "ciard"), ("clean_teacher", "robust_teacher", "ceilings"))
    wanted |= dict.fromkeys(robust, ("robust_teacher",)) | {"peer": ("student",)}
    wanted |= dict.fromkeys(("ensemble_at", "lbgat", "hat", "cktat"), ("clean_teacher",))
    assert {name: needs(make().fields) for name, make in MEMBERS.items()} == dict.fromkeys(MEMBERS, ()) | wanted
    assert (
        needs(AWP) == ("method",)
        and needs(Igdm(alpha=1)) == ("method", "epochs")
        and needs(smoothing()) == ("method", "schedule", "epochs")
    )


def test_a_memory_keeps_names_with_dots_and_takes_any_shape():
    memory, other = Memory(), Memory()
    memory["a.b.weight"], memory["rows"] = torch.ones(2, 3), torch.zeros(0, 4)
    other["old"] = torch.ones(1)
    other.load_state_dict(memory.state_dict())
    assert list(other.named()) == ["a.b.weight", "rows"] and "old" not in other
    assert torch.equal(other["a.b.weight"], torch.ones(2, 3)) and other["rows"].shape == (0, 4)
    other["rows"] = torch.ones(5, 4)
    assert memory["rows"].shape == (0, 4) and other.double()["rows"].dtype == torch.float64
    other.load_state_dict({})
    assert not other.named()


def test_steps_are_asked_of_the_device_only_after_a_state_was_loaded():
    method = MEMBERS["mixed"]()
    assert isinstance(method, MixedMethod)
    counted = [method.clock.tick() for _ in range(3)]
    method.load_state_dict({"clock.steps": torch.tensor(40)})
    assert [*counted, method.clock.tick(), method.clock.tick()] == [0, 1, 2, 40, 41]
    assert int(method.state_dict()["clock.steps"]) == 42


LAYERS: dict[str, Callable[[Method], Method]] = {
    "bare": lambda method: method,
    "awp": AWP.build,
    "smoothed": around,
    "smoothed_awp": lambda method: around(AWP.build(method)),
}


@pytest.mark.parametrize("before", LAYERS)
@pytest.mark.parametrize("after", LAYERS)
@pytest.mark.parametrize("name", ["lbgat", "adr"])
def test_memories_follow_their_layer_when_wrappers_come_and_go(name, before, after, epoch, linf, tmp_path):
    """What is inside goes on with all it knows, companion's momentum too; a wrapper too, if it was there before."""
    both = (LAYERS[layers](MEMBERS[name]()) for layers in (before, after))
    old, new = (new_run(method, linf, tmp_path, recipe())[0] for method in both)
    for number in range(2):
        epoch(old.method, number)
        old.optimizer.step(0.1, 0.9)
    fresh = state_of(new.method)
    new._restore(old._tensors(), old._numbers())
    left, right = inside(old.method), inside(new.method)
    assert left.keys() == right.keys() and left and all(torch.equal(left[key], right[key]) for key in left)
    momenta = [run.optimizer.state(trained_parameters(run.model, run.method)) for run in (old, new)]
    assert same(*momenta) and any("companion" in key for key in momenta[0]) == (name == "lbgat")
    kept = "smoothed" in before and "smoothed" in after
    wanted = state_of(old.method) if kept else fresh
    for key in ("means", "sums"):
        if key in fresh:
            assert torch.allclose(new.method.state_dict()[key], wanted[key], 0, 0, True)
    assert not kept or (fresh["means"].isnan().all() and wanted["means"].isfinite().all())


def inside(method: Method) -> dict[str, Tensor]:
    """What the method within all wrappers remembers."""
    prefix = method.layers()["method"]
    return {name.removeprefix(prefix): t for name, t in method.state_dict().items() if name.startswith(prefix)}


def test_another_method_cannot_take_the_memory_over(linf, tmp_path):
    old, new = (new_run(MEMBERS[name](), linf, tmp_path, recipe())[0] for name in ("b_mtard", "mixed"))
    old.history.append({"epoch": 0.0})
    old.save(tmp_path)
    with pytest.raises(InputError, match="does not fit this run"):
        new.load(tmp_path)


def test_a_teacher_is_frozen_by_being_one():
    network = frozen(3).requires_grad_(True).train()
    teacher = Teacher(network)
    assert teacher.train() is teacher and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters()) and not teacher.state_dict()
