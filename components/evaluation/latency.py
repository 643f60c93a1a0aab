"""How long a model takes for an image: no function of the inputs, so it stands in files that nothing depends on."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from components.evaluation.document import Sha256
from components.foundation.errors import InputError
from components.foundation.storage import read_mapping, write_json
from components.statistics.documents import Document, as_json, document_of

FILE = "latency.json"
BATCHES = (1, 32)
# Of every size: so many batches at least, then until the time is over. What is large gets few.
FEWEST, SECONDS, WARM_UP = 5, 0.5, 3

Milliseconds = Annotated[float, Field(ge=0)]
Run = Callable[[Tensor], object]


class PerImage(Document):
    """Milliseconds for one image of a batch: the batch's time through its size."""

    median: Milliseconds
    """Of half of the batches, at most so much."""
    p95: Milliseconds
    """Of twenty batches, at most one takes longer."""
    batches: Annotated[int, Field(ge=1)]
    """How many were timed."""


class Latency(Document):
    """How long a model took, on which machine."""

    device: str
    """Where the network ran, `cpu` or `cuda`."""
    threads: Annotated[int, Field(ge=1)]
    """Of the CPU."""
    processor: str
    """Its name, that of the GPU before it."""
    by_batch: dict[str, PerImage]
    """Size of a batch to the time for one of its images."""


class TimedModel(Document):
    """A model file, its size and its times."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=1)]
    latency: Latency


def measured(
    run: Run,
    image_shape: Sequence[int],
    device: torch.device | str = "cpu",
    seconds: float = SECONDS,
    largest: int = max(BATCHES),
) -> Latency:
    """The time that `run` takes for batches of the sizes `BATCHES`, with as many CPU threads as torch has now.

    Args:
        run: takes float32 images [N, C, H, W] with pixels in [0, 1], on the device.
        image_shape: (C, H, W).
        device: where the images lie; a GPU is waited for.
        seconds: for each size, not counting the first batches, which only warm up.
        largest: sizes above this are left out.
    """
    place = torch.device(device)
    sizes = [size for size in BATCHES if size <= largest]
    images = torch.linspace(0, 1, max(sizes) * math.prod(image_shape)).view(-1, *image_shape).to(place)
    gpu = f"{torch.cuda.get_device_name()}, " if place.type == "cuda" else ""
    return Latency(
        device=place.type,
        threads=torch.get_num_threads(),
        processor=gpu + processor(),
        by_batch={str(size): _timed(run, images[:size], seconds) for size in sizes},
    )


@torch.inference_mode()
def timed_model(model: nn.Module, file: Path, digest: str, images: Tensor, largest: int) -> TimedModel:
    """The model of a file, which has this hash: its size, and the time that it takes without gradients.

    `images` [N, C, H, W] say the shape and the device; no batch has more than `largest`.
    """
    times = measured(model, images.shape[1:], images.device, largest=largest)
    return TimedModel(sha256=digest, bytes=file.stat().st_size, latency=times)


def _timed(run: Run, images: Tensor, seconds: float) -> PerImage:
    def once() -> float:
        began = time.perf_counter()
        run(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    end = time.perf_counter() + seconds
    for _ in range(WARM_UP):
        once()
        if time.perf_counter() > end:
            break
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        times.append(once())
    each = sorted(1000 * took / len(images) for took in times)
    # The smallest time that so large a share of all does not exceed.
    median, p95 = (each[math.ceil(share * len(each)) - 1] for share in (0.5, 0.95))
    return PerImage(median=_short(median), p95=_short(p95), batches=len(each))


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_times(path: Path, times: Mapping[str, TimedModel]) -> None:
    """Writes model name to its times."""
    write_json(path, {name: as_json(timed) for name, timed in times.items()})


def read_times(path: Path, hashes: Mapping[str, str]) -> dict[str, TimedModel]:
    """The times of the models whose files have these hashes; nothing where there is no such file, or another one."""
    found: dict[str, TimedModel] = {}
    with suppress(InputError):
        for name, value in read_mapping(path).items():
            timed = document_of(TimedModel, value, f"{path}: {name}")
            if hashes.get(name) == timed.sha256:
                found[name] = timed
    return found
