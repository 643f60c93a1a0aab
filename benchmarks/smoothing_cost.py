"""What ConvergeSmooth adds to an epoch of FGSM-RS: processor seconds and passes, each form and each source of L.

    python benchmarks/smoothing_cost.py --data FOLDER

FOLDER holds Fashion-MNIST in torchvision's layout; without it the images are synthetic. One thread, bfloat16, the small
CNN, batches of 128. In each round every entrant trains one epoch of a network of its own; overhead is its processor
time over that of plain FGSM-RS in the same round. The first rounds, in which the terms are off, are not counted.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from attack_clock import Laps, counted, machine, race, spread  # noqa: E402

from components.batch_norm import BatchNorm  # noqa: E402
from components.compute import autocast  # noqa: E402
from components.contracts import EpochAware, EpochEnding, Method  # noqa: E402
from components.cost import PassCounter  # noqa: E402
from components.datasets.fashion_mnist import FashionMnist  # noqa: E402
from components.loader import Augmentation, Loader  # noqa: E402
from components.methods.fgsm_rs import FgsmRs  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.normalization import fit_normalization  # noqa: E402
from components.params import Ratio  # noqa: E402
from components.schedule import Constant  # noqa: E402
from components.smoothing import Smoothing  # noqa: E402
from components.splits import LabelledImages  # noqa: E402
from components.threat import Threat  # noqa: E402

THREAT = Threat(norm="linf", epsilon=Ratio(16, 255))
WARM_UP = 2
RATE = 0.02
# The paper's for CIFAR-10; and none at all, which opens every gate: the most that smoothing can cost.
STRIDES = {"": (0.02, 0.03), "-always": (0.0, 0.0)}
Epoch = Callable[[int], dict[str, float]]


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    images, source = training_images(args.data, args.images)
    entrants = {"fgsm_rs": epochs_of(plain(), images)}
    for form in ("batch", "example"):
        for clean in ("start", "pass"):
            for suffix, strides in STRIDES.items():
                method = smoothed(form, clean, strides).around(plain(), Constant(), args.rounds + WARM_UP)
                entrants[f"{form}-{clean}{suffix}"] = epochs_of(method, images)
    laps = race(entrants, args.rounds + WARM_UP)
    result = {
        "machine": machine(["torch"]),
        "data": source,
        "images": len(images),
        "rounds": args.rounds,
        "stride": STRIDES[""],
        "entrants": {name: row(laps, name) for name in entrants},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, one in result["entrants"].items():
        overhead = one["overhead"]
        print(
            f"{name:24} {statistics.median(one['cpu_seconds']):6.2f} s  {overhead['median']:+7.1%} "
            f"({overhead['min']:+.1%} to {overhead['max']:+.1%})  open {one['open']:4.0%}  passes an image "
            f"{one['forward']:.2f} forward, {one['backward']:.2f} back"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with downloaded data sets")
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "smoothing_cost.json")
    return parser.parse_args()


def training_images(data: Path | None, num: int) -> tuple[LabelledImages, str]:
    if data is not None:
        return FashionMnist().load(data).train.take(torch.arange(num)), "Fashion-MNIST"
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (num,), generator=rng)
    patterns = torch.rand(10, 1, 28, 28, generator=rng)[labels]
    noise = torch.rand(num, 1, 28, 28, generator=rng)
    return LabelledImages(((0.3 * patterns + 0.7 * noise) * 255).to(torch.uint8), labels), "synthetic, 1x28x28"


def plain() -> FgsmRs:
    return FgsmRs(step_size=Ratio(20, 255), noise=Ratio(1), label_smoothing=0.0, batch_norm="train")


def smoothed(form: Any, clean: Any, strides: tuple[float, float]) -> Smoothing:
    return Smoothing(
        form=form,
        weight_adversarial=0.0,
        weight_clean=1.0,
        stride_min=strides[0],
        stride_max=strides[1],
        weight_centralisation=0.0,
        centre_epochs=1,
        clean=clean,
        warm_up=WARM_UP,
        guard=1,
    )


def epochs_of(method: Method, train: LabelledImages) -> Epoch:
    """An entrant: the next epoch of a training of its own, which answers with its passes an image and open gates."""
    torch.manual_seed(0)
    built = SmallCnn(width=1.0, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    model = built.build(10, (1, 28, 28), fit_normalization(train.images, "standardize"))
    model = model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    augmentation = Augmentation(crop=2, flip=True, cutmix=0.0, rand_augment=None)
    loader = Loader(train.images, train.labels, 128, augmentation, num_classes=10)
    rng, counter = torch.Generator().manual_seed(0), PassCounter(model)

    def epoch(number: int) -> dict[str, float]:
        if isinstance(method, EpochAware):
            method.begin_epoch(number)
        opened = []
        for batch in loader.epoch(number, rng):
            with autocast(batch.images.device, "bfloat16"):
                loss = method.loss(model, batch, THREAT, rng)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            opened.append(sum(value for name, value in loss.parts.items() if name in ("smooth_above", "smooth_below")))
        if isinstance(method, EpochEnding):
            method.end_epoch(model)
        return {"open": float(sum(opened)) / len(opened)}

    def measured(number: int) -> dict[str, float]:
        answer, passes = counted(epoch, counter)(number)
        return answer | {name: count / len(train) for name, count in passes.items()}

    return measured


def row(laps: Laps, name: str) -> dict[str, Any]:
    """An entrant's seconds, overhead and means over the rounds that count."""
    own, base = laps[name][WARM_UP:], laps["fgsm_rs"][WARM_UP:]
    means = {key: statistics.fmean(lap.answer[key] for lap in own) for key in own[0].answer}
    overhead = spread([lap.cpu / other.cpu - 1 for lap, other in zip(own, base, strict=True)])
    return {"cpu_seconds": [lap.cpu for lap in own], "overhead": overhead} | means


if __name__ == "__main__":
    main()
