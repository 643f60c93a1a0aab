"""How fast PGD-10 and FGSM-RS training of ResNet-18 is on this device, against the published loop and its own limits.

    python -m benchmarks.gpu.step_speed --work FOLDER --out FILE

Entrants alternate in rounds, each trains a few steps of its own network, and each ratio is taken within a round. Times
are of the clock, after the device has finished. `temper` captures its steps where there is a GPU, `eager` does not, and
`compiled` is `eager` with a network that torch.compile has made; one that cannot start is a row with the reason. Ours
run as a training stage does, deterministic and without TF32; `plain`, the published loop, as torch comes. The limits
are the rates of bfloat16 matrix products and of the network's own 3x3 convolutions.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks import attack_clock as clock
from benchmarks import attack_networks as networks
from benchmarks import train_entrants as entrants
from benchmarks.gpu.place import DONE, Aim, parser, write_result
from components.data.normalization import Normalization
from components.data.splits import LabelledImages
from components.models.parts.batch_norm import BatchNorm
from components.models.resnet18 import ResNet18
from components.numerics.compute import Compute

OWN = "temper"


class Size(NamedTuple):
    """What is timed: batch sizes, steps in a lap, rounds, the network's width, the side of the matrices."""

    batches: tuple[int, ...]
    steps: int
    rounds: int
    width: float
    side: int


FULL, TOY = Size((128, 1024), 20, 5, 1.0, 8192), Size((8,), 2, 2, 0.125, 64)
CIFAR = 50_000


def main() -> int:
    args = parser(__doc__).parse_args()
    # As a training stage begins: deterministic.
    device, size = Compute(device="auto", threads="auto", deterministic=True).prepare(), TOY if args.toy else FULL
    rates = {"matrix_product": matrix_product(device, size), "convolutions": convolutions(device, size)}
    found: dict[str, Any] = {"limits_tflop_per_s": rates, "parts": {}}
    lines = []
    for method in ("pgd_at", "fgsm_rs"):
        for batch_size in size.batches:
            part = timed(method, batch_size, device, size, rates["convolutions"])
            found["parts"][f"{method}/{batch_size}"] = part
            lines.append(told(f"{method} {batch_size}", part))
            print(lines[-1], flush=True)
    write_result(args.out, "; ".join(lines), toy=args.toy, aims=[] if args.toy else aims(found["parts"]), **found)
    return DONE


def told(name: str, part: dict[str, Any]) -> str:
    """The part in a few words."""
    seconds, ratio = part["entrants"][OWN]["epoch_seconds"], part["ratios"]["plain"]["median"]
    line = f"{name}: epoch {seconds:.1f} s, {ratio:.1f} x the published loop"
    return line + " (NOT captured)" * bool(part["not_captured"])


def aims(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """An epoch of PGD-10 training at batch 128 in at most 4 s, and so 30 epochs in 2.5 minutes."""
    seconds = parts["pgd_at/128"]["entrants"][OWN]["epoch_seconds"]
    found = [Aim("seconds of a PGD-10 epoch", 4.0, seconds, at_most=True)]
    return [one.told() for one in (*found, Aim("minutes of 30 epochs", 2.5, seconds / 2, at_most=True))]


def timed(method: entrants.Name, batch_size: int, device: torch.device, size: Size, limit: float) -> dict[str, Any]:
    """A few steps by every entrant in every round."""
    num = batch_size * size.steps
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, 32, 32), generator=rng, dtype=torch.uint8).to(device)
    few = LabelledImages(images, torch.randint(0, 10, (num,), generator=rng).to(device))
    model = _network(size)
    case = entrants.Case(model.to(device), few, method, batch_size, 1000, 0.05, 0)
    reasons = list[str]()
    # At toy size without what takes a minute, the generation of code.
    backend = "eager" if size is TOY else "inductor"
    makers: dict[str, Callable[[], entrants.Trained]] = {
        OWN: lambda: entrants.temper(case, "auto", reasons.append),
        "eager": lambda: entrants.temper(case),
        "compiled": lambda: entrants.temper(case._replace(model=_compiled(case.model, backend))),
        "plain": lambda: _plain(case),
    }
    ready, refused, peaks = started(makers, device)
    flop = 2 * networks.multiply_adds(model.cpu().eval(), (3, 32, 32))
    finishing = {name: _until_finished(one.epoch, device) for name, one in ready.items()}
    # Passes there and back: each step of the attack and the training step; weight gradients count as one more.
    passes = 2 * (entrants.PGD_STEPS if method == "pgd_at" else 1) + 3
    # The first round does what only a first call does.
    raced = clock.race(finishing, size.rounds + 1)
    counted = {name: [lap.wall for lap in laps[1:]] for name, laps in raced.items()}
    rows = {}
    for name, one in counted.items():
        median = statistics.median(one)
        speed = flop * passes * num / median / 1e12
        rows[name] = {
            "seconds": one,
            "images_per_second": num / median,
            "epoch_seconds": CIFAR * median / num,
            "tflop_per_s": speed,
            "share_of_convolutions": speed / limit,
        }
    ratios = {
        name: clock.spread([its / own for its, own in zip(one, counted[OWN], strict=True)])
        for name, one in counted.items()
        if name != OWN
    }
    rows |= {name: {"refused": reason} for name, reason in refused.items()}
    found = {"images": num, "batch_size": batch_size, "entrants": rows, "ratios": ratios, "peak_gib": peaks}
    return found | {"not_captured": reasons}


