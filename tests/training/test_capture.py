"""Recorded steps are the steps themselves, bit for bit; what cannot be recorded says so in one line.

The graph is a tape of operations on the very tensors of the recording, so a step that replaces a tensor, asks the host
or reads a number of an earlier epoch shows here as it would on a GPU.
"""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.data.loader import Loader
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.methods.parts.contract import Loss, Method
from components.methods.pgd_at import PgdAt
from components.numerics.compute import Compute
from components.numerics.random_numbers import Part, Rng, uniform
from components.schedules.one_cycle import OneCycle
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training.capture import IN_PARTS, Capture
from components.training.checkpoint import TrainingState
from components.training.loop import Plan, Recipe, fit, start
from components.training.recording import WARM_UP, CudaGraph
from components.wrappers.awp import Awp
from tests.parts import parallel_worker
from tests.parts.fake_cuda import FakeCuda, State
from tests.parts.method_members import MEMBERS, STEP, WRAPPED, smoothed
from tests.parts.tape_graph import TapeGraph
from tests.parts.tiny_net import TinyNet

ALL: dict[str, Callable[[], Method]] = (
    MEMBERS
    | WRAPPED
    | {
        "awp": lambda: Awp(gamma=0.05, start=1).build(MEMBERS["mart"]()),
        "smoothed_pgd_at": lambda: smoothed("pgd_at"),
        "restarts": lambda: PgdAt(attack=RESTARTED, label_smoothing=0.1).build(),
    }
)
RESTARTED = Pgd(steps=2, step_size=STEP, start="uniform", loss="cross_entropy", restarts=2)

STEPS, ALONE = "capture: steps are not captured: ", "capture: of each step the attack alone is captured: "
MIXED = STEPS + "a mixed batch counts its steps, and draws a seed, on the host"
FREE = STEPS + "free_at hands its perturbation from one step to the next on the host"
GROWS = STEPS + "fgsm_mep makes room for images that it has not seen yet"
GATE = "smoothing with form batch decides for each batch whether to pull"
# The lines of a run of four epochs; a method that is not named here says nothing.
LINES = {
    "mixed": [MIXED],
    "ensemble_at": [MIXED],
    "free_at": [FREE],
    "fgsm_mep": [GROWS],
    "smoothed_fgsm_mep": [GROWS],
    "smoothed_free_at": [FREE, STEPS + GATE],
    "smoothed_fgsm_rs": [STEPS + GATE],
    "smoothed_pgd_at": [ALONE + GATE],
    "restarts": [STEPS + "restarts of the attack are for the images that are not fooled yet"],
}
# Nothing of these is ever replayed.
NEVER = {"mixed", "ensemble_at", "free_at", "restarts", "smoothed_free_at"}
EPOCHS = {name: 4 for name in ("smoothed_fgsm_rs", "smoothed_free_at", "smoothed_pgd_at", "smoothed_fgsm_mep")}


class Nothing:
    """No measurement: these tests look at training alone."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"mean_accuracy": float(epoch), "robust_accuracy": 0.1 * epoch, "clean_accuracy": 0.3 + 0.1 * epoch}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def recipe(epochs: int, precision: str = "float32", cutmix: float = 0.0) -> Recipe:
    fields = parallel_worker.recipe("", epochs)
    augmentation = replace(fields.augmentation, cutmix=cutmix)
    return replace(fields, batch_size=6, gradient_clip=1.0, augmentation=augmentation, precision=precision)


def begun(
    method: Method, threat: Threat, folder: Path, fields: Recipe, capture: Capture, model: nn.Module | None = None
) -> tuple[TrainingState, Iterator[dict[str, float]]]:
    """A run of 21 images in batches of 6, 5, 5 and 5."""
    device = "cpu" if model is None else next(model.parameters()).device
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 255, (21, 1, 8, 8), generator=rng, dtype=torch.uint8), torch.arange(21) % 3
    torch.manual_seed(1)
    state = start(TinyNet() if model is None else model, method, Nothing(), fields, seed=0)
    state.capture = capture
    loader = Loader(images.to(device), labels.to(device), fields.batch_size, fields.augmentation, num_classes=3)
    return state, fit(state, loader, Plan(fields, OneCycle(start=0.1, peak=0.3), threat, seed=0), folder)


def ended(
    method: Method, threat: Threat, folder: Path, fields: Recipe, capture: Capture, model: nn.Module | None = None
) -> TrainingState:
    state, records = begun(method, threat, folder, fields, capture, model)
    list(records)
    return state


def captured(lines: list[str]) -> Capture:
    TapeGraph.made = []
    return Capture("auto", lines.append, TapeGraph)


def num_replays() -> int:
    return sum(graph.replays for graph in TapeGraph.made)


def same(one: TrainingState, other: TrainingState) -> None:
    left, right = one._tensors(), other._tensors()
    assert left.keys() == right.keys() and one.history == other.history and one.passes == other.passes
    assert [list(record) for record in one.history] == [list(record) for record in other.history]
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


@pytest.mark.parametrize("name", ALL)
def test_a_replayed_step_is_the_step(name, linf, tmp_path):
    """Weights, average, momentum, the method's memory, generators, records and passes; the batches differ in size."""
    fields, lines = recipe(EPOCHS.get(name, 2)), []
    eager = ended(ALL[name](), linf, tmp_path / "eager", fields, Capture())
    replayed = ended(ALL[name](), linf, tmp_path / "replayed", fields, captured(lines))
    same(eager, replayed)
    assert lines == LINES.get(name, [])
    assert bool(num_replays()) == (name not in NEVER)


