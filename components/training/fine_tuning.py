"""Keys of fine-tuning that can do nothing: refused, or told, before anything is trained."""

from collections.abc import Mapping
from typing import Any

from components.foundation.errors import InputError
from components.schedules.parts.schedule import Schedule, WarmedSchedule
from components.training.loop import Recipe


def require_room(recipe: Recipe, schedule: Schedule, where: str) -> None:
    """Refuses a warm-up that never ends, and layers that never move."""
    lengths: dict[str, float] = {
        "recipe.layers.frozen_epochs": recipe.layers.frozen_epochs if recipe.layers is not None else 0,
        "schedule.warmup": schedule.warmup if isinstance(schedule, WarmedSchedule) else 0,
    }
    for key, epochs in lengths.items():
        if epochs >= recipe.epochs:
            raise InputError(f"{where}.{key}: got {epochs:g}, want less than {recipe.epochs}, the recipe's epochs")


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
