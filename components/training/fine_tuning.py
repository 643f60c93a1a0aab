"""Keys of fine-tuning that can do nothing: refused, or told, before anything is trained."""

from collections.abc import Mapping
from typing import Any

from components.foundation.errors import InputError
from components.schedules.parts.schedule import Schedule, WarmedSchedule
from components.training.loop import Recipe


def require_room(recipe: Recipe, schedule: Schedule, where: str) -> None:
    """Refuses a warm-up that never ends, and layers that wait for longer than the training lasts.

    To wait for all of it is a training of the head alone.
    """
    frozen = recipe.layers.frozen_epochs if recipe.layers is not None else 0
    if frozen > recipe.epochs:
        raise InputError(
            f"{where}.recipe.layers.frozen_epochs: got {frozen}, want at most {recipe.epochs}, the recipe's epochs"
        )
    warmup = schedule.warmup if isinstance(schedule, WarmedSchedule) else 0
    if warmup >= recipe.epochs:
        raise InputError(
            f"{where}.schedule.warmup: got {warmup:g}, want less than {recipe.epochs}, the recipe's epochs"
        )


def idle_layers(recipe: Recipe, section: Mapping[str, Any], stage: str) -> list[str]:
    """A line where layers learn slowly, or wait, that know nothing yet: `section` names no weights to begin with."""
    layers = recipe.layers
    if (
        section.get("initial")
        or section.get("warm_start")
        or layers is None
        or (layers.decay == 1 and not layers.frozen_epochs)
    ):
        return []
    held = "get a smaller rate" if layers.decay < 1 else "wait"
    return [f"{stage}.recipe.layers: layers with random weights {held} (set initial, or layers: null)"]
