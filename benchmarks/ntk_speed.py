"""How fast the trace and the full tangent kernel of ResNet-18 are, and what memory they take, against the peers.

    python benchmarks/ntk_speed.py --rounds 3

One thread, float32, random weights and images of 3x32x32, ten logits, batch norm frozen. Every lap is a process of its
own, so that its peak of memory is its own; the entrants take turns, each round begins with another one. The processor's
seconds are counted after a first call with two images. A peer that does not import or does not fit is skipped and said
so. The last column is the share of the bound: multiply-adds that the method cannot avoid, at the rate of this
processor's float32 matrix product.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call, jacrev, vmap  # noqa: E402

from benchmarks.attack_clock import machine, matrix_product, spread  # noqa: E402
from components.data.normalization import Normalization  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.models.parts.batch_norm import BatchNorm  # noqa: E402
from components.models.resnet18 import ResNet18  # noqa: E402
from components.ntk.differentiation import differentiable  # noqa: E402
from components.ntk.grams import CHUNK, Effort, pairs_are_cheaper  # noqa: E402
from components.ntk.kernels import tangent_kernels, trace_kernel  # noqa: E402
from components.ntk.parameter_uses import survey  # noqa: E402

NUM_LOGITS, KINDS, DIRECTIONS = 10, ("trace", "full"), 4
BASE = "temper"
PEER = ROOT / "benchmarks" / "ntk_neural_tangents.py"
GIB, NOTHING = 2**30, Normalization(method="none", offset=(0.0,) * 3, scale=(1.0,) * 3)


def network(width: float) -> nn.Module:
    """Random weights; running statistics as after some training, so that no layer is the identity."""
    torch.manual_seed(0)
    batch_norm = BatchNorm(estimator="running", momentum=0.1)
    model = ResNet18(width=width, batch_norm=batch_norm).build(NUM_LOGITS, (3, 32, 32), NOTHING).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2)
    return model


def images_of(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def temper(model: nn.Module, images: Tensor, kind: str) -> Tensor:
    return (
        trace_kernel(model, images, "exact", 0) if kind == "trace" else tangent_kernels(model, images, {"full"})["full"]
    )


def four_directions(model: nn.Module, images: Tensor, kind: str) -> Tensor:
    return trace_kernel(model, images, DIRECTIONS, 0)


def one_direction(model: nn.Module, images: Tensor, kind: str) -> Tensor:
    """The sum of the logits: what a kernel of one direction costs."""
    return tangent_kernels(model, images, {"pseudo"})["pseudo"]


def torch_func(model: nn.Module, images: Tensor, kind: str) -> Tensor:
    """The contraction of whole Jacobians, as PyTorch's tutorial on tangent kernels has it."""
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def logits(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, values, (image[None],))[0]

    jacobian = vmap(jacrev(logits), (None, 0))(parameters, images)
    equation = "icp,jcp->ij" if kind == "trace" else "icp,jdp->icjd"
    parts = [each.flatten(2) for each in jacobian.values()]
    return torch.stack([torch.einsum(equation, each, each) for each in parts]).sum(0)


def nngeometry(model: nn.Module, images: Tensor, kind: str) -> Tensor:
    from nngeometry.gram import GramMatrix  # pyright: ignore[reportMissingImports]

    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    loader = torch.utils.data.DataLoader(data, batch_size=len(images))
    full = GramMatrix(model, loader, function=lambda *batch: model(batch[0])).to_torch().permute(1, 0, 3, 2)
    return full.diagonal(dim1=1, dim2=3).sum(2) if kind == "trace" else full


