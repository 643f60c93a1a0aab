"""What the three training boxes share: a section of params.yaml and the data become a model, curves and metrics."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from components.attacks.pgd import Pgd
from components.checkpoint import TrainingState
from components.compute import Compute
from components.contracts import Method
from components.journal import Journal
from components.loader import Loader
from components.model_file import ModelCard, save_model
from components.models import MODELS
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.params import STRICT, Params, member, typed
from components.provenance import fingerprint
from components.schedule import SCHEDULES, Schedule
from components.splits import Splits
from components.stages import WORK
from components.storage import sha256, write_csv, write_json
from components.threat import Threat
from components.training import Plan, Recipe, fit, start
from components.validation import Validation

DATA = Path("data/normalized.safetensors")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingSection:
    """The keys of a training section; `model`, `method` and `schedule` name members of their families."""

    model: dict[str, Any]
    method: dict[str, Any]
    schedule: dict[str, Any]
    recipe: Recipe
    validation_attack: Pgd


class Settings(NamedTuple):
    """A training section with its members built, and the sections shared by all stages."""

    raw: Mapping[str, Any]
    seed: int
    compute: Compute
    threat: Threat
    ntk: ProbeSchedule
    architecture: dict[str, Any]
    model: Any
    method: Any
    schedule: Schedule
    recipe: Recipe
    validation_attack: Pgd


def read_settings(params: Params, stage: str, methods: Mapping[str, Any], own_keys: tuple[str, ...] = ()) -> Settings:
    """The settings of a training stage, all checked; keys in `own_keys` are left to the stage that owns them."""
    raw = params.typed(dict[str, Any], stage)
    where = f"{params.path}: {stage}"
    section = typed(TrainingSection, {k: v for k, v in raw.items() if k not in own_keys}, where)
    return Settings(
        raw=raw,
        seed=params.seed,
        compute=params.typed(Compute, "compute"),
        threat=params.typed(Threat, "threat"),
        ntk=params.typed(ProbeSchedule, "ntk"),
        architecture=section.model,
        model=member(MODELS, section.model, f"{where}.model"),
        method=member(methods, section.method, f"{where}.method"),
        schedule=member(SCHEDULES, section.schedule, f"{where}.schedule"),
        recipe=section.recipe,
        validation_attack=section.validation_attack,
    )


class Training(NamedTuple):
    """One training run about to start: what is trained, by what, and where it comes from."""

    name: str
    stage: str
    settings: Settings
    method: Method
    upstream: dict[str, str]


def new_model(settings: Settings, splits: Splits, device: torch.device) -> nn.Module:
    """The untrained model of a section, from the seed."""
    torch.manual_seed(settings.seed)
    return settings.model.build(len(splits.classes), splits.image_shape, splits.normalization).to(device)


def train(training: Training, model: nn.Module, splits: Splits, device: torch.device, journal: Journal) -> None:
    """Trains `model` and writes models/NAME.safetensors (best), NAME.last.safetensors, curves/ and metrics/."""
    settings, recipe = training.settings, training.settings.recipe
    images, labels = splits.train.images.to(device), splits.train.labels.to(device)
    probe = KernelProbe(settings.ntk, images, labels, len(splits.classes), settings.seed)
    validation = Validation(
        splits.validation.images.to(device),
        splits.validation.labels.to(device),
        settings.validation_attack,
        settings.threat,
        recipe.batch_size,
        probe,
        settings.seed,
    )
    folder = resume_folder(training)
    state = start(model, training.method, validation, recipe, settings.seed)
    loader = Loader(images, labels, recipe.batch_size, recipe.augmentation, len(splits.classes))
    plan = Plan(recipe, settings.schedule, settings.threat, settings.seed)
    for record in fit(state, loader, plan, folder):
        journal.metrics({name: value for name, value in record.items() if name != "epoch"}, step=int(record["epoch"]))
        journal.note(progress(record, recipe.epochs, state.seconds))
    publish(training, splits, state, folder, journal)


def resume_folder(training: Training) -> Path:
    """Where this run's checkpoint is kept: under the hash of all it depends on, so that no other run continues it."""
    settings = training.settings
    shared = {"seed": settings.seed, "compute": settings.compute, "threat": settings.threat, "ntk": settings.ntk}
    key = fingerprint(data=sha256(DATA), upstream=training.upstream, section=settings.raw, **shared)
    return WORK / "resume" / f"{training.stage}-{key}"


def progress(record: Mapping[str, float], epochs: int, seconds: float) -> str:
    """One line on an epoch: how far, how good on validation, how much longer."""
    epoch = int(record["epoch"])
    accuracies = f"validation clean {record['clean_accuracy']:6.1%}  robust {record['robust_accuracy']:6.1%}"
    if not epoch:
        return f"epoch {epoch:3d}/{epochs}  (untrained)   {accuracies}"
    left = seconds / (epoch + 1) * (epochs - epoch)
    return f"epoch {epoch:3d}/{epochs}  loss {record['train_loss']:8.4f}  {accuracies}  {left:5.0f} s left"


def publish(training: Training, splits: Splits, state: TrainingState, folder: Path, journal: Journal) -> None:
    """Writes the declared outputs, the models last, and gives up the resume state."""
    name = training.name
    best, last = state.best_epoch, int(state.history[-1]["epoch"])
    write_csv(f"curves/{name}.csv", state.history)
    write_json(f"metrics/{name}.json", _metrics(state))
    for suffix, epoch, weights in (
        (".last", last, state.published.state_dict()),
        ("", best, state.best_weights(folder)),
    ):
        card = ModelCard(
            architecture=training.settings.architecture,
            classes=splits.classes,
            image_shape=splits.image_shape,
            normalization=splits.normalization,
            stage=training.stage,
            epoch=epoch,
            upstream=training.upstream,
        )
        save_model(f"models/{name}{suffix}.safetensors", weights, card)
    journal.artifact(Path(f"curves/{name}.csv"))
    journal.upstream({"normalized": sha256(DATA)} | training.upstream)
    journal.produced({name: sha256(f"models/{name}.safetensors")})
    # The checkpoint first: without the best weights beside it, a run that is killed here could not be repeated.
    (folder / "checkpoint.safetensors").unlink()
    shutil.rmtree(folder)
    journal.note(f"{name}: best epoch {best} of {last}, {training.settings.recipe.select_by} {state.best_score:.1%}")


def _metrics(state: TrainingState) -> dict[str, Any]:
    by_epoch = {int(record["epoch"]): record for record in state.history}
    accuracies = ("clean_accuracy", "robust_accuracy", "mean_accuracy")
    rows = {"best": by_epoch[state.best_epoch], "last": state.history[-1]}
    chosen = {k: {"epoch": int(r["epoch"])} | {name: r[name] for name in accuracies} for k, r in rows.items()}
    return chosen | {"passes": state.passes, "num_parameters": sum(p.numel() for p in state.model.parameters())}
