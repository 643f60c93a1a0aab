"""What the tests of parallel training run, in one process or in several: small trainings whose end is written down.

As one of several processes: `python -m tests.parts.parallel_worker OUT DEVICE EPOCHS BATCH_NORM RECORDS MEMBER...`.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from components.data.augmentation import Augmentation
from components.data.batch import Batch
from components.data.loader import Loader
from components.foundation.params import Ratio
from components.foundation.storage import write_json
from components.methods.parts.contract import Method
from components.models.parts.averaging import Ema, Swa
from components.models.parts.batch_norm import synchronised
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics import parallel
from components.numerics.compute import Compute
from components.numerics.tensor_files import write_tensors
from components.optimizers.sgd import Sgd
from components.schedules.one_cycle import OneCycle
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training.loop import Plan, Recipe, _gradient, fit, start
from components.training.validation import Validation
from components.wrappers.awp import Awp
from tests.parts.method_members import ATTACK, MEMBERS, WRAPPED
from tests.parts.tiny_net import TinyNet

LINF = Threat(norm=Linf(), epsilon=Ratio(8, 255))
# Not a multiple of the batch size, so that batches and parts of batches differ in size.
NUM_IMAGES, BATCH_SIZE = 46, 12

CPU = torch.device("cpu")
Kind = Literal["cpu", "cuda"]
KINDS: dict[str, Kind] = {"cpu": "cpu", "cuda": "cuda"}
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


def prepared(kind: Kind) -> torch.device:
    """The device, set up as a stage does it: with this process's own GPU, in the group of those it trains with."""
    # On a GPU the same bits on all processes need it: each measures the kernel for itself.
    return Compute(device=kind, threads=1, deterministic=kind == "cuda").prepare()


def train(
    name: str, out: Path, epochs: int, batch_norm: parallel.BatchNormOver, records: int = 9, device: torch.device = CPU
) -> None:
    """Trains on, for `epochs` or until so many records are there; how it ends goes to `out`/NAME.RANK.*"""
    images, labels = (tensor.to(device) for tensor in data())
    torch.manual_seed(1)
    probe = KernelProbe(ProbeSchedule(epochs=(0, 1), size=6, directions=4), images, labels, 3, seed=0)
    validation = Validation(images[:11], labels[:11], ATTACK, LINF, 4, probe, seed=0)
    fields = recipe(name, epochs)
    state = start(TinyNet().to(device), (VARIANTS | MEMBERS)[name](), validation, fields, seed=0)
    loader = Loader(images, labels, fields.batch_size, fields.augmentation, num_classes=3)
    plan = Plan(fields, OneCycle(start=0.5, peak=0.3), LINF, 0, batch_norm)
    for _ in fit(state, loader, plan, out / name):
        if len(state.history) == records:
            break
    write_tensors(out / f"{name}.{parallel.rank()}.safetensors", state._tensors())
    write_json(out / f"{name}.{parallel.rank()}.json", {"history": state.history, "passes": state.passes})


def gradients(out: Path, device: torch.device = CPU) -> None:
    """First and second derivatives through synchronised batch norm, in float64, with parts of 3 and 2 images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    model.to(device).double()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64).to(device)
    labels = torch.tensor([0, 1, 2, 0, 1], device=device)
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


def in_parts(out: Path, device: torch.device = CPU, name: str = "standard") -> None:
    """The gradient of a method on 27 images in parts of 13 at most, through synchronised batch norm; without batch norm
    where the method balances the whole batch."""
    images, labels = (tensor[:27].to(device) for tensor in data())
    torch.manual_seed(1)
    model, method = TinyNet().to(device), MEMBERS[name]()
    if method.surveys:
        model.features[1] = nn.Identity()
    fields = replace(recipe("", 1), micro_batch=13, gradient_clip=None)
    state = start(model, method, lambda model, epoch: {}, fields, seed=0)  # pyright: ignore[reportArgumentType]
    rank, ranks = parallel.rank(), parallel.world_size()
    batch = Batch.of(images.float() / 255, labels).part(rank, ranks)
    model.train()
    with synchronised(model):
        loss, _ = _gradient(state, Plan(fields, OneCycle(start=0.5, peak=0.3), LINF, 0), batch)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    told = {"loss": loss.total.reshape(1)} | {name: value.reshape(1) for name, value in loss.parts.items()}
    write_tensors(out / f"in_parts_{name}.{rank}.safetensors", found | told)


if __name__ == "__main__":
    folder, own = Path(sys.argv[1]), prepared(KINDS[sys.argv[2]])
    for member in sys.argv[6:]:
        if member == "gradients":
            gradients(folder, own)
        elif member.startswith("in_parts_"):
            in_parts(folder, own, member.removeprefix("in_parts_"))
        else:
            train(member, folder, int(sys.argv[3]), BATCH_NORMS[sys.argv[4]], int(sys.argv[5]), own)
    parallel.leave()
