"""Times PGD-10, FGSM-RS and B-MTARD training against published loops, ART's trainers and the convolutions.

    python benchmarks/train_speed.py --data FOLDER
    python benchmarks/train_speed.py --only pgd_at/small_cnn --rounds 1 --images 64

One thread. Rounds alternate between the entrants, each trains an epoch of its own network, and each ratio is taken
within a round. `accuracy/...` trains to the end, over seeds, and attacks what came out. `benchmarks/README.md` says
what is needed. Nothing else may run on the machine.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import attack_clock as clock  # noqa: E402
from benchmarks import attack_networks as networks  # noqa: E402
from benchmarks import train_entrants as entrants  # noqa: E402
from components.attacks.pgd import Pgd  # noqa: E402
from components.data.pixels import to_pixels  # noqa: E402
from components.data.splits import LabelledImages  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import Ratio  # noqa: E402
from components.models.resnet18 import ResNet18  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.compute import resolved  # noqa: E402
from components.numerics.cost import PassCounter  # noqa: E402
from components.numerics.random_numbers import Noise  # noqa: E402
from components.statistics.intervals import spread  # noqa: E402
from components.training.validation import num_right  # noqa: E402

OWN, PUBLISHED = "temper", "plain"
PACKAGES = ("torch", "torchvision", "numpy", "adversarial-robustness-toolbox")
PRECISION = resolved("auto", torch.device("cpu"))
# The judge of every network that was trained to the end.
JUDGE = Pgd(steps=20, step_size=Ratio(2, 255), start="uniform", loss="cross_entropy", restarts=1)


class Part(NamedTuple):
    """What is timed: a method, a network, its batch size, and on how many images an epoch runs."""

    method: entrants.Name
    network: Callable[..., SmallCnn | ResNet18]
    batch_size: int
    images: int


TIMED = {
    "pgd_at/small_cnn": Part("pgd_at", SmallCnn, 128, 512),
    "pgd_at/small_cnn_256": Part("pgd_at", SmallCnn, 256, 512),
    "pgd_at/resnet18": Part("pgd_at", ResNet18, 32, 32),
    "b_mtard/resnet18": Part("b_mtard", ResNet18, 32, 32),
    "fgsm_rs/small_cnn": Part("fgsm_rs", SmallCnn, 128, 1024),
    "fgsm_rs/small_cnn_256": Part("fgsm_rs", SmallCnn, 256, 1024),
    "fgsm_rs/resnet18": Part("fgsm_rs", ResNet18, 32, 96),
}
# Trained to the end: how many epochs of how many images.
JUDGED: dict[str, tuple[entrants.Name, int]] = {"accuracy/pgd_at": ("pgd_at", 8), "accuracy/fgsm_rs": ("fgsm_rs", 15)}
TRAINED_ON, ATTACKED = 3000, 1000


def main(given: Sequence[str] | None = None) -> int:
    args = parse(given)
    torch.set_num_threads(1)
    train, test, source = networks._cifar(args.data)
    result: dict[str, Any] = {"machine": clock.machine(PACKAGES), "precision": PRECISION, "of": source, "parts": {}}
    for name in args.only:
        began = time.monotonic()
        print(f"\n{name}: {source}, {entrants.THREAT}, {PRECISION}", flush=True)
        if name in TIMED:
            found = timed(TIMED[name], train, args)
            show_times(found)
        else:
            found = judged(*JUDGED[name], train, test, args)
            show_accuracies(found)
        result["parts"][name] = found
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {args.out}")
    return 0


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*TIMED, *JUDGED]
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 (default: synthetic images of its shape)")
    parser.add_argument("--only", nargs="+", choices=parts, metavar="PART", default=parts, help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=5, help="that count, after one that does not")
    parser.add_argument("--images", type=int, help="in an epoch (default: by part)")
    parser.add_argument("--epochs", type=int, help="of a training to the end (default: by part)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings to the end")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "train_speed.json")
    return parser.parse_args(given)


def timed(part: Part, train: LabelledImages, args: argparse.Namespace) -> dict[str, Any]:
    """An epoch by every entrant in every round, and the machine's limits in the same rounds."""
    num = args.images or part.images
    few = train.take(torch.arange(num))
    teachers = teachers_of(few) if part.method == "b_mtard" else None
    case = entrants.Case(networks._build(part.network, few), few, part.method, part.batch_size, 1000, 0.05, 0, teachers)
    trained, missing = contestants(case)
    # At the heads, whose outputs are the logits as well: ART calls a model's layers past the model's own hooks.
    counter = PassCounter(*(list(one.model.children())[-1] for one in trained.values()))
    raced = {name: clock.counted(one.epoch, counter) for name, one in trained.items()}
    clock.race(raced, 1)  # what only a first call does
    dtype = torch.float32 if PRECISION == "float32" else torch.bfloat16
    limits = {
        "convolutions": partial(clock.convolutions, dtype=dtype),
        "matrix_product": partial(clock.matrix_product, dtype=dtype),
    }
    laps = clock.race(raced | limits, args.rounds)
    counter.close()
    rates = {name: [lap.answer for lap in laps.pop(name)] for name in limits}
    flop = 2 * networks.multiply_adds(case.model.eval(), tuple(few.images.shape[1:]))

    def row(name: str, one: list[clock.Lap]) -> dict[str, Any]:
        passes = one[0].answer[1]
        of_an_image = entrants.weight_gradients(name, part.method)
        weights = passes["backward"] if of_an_image is None else num * of_an_image
        speeds = [flop * (passes["forward"] + passes["backward"] + weights) / lap.cpu / 1e9 for lap in one]
        shares = [speed / rate for speed, rate in zip(speeds, rates["convolutions"], strict=True)]
        return clock.times(one) | {
            "images_per_cpu_second": num / statistics.median(lap.cpu for lap in one),
            "passes_per_image": {kind: count / num for kind, count in (passes | {"weights": weights}).items()},
            "gflop_per_s": clock.spread(speeds),
            "share_of_convolutions": clock.spread(shares),
        }

    return {
        "images": num,
        "batch_size": part.batch_size,
        "method": repr(entrants.method(part.method, teachers)),
        "gflop_per_forward_pass": flop / 1e9,
        "limits_gflop_per_s": {name: clock.spread(values) for name, values in rates.items()},
        "entrants": {name: row(name, one) for name, one in laps.items()},
        "ratios": clock.ratios(laps, OWN),
        "not_installed": missing,
    }


