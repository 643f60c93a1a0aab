"""N-FGSM of de Jorge et al.: pdejorge/N-FGSM."""

from pathlib import Path
from typing import Any

from benchmarks.official import ours, script
from benchmarks.official.case import Case, Outcome
from benchmarks.official.fast_adversarial import BATCHES, EPOCHS, IMAGES, normalised
from benchmarks.official.tape import MEAN, SIDE, STD, Tape, pictures

LEVELS = {"cifar10_n_fgsm": 8, "cifar10_n_fgsm_16": 16}


def n_fgsm(folder: Path, preset: str) -> Outcome:
    tape, seen = Tape(), pictures(EPOCHS * BATCHES * IMAGES, 0, saturated=True)
    given = ours.epochs_of(seen, EPOCHS, BATCHES)

    def loaders(data: Any, *_: object, **__: object) -> tuple[Any, ...]:
        data.img_size, data.max_label = (SIDE, SIDE), 9
        return script.Feed([[(*batch, batch[1]) for batch in epoch] for epoch in normalised(given)], tape), *(
            [None] * 5
        )

    def prepare(members: dict[str, Any]) -> None:
        members["CIFAR10Utils"].get_indexed_loaders = loaders
        members["PreActResNet18"] = tape.network

    level = LEVELS[preset]
    folders = {"--out-dir": "out", "--root-model-dir": "models", "--robust_test_size": 0}
    official = script.run(
        folder / "train.py",
        tape,
        argv={"--epochs": EPOCHS, "--epsilon": level, "--alpha": level} | folders,
        prepare=prepare,
    )
    settings = ours.settings_of(preset, "train_robust_teacher", {"recipe.epochs": EPOCHS})
    steps = ours.train(settings, tape, ours.batches(given), (MEAN, STD))
    return Outcome(tape.steps, steps, ours.constants(script.defaults(official), preset))


CASES = [
    Case(
        preset,
        "train_robust_teacher",
        "pdejorge/N-FGSM",
        "train.py",
        n_fgsm,
        ("colours are normalised in the loader there, in the model's first layer here",),
    )
    for preset in LEVELS
]
