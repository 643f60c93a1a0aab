"""FGSM-RS and Free-AT of Wong et al.: locuslab/fast_adversarial."""

from pathlib import Path

from torch import tensor

from benchmarks.official import ours, script
from benchmarks.official.case import Case, Outcome
from benchmarks.official.tape import MEAN, STD, Tape, pictures

EPOCHS, BATCHES, IMAGES = 2, 5, 16


def normalised(epochs: script.Batches) -> script.Batches:
    """What the script's loader yields."""
    mean, std = (tensor(values).double().view(3, 1, 1) for values in (MEAN, STD))
    return [[((images - mean) / std, labels) for images, labels in epoch] for epoch in epochs]


def fgsm_rs(folder: Path, preset: str) -> Outcome:
    tape, seen = Tape(), pictures(EPOCHS * BATCHES * IMAGES, 0, saturated=True)
    given = ours.epochs_of(seen, EPOCHS, BATCHES)
    replaced = {"get_loaders": lambda *_: (script.Feed(normalised(given), tape), [])}
    official = script.run(
        folder / "CIFAR10" / "train_fgsm.py",
        tape,
        argv={"--epochs": EPOCHS},
        modules=script.apex() | {"preact_resnet": script.stand_in("preact_resnet", PreActResNet18=tape.network)},
        prepare=lambda members: members.update(replaced | script.no_evaluation("evaluate_pgd", "evaluate_standard")),
    )
    settings = ours.settings_of(preset, "train_robust_teacher", {"recipe.epochs": EPOCHS})
    steps = ours.train(settings, tape, ours.batches(given), (MEAN, STD))
    return Outcome(tape.steps, steps, ours.constants(script.defaults(official), preset))


CASES = [
    Case(
        "cifar10_fgsm_rs",
        "train_robust_teacher",
        "locuslab/fast_adversarial",
        "CIFAR10/train_fgsm.py",
        fgsm_rs,
        ("colours are normalised in the loader there, in the model's first layer here",),
    ),
]
