"""What the overfitting sentinel's looks cost beside the training they watch: processor seconds and passes.

    python benchmarks/sentinel_cost.py

One thread, synthetic images, precision `auto`. In each round every network trains a few batches by FGSM-RS and by
PGD-10, then looks with PGD-5 and with PGD-10. The cost of a looked-at image is in trained images: the sentinel's share
of an epoch is that times looks per epoch times images per look over the images of the training split.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.attack_clock import Laps, machine, race, spread  # noqa: E402
from benchmarks.sentinel_thresholds import BASE  # noqa: E402
from components.attacks.pgd import Pgd  # noqa: E402
from components.data.batch import Batch  # noqa: E402
from components.data.normalization import fit_normalization  # noqa: E402
from components.data.pixels import to_pixels  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import Ratio  # noqa: E402
from components.methods.fgsm_rs import FgsmRs  # noqa: E402
from components.methods.parts.contract import Method  # noqa: E402
from components.methods.pgd_at import PgdAt  # noqa: E402
from components.models.parts.batch_norm import BatchNorm  # noqa: E402
from components.models.resnet18 import ResNet18  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.compute import resolved, training_arithmetic  # noqa: E402
from components.numerics.cost import PassCounter  # noqa: E402
from components.threats.linf import Linf  # noqa: E402
from components.threats.parts.threat import Threat  # noqa: E402
from components.training.sentinel.probe import SentinelProbe  # noqa: E402
from components.training.sentinel.rules import Sentinel  # noqa: E402
from components.training.sentinel.watch import AFFORDABLE  # noqa: E402

THREAT = Threat(norm=Linf(), epsilon=Ratio(8, 255))
RUNNING = BatchNorm(estimator="running", momentum=0.1)
NETWORKS = {
    "small_cnn": (SmallCnn(width=1.0, batch_norm=RUNNING), (1, 28, 28)),
    "resnet18": (ResNet18(width=1.0, batch_norm=RUNNING), (3, 32, 32)),
}
PGD_10 = Pgd(steps=10, step_size=Ratio(2, 255), start="uniform", loss="cross_entropy", restarts=1)
METHODS: dict[str, Method] = {
    "fgsm_rs": FgsmRs(step_size=Ratio(10, 255), noise=Ratio(1), label_smoothing=0.0, batch_norm="train").build(),
    "pgd_at_10": PgdAt(attack=PGD_10, label_smoothing=0.0).build(),
}
LOOKS = {"look_pgd_5": 5, "look_pgd_10": 10}
# The training splits of Fashion-MNIST and of CIFAR-10, a tenth held out.
SPLITS = {"small_cnn": 54_000, "resnet18": 45_000}
Entrant = Callable[[int], dict[str, float]]


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": machine(["torch"]),
        "precision": resolved("auto", torch.device("cpu")),
        "images": args.images,
        "rounds": args.rounds,
        "networks": {},
    }
    for name in args.networks:
        laps = race(entrants(name, args.images), args.rounds + 1)
        result["networks"][name] = found = {method: costs(laps, method, SPLITS[name]) for method in METHODS}
        for method, looks in found.items():
            for look, one in looks.items():
                cost = one["trained_images_per_image"]
                print(
                    f"{name:10} {method:10} {look:12} an image costs {cost['median']:.2f} trained ones "
                    f"({cost['min']:.2f} to {cost['max']:.2f}), {one['in_passes']:.2f} by passes; "
                    f"{AFFORDABLE:.0%} of {SPLITS[name]} images: {one['affordable_per_epoch']} looked at per epoch"
                )
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=128, help="in each lap")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sentinel_cost.json")
    return parser.parse_args(arguments)


def entrants(network: str, num: int) -> dict[str, Entrant]:
    """Trainings and looks at as many images, each with a network of its own; the answers are passes."""
    recipe, shape = NETWORKS[network]
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, *shape), generator=rng, dtype=torch.uint8)
    labels = torch.arange(num) % 10

    def model() -> nn.Module:
        torch.manual_seed(0)
        built = recipe.build(10, shape, fit_normalization(images, "standardize")).train()
        return built.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    trainings = {name: training(method, model(), images, labels) for name, method in METHODS.items()}
    return trainings | {name: looking(steps, model(), images, labels) for name, steps in LOOKS.items()}


def training(method: Method, model: nn.Module, images: Tensor, labels: Tensor) -> Entrant:
    """Steps over all the images, 64 at a time."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    counter = PassCounter(model)

    def lap(seed: int) -> dict[str, float]:
        rng = torch.Generator().manual_seed(seed)
        for some, their in zip(images.split(64), labels.split(64), strict=True):
            with training_arithmetic(some.device, "auto"):
                loss = method.loss(model, Batch.of(to_pixels(some), their), THREAT, rng)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        return {"passes": sum(counter.take().values())}

    return lap


def looking(steps: int, model: nn.Module, images: Tensor, labels: Tensor) -> Entrant:
    """One look at all the images, 64 at a time."""
    probe = SentinelProbe(sentinel(len(images), steps), images, labels, THREAT, 64, "auto", seed=0)
    return lambda seed: {"passes": sum(probe.look(model, seed)[1].values())}


def sentinel(images: int, steps: int) -> Sentinel:
    """What looks at this many images; its rules never alarm, as nothing asks them."""
    return Sentinel(
        images=images,
        looks=1,
        steps=steps,
        step_size=Ratio(2, 255),
        alarm_on=(),
        action="note",
        changes=(),
        good=0.8,
        rules=BASE,
    )


def costs(laps: Laps, method: str, split: int) -> dict[str, Any]:
    """Of each look: what an image in it costs, in images trained by a method in the same round."""
    found = {}
    for look in LOOKS:
        pairs = list(zip(laps[look], laps[method], strict=True))[1:]  # The first round warms up.
        seconds = spread([one.cpu / other.cpu for one, other in pairs])
        found[look] = {
            "trained_images_per_image": seconds,
            "in_passes": pairs[0][0].answer["passes"] / pairs[0][1].answer["passes"],
            "affordable_per_epoch": int(AFFORDABLE * split / seconds["median"]),
        }
    return found


if __name__ == "__main__":
    main()
