"""What the tests of parallel training run, in one process or in several: small trainings whose end is written down.

As one of several processes: `python -m tests.parts.parallel_worker OUT EPOCHS BATCH_NORM RECORDS MEMBER...`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from components.data.augmentation import Augmentation
from components.data.loader import Loader
from components.foundation.params import Ratio
from components.foundation.storage import write_json
from components.methods.parts.contract import Method
from components.models.parts.averaging import Ema, Swa
from components.models.parts.batch_norm import synchronised
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics import parallel
from components.numerics.tensor_files import write_tensors
from components.optimizers.sgd import Sgd
from components.schedules.one_cycle import OneCycle
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training.loop import Plan, Recipe, fit, start
from components.training.validation import Validation
from components.wrappers.awp import Awp
from tests.conftest import TinyNet
from tests.parts.method_members import ATTACK, MEMBERS, WRAPPED

LINF = Threat(norm=Linf(), epsilon=Ratio(8, 255))
# Not a multiple of the batch size, so that batches and parts of batches differ in size.
NUM_IMAGES, BATCH_SIZE = 46, 12

BATCH_NORMS: dict[str, parallel.BatchNormOver] = {"synchronised": "synchronised", "per_process": "per_process"}
# Trainings beside the members themselves, by name.
VARIANTS: dict[str, Callable[[], Method]] = {
    "swa": MEMBERS["pgd_at"],
    "cut_mixed": MEMBERS["pgd_at"],
    "awp": lambda: Awp(gamma=0.05, start=1).build(MEMBERS["mart"]()),
    **WRAPPED,
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_IMAGES) % 3
    images = torch.randint(0, 60, (NUM_IMAGES, 1, 8, 8), generator=rng, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label : 2 * label + 3] += 120  # a bright band says which class
    return images, labels


def recipe(name: str, epochs: int) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=0.05,
        optimizer=Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norms=True),
        gradient_clip=5.0,
        average=Swa(name="swa", start=1, batches=2) if name == "swa" else Ema(name="ema", decay=0.9),
        augmentation=Augmentation(crop=1, flip=True, cutmix=float(name == "cut_mixed"), rand_augment=None),
        precision="float32",
        select_by="mean_accuracy",
        patience=None,
    )


def train(name: str, out: Path, epochs: int, batch_norm: parallel.BatchNormOver, records: int = 9) -> None:
    """Trains on, for `epochs` or until so many records are there; how it ends goes to `out`/NAME.RANK.*"""
    images, labels = data()
    torch.manual_seed(1)
    probe = KernelProbe(ProbeSchedule(epochs=(0, 1), size=6, directions=4), images, labels, 3, seed=0)
    validation = Validation(images[:11], labels[:11], ATTACK, LINF, 4, probe, seed=0)
    fields = recipe(name, epochs)
    state = start(TinyNet(), (VARIANTS | MEMBERS)[name](), validation, fields, seed=0)
    loader = Loader(images, labels, fields.batch_size, fields.augmentation, num_classes=3)
    plan = Plan(fields, OneCycle(start=0.5, peak=0.3), LINF, 0, batch_norm)
    for _ in fit(state, loader, plan, out / name):
        if len(state.history) == records:
            break
    write_tensors(out / f"{name}.{parallel.rank()}.safetensors", state._tensors())
    write_json(out / f"{name}.{parallel.rank()}.json", {"history": state.history, "passes": state.passes})


def gradients(out: Path) -> None:
    """First and second derivatives through synchronised batch norm, in float64, with parts of 3 and 2 images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    model.double()
    images, labels = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    rank, ranks = parallel.rank(), parallel.world_size()
    own = images[rank::ranks].clone().requires_grad_()
    with synchronised(model):
        model(own)  # the cumulative mean of two batches
        losses = nn.functional.cross_entropy(model(own), labels[rank::ranks], reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), own, create_graph=True)
    (losses.sum() + gradient.square().sum()).backward()
    parallel.sum_gradients(model.parameters())
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    whole = {"input": parallel.interleaved(gradient.detach()), "loss": parallel.sum_(losses.sum())}
    write_tensors(out / f"gradients.{rank}.safetensors", found | whole | dict(model.named_buffers()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parallel.join(torch.device("cpu"))
    folder = Path(sys.argv[1])
    for member in sys.argv[5:]:
        if member == "gradients":
            gradients(folder)
        else:
            train(member, folder, int(sys.argv[2]), BATCH_NORMS[sys.argv[3]], int(sys.argv[4]))
    parallel.leave()
