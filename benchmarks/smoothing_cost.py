"""What ConvergeSmooth adds to an epoch of FGSM-RS: processor seconds and passes, each form and each source of L.

    python benchmarks/smoothing_cost.py --data FOLDER

FOLDER holds Fashion-MNIST in torchvision's layout; without it the images are synthetic. One thread, the small CNN,
batches of 128, bfloat16 where the processor has it. Every entrant trains a network of its own; they take turns step by
step, so that what else the machine does meets all alike. Overhead is an epoch's processor time over that of plain
FGSM-RS in the same round. The first rounds, in which the terms are off, are not counted.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.attack_clock import machine, spread  # noqa: E402
from components.data.augmentation import Augmentation  # noqa: E402
from components.data.loader import Loader  # noqa: E402
from components.data.normalization import fit_normalization  # noqa: E402
from components.data.splits import LabelledImages  # noqa: E402
from components.datasets.fashion_mnist import FashionMnist  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import Ratio  # noqa: E402
from components.methods.fgsm_rs import FgsmRs  # noqa: E402
from components.methods.parts.contract import Method  # noqa: E402
from components.models.parts.batch_norm import BatchNorm  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.compute import resolved, training_arithmetic  # noqa: E402
from components.numerics.cost import PassCounter  # noqa: E402
from components.schedules.constant import Constant  # noqa: E402
from components.threats.linf import Linf  # noqa: E402
from components.threats.parts.threat import Threat  # noqa: E402
from components.wrappers.converge_smooth import Smoothing  # noqa: E402

THREAT = Threat(norm=Linf(), epsilon=Ratio(16, 255))
WARM_UP = 2
RATE = 0.02
# The faster one of this processor.
PRECISION = resolved("auto", torch.device("cpu"))


class Entrant(NamedTuple):
    """A setting of ConvergeSmooth: the weights are w1, w2 and w3."""

    form: Literal["batch", "example"]
    clean: Literal["start", "pass"]
    strides: tuple[float, float]
    weights: tuple[float, float, float]


# The strides of the paper for CIFAR-10; and none at all, which opens every gate: the most that smoothing can cost.
PAPER, NONE = (0.02, 0.03), (0.0, 0.0)
# The clean term, as in the paper's code; and the adversarial one with weight centralisation, as in studies/smooth.
CLEAN, ADVERSARIAL = (0.0, 1.0, 0.0), (1.0, 0.0, 0.1)
ENTRANTS = {
    "batch-start": Entrant("batch", "start", PAPER, CLEAN),
    "batch-start-open": Entrant("batch", "start", NONE, CLEAN),
    "batch-study": Entrant("batch", "start", (0.075, 0.11), ADVERSARIAL),
    "batch-pass": Entrant("batch", "pass", PAPER, CLEAN),
    "example-start": Entrant("example", "start", PAPER, CLEAN),
    "example-study": Entrant("example", "start", (0.6, 0.9), ADVERSARIAL),
    "example-pass": Entrant("example", "pass", PAPER, CLEAN),
}


class Training:
    """A network in training by a method: processor seconds, open gates and passes an image, for each epoch."""

    def __init__(self, method: Method, train: LabelledImages) -> None:
        torch.manual_seed(0)
        built = SmallCnn(width=1.0, batch_norm=BatchNorm(estimator="running", momentum=0.1))
        model = built.build(10, (1, 28, 28), fit_normalization(train.images, "standardize"))
        self.model = model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.method = method
        self.optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
        augmentation = Augmentation(crop=2, flip=True, cutmix=0.0, rand_augment=None)
        self.loader = Loader(train.images, train.labels, 128, augmentation, num_classes=10)
        self.rng, self.counter = torch.Generator().manual_seed(0), PassCounter(model)
        self.epochs: list[dict[str, float]] = []

    def epoch(self, number: int) -> Iterator[None]:
        """An epoch that pauses after each step."""
        seen: dict[str, list[float]] = {"cpu_seconds": [], "open": []}
        began = time.process_time()
        self.method.begin_epoch(number)
        for batch in self.loader.epoch(number, self.rng):
            with training_arithmetic(batch.images.device, PRECISION):
                loss = self.method.loss(self.model, batch, THREAT, self.rng)
            self.optimizer.zero_grad()
            loss.total.backward()
            self.optimizer.step()
            seen["cpu_seconds"].append(time.process_time() - began)
            seen["open"].append(sum(float(loss.parts.get(f"smooth_{side}", 0)) for side in ("above", "below")))
            yield
            began = time.process_time()
        self.method.end_epoch(self.model)
        seconds = sum(seen["cpu_seconds"]) + time.process_time() - began
        passes = {name: count / len(self.loader.images) for name, count in self.counter.take().items()}
        self.epochs.append({"cpu_seconds": seconds, "open": statistics.fmean(seen["open"])} | passes)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    images, source = training_images(args.data, args.images)
    trainings = {"fgsm_rs": Training(fgsm_rs(), images)}
    for name, entrant in ENTRANTS.items():
        trainings[name] = Training(smoothing(entrant).build(fgsm_rs(), Constant(), 100), images)
    for number in range(args.rounds + WARM_UP):
        take_turns([training.epoch(number) for training in trainings.values()])
    rows = {name: row(one.epochs[WARM_UP:], trainings["fgsm_rs"].epochs[WARM_UP:]) for name, one in trainings.items()}
    setting = {"precision": PRECISION, "data": source, "images": len(images), "batch_size": 128}
    for name, entrant in ENTRANTS.items():
        rows[name]["setting"] = entrant._asdict()
    result = {"machine": machine(["torch"])} | setting | {"rounds": args.rounds, "entrants": rows}
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, one in rows.items():
        print(
            f"{name:18} {statistics.median(one['cpu_seconds']):6.2f} s  {one['overhead']['median']:+6.1%} "
            f"({one['overhead']['min']:+.1%} to {one['overhead']['max']:+.1%})  open {one['open']:4.0%}  passes an "
            f"image {one['forward']:.2f} forward, {one['backward']:.2f} back"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with downloaded data sets")
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "smoothing_cost.json")
    return parser.parse_args(arguments)


def training_images(data: Path | None, num: int) -> tuple[LabelledImages, str]:
    """The images all entrants train on, and what they are."""
    if data is not None:
        return FashionMnist().load(data).train.take(torch.arange(num)), "Fashion-MNIST"
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (num,), generator=rng)
    patterns = torch.rand(10, 1, 28, 28, generator=rng)[labels]
    noise = torch.rand(num, 1, 28, 28, generator=rng)
    return LabelledImages(((0.3 * patterns + 0.7 * noise) * 255).to(torch.uint8), labels), "synthetic, 1x28x28"


def fgsm_rs() -> Method:
    return FgsmRs(step_size=Ratio(20, 255), noise=Ratio(1), label_smoothing=0.0, batch_norm="train").build()


def smoothing(entrant: Entrant) -> Smoothing:
    adversarial, clean, centralisation = entrant.weights
    return Smoothing(
        form=entrant.form,
        weight_adversarial=adversarial,
        weight_clean=clean,
        stride_min=entrant.strides[0],
        stride_max=entrant.strides[1],
        weight_centralisation=centralisation,
        centre_epochs=5,
        clean=entrant.clean,
        loss="smoothed",
        distance="absolute",
        warm_up=WARM_UP,
        guard=1,
    )


def take_turns(epochs: list[Iterator[None]]) -> None:
    """One step of each in turn until all have ended, each turn beginning with another one."""
    while epochs:
        epochs = [epoch for epoch in epochs if next(epoch, epoch) is None]
        epochs = epochs[1:] + epochs[:1]


def row(own: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    """An entrant's seconds, its overhead, and the means of the rest, over the rounds that count."""
    overhead = [one["cpu_seconds"] / other["cpu_seconds"] - 1 for one, other in zip(own, base, strict=True)]
    means = {name: statistics.fmean(one[name] for one in own) for name in ("open", "forward", "backward")}
    return {"cpu_seconds": [one["cpu_seconds"] for one in own], "overhead": spread(overhead)} | means


if __name__ == "__main__":
    main()