@pytest.mark.parametrize(
    ("name", "stop"), [("pgd_at", 2), ("b_mtard", 3), ("fgsm_mep", 3), ("adr", 2), ("smoothed_trades", 3)]
)
def test_stopped_and_continued_equals_the_eager_run(name, stop, linf, tmp_path):
    eager = ended(ALL[name](), linf, tmp_path / "eager", recipe(3), Capture())
    _, records = begun(ALL[name](), linf, tmp_path / "cut", recipe(3), captured([]))
    for _ in range(stop):
        next(records)
    del records
    torch.manual_seed(999)
    same(eager, ended(ALL[name](), linf, tmp_path / "cut", recipe(3), captured([])))


@pytest.mark.parametrize(
    ("threat", "changes"),
    [
        (Threat(norm=L1(), epsilon=Ratio(2)), {}),
        (Threat(norm=L2(), epsilon=Ratio(1, 2)), {}),
        (Threat(norm=Linf(), epsilon=Ratio(8, 255)), {"precision": "bfloat16"}),
        (Threat(norm=Linf(), epsilon=Ratio(8, 255)), {"cutmix": 0.5}),
    ],
    ids=str,
)
def test_every_norm_precision_and_kind_of_labels(threat, changes, tmp_path):
    lines = []
    fields = recipe(3, **changes)
    eager = ended(MEMBERS["pgd_at"](), threat, tmp_path / "eager", fields, Capture())
    same(eager, ended(MEMBERS["pgd_at"](), threat, tmp_path / "replayed", fields, captured(lines)))
    assert not lines and num_replays()


def test_a_method_that_knows_no_epochs_is_recorded_once_for_each_size_of_batch(linf, tmp_path):
    """A method that does is recorded in each epoch anew, after as many steps as they are."""
    ended(MEMBERS["pgd_at"](), linf, tmp_path / "still", recipe(6), captured([]))
    # Batches of 6, 5, 5, 5: all but the first two of each size are replayed.
    assert [graph.replays for graph in TapeGraph.made] == [6 - WARM_UP, 18 - WARM_UP]
    ended(MEMBERS["b_mtard"](), linf, tmp_path / "epochs", recipe(6), captured([]))
    assert sorted(graph.replays for graph in TapeGraph.made) == [0] * 6 + [3 - WARM_UP] * 6


class Asking(Method):
    """Standard training whose attack, or whose loss, asks the host for a number."""

    def __init__(self, in_attack: bool) -> None:
        super().__init__()
        self.in_attack = in_attack

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        noise = uniform(rng, batch.images) * (float(batch.images.max()) if self.in_attack else 1)
        return threat.project(batch.images + noise, batch.images)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        total = model(images_adv).square().mean()
        return Loss(total, {"known": total.new_full((), float(total.detach()))})


@pytest.mark.parametrize("in_attack", [False, True])
def test_what_turns_out_to_need_the_host_goes_on_without(in_attack, linf, tmp_path):
    """The draws of the step that could not be recorded are drawn once."""
    lines = []
    eager = ended(Asking(in_attack), linf, tmp_path / "eager", recipe(3), Capture())
    same(eager, ended(Asking(in_attack), linf, tmp_path / "replayed", recipe(3), captured(lines)))
    why = "operation not permitted when stream is capturing: _local_scalar_dense"
    assert lines == [ALONE + why] + [STEPS + why] * in_attack
    assert bool(num_replays()) != in_attack


