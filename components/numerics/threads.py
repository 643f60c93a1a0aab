"""How many CPU threads to compute with on a machine where others compute too.

On busy cores the threads of one operation wait for each other, and two take five to ten times as long as one. Sums of
floats depend on the number of threads. So it is never changed during a run, and whoever has it chosen is told.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch

from components.foundation.params import Params
from components.foundation.storage import beginning, read_json

AUTO = "auto"
KEPT = "threads.json"
# Below it the difference is not worth a line, and one measurement is no more exact.
SLOWER = 1.5
# More threads are taken where they save at least this share.
_WORTH = 0.05
# Long enough that a busy core's turns show: within one turn of the scheduler, two threads seem free.
_WINDOW = 0.1

Measure = Callable[[int], float]


def seconds_with(threads: int) -> float:
    """Seconds that a training step on small images takes with so many threads: the mean of as many as fit 0.1 s."""
    before = torch.get_num_threads()
    images, weight = torch.full((128, 8, 8, 8), 0.5), torch.full((16, 8, 3, 3), 0.1, requires_grad=True)
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
def chosen() -> int:
    """What was fastest when this process first asked."""
    return fastest()


def settled(params: Params, work: Path, measure: Measure = seconds_with) -> Params:
    """The parameters with a number in place of `compute.threads: auto`.

    It is chosen once and kept in the folder `work`, so that all stages and processes of a run, and a stage that goes on
    another day, have the same one.
    """
    compute = params.values.get("compute")
    if not isinstance(compute, dict) or compute.get("threads") != AUTO:
        return params
    kept = work / KEPT
    if not kept.exists():
        with beginning(kept) as file:
            file.write(f'{{"threads": {fastest(measure=measure)}}}\n'.encode())
    return Params({**params.values, "compute": {**compute, "threads": int(read_json(kept)["threads"])}}, params.path)


def unsettle(work: Path) -> None:
    """A run is over, so that the next one chooses anew."""
    (work / KEPT).unlink(missing_ok=True)


def warning(threads: int, measure: Measure = seconds_with) -> str:
    """One line where so many threads are much slower than one, because the cores are busy; else nothing."""
    if threads == 1 or not _busy(threads):
        return ""
    slower = measure(threads) / measure(1)
    if slower < SLOWER:
        return ""
    return (
        f"compute.threads: {threads} threads take {slower:.1f} times as long as 1 on these busy cores; numbers "
        f"depend on it, so it stays {threads} (compute.threads=auto chooses at the start of a run)"
    )


def _busy(threads: int) -> bool:
    """Whether others leave fewer cores than that, on average of the last minute."""
    return os.getloadavg()[0] + threads > len(os.sched_getaffinity(0)) + 0.5
