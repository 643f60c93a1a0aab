"""What a student's step would save if the clean teacher's answers were kept: processor time of both, in turns.

    python benchmarks/teacher_cache.py

The student's section of the preset digits, by B-MTARD, on random images: its method, batch size and networks, with
random weights, since weights cost no time. Every round takes some steps as they are, and some in which the clean
teacher's pass is a look-up by `batch.indices`. That is possible only where augmentation leaves images as they are, as
on digits. `wider` has teachers of four times the student's width. One thread.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.attack_clock import Entrant, machine, race, spread  # noqa: E402
from components.data.batch import Batch  # noqa: E402
from components.data.normalization import Normalization  # noqa: E402
from components.distillation import DISTILLATIONS  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import Params  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.compute import Precision, channels_last, resolved, training_arithmetic  # noqa: E402
from components.stages.distill_student import OWN_KEYS, STAGE  # noqa: E402
from components.stages.training_stage import Settings, read_settings  # noqa: E402
from pipelines.parameters.presets import preset_values  # noqa: E402

PRESET, SHAPE, NUM_CLASSES, WIDER = "digits", (1, 8, 8), 10, 4
IMAGES = 1259
PRECISIONS = tuple(dict.fromkeys(("float32", resolved("auto", torch.device("cpu")))))


class LookUp(nn.Module):
    """A teacher's answers to the images of the batch that is at work, kept in float32."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        # A method looks for its networks by their parameters.
        self.mark = nn.Parameter(torch.zeros(1), requires_grad=False)
        with torch.no_grad():
            self.known = network(images)
        self.indices = torch.arange(0)

    def forward(self, images: Tensor) -> Tensor:
        return self.known[self.indices]


def entrant(settings: Settings, width: float, images: Tensor, kept: bool, precision: Precision, steps: int) -> Entrant:
    """Some steps of a student of its own; the round's number chooses the batches."""
    clean, robust = (network(settings, width, seed).eval().requires_grad_(False) for seed in (1, 2))
    clean = LookUp(clean, images) if kept else clean
    model = network(settings, 1, 0).train()
    method = settings.method.build(clean_teacher=clean, robust_teacher=robust).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rng, batch_size = torch.Generator().manual_seed(0), settings.section.recipe.batch_size

    def run(number: int) -> float:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))
        total = 0.0
        for chosen in [order[:batch_size].roll(step) for step in range(steps)]:
            if isinstance(clean, LookUp):
                clean.indices = chosen
            batch = Batch.of(images[chosen], chosen % NUM_CLASSES)
            with training_arithmetic(images.device, precision):
                loss = method.loss(model, batch, settings.threat, rng)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            total = float(loss.total.detach())
        return total

    return run


def network(settings: Settings, times: float, seed: int) -> nn.Module:
    """The student's network with random weights, of so many times its width."""
    torch.manual_seed(seed)
    model = cast(SmallCnn, settings.model)
    built = SmallCnn(width=model.width * times, batch_norm=model.batch_norm)
    return channels_last(built.build(NUM_CLASSES, SHAPE, Normalization(method="none", offset=(0.0,), scale=(1.0,))))


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    settings = read_settings(Params(preset_values(ROOT, PRESET)), STAGE, DISTILLATIONS, OWN_KEYS)
    images = torch.rand(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(0))
    result: dict[str, Any] = {"machine": machine(("torch",)), "rounds": args.rounds, "steps": args.steps, "parts": {}}
    for name, width in {"digits": 1.0, "wider": WIDER}.items():
        for precision in PRECISIONS:
            entrants = {
                kind: entrant(settings, width, images, kind == "kept", precision, args.steps)
                for kind in ("asked", "kept")
            }
            # The first round is not counted.
            laps = {kind: found[1:] for kind, found in race(entrants, args.rounds + 1).items()}
            saved = [1 - kept.cpu / asked.cpu for asked, kept in zip(laps["asked"], laps["kept"], strict=True)]
            step = {kind: spread([lap.cpu / args.steps for lap in found]) for kind, found in laps.items()}
            result["parts"][f"{name}/{precision}"] = {"saved": spread(saved), "cpu_seconds_a_step": step}
            print(
                f"{name}, {precision}: a step takes {step['asked']['median'] * 1000:.1f} ms, kept answers save "
                f"{statistics.median(saved):.1%} ({min(saved):.1%} to {max(saved):.1%}, {len(saved)} rounds)",
                flush=True,
            )
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {args.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="that count, after one that does not")
    parser.add_argument("--steps", type=int, default=20, help="of each entrant in a round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "teacher_cache.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