class Meddling(Method):
    """Training whose loss does something on the host besides, which no graph knows of."""

    seen: Tensor

    def __init__(self, kind: str, fails: bool = False) -> None:
        super().__init__()
        self.kind, self.fails = kind, fails
        self.turn, self.last, self.calls = 0, torch.zeros(()), list[int]()
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        self.calls.append(0)
        self.seen = self.seen + 1
        weight: Any = 1.0
        match self.kind:
            case "python":
                weight = random.random()
            case "numpy":
                weight = float(np.random.rand())
            case "counts":
                self.turn += 1
                weight = 1 / self.turn
            case "remembers":
                weight = 1 + self.last
                self.last = weight * 0.9
            case _:
                weight = torch.rand(()) * torch.rand((), generator=batch_generator(rng))
        # Of the batches of 6, 5, 5 and 5 the last is the first that is recorded.
        if self.fails and len(self.calls) == 1 + WARM_UP + 1:
            self.turn, self.last = 99, torch.ones(())
            _ = random.random(), np.random.rand()
            raise ValueError("no RuntimeError\nat all")
        total = weight * model(batch.images).square().mean()
        return Loss(total, {"seen": self.seen.clone()})


def batch_generator(rng: Rng) -> torch.Generator:
    assert isinstance(rng, Part)
    return rng.generator


def host_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state(legacy=False))


def seeded(kind: str, threat: Threat, folder: Path, capture: Capture, fails: bool = False) -> TrainingState:
    _ = random.seed(4), np.random.seed(4)
    return ended(Meddling(kind, fails), threat, folder, recipe(3), capture)


ATTRIBUTES = {"counts": "Meddling.turn changes on the host", "remembers": "Meddling.last changes on the host"}


@pytest.mark.parametrize("kind", ["python", "numpy", "counts", "remembers"])
def test_what_happens_on_the_host_is_not_recorded(kind, linf, tmp_path):
    """A replay would draw the same number for ever, or count no more."""
    lines, after = [], []
    eager = seeded(kind, linf, tmp_path / "eager", Capture())
    after.append(host_states())
    same(eager, seeded(kind, linf, tmp_path / "replayed", captured(lines)))
    after.append(host_states())
    assert lines == [STEPS + ATTRIBUTES.get(kind, "random numbers are drawn on the host")]
    assert not num_replays() and after[0] == after[1]


@pytest.mark.parametrize("kind", ["python", "numpy", "counts", "remembers", "device"])
def test_after_a_recording_that_failed_everything_is_as_if_it_had_not_been_tried(kind, linf, tmp_path):
    """Generators, buffers and attributes, whatever kind of error it was."""
    lines, after = [], []
    eager = seeded(kind, linf, tmp_path / "eager", Capture())
    after.append((*host_states(), torch.get_rng_state().tolist()))
    same(eager, seeded(kind, linf, tmp_path / "replayed", captured(lines), fails=True))
    after.append((*host_states(), torch.get_rng_state().tolist()))
    assert lines == [STEPS + "no RuntimeError"] and not num_replays() and after[0] == after[1]


def test_a_mistake_of_the_method_itself_is_not_hidden(linf, tmp_path):
    class Mistaken(Meddling):
        def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
            if len(self.calls) == 1 + WARM_UP:
                raise ValueError("a mistake")
            return super().loss(model, batch, threat, rng)

    with pytest.raises(ValueError, match="a mistake"):
        ended(Mistaken("device"), linf, tmp_path, recipe(3), captured([]))


