"""Times Winograd's convolutions against direct ones, layer by layer of ResNet-18: which layers gain, and how much.

    python benchmarks/winograd_speed.py

Float32, channels last, one thread, processor seconds; the two alternate. Nothing else may run on the machine.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import attack_clock as clock  # noqa: E402
from components.numerics import winograd  # noqa: E402

# Channels on both sides, and the side of the map: the layers of stride 1 in ResNet-18's four stages.
LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
KINDS = ("results", "image_gradient", "weight_gradient")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "winograd_speed.json")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": clock.machine(("torch",)), "gains_here": winograd.gains_here(), "layers": []}
    print("times as fast as direct summing, median of the rounds (smallest to largest)")
    for channels, side in LAYERS:
        for batch_size in args.batch_sizes:
            found = measured(channels, side, batch_size, args.rounds)
            result["layers"].append({"channels": channels, "side": side, "batch_size": batch_size} | found)
            shown = (f"{kind} {found[kind]['median']:.2f} ({clock.between(found[kind])})" for kind in KINDS)
            print(f"{channels:4} channels, {side:2} x {side:<2}, batch {batch_size:3}:", *shown, sep="  ", flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {args.out}")
    return 0


def measured(channels: int, side: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """How many times as fast as directly, by kind; and what transforming the kernel takes, in passes of the layer."""
    direct, fast = entrants(channels, side, batch_size)
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "kernel")}
    for _ in range(rounds):
        for kind in KINDS:
            times[kind].append(clock.per_call(direct[kind]) / clock.per_call(fast[kind]))
        times["kernel"].append(clock.per_call(fast["kernel"]) / clock.per_call(direct["results"]))
    return {kind: clock.spread(values) for kind, values in times.items()}


Calls = dict[str, Callable[[], Any]]


def entrants(channels: int, side: int, batch_size: int) -> tuple[Calls, Calls]:
    """What computes each kind directly, and what does by Winograd's algorithm with the kernel transformed before."""
    torch.manual_seed(0)
    images, gradient = (channels_last(torch.randn(batch_size, channels, side, side)) for _ in range(2))
    weight = channels_last(torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5)
    kernel = winograd._kernel_tiles(weight)

    def back(*wanted: bool) -> Any:
        once = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution_backward(gradient, images, weight, None, *once, [*wanted, False])

    direct: Calls = {
        "results": lambda: torch.conv2d(images, weight, padding=1),
        "image_gradient": lambda: back(True, False),
        "weight_gradient": lambda: back(False, True),
    }
    fast: Calls = {
        "results": lambda: winograd._convolve(images, kernel),
        "image_gradient": lambda: winograd._convolve(gradient, kernel),
        "weight_gradient": lambda: winograd._weight_gradient(images, gradient),
        "kernel": lambda: winograd._kernel_tiles(weight),
    }
    return direct, fast


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    raise SystemExit(main())