ENTRANTS: dict[str, Callable[[nn.Module, Tensor, str], Tensor]] = {
    BASE: temper,
    "temper-4-directions": four_directions,
    "temper-1-direction": one_direction,
    "torch.func": torch_func,
    "nngeometry": nngeometry,
}
# Estimates of the trace kernel have no full one.
TRACE_ONLY = ("temper-4-directions", "temper-1-direction")
OUTSIDE = "neural-tangents"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    if args.lap:
        name, kind, size = args.lap
        print(json.dumps(lap(name, kind, int(size), args.width, args.memory)))
        return
    rate = matrix_product(0, torch.float32)
    result: dict[str, Any] = {"machine": machine(["torch"]), "width": args.width, "gflops": rate, "rows": []}
    weights = args.out.with_suffix(".npz")
    for size in args.n:
        for kind in args.kinds:
            names = [name for name in args.only if kind == "trace" or name not in TRACE_ONLY]
            laps: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            save_for_peer(weights, network(args.width), images_of(size))
            for number in range(args.rounds):
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    # What failed once fails again.
                    if not laps[name] or "error" not in laps[name][0]:
                        laps[name].append(started(name, kind, size, weights, args))
            bound = least_work(args.width, size, kind) / rate / 1e9
            result["rows"] += told(laps, kind, size, bound)
    weights.unlink(missing_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 128], help="numbers of images")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", choices=[*ENTRANTS, OUTSIDE], default=[*ENTRANTS, OUTSIDE])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=float, default=1.0, help="of the network; less than 1 to try the script")
    parser.add_argument("--memory", type=float, default=20.0, help="GiB that an entrant may take")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has neural-tangents")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ntk_speed.json")
    parser.add_argument("--lap", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def started(name: str, kind: str, size: int, weights: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One lap in a process of its own: cpu and wall seconds, MiB beyond the start, trace and norm; or the error."""
    if name == OUTSIDE:
        command = [args.peer_python, str(PEER), str(weights), kind, str(args.memory)]
    else:
        command = [sys.executable, __file__, "--lap", name, kind, str(size), "--width", str(args.width)]
        command += ["--memory", str(args.memory)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | ONE_THREAD)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        return {"error": last}
    return json.loads(lines[-1])


def lap(name: str, kind: str, size: int, width: float, memory: float) -> dict[str, Any]:
    """What `started` gives, in this process."""
    model, images = network(width), images_of(size)
    entrant = ENTRANTS[name]
    needed = sum(each.numel() for each in model.parameters()) * size * NUM_LOGITS * 4 / GIB
    if entrant is torch_func and needed > memory:
        return {"error": f"does not fit: its Jacobian alone is {needed:.1f} GiB"}
    try:
        entrant(model, images[:2], kind)
    except ImportError as error:
        return {"error": f"not installed: {error}"}
    limit = int(memory * GIB) + resident()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before, cpu, wall = resident(), time.process_time(), time.perf_counter()
    try:
        kernel = entrant(model, images, kind).double()
    except (MemoryError, RuntimeError) as error:
        return {"error": f"does not fit: {str(error).splitlines()[0][:80]}"}
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trace = kernel.diagonal().sum() if kind == "trace" else kernel.reshape(size * NUM_LOGITS, -1).trace()
    return {
        "cpu": cpu,
        "wall": wall,
        "mib": max(0, peak - before) / 2**20,
        "trace": float(trace),
        "norm": float(kernel.norm()),
    }


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def save_for_peer(path: Path, model: nn.Module, images: Tensor) -> None:
    """Weights, running statistics and images by name, for a process without torch."""
    arrays = {name: each.detach().numpy() for name, each in model.state_dict().items()}
    np.savez(path, images=images.numpy(), **{f"model.{name}": each for name, each in arrays.items()})


def least_work(width: float, size: int, kind: str) -> float:
    """Operations that layer-wise derivatives cannot avoid: a multiply-add is two, a symmetric product counts half.

    One pass forward, one pass back to the layers' outputs for each logit, and the cheaper form of every layer.
    """
    model, together = network(width), NUM_LOGITS if kind == "full" else 1
    with differentiable(model, images_of(2)):
        sizes = survey(model, images_of(size)).sizes
    total, effort = 0.0, Effort(NUM_LOGITS, together, CHUNK)
    for each in sizes:
        num_out, num_in, _ = each.weight
        total += (1 + NUM_LOGITS) * size * each.pixels * num_out * num_in
        if pairs_are_cheaper(size, each.pixels, each.weight, each.groups, effort):
            products = NUM_LOGITS * (together + 1) / 2
            total += (size * each.pixels) ** 2 * (num_in + products * num_out) / 2
        else:
            total += NUM_LOGITS * num_out * num_in * size * (each.pixels + together * size / 2)
    return 2 * total


def told(laps: dict[str, list[dict[str, Any]]], kind: str, size: int, bound: float) -> list[dict[str, Any]]:
    """Prints a line for each entrant and gives it as a row."""
    rows = []
    own = [each for each in laps.get(BASE, []) if "error" not in each]
    for name, each in laps.items():
        row: dict[str, Any] = {"entrant": name, "kind": kind, "images": size, "laps": each}
        rows.append(row)
        start = f"{kind:5} n = {size:<4} {name:20}"
        if "error" in each[0]:
            print(f"{start} {each[0]['error']}")
            continue
        row["cpu_seconds"] = spread([one["cpu"] for one in each])
        row["mib"] = spread([one["mib"] for one in each])
        line = f"{start} {row['cpu_seconds']['median']:9.2f} s {row['mib']['median']:9.0f} MiB"
        if own and name != BASE:
            row["ratio"] = spread([one["cpu"] / base["cpu"] for one, base in zip(each, own, strict=False)])
            row["norm_difference"] = each[0]["norm"] / own[0]["norm"] - 1
            line += f"  {row['ratio']['median']:.2f} times {BASE}, norm {row['norm_difference']:+.1e}"
        elif name == BASE:
            row["share_of_bound"] = bound / row["cpu_seconds"]["median"]
            line += f"  {row['share_of_bound']:.0%} of the bound"
        print(line, flush=True)
    return rows


if __name__ == "__main__":
    main()
