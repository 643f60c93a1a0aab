"""What the three training boxes share: a section of params.yaml and the data become a model, curves and metrics."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from components.attacks.parts.reach import shortfalls
from components.attacks.pgd import Pgd
from components.data.normalization import normalization_of
from components.data.splits import Splits
from components.data.streaming import loader_of
from components.foundation.errors import InputError
from components.foundation.memory import within_memory
from components.foundation.params import Params, member, strict, typed
from components.foundation.provenance import Inputs, inputs_of, members_of
from components.foundation.recipes import changed, require_path
from components.foundation.storage import read_csv, read_json, sha256, write_csv, write_json
from components.methods.parts.contract import Annealed, Method, require_divisible
from components.models import MODELS
from components.models.parts.first_layer import OfLibrary
from components.models.parts.initial_weights import Initial, begin_with
from components.models.parts.model_file import ModelCard, save_model
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics import parallel
from components.numerics.compute import Compute
from components.numerics.parallel import Parallel, rank
from components.numerics.random_numbers import derived
from components.optimizers import OPTIMIZERS
from components.schedules import SCHEDULES
from components.schedules.parts.schedule import Schedule
from components.stages.resume import KeptWork
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat
from components.tracking.journal import Journal
from components.training.capture import Capture
from components.training.checkpoint import TrainingState, saved_epoch
from components.training.fine_tuning import idle_layers, require_room
from components.training.loop import Plan, Recipe, fit, start
from components.training.rehearsal import rehearse
from components.training.sentinel.probe import SentinelProbe
from components.training.sentinel.rules import Sentinel
from components.training.sentinel.watch import Watch
from components.training.told import metrics_of, progress, rates, seen
from components.training.validation import Validation
from components.wrappers.awp import Awp
from components.wrappers.converge_smooth import Smoothing
from components.wrappers.igdm import Igdm

DATA = Path("data/normalized.safetensors")
WRAPPERS = ("smoothing", "perturbation")
"""The keys of a training section beside `method` that say what its method is wrapped in."""


@strict
class TrainingSection:
    """The keys of a training section; `model`, `method` and `schedule` name members of their families."""

    model: dict[str, Any]  # The model's name, with that member's fields.
    method: dict[str, Any]  # The training objective's name, with that member's fields.
    schedule: dict[str, Any]  # The learning rate schedule's name, with that member's fields.
    recipe: Recipe  # How the model is trained, apart from the objective.
    validation_attack: Pgd  # The attack by which epochs are compared.
    smoothing: Smoothing | None  # ConvergeSmooth around the method; null: none.
    perturbation: Awp | None  # Adversarial perturbation of the weights (AWP); null: none.
    sentinel: Sentinel | None  # Watches for overfitting during training; null: none.
    initial: Initial | None = None  # Weights to begin with; null: random ones.
    files: str | None = None  # What DVC watches besides code: of `initial` its file. Without DVC not needed.


class Settings(NamedTuple):
    """A training section, as it is written and typed, the members that it names, and what all stages share."""

    raw: Mapping[str, Any]
    section: TrainingSection
    model: Any
    method: Any
    schedule: Schedule
    seed: int
    compute: Compute
    parallel: Parallel
    threat: Threat
    ntk: ProbeSchedule
    changed: tuple["Settings", ...] = ()
    """What becomes of them with each roll back of the sentinel."""
    igdm: Igdm | None = None
    """What goes around a student's method, inside the other wrappers."""