def started(
    makers: dict[str, Callable[[], entrants.Trained]], device: torch.device
) -> tuple[dict[str, entrants.Trained], dict[str, str], dict[str, float]]:
    """The entrants after a first epoch, why others could not start, and the GiB that each took at most until then."""
    ready, refused, peaks = dict[str, entrants.Trained](), dict[str, str](), dict[str, float]()
    for name, make in makers.items():
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            one = make()
            one.epoch(0)
        # A compiler fails in many ways, and the others are to be timed nevertheless.
        except Exception as error:
            if name == OWN:
                raise
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        ready[name] = one
        if device.type == "cuda":
            peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    return ready, refused, peaks


def _compiled(model: nn.Module, backend: str) -> nn.Module:
    return cast(nn.Module, torch.compile(model, backend=backend))


def _plain(case: entrants.Case) -> entrants.Trained:
    trained = entrants.plain(case)
    return trained._replace(epoch=as_torch_comes(trained.epoch))


def as_torch_comes(epoch: Callable[[int], Any]) -> Callable[[int], None]:
    """The epoch with what `Compute.prepare` has set put back to torch's defaults, as the published code leaves it."""

    def run(number: int) -> None:
        mode, tf32 = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.allow_tf32 = True
        try:
            epoch(number)
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.backends.cudnn.allow_tf32 = tf32

    return run


def _network(size: Size) -> nn.Module:
    torch.manual_seed(0)
    nothing = Normalization(method="none", offset=(0.0,) * 3, scale=(1.0,) * 3)
    return ResNet18(width=size.width, batch_norm=BatchNorm(estimator="running", momentum=0.1)).build(
        10, (3, 32, 32), nothing
    )


def matrix_product(device: torch.device, size: Size) -> float:
    """TFLOP/s of the product of two square bfloat16 matrices."""
    left, right = torch.randn(2, size.side, size.side, device=device).bfloat16()
    return 2 * size.side**3 / per_call(lambda: left @ right, device) / 1e12


def convolutions(device: torch.device, size: Size) -> float:
    """TFLOP/s of the 3x3 convolutions of ResNet-18's blocks, there and back, bfloat16, channels last."""
    work = took = 0.0
    batch_size = max(size.batches)
    for count, channels_in, channels_out, side, stride in clock.BLOCKS:
        inside, outside = (max(1, round(size.width * channels)) for channels in (channels_in, channels_out))
        layer = nn.Conv2d(inside, outside, 3, stride, 1, bias=False, dtype=torch.bfloat16, device=device)
        layer.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        images = torch.randn(batch_size, inside, side, side, dtype=torch.bfloat16, device=device)
        leaf = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(layer(leaf))

        def there_and_back(leaf: Tensor = leaf, layer: nn.Module = layer, gradient: Tensor = gradient) -> None:
            torch.autograd.grad(layer(leaf), leaf, gradient)

        took += count * per_call(there_and_back, device)
        work += count * 4 * gradient.numel() * inside * 9
    return work / took / 1e12


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of the clock, until the device has finished."""
    _finish(device)
    began = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - began


def per_call(call: Callable[[], Any], device: torch.device, least: float = 0.2) -> float:
    """Seconds of one call, from as many as take `least` seconds."""
    call()
    calls = max(1, int(least / max(seconds(call, device), 1e-6)))
    return seconds(lambda: [call() for _ in range(calls)], device) / calls


def _until_finished(epoch: Callable[[int], Any], device: torch.device) -> Callable[[int], None]:
    """The epoch, which is over when the device has finished."""

    def run(number: int) -> None:
        epoch(number)
        _finish(device)

    return run


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    raise SystemExit(main())
