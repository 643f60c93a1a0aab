"""How many CPU threads to compute with on a machine where others compute too.

On busy cores the threads of one operation wait for each other, and two take five to ten times as long as one. Sums of
floats depend on the number of threads. So it never changes within a stage, and whoever has it chosen is told.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from components.foundation.params import AUTO, Params, is_count, is_mapping
from components.foundation.storage import beginning, read_state

# Below it the difference is not worth a line, and one measurement is no more exact.
SLOWER = 1.5
MOST_THREADS = 1024
# A layer in the middle of a small network: what is larger gains from as many threads, or from more.
IMAGES, WEIGHT = (32, 32, 32, 32), (32, 32, 3, 3)
# More threads are taken where they save at least this share.
_WORTH = 0.05
# Long enough that a busy core's turns show: within one turn of the scheduler, two threads seem free.
_WINDOW = 0.06

Measure = Callable[[int], float]


def seconds_with(threads: int) -> float:
    """Seconds that a training step on small images takes with so many threads: the mean of as many as fit 0.06 s."""
    before = torch.get_num_threads()
    images, weight = torch.full(IMAGES, 0.5), torch.full(WEIGHT, 0.1, requires_grad=True)
    torch.set_num_threads(threads)
    try:
        _step(images, weight)
        began, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < _WINDOW:
            _step(images, weight)
            steps += 1
        return elapsed / steps
    finally:
        torch.set_num_threads(before)


def _step(images: torch.Tensor, weight: torch.Tensor) -> None:
    with torch.enable_grad():
        loss = torch.nn.functional.conv2d(images, weight, padding=1).relu().mean()
    torch.autograd.grad(loss, weight)


def fastest(cores: int | None = None, measure: Measure = seconds_with) -> int:
    """The number of threads that is fastest now: 1, 2, 4, … as many as there are cores, and fewer where it is a tie."""
    cores = cores or len(os.sched_getaffinity(0))
    best, shortest = 1, measure(1)
    for threads in _more(cores):
        # The worse of two: on cores with more work than one of them can do, the first may have been a lucky moment.
        seconds = max(measure(threads), measure(threads))
        if seconds >= (1 - _WORTH) * shortest:
            break
        best, shortest = threads, seconds
    return best


def _more(cores: int) -> Iterator[int]:
    threads = 2
    while threads < cores:
        yield threads
        threads *= 2
    if cores > 1:
        yield cores


@cache
def chosen(processes: int = 1) -> int:
    """What was fastest when this process first asked, for each of so many processes that compute side by side."""
    return fastest(max(1, len(os.sched_getaffinity(0)) // processes))


def settled(params: Params, file: Path, choose: Callable[[int], int] = chosen) -> Params:
    """The parameters with a number in place of `compute.threads: auto`: the one that `file` keeps, else the fastest."""
    if not _is_open(params):
        return params
    number = _kept(file)
    if number is None:
        shared = params.values.get("parallel")
        processes = shared.get("processes") if is_mapping(shared) else None
        number = choose(processes if isinstance(processes, int) and processes > 0 else 1)
    compute = params.values["compute"]
    return Params({**params.values, "compute": {**compute, "threads": number}}, params.path)


def keep(told: Params, params: Params, file: Path) -> Params:
    """`params`, which `settled` made of `told`, with the number that `file` keeps from now on.

    So all processes of a piece of work have the same one, and so has the work that goes on another day. Of two
    processes that keep one at the same time, the first decides.
    """
    if not _is_open(told):
        return params
    if _kept(file) is None:
        # What cannot be read is as good as nothing.
        with suppress(FileNotFoundError):
            file.unlink()
        with beginning(file) as open_file:
            open_file.write(f'{{"threads": {params.values["compute"]["threads"]}}}\n'.encode())
    return settled(told, file, lambda _: params.values["compute"]["threads"])


def forget(file: Path) -> None:
    """The work is over, so that the next one chooses anew."""
    file.unlink(missing_ok=True)


def _is_open(params: Params) -> bool:
    compute = params.values.get("compute")
    return is_mapping(compute) and compute.get("threads") == AUTO


def _kept(file: Path) -> int | None:
    """The number that is kept; None where there is none."""
    number = read_state(file).get("threads")
    return number if is_count(number, MOST_THREADS) else None


def warning(threads: int, measure: Measure = seconds_with) -> str:
    """One line where so many threads are much slower than one, because the cores are busy; else nothing."""
    if threads == 1 or not _busy(threads):
        return ""
    slower = measure(threads) / measure(1)
    if slower < SLOWER:
        return ""
    return (
        f"compute.threads: {threads} threads take {slower:.1f} times as long as 1 on these busy cores; numbers "
        f"depend on it, so it stays {threads} (compute.threads=auto chooses when a stage begins)"
    )


def _busy(threads: int) -> bool:
    """Whether others leave fewer cores than that, on average of the last minute."""
    return os.getloadavg()[0] + threads > len(os.sched_getaffinity(0)) + 0.5