def read_settings(
    params: Params, stage: str, methods: Mapping[str, Any], own_keys: tuple[str, ...] = (), igdm: Igdm | None = None
) -> Settings:
    """The settings of a training stage, all checked; keys in `own_keys` are left to the stage that owns them."""
    raw, where = params.typed(dict[str, Any], stage), f"{params.path}: {stage}"

    def read(raw: Mapping[str, Any], where: str) -> Settings:
        settings = _settings(params, raw, where, methods, own_keys)._replace(igdm=igdm)
        # What the method or a wrapper would refuse at its first step is refused before anything runs.
        recipe = settings.section.recipe
        rehearse(settings.method, lambda method: wrapped(settings, method), recipe, settings.threat, where)
        return settings

    settings, after = read(raw, where), []
    sentinel = settings.section.sentinel
    for place, change in enumerate(() if sentinel is None else sentinel.changes):
        here = f"{where}.sentinel.changes.{place}"
        raw = _after_alarm(raw, change, here)
        after.append(read(raw, here))
    return settings._replace(changed=tuple(after))


def _after_alarm(section: Mapping[str, Any], change: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The section with one change of its sentinel. Errors: one of more than the method's fields or its wrappers."""
    after = dict(changed(section, change, where))
    for key in after:
        if key not in ("method", *WRAPPERS) and after[key] != section[key]:
            raise InputError(f"{where}: cannot change {key!r} (allowed: method, {', '.join(WRAPPERS)})")
    # dvc.yaml lists the file of the method that the section names, and no other.
    method = after["method"]
    if not isinstance(method, Mapping) or method.get("name") != section["method"]["name"]:
        raise InputError(f"{where}.method: got {method!r}, want other fields of {section['method']['name']}")
    return after


def _settings(
    params: Params, raw: Mapping[str, Any], where: str, methods: Mapping[str, Any], own_keys: tuple[str, ...]
) -> Settings:
    threat = read_threat(NORMS, params.get("threat"), f"{params.path}: threat")
    section = typed(TrainingSection, {k: v for k, v in raw.items() if k not in own_keys}, where, threat.epsilon)
    model = member(MODELS, section.model, f"{where}.model")
    if isinstance(model, OfLibrary):
        model.require_known(f"{where}.model")
    method = member(methods, section.method, f"{where}.method", threat.epsilon)
    schedule = member(SCHEDULES, section.schedule, f"{where}.schedule")
    optimizer = member(OPTIMIZERS, section.recipe.optimizer, f"{where}.recipe.optimizer")
    section = replace(section, recipe=replace(section.recipe, optimizer=optimizer))
    require_path(section.files, f"{where}.files")
    seed, compute, processes = params.seed, params.typed(Compute, "compute"), params.typed(Parallel, "parallel")
    ntk = params.typed(ProbeSchedule, "ntk")
    settings = Settings(raw, section, model, method, schedule, seed, compute, processes, threat, ntk)
    if section.recipe.micro_batch is not None:
        around = [name for name in WRAPPERS if getattr(section, name) is not None]
        require_divisible(method, around, f"{where}.recipe.micro_batch")
    if section.recipe.extra_share and params.get("fetch_data").get("extra") is None:
        raise InputError(f"{where}.recipe.extra_share: got {section.recipe.extra_share}, but fetch_data.extra is null")
    require_room(section.recipe, schedule, where)
    if isinstance(method, Annealed) and method.epochs != section.recipe.epochs:
        raise InputError(f"{where}.method: got epochs {method.epochs}, want the recipe's {section.recipe.epochs}")
    if (count := section.recipe.batch_size) < 2 * (ranks := processes.processes) and ranks > 1:
        raise InputError(f"{where}.recipe.batch_size: got {count} for {ranks} processes, want at least {2 * ranks}")
    return settings


def warnings_of(settings: Settings, stage: str) -> list[str]:
    """A line for each attack of a training stage that cannot reach the edge of the ball, and for other idle keys."""
    section = settings.section
    attacks = {"method": settings.method, "validation_attack": section.validation_attack, "sentinel": section.sentinel}
    lines = list(shortfalls({f"{stage}.{name}": attack for name, attack in attacks.items()}, settings.threat))
    lines += idle_layers(section.recipe, settings.raw, stage)
    if section.initial is not None and section.files not in (None, str(section.initial.path)):
        unwatched = f"DVC watches {section.files} and not {section.initial.file}"
        lines.append(f"{unwatched}: set {stage}.files to that (params.yaml)")
    return lines


class TrainingRun(NamedTuple):
    """One training run about to start: what is trained, by what (of settings, its own or changed), from what.
    `learned_from` are teachers' architectures, whose code counts too; `afterwards` is code that changes no number."""

    name: str
    stage: str
    settings: Settings
    method: Callable[[Settings], Method]
    upstream: dict[str, str]
    learned_from: tuple[Any, ...] = ()
    afterwards: Collection[str] = ()


def built(training: TrainingRun, settings: Settings) -> Method:
    """The method of a run with what its section wraps it in: IGDM inside, AWP around it, ConvergeSmooth outside."""
    return wrapped(settings, training.method(settings))


def wrapped(settings: Settings, method: Method) -> Method:
    """`method` with the wrappers of its section. Errors: a wrapper that does not fit around it."""
    section = settings.section
    if settings.igdm is not None:
        method = settings.igdm.build(method, section.recipe.epochs)
    if section.perturbation is not None:
        method = section.perturbation.build(method)
    if section.smoothing is not None:
        method = section.smoothing.build(method, settings.schedule, section.recipe.epochs)
    return method


def new_model(settings: Settings, splits: Splits, device: torch.device, where: str, journal: Journal) -> nn.Module:
    """The model of a section before training: from the seed, or with its initial weights. `where` is for messages."""
    torch.manual_seed(derived(settings.seed, "weights"))
    model = settings.model.build(len(splits.classes), splits.image_shape, splits.normalization)
    if (initial := settings.section.initial) is not None:
        for line in begin_with(model, initial, settings.section.model, f"{where}.initial", settings.model):
            journal.note(line)
    return model.to(device)


def train(training: TrainingRun, model: nn.Module, splits: Splits, device: torch.device, journal: Journal) -> None:
    """Trains `model` and writes models/NAME.safetensors (best), NAME.last.safetensors, curves/ and metrics/.

    A run that is finished already is published again, without an epoch; one that was stopped goes on.
    """
    kept = KeptWork(training.stage, depends_on(training))
    # One process decides and publishes, for all that train together.
    if parallel.total(rank() == 0 and kept.published_again())[0]:
        journal.note(f"{training.stage}: finished before under the same inputs, published again")
        tell_epochs(training, journal)
        tell(training, journal)
        return
    if rank() == 0:
        kept.begin(journal.note)
    settings, section, recipe = training.settings, training.settings.section, training.settings.section.recipe
    for line in warnings_of(settings, training.stage):
        journal.note(f"warning: {line}")
    for line in rates(model, recipe.layers):
        journal.note(f"{training.stage}: {line}")
    loader = loader_of(splits, recipe.batch_size, recipe.augmentation, device, recipe.extra_share)
    probe = KernelProbe(
        settings.ntk, loader.images, loader.labels[: len(splits.train)], len(splits.classes), settings.seed
    )
    if settings.ntk.epochs:
        journal.note(f"{training.stage}: the kernel is measured on {settings.ntk.size} of {len(splits.train)} images")
    held_out, size = splits.validation.on(device), recipe.at_a_time
    validation = Validation(*held_out, section.validation_attack, settings.threat, size, probe, settings.seed)
    state = start(model, built(training, settings), validation, recipe, settings.seed)
    state.capture = Capture(settings.compute.capture, lambda line: journal.note(f"{training.stage}: {line}"))
    if section.sentinel is not None:
        looks = SentinelProbe(section.sentinel, *held_out, settings.threat, size, recipe.precision, settings.seed)
        state.watch = Watch(section.sentinel, looks, lambda n: built(training, settings.changed[n - 1]), journal.note)
    plan = Plan(recipe, settings.schedule, settings.threat, settings.seed, settings.parallel.batch_norm)
    if (epoch := saved_epoch(kept.folder)) is not None:
        journal.note(f"{training.stage}: continues from epoch {epoch}")
    with within_memory(recipe.remedy(training.stage, state.method.divisible, settings.ntk)):
        for record in fit(state, loader, plan, kept.folder):
            numbers = {name: value for name, value in record.items() if name != "epoch"}
            journal.metrics(numbers, step=int(record["epoch"]))
            journal.note(progress(record, recipe.epochs, state.seconds))
    if rank() == 0:
        publish(training, splits, state, kept.folder)
        tell(training, journal)
        kept.finish(outputs(training.name))


def depends_on(training: TrainingRun) -> Inputs:
    """What the numbers of this run depend on: its code, the members in use, data, models, parameters."""
    settings = training.settings
    # Not the number of processes: one more or one less goes on, with the same numbers but for rounding.
    told = {"batch_norm": settings.parallel.batch_norm, training.stage: settings.raw}
    told |= {name: repr(getattr(settings, name)) for name in ("seed", "compute", "threat", "ntk")}
    told |= {"data": sha256(DATA), "upstream": training.upstream}
    if (initial := settings.section.initial) is not None:
        told["initial weights"] = sha256(initial.path)
    libraries = (getattr(network, "library", "") for network in (settings.model, *training.learned_from))
    told |= {f"version of {library}": version(library) for library in libraries if library}
    code = {f"components/stages/{training.stage}.py"} | members_of((settings, training.learned_from))
    return inputs_of(code, told, without=training.afterwards)


def outputs(name: str) -> list[str]:
    """The files that dvc.yaml declares for a training stage, in the order in which they are written."""
    files = [f"curves/{name}.csv", f"curves/{name}.sentinel.json", f"metrics/{name}.json"]
    return [*files, f"models/{name}.last.safetensors", f"models/{name}.safetensors"]


def publish(training: TrainingRun, splits: Splits, state: TrainingState, folder: Path) -> None:
    """Writes the declared outputs, the models last."""
    name, best, last = training.name, state.best_epoch, int(state.history[-1]["epoch"])
    write_csv(f"curves/{name}.csv", state.history)
    write_json(f"curves/{name}.sentinel.json", seen(state))
    write_json(f"metrics/{name}.json", metrics_of(state))
    models = {".last": (last, state.published.state_dict()), "": (best, state.best_weights(folder))}
    for suffix, (epoch, weights) in models.items():
        card = ModelCard(
            architecture=training.settings.section.model,
            classes=splits.classes,
            image_shape=splits.image_shape,
            normalization=normalization_of(state.published, splits.normalization),
            stage=training.stage,
            epoch=epoch,
            upstream=training.upstream,
        )
        save_model(f"models/{name}{suffix}.safetensors", weights, card)


def tell(training: TrainingRun, journal: Journal) -> None:
    """Records the outputs, from the files themselves."""
    name, section = training.name, training.settings.section
    for path in (f"curves/{name}.csv", f"curves/{name}.sentinel.json"):
        journal.artifact(path)
    if section.sentinel is not None:
        actions = [event["action"] for event in read_json(f"curves/{name}.sentinel.json")["events"]]
        told = {"alarms": len(actions), "roll_backs": actions.count("roll_back"), "stopped": "stop" in actions}
        journal.tags({f"sentinel.{key}": value for key, value in told.items()})
    journal.upstream({"normalized": sha256(DATA)} | training.upstream)
    journal.produced({name: sha256(f"models/{name}.safetensors")})
    best, last = (read_json(f"metrics/{name}.json")[which] for which in ("best", "last"))
    selected_by = section.recipe.select_by
    journal.note(f"{name}: best epoch {best['epoch']} of {last['epoch']}, {selected_by} {best[selected_by]:.1%}")


def tell_epochs(training: TrainingRun, journal: Journal) -> None:
    """Records the epochs of a finished run, from its curve."""
    name = training.name
    for row in read_csv(f"curves/{name}.csv"):
        numbers = {key: float(value) for key, value in row.items() if key != "epoch" and value}
        journal.metrics(numbers, step=int(row["epoch"]))
