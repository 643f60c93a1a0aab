"""What the trace kernel of ResNet-18 costs: seconds and peak memory, exact and from four directions.

python -m benchmarks.gpu.kernel_cost --work FOLDER --out FILE
"""

import time
from typing import Any

import torch

from benchmarks.gpu.place import DONE, parser, write_result
from components.data.normalization import Normalization
from components.models.parts.batch_norm import BatchNorm
from components.models.resnet18 import ResNet18
from components.ntk.kernels import trace_kernel

SIZES, TOY_SIZES, TOY_WIDTH, DIRECTIONS = (256, 1024), (4, 8), 0.125, 4
NOTHING = Normalization(method="none", offset=(0.0,) * 3, scale=(1.0,) * 3)


def main() -> int:
    args = parser(__doc__).parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    architecture = ResNet18(
        width=TOY_WIDTH if args.toy else 1.0, batch_norm=BatchNorm(estimator="running", momentum=0.1)
    )
    model = architecture.build(10, (3, 32, 32), NOTHING).to(device).eval()
    rows: list[dict[str, Any]] = []
    for size in TOY_SIZES if args.toy else SIZES:
        images = torch.rand((size, 3, 32, 32), generator=torch.Generator().manual_seed(size)).to(device)
        for directions in (DIRECTIONS, "exact"):
            trace_kernel(model, images[:2], directions, 0)  # what only a first call does
            rows.append({"images": size, "directions": directions} | _cost(model, images, directions, device))
    line = ", ".join(f"n = {row['images']} {row['directions']} {row['seconds']:.2f} s" for row in rows)
    write_result(args.out, line, toy=args.toy, rows=rows)
    return DONE


def _cost(model: torch.nn.Module, images: torch.Tensor, directions: Any, device: torch.device) -> dict[str, Any]:
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    kernel = trace_kernel(model, images, directions, 0)
    seconds = time.perf_counter() - began  # the kernel is on the CPU, so nothing is still running
    memory = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
    return {"seconds": seconds, "peak_gib": memory, "trace": float(kernel.trace())}


if __name__ == "__main__":
    raise SystemExit(main())
