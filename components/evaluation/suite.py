"""What an evaluation runs: the section of params.yaml with its attacks built, and the tasks each model meets."""

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, cast

from components.attacks.parts.attack import Attack
from components.attacks.pgd import Pgd
from components.evaluation.adversarials import Dtype
from components.evaluation.batch_size import EvaluationBatch
from components.evaluation.campaign import Task, cascade
from components.evaluation.cascades import NAMES
from components.evaluation.document import CascadeName
from components.evaluation.search_network import Search
from components.foundation.params import Count, NotNegativeLength, Ratio, strict
from components.numerics.compute import Compute
from components.threats.parts.threat import Threat

# What tables call their other columns.
RESERVED = ("clean", "worst_case", "w_robust", "cascade", "curve", "grid")

Specs = dict[str, dict[str, Any]]


@strict
class GridSection:
    """Attacks at every one of some radii: the tables of label leaking and of one step against many."""

    epsilons: tuple[NotNegativeLength, ...]  # Radii of the ball, fractions of the pixel range.
    attacks: Specs  # Attacks at each radius, each under a name of its own.


@strict
class EvaluationSection:
    """How models are evaluated; attacks are named mappings as everywhere in params.yaml.

    `attacks` meet every image. `cascade` is `autoattack`, `quick`, `none` or attacks of your own, cheapest first, each
    on the images still standing, and at `cascade_epsilons` besides the threat model's. `curve_attack` draws the ε curve
    and the gallery; what `transfer_attacks` craft is shown to the other models; last checkpoints meet
    `last_epoch_attacks` only. The verdict's probes look at `probe_images`. `adversarial` is the form in which worst
    cases are kept.
    """

    batch_size: EvaluationBatch  # Images that go through the model at a time; `auto`: what free memory holds.
    search: Search  # What attacks compute in while they search; float32 decides.
    attacks: Specs  # Attacks on every image, each under a name of its own.
    cascade: str | Specs  # Attacks in turn, cheapest first, each on the images still standing.
    cascade_epsilons: tuple[NotNegativeLength, ...]  # Radii at which the cascade runs besides the threat model's.
    curve_attack: str  # The attack that draws the ε curve and the gallery.
    curve_epsilons: tuple[NotNegativeLength, ...]  # Radii of the ε curve, fractions of the pixel range.
    grid: GridSection  # Attacks at several radii: label leaking, one step against many.
    transfer_attacks: tuple[str, ...]  # Attacks whose images are shown to the other models.
    last_epoch_attacks: tuple[str, ...]  # The only attacks that last checkpoints meet.
    probe_images: Count  # Images that the verdict's probes look at.
    gallery_images: Count  # Images that the gallery shows.
    adversarial: Dtype  # The form in which worst cases are kept.

    def __post_init__(self) -> None:
        if isinstance(self.cascade, str) and self.cascade not in NAMES:
            raise ValueError(f"got cascade {self.cascade!r}, want {', '.join(NAMES)}, or a mapping of attacks")
        own = self.cascade if isinstance(self.cascade, dict) else {}
        for name in (*self.attacks, *self.grid.attacks, *own):
            if name in RESERVED or "/" in name or "@" in name:
                wrong = f"want no '/' or '@' in it and none of {', '.join(RESERVED)}"
                raise ValueError(f"got an attack called {name!r}, {wrong}")


class Suite(NamedTuple):
    """The section with its attacks built, and the sections it shares."""

    section: EvaluationSection
    attacks: dict[str, Attack]
    cascade: dict[str, Attack]
    grid: dict[str, Attack]
    curve_attack: Pgd
    threat: Threat
    compute: Compute
    seed: int

    @property
    def cascade_name(self) -> CascadeName:
        """`autoattack`, `quick`, `none`, or `custom` for attacks of one's own."""
        return "custom" if isinstance(self.section.cascade, dict) else cast(CascadeName, self.section.cascade)

    def full_tasks(self) -> list[Task]:
        """What a selected model meets: every task, cheapest first."""
        return [*self.short_tasks(), *self._cascade(), *self._curve(), *self._grid()]

    def short_tasks(self, only: tuple[str, ...] | None = None) -> list[Task]:
        """No attack, then the attacks on every image (`only` those named)."""
        tasks = [Task("clean", None, self.threat)]
        for name, attack in self.attacks.items():
            if only is None or name in only:
                transfers = only is None and name in self.section.transfer_attacks
                tasks.append(Task(name, attack, self.threat, transfers=transfers))
        return tasks

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
