"""Replayed passes of a search network: the same images as without, for every attack, and no number of an older pass."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.attacks.parts.victim import Victim
from components.evaluation import captured_search
from components.evaluation.captured_search import (
    MIXES,
    SIZES,
    CapturedSearch,
    Pass,
    Recorder,
    SearchCapture,
    cuda_graphs,
)
from components.evaluation.outside.programs import Program
from components.evaluation.search_network import Search
from components.foundation.errors import InputError
from components.numerics.compute import CaptureMode
from components.numerics.random_numbers import Noise
from tests.parts.attack_members import MEMBERS
from tests.parts.fake_cuda import FakeCuda
from tests.parts.tiny_net import TinyNet

FAST = Search(precision="bfloat16", compiled=False)
LINE = "capture: passes of attacks are not captured: "


class Replay:
    """What stands for `torch.cuda.make_graphed_callables`: one input, one result and one gradient, overwritten each
    time, and a way back of whatever pass was the last."""

    def __init__(self, work: Pass, sample: Tensor) -> None:
        self.work, self.calls = work, 0
        self.leaf = sample.detach().clone()
        self.logits = work(self.leaf).detach().clone()
        self.gradient = torch.zeros_like(self.leaf)
        self.last = self.leaf, self.logits

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape == self.leaf.shape and images.dtype == self.leaf.dtype
        self.calls += 1
        return _Replayed.apply(images, self)  # pyright: ignore[reportReturnType]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, replay: Replay) -> Tensor:
        ctx.replay = replay
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            logits = replay.work(leaf)
        replay.last = leaf, logits
        return replay.logits.copy_(logits.detach()).view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        leaf, logits = ctx.replay.last
        found = torch.autograd.grad(logits, leaf, gradient, retain_graph=True)[0]
        return ctx.replay.gradient.copy_(found).view_as(found), None


@pytest.fixture
def replays(monkeypatch) -> list[Replay]:
    """Small recordings, and all that were made."""
    made: list[Replay] = []
    monkeypatch.setattr(captured_search, "SIZES", (2, 8))
    return made


def recorder(made: list[Replay]) -> Callable[[Pass, Tensor], Pass]:
    def record(work: Pass, sample: Tensor) -> Pass:
        made.append(Replay(work, sample))
        return made[-1]

    return record


def silent(line: str) -> None:
    raise AssertionError(line)


def capture(
    monkeypatch: pytest.MonkeyPatch, mode: CaptureMode, note: Callable[[str], None], record: Recorder
) -> SearchCapture:
    monkeypatch.setattr(captured_search, "recorder_on", lambda device: record)
    return SearchCapture(mode, torch.device("cpu"), note)


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_every_attack_finds_the_same(member, images, linf, replays, monkeypatch):
    torch.manual_seed(3)
    labels, plain = torch.arange(12) % 5, FAST.victim(TinyNet(5).eval(), images)
    fast = capture(monkeypatch, "auto", silent, recorder(replays)).captured("student", plain, images)
    found = []
    for victim in (plain, fast):
        for chosen in (slice(0, 12), slice(3, 10), slice(5, 6)):
            rng = Noise(3, torch.arange(12)[chosen])
            found.append(member(victim, images[chosen], labels[chosen], linf, rng))
    for one, other in zip(found[:3], found[3:], strict=True):
        # Filled up to another size, a convolution may round differently.
        assert torch.equal(plain(one).argmax(1), plain(other).argmax(1))
        assert (one - other).abs().gt(1e-3).float().mean() < 0.05
    assert {len(replay.leaf) for replay in replays} <= {2, 8} and any(replay.calls for replay in replays)


def test_nothing_of_an_older_pass_is_overwritten(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent)
    leaves = [images[:5].clone().requires_grad_(), images[4:10].clone().requires_grad_()]
    logits, gradients = [], []
    for leaf in leaves:
        logits.append(search(leaf))
        gradients.append([torch.autograd.grad(logits[-1][:, k].sum(), leaf, retain_graph=True)[0] for k in range(3)])
    for leaf, values, ways in zip(leaves, logits, gradients, strict=True):
        again = leaf.detach().clone().requires_grad_()
        want = tiny(again)
        torch.testing.assert_close(values, want)
        for k, way in enumerate(ways):
            torch.testing.assert_close(way, torch.autograd.grad(want[:, k].sum(), again, retain_graph=True)[0])


def test_a_pass_whose_way_back_is_still_to_come_is_not_overwritten(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent)
    leaf, again = (images[:5].clone().requires_grad_() for _ in range(2))
    total, want = search(leaf) + search(leaf * 0.9), tiny(again) + tiny(again * 0.9)
    ways = [torch.autograd.grad(logits[:, 0].sum(), at)[0] for logits, at in ((total, leaf), (want, again))]
    torch.testing.assert_close(*ways)
    assert replays[0].calls == 1
    search(leaf)
    search(leaf)
    assert replays[0].calls == 3


def test_the_way_back_of_an_older_pass_is_refused(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent)
    leaf = images[:5].clone().requires_grad_()
    first = search(leaf)
    torch.autograd.grad(first.sum(), leaf, retain_graph=True)
    search(images[:4])
    with pytest.raises(AssertionError, match="after another pass of the same recording"):
        first.sum().backward()


def test_sizes(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent)
    with torch.no_grad():
        for num in (1, 2, 3, 8, 9, 12, 2):
            torch.testing.assert_close(search(images[:num]), tiny(images[:num]))
    assert [len(replay.leaf) for replay in replays] == [2, 8] and [replay.calls for replay in replays] == [3, 2]
    assert list(SIZES) == sorted(SIZES)


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("failing", [2, 8])
def test_what_cannot_be_recorded_is_told_once_or_refused(mode, failing, tiny, images, replays, monkeypatch):
    """The first size is tried before any attack, the others when they are met."""

    def record(work: Pass, sample: Tensor) -> Pass:
        if len(sample) == failing:
            raise RuntimeError("operation not permitted when stream is capturing\nlong advice")
        return recorder(replays)(work, sample)

    told, plain = [], FAST.victim(tiny.eval(), images)
    why = f"a pass over {failing} images cannot be recorded: operation not permitted when stream is capturing"
    if mode == "on":
        with pytest.raises(InputError) as refused:
            capture(monkeypatch, "on", told.append, record).captured("student", plain, images)(images[:5])
        assert str(refused.value) == f"compute.capture: got 'on', but student: {why} (auto goes on without)"
        return
    victim = capture(monkeypatch, "auto", told.append, record).captured("student", plain, images)
    for num in (12, 5, 1, 5):
        assert torch.equal(victim(images[:num]), plain(images[:num]))
    assert told == [f"{LINE}student: {why}"] and (victim is plain) == (failing == 2)
    # What was recorded before holds no memory any more.
    assert victim is plain or not victim.search._recorded


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("search", "why"),
    [
        (Search(precision="float32", compiled=False), "the search is the float32 network itself (search.precision)"),
        (FAST, "the search is compiled (search.compiled)"),
    ],
    ids=["float32", "compiled"],
)
def test_on_never_does_without_a_word(mode, search, why, tiny, images, monkeypatch):
    told, victim = [], search.victim(tiny.eval(), images)
    ours = capture(monkeypatch, mode, told.append, recorder([]))
    if mode == "on":
        with pytest.raises(InputError) as refused:
            ours.captured("student", victim, images, compiled=search is FAST)
        assert str(refused.value) == f"compute.capture: got 'on', but {why} (auto goes on without)"
        return
    for name in ("student", "teacher"):
        assert ours.captured(name, victim, images, compiled=search is FAST) is victim
    assert told == [LINE + why]


def test_where_nothing_can_be_captured_nothing_is_said(tiny, images, monkeypatch):
    victim, cpu = FAST.victim(tiny.eval(), images), torch.device("cpu")
    assert SearchCapture("auto", cpu, silent).captured("student", victim, images) is victim
    assert capture(monkeypatch, "off", silent, recorder([])).captured("student", victim, images) is victim


class Strange(nn.Module):
    """A network that answers as its base does, and does something besides."""

    passes: Tensor

    def __init__(self, base: nn.Module, strange: Callable[["Strange", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.base, self.strange, self.own = base, strange, torch.Generator().manual_seed(0)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.strange(self, images, self.base(images))


def counts(network: Strange, images: Tensor, logits: Tensor) -> Tensor:
    network.passes += 1
    return logits


def replaces(network: Strange, images: Tensor, logits: Tensor) -> Tensor:
    network.passes = network.passes.clone()
    return logits


class Outside(nn.Sequential):
    """What a program from outside is known by."""

    from_outside = True


RANDOM, REMEMBERS = "it answers at random", "a pass changes what it remembers"
# Networks whose replay would not be what they answer, and why.
STRANGE: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "dropout": (lambda base: Strange(base, lambda _, x, y: F.dropout(y, 0.01, training=True)), RANDOM),
    # Too little to show in the logits.
    "a little noise": (lambda base: Strange(base, lambda _, x, y: y + 1e-9 * torch.rand(())), RANDOM),
    "numpy": (lambda base: Strange(base, lambda _, x, y: y + 1e-9 * np.random.rand()), RANDOM),
    "python": (lambda base: Strange(base, lambda _, x, y: y + 1e-9 * random.random()), RANDOM),
    "its own generator": (
        lambda base: Strange(base, lambda n, x, y: y * torch.rand((), generator=n.own)),
        RANDOM,
    ),
    "a mean": (lambda base: Strange(base, lambda _, x, y: y - y.mean(0)), MIXES),
    "batch statistics": (lambda base: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), base), MIXES),
    "counts": (lambda base: Strange(base, counts), REMEMBERS),
    "replaces": (lambda base: Strange(base, replaces), REMEMBERS),
    "nan": (lambda base: Strange(base, lambda _, x, y: y * torch.nan), "its answers are no numbers"),
    "a program": (lambda base: nn.Sequential(Outside(base)), "a program from outside"),
}


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state(legacy=False))


@pytest.mark.parametrize("name", STRANGE)
def test_a_network_that_is_more_than_a_function_of_each_image_is_left_out(name, tiny, images, monkeypatch):
    """The look leaves no trace; with `on` it is refused."""
    make, why = STRANGE[name]
    network, told = make(tiny).eval(), []
    victim, before = Victim(tiny, network), states()
    buffers = {key: (value, value.clone()) for key, value in network.named_buffers()}
    assert capture(monkeypatch, "auto", told.append, recorder([])).captured("student", victim, images) is victim
    assert len(told) == 1 and told[0].startswith(f"{LINE}student: {why}")
    assert states() == before
    assert all(value is buffers[key][0] and value.equal(buffers[key][1]) for key, value in network.named_buffers())
    with pytest.raises(InputError, match=why):
        capture(monkeypatch, "on", silent, recorder([])).captured("student", victim, images)


def test_programs_are_known_to_come_from_outside():
    assert Program.from_outside


def norm_of(network: nn.Module) -> nn.BatchNorm2d:
    return next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


class Meddling:
    """A recorder that warms up, draws, moves buffers, and after some recordings fails in the midst of it."""

    def __init__(self, made: list[Replay], network: nn.Module, after: int, error: BaseException) -> None:
        self.made, self.network, self.after, self.error = made, network, after, error

    def __call__(self, work: Pass, sample: Tensor) -> Pass:
        _ = torch.rand(7), random.random(), np.random.rand()
        for buffer in self.network.buffers():
            buffer.add_(1)
        norm_of(self.network).running_mean = torch.ones(8)
        if len(self.made) == self.after:
            raise self.error
        self.made.append(Replay(work, sample))
        return self.made[-1]


@pytest.mark.parametrize("error", [RuntimeError("a"), InputError("b"), AssertionError(), TypeError("c")], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_recording_leaves_everything_as_it_was(after, error, images, replays, monkeypatch):
    """Whether it fails or not, an attack amid which it happens meets the same network and the same random numbers."""
    torch.manual_seed(3)
    network = TinyNet(5).eval()
    nn.init.uniform_(norm_of(network).weight)
    victim, told = Victim(TinyNet(5).eval(), network), []
    kept = {name: (value, value.clone()) for name, value in network.named_buffers()}

    def attacked(victim: Victim) -> list[Any]:
        _ = torch.manual_seed(1), random.seed(1), np.random.seed(1)
        found = []
        for num in (9, 1, 5, 1):
            noise = torch.rand(num, *images.shape[1:]) * random.random() * np.random.rand()
            leaf = (images[:num] + noise).requires_grad_()
            logits = victim(leaf)
            found += [leaf.detach(), logits.detach(), torch.autograd.grad(logits[:, 0].sum(), leaf)[0]]
        return [*found, states()]

    plain = attacked(victim)
    meddling = Meddling(replays, network, after, error)
    fast = capture(monkeypatch, "auto", told.append, meddling).captured("student", victim, images)
    for one, other in zip(attacked(fast), plain, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other)
            assert after or torch.equal(one, other)
        else:
            assert one == other
    assert len(told) == (after < 2) and all(type(error).__name__ in line or str(error) in line for line in told)
    assert all(value is kept[name][0] and value.equal(kept[name][1]) for name, value in network.named_buffers())


def test_a_stop_amid_a_recording_stops(tiny, images, replays, monkeypatch):
    victim, before = Victim(TinyNet(), tiny.eval()), states()
    meddling = Meddling(replays, tiny, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        capture(monkeypatch, "auto", silent, meddling).captured("student", victim, images)
    assert states() == before


def test_the_network_keeps_its_own_forward(tiny, images, replays, monkeypatch):
    """torch replaces that of a module that it is given, and then every size would be replayed as the first one."""

    def graphed(work: Pass, samples: tuple[Tensor, ...]) -> Pass:
        # As of torch 2.11, which lets nobody choose.
        replay = Replay(work, *samples)
        if isinstance(work, nn.Module):
            monkeypatch.setattr(work, "forward", replay)
        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    FakeCuda(monkeypatch)
    network = tiny.eval()
    want = {num: network(images[:num]).detach() for num in (12, 2, 5)}
    search = CapturedSearch(network, cuda_graphs, silent)
    for num in (2, 12, 5, 12, 2):
        torch.testing.assert_close(search(images[:num].clone().requires_grad_()).detach(), want[num])
    assert "forward" not in vars(network)


@pytest.mark.parametrize("knows", [True, False])
def test_other_threads_may_use_the_gpu_where_torch_lets_us_say_so(knows, monkeypatch):
    told: list[dict[str, Any]] = []

    def old(work: Pass, samples: tuple[Tensor, ...]) -> Pass:
        told.append({})
        return work

    def new(work: Pass, samples: tuple[Tensor, ...], capture_error_mode: str = "global") -> Pass:
        told.append({"capture_error_mode": capture_error_mode})
        return work

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", new if knows else old)
    FakeCuda(monkeypatch)
    cuda_graphs(nn.Identity(), torch.zeros(1))
    assert told == [{"capture_error_mode": "thread_local"} if knows else {}]


def test_a_failed_recording_leaves_the_gpu_as_it_was(monkeypatch):
    """As torch 2.11 leaves it: on the stream of the recording, with a generator that refuses to draw."""
    cuda = FakeCuda(monkeypatch)

    def failing(work: Pass, samples: tuple[Tensor, ...]) -> Pass:
        cuda.begin_recording()
        raise RuntimeError("not permitted")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", failing)
    with pytest.raises(RuntimeError, match="not permitted"):
        cuda_graphs(nn.Identity(), torch.zeros(1))
    assert cuda.untouched


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_passes_and_gradients_are_those_of_the_network(tiny: nn.Module, images, replays):
    device = torch.device("cuda")
    tiny.to(device).eval()
    plain, second = (FAST.victim(tiny, images.to(device)) for _ in range(2))
    fast = SearchCapture("on", device, silent).captured("student", second, images.to(device))
    # Above all recordings, too, and each size again after another one.
    for num in (12, 3, 1, 12, 8, 2):
        ways = []
        for victim in (plain, fast):
            leaf = images[:num].to(device).requires_grad_()
            logits = victim(leaf)
            ways.append((logits.detach(), torch.autograd.grad(logits[:, 0].sum(), leaf)[0]))
        for one, other in zip(*ways, strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))
