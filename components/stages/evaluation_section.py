"""What params.yaml says about an evaluation, with its attacks built: which tasks each model meets."""

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass

from components.adversarials import Dtype
from components.attacks import ATTACKS
from components.attacks.pgd import Pgd
from components.campaign import Task, cascade
from components.cascades import NAMES, specs
from components.compute import Compute
from components.contracts import Attack
from components.errors import InputError, choose
from components.params import STRICT, Fractional, Params, Ratio, member
from components.precision import Search
from components.threat import Threat

# What tables call their other columns.
RESERVED = ("clean", "worst_case", "w_robust", "cascade", "curve", "grid")

Specs = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grid:
    """Attacks at every one of some radii: the tables of label leaking and of one step against many."""

    epsilons: tuple[Fractional, ...]
    attacks: Specs


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Section:
    """How models are evaluated; attacks are named mappings as everywhere in params.yaml.

    `attacks` meet every image. `cascade` is `autoattack`, `quick`, `none` or attacks of your own, cheapest first, each
    on the images still standing, and at `cascade_epsilons` besides the threat model's. `curve_attack` draws the ε curve
    and the gallery; what `transfer_attacks` craft is shown to the other models; last checkpoints meet
    `last_epoch_attacks` only. The verdict's probes look at `probe_images`. `adversarial` is the form in which worst
    cases are kept.
    """

    batch_size: int
    search: Search
    attacks: Specs
    cascade: str | Specs
    cascade_epsilons: tuple[Fractional, ...]
    curve_attack: str
    curve_epsilons: tuple[Fractional, ...]
    grid: Grid
    transfer_attacks: tuple[str, ...]
    last_epoch_attacks: tuple[str, ...]
    probe_images: int
    gallery_images: int
    adversarial: Dtype

    def __post_init__(self) -> None:
        for name in ("batch_size", "gallery_images", "probe_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}, want at least 1")
        if isinstance(self.cascade, str) and self.cascade not in NAMES:
            raise ValueError(f"got cascade {self.cascade!r}, want {', '.join(NAMES)}, or a mapping of attacks")
        own = self.cascade if isinstance(self.cascade, dict) else {}
        for name in (*self.attacks, *self.grid.attacks, *own):
            if name in RESERVED or "/" in name or "@" in name:
                wrong = f"want no '/' or '@' in it and none of {', '.join(RESERVED)}"
                raise ValueError(f"got an attack called {name!r}, {wrong}")
        for name, epsilons in (
            ("curve_epsilons", self.curve_epsilons),
            ("cascade_epsilons", self.cascade_epsilons),
            ("grid.epsilons", self.grid.epsilons),
        ):
            if epsilons and min(epsilons) < 0:
                raise ValueError(f"got {name} {list(map(str, epsilons))}, want all of at least 0")


class Settings(NamedTuple):
    """The section with its attacks built, and the sections it shares."""

    section: Section
    attacks: dict[str, Attack]
    cascade: dict[str, Attack]
    grid: dict[str, Attack]
    curve_attack: Pgd
    threat: Threat
    compute: Compute
    seed: int

    @property
    def cascade_name(self) -> str:
        """`autoattack`, `quick`, `none`, or `custom` for attacks of one's own."""
        return self.section.cascade if isinstance(self.section.cascade, str) else "custom"

    def full_tasks(self) -> list[Task]:
        """What a selected model meets: every task, cheapest first."""
        return [*self.short_tasks(), *self._cascade(), *self._curve(), *self._grid()]

    def short_tasks(self, only: tuple[str, ...] | None = None) -> list[Task]:
        """No attack, then the attacks on every image (`only` those named)."""
        transfers = self.section.transfer_attacks
        chosen = {name: attack for name, attack in self.attacks.items() if only is None or name in only}
        return [
            Task("clean", None, self.threat),
            *(
                Task(name, attack, self.threat, transfers=only is None and name in transfers)
                for name, attack in chosen.items()
            ),
        ]

    def _cascade(self) -> list[Task]:
        others = [self.threat.at(e) for e in self.section.cascade_epsilons if e != self.threat.epsilon]
        return cascade(self.cascade, [self.threat, *others])

    def _curve(self) -> list[Task]:
        """Its step keeps its proportion to the radius. Every radius is attacked alone, so that no order is built in."""
        tasks = []
        for index, epsilon in enumerate(self.section.curve_epsilons):
            attack = None
            if epsilon:
                step_size = Ratio(Fraction(self.curve_attack.step_size) * epsilon / self.threat.epsilon)
                attack = replace(self.curve_attack, step_size=step_size)
            tasks.append(Task(f"curve/{index}", attack, self.threat.at(epsilon), counts=False))
        return tasks

    def _grid(self) -> list[Task]:
        return [
            Task(f"grid/{name}/{index}", attack if epsilon else None, self.threat.at(epsilon), counts=False)
            for index, epsilon in enumerate(self.section.grid.epsilons)
            for name, attack in self.grid.items()
        ]


def read_settings(params: Params, stage: str, num_classes: int) -> Settings:
    """The settings under the key `stage`, all checked, for images of `num_classes` classes."""
    section = params.typed(Section, stage)
    threat, compute = params.typed(Threat, "threat"), params.typed(Compute, "compute")
    return settings_of(section, threat, compute, params.seed, num_classes, f"{params.path}: {stage}")


def settings_of(
    section: Section, threat: Threat, compute: Compute, seed: int, num_classes: int, where: str
) -> Settings:
    """The section with its attacks built. Errors: attacks that are not there, a curve whose step cannot scale."""
    attacks = _built(section.attacks, f"{where}.attacks")
    curve = choose(attacks, section.curve_attack, f"{where}.curve_attack")
    if not isinstance(curve, Pgd):
        raise InputError(
            f"{where}.curve_attack: {section.curve_attack} is {curve}, want a pgd (its step scales with ε)"
        )
    for key in ("transfer_attacks", "last_epoch_attacks"):
        for name in getattr(section, key):
            choose(attacks, name, f"{where}.{key}")
    if threat.epsilon == 0 and any(section.curve_epsilons):
        raise InputError(f"{where}.curve_epsilons: want only 0 where threat.epsilon is 0 (its step scales with ε)")
    chosen = section.cascade if isinstance(section.cascade, dict) else specs(section.cascade, num_classes)
    return Settings(
        section,
        attacks,
        _built(chosen, f"{where}.cascade"),
        _built(section.grid.attacks, f"{where}.grid.attacks"),
        curve,
        threat,
        compute,
        seed,
    )


def _built(named: Specs, where: str) -> dict[str, Attack]:
    return {name: member(ATTACKS, spec, f"{where}.{name}") for name, spec in named.items()}
