"""The clock of the speed benchmarks: alternating rounds, ratios within a round, passes, and this machine's limits."""

import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from components.numerics.cost import PassCounter

# The side of the matrices whose product is the other limit.
SIDE = 2048
# The 3x3 convolutions of ResNet-18's eight blocks: how many, channels in and out, side of the map, stride.
BLOCKS = (
    (4, 64, 64, 32, 1),
    (1, 64, 128, 32, 2),
    (3, 128, 128, 16, 1),
    (1, 128, 256, 16, 2),
    (3, 256, 256, 8, 1),
    (1, 256, 512, 8, 2),
    (3, 512, 512, 4, 1),
)


class Lap(NamedTuple):
    """One run of one entrant: seconds of the processor and of the clock, and what it gave."""

    cpu: float
    wall: float
    answer: Any


Entrant = Callable[[int], Any]
"""What is timed; takes the round's number as its seed."""
Laps = dict[str, list[Lap]]


def race(entrants: Mapping[str, Entrant], rounds: int, once: Collection[str] = ()) -> Laps:
    """The entrants in turn, each round beginning with another one; those in `once` run in the first round only."""
    laps: Laps = {name: [] for name in entrants}
    names = list(entrants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if number == 0 or name not in once:
                cpu, wall = time.process_time(), time.perf_counter()
                answer = entrants[name](number)
                laps[name].append(Lap(time.process_time() - cpu, time.perf_counter() - wall, answer))
    return laps


def counted(entrant: Entrant, counter: PassCounter) -> Entrant:
    """The entrant, with its answer the passes of single images that it took."""

    def run(seed: int) -> tuple[Any, dict[str, int]]:
        counter.take()
        return entrant(seed), counter.take()

    return run


def times(laps: Sequence[Lap]) -> dict[str, list[float]]:
    """The seconds of every round."""
    return {"cpu_seconds": [lap.cpu for lap in laps], "wall_seconds": [lap.wall for lap in laps]}


def ratios(laps: Laps, base: str) -> dict[str, dict[str, float]]:
    """How many times the processor time of `base` every other entrant takes, each round for itself."""
    return {
        name: spread([lap.cpu / own.cpu for lap, own in zip(one, laps[base], strict=False)])
        for name, one in laps.items()
        if name != base
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def between(ratio: Mapping[str, float]) -> str:
    """The smallest and the largest of what `spread` holds."""
    return f"{ratio['min']:.2f} to {ratio['max']:.2f}"


def convolutions(seed: int, batch_size: int = 32, dtype: torch.dtype = torch.bfloat16) -> float:
    """GFLOP/s of the 3x3 convolutions of ResNet-18's blocks, forward and input gradient, channels last.

    Each shape counts as often as the network has it: all the work over all the time.
    """
    work = seconds = 0.0
    torch.manual_seed(seed)
    for count, channels_in, channels_out, side, stride in BLOCKS:
        layer = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False, dtype=dtype)
        layer.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        images = torch.randn(batch_size, channels_in, side, side, dtype=dtype)
        leaf = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(layer(leaf))

        def there_and_back(leaf=leaf, layer=layer, gradient=gradient) -> None:
            torch.autograd.grad(layer(leaf), leaf, gradient)

        seconds += count * per_call(there_and_back)
        # A multiply-add is two operations, and there are two passes.
        work += count * 4 * gradient.numel() * channels_in * 9
    return work / seconds / 1e9


def matrix_product(seed: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """GFLOP/s of the product of two square matrices."""
    torch.manual_seed(seed)
    left, right = torch.randn(2, SIDE, SIDE, dtype=dtype)
    return 2 * SIDE**3 / per_call(lambda: left @ right) / 1e9


def per_call(call: Callable[[], Any], seconds: float = 0.15) -> float:
    """Seconds of the processor for one call, from as many calls as take `seconds`."""
    call()
    began, calls = time.process_time(), 0
    while time.process_time() - began < seconds:
        call()
        calls += 1
    return (time.process_time() - began) / calls


def machine(packages: Collection[str]) -> dict[str, Any]:
    """What the times belong to: processor, threads and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "flags"))][:2]
    flags = fields[1].split() if len(fields) == 2 else []
    return {
        "device": "cpu",
        "cpu": fields[0] if fields else platform.processor() or platform.machine(),
        "instructions": [flag for flag in flags if flag.startswith(("avx", "amx"))],
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
