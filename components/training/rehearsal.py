"""A method is built and takes one step on stand-ins, before there are data: mistakes of params.yaml show then."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from components.data.batch import Batch
from components.foundation.errors import InputError
from components.methods.parts.contract import Fields, Method, needs
from components.threats.parts.threat import Threat
from components.training.loop import Recipe

NUM_IMAGES, SHAPE, NUM_CLASSES = 4, (3, 8, 8), 4


def rehearse(fields: Fields, around: Callable[[Method], Method], recipe: Recipe, threat: Threat, where: str) -> None:
    """Builds the method of `fields`, within what `around` puts around it, and takes a step of the last epoch.

    Networks, images and labels are stand-ins, the labels probabilities where the recipe mixes classes. Nothing is left
    behind, and torch's own generator goes on from where it was. Errors: what the method or a wrapper refuses; they
    begin with `where`, the section.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        labels = torch.arange(NUM_IMAGES) % NUM_CLASSES
        if recipe.augmentation.cutmix:
            labels = F.one_hot(labels, NUM_CLASSES).float()
        batch = Batch.of(torch.rand(NUM_IMAGES, *SHAPE), labels)
        try:
            method = around(fields.build(*(_stand_in(name) for name in needs(fields)))).train()
            method.begin_epoch(recipe.epochs - 1)
            method.loss(_network().train(), batch, threat, torch.Generator().manual_seed(0))
        except InputError as error:
            raise InputError(f"{where}.{error}") from None


def _stand_in(name: str) -> nn.Module | tuple[float, float]:
    """What `build` is given by that name: `ceilings` are two accuracies, all others networks."""
    return (1.0, 1.0) if name == "ceilings" else _network().eval().requires_grad_(False)


def _network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], NUM_CLASSES))