def test_a_failed_recording_leaves_the_gpu_as_it_was(monkeypatch):
    """As torch 2.11 leaves it: on the stream of the recording, with generators that refuse to draw."""
    cuda = FakeCuda(monkeypatch)

    @contextmanager
    def recording(graph: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        cuda.begin_recording()
        yield

    class FakeGraph:
        def register_generator_state(self, generator: object) -> None:
            assert generator is cuda.own

    for name, part in {"graph": recording, "CUDAGraph": FakeGraph, "Stream": object}.items():
        monkeypatch.setattr(torch.cuda, name, part)
    with pytest.raises(ZeroDivisionError):
        CudaGraph([cuda.own]).record(lambda: 1 / 0)  # pyright: ignore[reportArgumentType]
    assert cuda.untouched and cuda.own.state == State()


class TwoStreams(Asking):
    """Attacks that draw from the run's generator, or from one of their own, by turns."""

    turn = 0

    def __init__(self) -> None:
        super().__init__(in_attack=False)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        self.turn += 1
        own = torch.Generator().manual_seed(self.turn)
        return super().loss(model, batch, threat, rng if self.turn % 2 else Part(own, slice(None), batch.total))


def test_an_attack_that_draws_from_another_generator_runs_as_it_stands(linf, tmp_path):
    eager = ended(TwoStreams(), linf, tmp_path / "eager", recipe(5), Capture())
    capture = captured([])
    capture._failed = "a reason"  # the attack alone
    same(eager, ended(TwoStreams(), linf, tmp_path / "replayed", recipe(5), capture))
    assert num_replays()


class Reshaping(Method):
    """A method that remembers one number more at each step, or half of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(0))

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        total = model(batch.images).square().mean()
        self.losses = torch.cat([self.losses, total.detach()[None]])
        return Loss(total, {"sum": self.losses.sum()})


def test_what_changes_its_shape_all_the_time_is_not_recorded(linf, tmp_path):
    lines = []
    eager = ended(Reshaping(), linf, tmp_path / "eager", recipe(4), Capture())
    same(eager, ended(Reshaping(), linf, tmp_path / "replayed", recipe(4), captured(lines)))
    assert lines == [STEPS + "what the method remembers changes its shape"] and not num_replays()


def test_a_cumulative_batch_norm_and_several_processes_leave_the_attack(linf, tmp_path, monkeypatch):
    """The attack runs in evaluation mode, in which nothing is counted and nothing exchanged."""
    model = TinyNet()
    model.features[1] = nn.BatchNorm2d(8, momentum=None)
    eager = ended(MEMBERS["pgd_at"](), linf, tmp_path / "eager", recipe(3), Capture(), copy.deepcopy(model))
    lines = []
    same(eager, ended(MEMBERS["pgd_at"](), linf, tmp_path / "replayed", recipe(3), captured(lines), model))
    assert lines == [ALONE + "batch norm with estimator cumulative asks the device for the number of batches"]
    assert num_replays()
    lines.clear()
    monkeypatch.setattr("components.training.capture.parallel.world_size", lambda: 2)
    for name in ("trades", "fgsm_rs"):
        capture = captured(lines)
        capture.begin_epoch(model, MEMBERS[name](), torch.Generator())
    assert lines == [line + "2 processes exchange gradients in it" for line in (ALONE, STEPS)]


@pytest.mark.parametrize(("size", "lines"), [(3, [STEPS + IN_PARTS]), (5, [STEPS + IN_PARTS]), (6, []), (None, [])])
def test_parts_of_a_batch_are_not_recorded_and_batches_that_are_not_cut_are(size, lines, linf, tmp_path):
    """Batches have 6, 5, 5 and 5 images. Of parts the attack is not recorded either, and the line says so."""
    fields, told = replace(recipe(3), micro_batch=size), []
    eager = ended(MEMBERS["pgd_at"](), linf, tmp_path / "eager", fields, Capture())
    same(eager, ended(MEMBERS["pgd_at"](), linf, tmp_path / "replayed", fields, captured(told)))
    assert told == lines and bool(num_replays()) == (not lines)


def test_a_program_that_teaches_is_never_recorded(linf, tmp_path):
    """Not in the attack either, which may ask it."""
    lines, method = [], MEMBERS["b_mtard"]()
    capture = captured(lines)
    capture.begin_epoch(TinyNet(), method, torch.Generator())
    assert not lines and capture.step is not None
    (teacher,) = (module for name, module in method.named_modules() if name == "robust_teacher.network")
    vars(teacher)["from_outside"] = True
    capture = captured(lines)
    capture.begin_epoch(TinyNet(), method, torch.Generator())
    assert lines == [STEPS + "a teacher is a program from outside"] and (capture.step, capture.attack) == (None, None)


def test_another_method_is_another_recording(linf, tmp_path):
    """As after a roll back of the sentinel, which puts a method in the place of the one before."""
    runs = []
    for capture in (Capture(), captured([])):
        state, records = begun(MEMBERS["pgd_at"](), linf, tmp_path / str(len(runs)), recipe(4), capture)
        for _ in range(3):
            next(records)
        state._adopt(MEMBERS["trades"]())
        list(records)
        runs.append(state)
    same(*runs)
    assert num_replays()


def test_on_is_an_error_where_auto_goes_on_without(linf, tmp_path):
    with pytest.raises(InputError, match=r"compute\.capture: got 'on', but a mixed batch counts its steps"):
        ended(MEMBERS["mixed"](), linf, tmp_path, recipe(2), Capture("on", print, TapeGraph))
    with pytest.raises(InputError, match=r"compute\.capture: got 'on', but a CPU computes here \(allowed: auto, off\)"):
        Compute(device="cpu", threads=1, deterministic=True, capture="on").prepare()


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_nothing_is_recorded_and_nothing_said_on_a_cpu_or_when_off(mode, linf, tmp_path):
    lines = []
    graphs = None if mode == "auto" else TapeGraph
    TapeGraph.made = []
    ended(MEMBERS["mixed"](), linf, tmp_path, recipe(2), Capture(mode, lines.append, graphs))
    assert not lines and not TapeGraph.made


NO_GPU = "no GPU: a CUDA graph cannot be recorded here"


def on_gpu(name: str, capture: Capture, folder: Path, epochs: int, records: int = 99) -> TrainingState:
    """A run on the GPU in deterministic mode, as `compute` sets it up; stopped after so many records."""
    Compute(device="cuda", threads=1, deterministic=True, capture="auto").prepare()
    threat = Threat(norm=Linf(), epsilon=Ratio(8, 255))
    torch.manual_seed(1)
    state, steps = begun(ALL[name](), threat, folder, recipe(epochs), capture, TinyNet().cuda())
    for _ in steps:
        if len(state.history) == records:
            break
    return state


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_replays_the_same_step(name, tmp_path):
    """To 1e-5 of each tensor: the same kernels, but libraries may choose among them by the stream's workspace."""
    lines: list[str] = []
    eager = on_gpu(name, Capture(), tmp_path / "eager", EPOCHS.get(name, 2))
    replayed = on_gpu(name, Capture("auto", lines.append), tmp_path / "replayed", EPOCHS.get(name, 2))
    assert lines == LINES.get(name, []) and eager.passes == replayed.passes
    left, right = eager._tensors(), replayed._tensors()
    # Random numbers are the same ones, whatever becomes of them.
    assert all(torch.equal(left[key], right[key]) for key in left if key.startswith("rng/"))
    for key in left.keys() - {"rng/global"}:
        torch.testing.assert_close(right[key], left[key], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("name", ["pgd_at", "b_mtard", "fgsm_mep"])
def test_a_gpu_continues_exactly(name, tmp_path):
    whole = on_gpu(name, Capture("auto"), tmp_path / "whole", 3)
    on_gpu(name, Capture("auto"), tmp_path / "cut", 3, records=3)
    again = on_gpu(name, Capture("auto"), tmp_path / "cut", 3)
    left, right = whole._tensors(), again._tensors()
    assert all(torch.equal(left[key], right[key]) for key in left if key.startswith("rng/"))
    for key in left:
        torch.testing.assert_close(right[key], left[key], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("name", ["pgd_at", "b_mtard"])
def test_a_gpu_needs_no_more_memory_from_epoch_to_epoch(name, tmp_path):
    """Neither where one graph serves all epochs nor where each epoch has its own."""
    Compute(device="cuda", threads=1, deterministic=True, capture="auto").prepare()
    threat = Threat(norm=Linf(), epsilon=Ratio(8, 255))
    _, records = begun(ALL[name](), threat, tmp_path, recipe(12), Capture("auto"), TinyNet().cuda())
    reserved = [torch.cuda.memory_reserved() for _ in records]
    assert max(reserved[5:]) <= max(reserved[:5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("in_attack", [False, True])
def test_a_gpu_goes_on_after_a_recording_that_failed(in_attack, linf, tmp_path):
    lines: list[str] = []
    eager = ended(Asking(in_attack), linf, tmp_path / "eager", recipe(3), Capture(), TinyNet().cuda())
    state = ended(
        Asking(in_attack), linf, tmp_path / "replayed", recipe(3), Capture("auto", lines.append), TinyNet().cuda()
    )
    assert lines and torch.equal(eager.rng.get_state(), state.rng.get_state())
