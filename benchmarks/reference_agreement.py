"""Whether APGD-CE, APGD-T, FAB-T, Square and the cascade say of each image what the reference says of it.

    python benchmarks/reference_agreement.py --images 1000 --reference-seeds 2

The reference is pyautoattack, the published AutoAttack as a package (test extra). Both attack the same small networks
on 8x8 digits at epsilon 0.2 in L∞, with the standard settings: one trained on clean images, one against PGD, one
against FGSM alone, each from two seeds. Every attack is run on every image; `cascade` is the worst case over the four.
Ours is run once, the reference once a seed; APGD-CE four times as often, and FAB-T, which draws nothing, once. CPU
seconds are of one thread; other work on the machine disturbs them.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from components.attacks.apgd import Apgd  # noqa: E402
from components.attacks.fab import Fab  # noqa: E402
from components.attacks.fgsm import Fgsm  # noqa: E402
from components.attacks.parts.attack import Attack  # noqa: E402
from components.attacks.pgd import Pgd  # noqa: E402
from components.attacks.square import Square  # noqa: E402
from components.data.normalization import fit_normalization  # noqa: E402
from components.datasets.digits import Digits  # noqa: E402
from components.foundation.params import Ratio  # noqa: E402
from components.models.parts.batch_norm import BatchNorm  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.cost import PassCounter  # noqa: E402
from components.numerics.losses import answers, cross_entropy  # noqa: E402
from components.numerics.random_numbers import Noise  # noqa: E402
from components.threats.l1 import L1  # noqa: E402
from components.threats.l2 import L2  # noqa: E402
from components.threats.linf import Linf  # noqa: E402
from components.threats.parts.norm import Norm  # noqa: E402
from components.threats.parts.threat import Threat  # noqa: E402

REFERENCE_NAMES: dict[type[Norm], Any] = {Linf: "Linf", L2: "L2", L1: "L1"}
LINF = Threat(norm=Linf(), epsilon=Ratio(1, 5))
Training = Literal["clean", "pgd", "fgsm"]
TRAINING: dict[Training, Attack | None] = {
    "clean": None,
    "pgd": Pgd(steps=5, step_size=Ratio(20, 255), start="uniform", loss="cross_entropy", restarts=1),
    "fgsm": Fgsm(),
}


class Budget(NamedTuple):
    """How long the attacks of both sides search; the default is the standard."""

    steps: int = 100
    targets: int = 9
    queries: int = 5000


class Digits8(NamedTuple):
    """Pixels in [0, 1] and labels, to train on and to attack."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Run(NamedTuple):
    """Whether each image was still right, bool [N], and what that cost."""

    right: Tensor
    seconds: float
    passes: dict[str, int]


class Agreement(NamedTuple):
    """One attack: our run, the reference's runs, one a seed."""

    ours: Run
    reference: list[Run]

    @property
    def accuracies(self) -> tuple[float, list[float]]:
        """Robust accuracy by ours, and by each seed of the reference."""
        return float(self.ours.right.float().mean()), [float(run.right.float().mean()) for run in self.reference]

    @property
    def excess(self) -> float:
        """By how much our robust accuracy is above the reference's weakest seed: above zero we are weaker than it."""
        ours, reference = self.accuracies
        return ours - max(reference)

    @property
    def spread(self) -> float:
        """How far the reference's seeds are apart."""
        return max(self.accuracies[1]) - min(self.accuracies[1])

    @property
    def disagreements(self) -> dict[str, list[int]]:
        """Images that only we fool, and that only the reference fools, whatever its seed."""
        right = torch.stack([run.right for run in self.reference])
        return {
            "only_ours_fools": (~self.ours.right & right.all(0)).nonzero().flatten().tolist(),
            "only_reference_fools": (self.ours.right & ~right.any(0)).nonzero().flatten().tolist(),
        }


def digits(num_test: int) -> Digits8:
    """The digits in an order of their own; the first `num_test` are attacked."""
    every = Digits().load(Path()).train
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    pixels, labels = every.images[order].float() / 255, every.labels[order]
    # The same images to train on, however many are attacked.
    return Digits8(train=(pixels[1000:], labels[1000:]), test=(pixels[:num_test], labels[:num_test]))


