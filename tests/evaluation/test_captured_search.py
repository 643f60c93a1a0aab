"""Replayed passes of a search network: the same images as without, for every attack, and no number of an older pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.victim import Victim
from components.evaluation import captured_search
from components.evaluation.captured_search import SIZES, CapturedSearch, Pass, captured, cuda_graphs
from components.evaluation.search_network import Search
from components.foundation.errors import InputError
from components.numerics.random_numbers import Noise
from tests.conftest import TinyNet
from tests.parts.attack_members import MEMBERS

FAST = Search(precision="bfloat16", compiled=False)


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


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_every_attack_finds_the_same(member, images, linf, replays):
    torch.manual_seed(3)
    labels, plain = torch.arange(12) % 5, FAST.victim(TinyNet(5).eval(), images)
    fast = captured(plain, "auto", images.device, silent, recorder(replays))
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
    search = CapturedSearch(tiny.eval(), recorder(replays), silent, required=True)
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
    search = CapturedSearch(tiny.eval(), recorder(replays), silent, required=True)
    leaf, again = (images[:5].clone().requires_grad_() for _ in range(2))
    total, want = search(leaf) + search(leaf * 0.9), tiny(again) + tiny(again * 0.9)
    ways = [torch.autograd.grad(logits[:, 0].sum(), at)[0] for logits, at in ((total, leaf), (want, again))]
    torch.testing.assert_close(*ways)
    assert replays[0].calls == 1
    search(leaf)
    search(leaf)
    assert replays[0].calls == 3


def test_the_way_back_of_an_older_pass_is_refused(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent, required=True)
    leaf = images[:5].clone().requires_grad_()
    first = search(leaf)
    torch.autograd.grad(first.sum(), leaf, retain_graph=True)
    search(images[:4])
    with pytest.raises(AssertionError, match="after another pass of the same recording"):
        first.sum().backward()


def test_sizes(tiny, images, replays):
    search = CapturedSearch(tiny.eval(), recorder(replays), silent, required=True)
    with torch.no_grad():
        for num in (1, 2, 3, 8, 9, 12, 2):
            torch.testing.assert_close(search(images[:num]), tiny(images[:num]))
    assert [len(replay.leaf) for replay in replays] == [2, 8] and [replay.calls for replay in replays] == [3, 2]
    assert list(SIZES) == sorted(SIZES)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_cannot_be_recorded_is_told_once_or_refused(mode, tiny, images):
    def record(work: Pass, sample: Tensor) -> Pass:
        raise RuntimeError("operation not permitted when stream is capturing\nlong advice")

    told: list[str] = []
    victim = captured(FAST.victim(tiny.eval(), images), mode, images.device, told.append, record)
    if mode == "on":
        with pytest.raises(InputError, match=r"got 'on', but the search cannot be captured: operation not"):
            victim(images)
        return
    want = FAST.victim(tiny, images)(images)
    assert torch.equal(victim(images), want) and torch.equal(victim(images[:5]), want[:5])
    assert told == ["the search cannot be captured: operation not permitted when stream is capturing"]


def test_where_there_is_nothing_to_capture_the_victim_stays(tiny, images):
    fast, exact = FAST.victim(tiny.eval(), images), Victim(tiny)
    cpu = torch.device("cpu")
    assert captured(fast, "auto", cpu, silent) is fast
    assert captured(fast, "off", cpu, silent, recorder([])) is fast
    assert captured(exact, "auto", cpu, silent, recorder([])) is exact


def test_the_network_keeps_its_own_forward(tiny, images, replays, monkeypatch):
    """torch replaces that of a module that it is given, and then every size would be replayed as the first one."""

    def graphed(work: Pass, samples: tuple[Tensor, ...]) -> Pass:
        replay = Replay(work, *samples)
        if isinstance(work, nn.Module):
            monkeypatch.setattr(work, "forward", replay)
        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    network = tiny.eval()
    want = {num: network(images[:num]).detach() for num in (12, 2, 5)}
    search = CapturedSearch(network, cuda_graphs, silent, required=True)
    for num in (2, 12, 5, 12, 2):
        torch.testing.assert_close(search(images[:num].clone().requires_grad_()).detach(), want[num])
    assert "forward" not in vars(network)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_passes_and_gradients_are_those_of_the_network(tiny: nn.Module, images, replays):
    device = torch.device("cuda")
    tiny.to(device).eval()
    plain, second = (FAST.victim(tiny, images.to(device)) for _ in range(2))
    fast = captured(second, "on", device, silent)
    # Above all recordings, too, and each size again after another one.
    for num in (12, 3, 1, 12, 8, 2):
        ways = []
        for victim in (plain, fast):
            leaf = images[:num].to(device).requires_grad_()
            logits = victim(leaf)
            ways.append((logits.detach(), torch.autograd.grad(logits[:, 0].sum(), leaf)[0]))
        for one, other in zip(*ways, strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))