def teachers_of(images: LabelledImages) -> tuple[nn.Module, nn.Module]:
    """A small clean and a small robust teacher, frozen; untrained, since only their cost counts."""
    models = [networks._build(SmallCnn, images, seed).eval().requires_grad_(False) for seed in (1, 2)]
    return models[0], models[1]


def contestants(case: entrants.Case) -> tuple[dict[str, entrants.Trained], list[str]]:
    """Everyone who is installed, ready to train, and the names of the others."""
    ready, missing = {}, []
    for name, make in entrants.ENTRANTS.items():
        try:
            ready[name] = make(case)
        except ImportError as error:
            missing.append(name)
            print(f"{name}: not installed ({error})")
    return ready, missing


def judged(
    method: entrants.Name, epochs: int, train: LabelledImages, test: LabelledImages, args: argparse.Namespace
) -> dict[str, Any]:
    """Networks that both loops train to the end from the same weights, on the same batches, and what PGD-20 leaves."""
    few = train.take(torch.arange(args.images or TRAINED_ON))
    epochs = args.epochs or epochs
    rows: dict[str, dict[str, list[float]]] = {
        name: {"clean_accuracy": [], "robust_accuracy": [], "cpu_seconds": []} for name in (OWN, PUBLISHED)
    }
    for seed in args.seeds:
        model = networks._build(SmallCnn, few, seed)
        for name, row in rows.items():
            trained = entrants.ENTRANTS[name](entrants.Case(model, few, method, 128, epochs, 0.1, seed))
            began = time.process_time()
            for epoch in range(epochs):
                trained.epoch(epoch)
            row["cpu_seconds"].append(time.process_time() - began)
            for kind, value in accuracies(trained.model, test.take(torch.arange(ATTACKED))).items():
                row[kind].append(value)
    gains = {
        kind: [own - its for own, its in zip(rows[OWN][kind], rows[PUBLISHED][kind], strict=True)]
        for kind in ("clean_accuracy", "robust_accuracy")
    }
    return {
        "method": repr(entrants.method(method)),
        "trained_on": len(few.labels),
        "epochs": epochs,
        "seeds": args.seeds,
        "attack": repr(JUDGE),
        "attacked": min(ATTACKED, len(test.labels)),
        "entrants": rows,
        "ahead_by": {kind: spread(one)._asdict() for kind, one in gains.items() if len(one) > 1},
        "time_ratios": [
            its / own for own, its in zip(*(rows[n]["cpu_seconds"] for n in (OWN, PUBLISHED)), strict=True)
        ],
    }


def accuracies(model: nn.Module, test: LabelledImages) -> dict[str, float]:
    """On clean and on attacked images, in float32 and evaluation mode."""
    images, places = to_pixels(test.images), torch.arange(len(test.labels))
    images_adv = JUDGE(model, images, test.labels, entrants.THREAT, Noise(networks.SEED, places))
    return {
        "clean_accuracy": num_right(model, images, test.labels) / len(places),
        "robust_accuracy": num_right(model, images_adv, test.labels) / len(places),
    }


def show_times(found: Mapping[str, Any]) -> None:
    """The part as lines, each number at its median."""
    for name, row in found["entrants"].items():
        share, ratio = row["share_of_convolutions"], found["ratios"].get(name)
        print(
            f"{name:8} {statistics.median(row['cpu_seconds']):8.2f} CPU s {row['images_per_cpu_second']:8.1f} images/s"
            f" {row['gflop_per_s']['median']:6.0f} GFLOP/s, {share['median']:.0%} of the convolutions' rate"
            + (f", {OWN} is {ratio['median']:.2f} times as fast ({clock.between(ratio)})" if ratio else "")
        )
    for name, rate in found["limits_gflop_per_s"].items():
        print(f"limit, {PRECISION} {name}: {rate['median']:.0f} GFLOP/s ({rate['min']:.0f} to {rate['max']:.0f})")


def show_accuracies(found: Mapping[str, Any]) -> None:
    """Each seed's accuracies, and how far ours are ahead."""
    for name, row in found["entrants"].items():
        kinds = ("clean_accuracy", "robust_accuracy")
        print(f"{name:8}", *(f"{kind} {' '.join(f'{value:.1%}' for value in row[kind])}" for kind in kinds), sep="  ")
    for kind, ahead in found["ahead_by"].items():
        print(f"{OWN} ahead in {kind} by {ahead['mean']:+.1%} ({ahead['low']:+.1%} to {ahead['high']:+.1%})")
    print(f"{PUBLISHED} takes {statistics.median(found['time_ratios']):.2f} times the processor time")


if __name__ == "__main__":
    raise SystemExit(main())