def train(training: Training, seed: int, data: Digits8, epochs: int) -> nn.Module:
    """The small network in evaluation mode, trained by SGD on the images as the attack of its training changes them."""
    torch.manual_seed(seed)
    images, labels = data.train
    normalization = fit_normalization((images * 255).round().to(torch.uint8), "standardize")
    architecture = SmallCnn(width=1.0, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    model, attack = architecture.build(10, (1, 8, 8), normalization), TRAINING[training]
    rng, batch = torch.Generator().manual_seed(seed), 64
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(images) // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=rng)[: len(images) // batch * batch].split(batch):
            given = images[chosen] if attack is None else attack(model, images[chosen], labels[chosen], LINF, rng)
            loss = cross_entropy(model.train()(given), labels[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return model.eval()


def ours(budget: Budget) -> dict[str, Attack]:
    """The standard four under the names that the reference gives them."""
    apgd: dict[str, Any] = {"steps": budget.steps, "restarts": 1, "rho": 0.75}
    return {
        "apgd-ce": Apgd(**apgd, loss="cross_entropy"),
        "apgd-t": Apgd(**apgd, loss="targeted_dlr", targets=budget.targets),
        "fab-t": Fab(steps=budget.steps, targets=budget.targets, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9),
        "square": Square(queries=budget.queries, p_init=0.8, restarts=1, loss="margin"),
    }


def reference(model: nn.Module, threat: Threat, budget: Budget, seed: int) -> dict[str, Callable[..., Tensor]]:
    """The reference's four as its class for the standard evaluation sets them up: images, labels -> images_adv."""
    from pyautoattack import AutoAttack

    norm = REFERENCE_NAMES[type(threat.norm)]
    four = AutoAttack(model, norm=norm, eps=threat.radius, seed=seed, version="standard", device="cpu")
    four.apgd.loss, four.fab.targeted = "ce", True
    for attack in (four.apgd, four.apgd_targeted, four.fab):
        attack.n_iter = budget.steps
    for attack in (four.apgd, four.apgd_targeted, four.fab, four.square):
        attack.seed = seed
    # In L1 the standard has restarts and fewer targets; both sides get the same instead.
    four.apgd.n_restarts = 1
    four.apgd_targeted.n_target_classes = four.fab.n_target_classes = budget.targets
    four.square.n_queries = budget.queries
    return {
        "apgd-ce": four.apgd.perturb,
        "apgd-t": four.apgd_targeted.perturb,
        "fab-t": four.fab.perturb,
        "square": four.square.perturb,
    }


def compare(
    model: nn.Module, test: tuple[Tensor, Tensor], threat: Threat, budget: Budget, reference_seeds: int
) -> dict[str, Agreement]:
    """Each of the four on every image, and `cascade`, the worst case over them, image by image."""
    everyone, found = torch.arange(len(test[1])), dict[str, Agreement]()
    # APGD-CE is one climb from one random point: the spread of a few seeds is often zero by chance, and more are cheap.
    # FAB-T with one restart draws no number: its seeds would be one and the same.
    num_seeds = {"apgd-ce": 4 * reference_seeds, "fab-t": 1}
    for name, attack in ours(budget).items():
        run = _timed(model, test, lambda *given, attack=attack: attack(model, *given, threat, Noise(0, everyone)))
        theirs = [
            _timed(model, test, reference(model, threat, budget, seed)[name])
            for seed in range(num_seeds.get(name, reference_seeds))
        ]
        found[name] = Agreement(run, theirs)
    four = list(found.values())
    by_seed = [[one.reference[seed % len(one.reference)] for one in four] for seed in range(reference_seeds)]
    found["cascade"] = Agreement(_worst([one.ours for one in four]), [_worst(runs) for runs in by_seed])
    return found


def _timed(model: nn.Module, test: tuple[Tensor, Tensor], craft: Callable[..., Tensor]) -> Run:
    counter, began = PassCounter(model), time.process_time()
    images_adv = craft(test[0].clone(), test[1].clone())
    seconds, passes = time.process_time() - began, counter.take()
    counter.close()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        return Run(answers(model(images_adv)) == test[1], seconds, passes)


def _worst(runs: list[Run]) -> Run:
    passes = {way: sum(run.passes[way] for run in runs) for way in ("forward", "backward")}
    return Run(torch.stack([run.right for run in runs]).all(0), sum(run.seconds for run in runs), passes)


def row(agreement: Agreement) -> dict[str, Any]:
    """What the table says of one attack on one network."""
    own, theirs = agreement.accuracies
    num = len(agreement.ours.right)
    costs = {"ours": agreement.ours, "reference": agreement.reference[0]}
    return {
        "robust_accuracy": {"ours": round(own, 4), "reference": [round(value, 4) for value in theirs]},
        "excess": round(agreement.excess, 4),
        "reference_spread": round(agreement.spread, 4),
        **agreement.disagreements,
        "passes_per_image": {
            who: {way: round(count / num, 1) for way, count in run.passes.items()} for who, run in costs.items()
        },
        "cpu_seconds": {who: round(run.seconds, 2) for who, run in costs.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--reference-seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, networks = digits(options.images), dict[str, Any]()
    out = ROOT / "benchmarks" / "results" / "reference_agreement.json"
    for training in TRAINING:
        for seed in (0, 1):
            model = train(training, seed, data, options.epochs)
            found = compare(model, data.test, LINF, Budget(), options.reference_seeds)
            networks[f"{training}, seed {seed}"] = {name: row(agreement) for name, agreement in found.items()}
            for name, values in networks[f"{training}, seed {seed}"].items():
                print(training, seed, name, json.dumps(values), flush=True)
            result = {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, CPU",
                "versions": {name: version(name) for name in ("torch", "pyautoattack")},
                "data": f"digits, 8x8, {options.images} images attacked, {len(data.train[1])} others trained on",
                "threat": repr(LINF),
                "settings": {name: repr(attack) for name, attack in ours(Budget()).items()},
                "seeds": {"networks": [0, 1], "ours": 0, "reference": "0, 1, ...: one for each accuracy listed"},
                "networks": networks,
            }
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
