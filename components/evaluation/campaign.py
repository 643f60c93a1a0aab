"""The engine of an evaluation: tasks in order on each model, survivors packed into full batches, one journal.

Every image's outcome under every task is kept; rates, worst cases and comparisons are derived from them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim
from components.evaluation.adversarials import Adversarials
from components.evaluation.journal import OutcomeJournal
from components.evaluation.one_attack import TestSet, predict
from components.evaluation.progress import SILENT, Progress
from components.foundation.errors import InputError
from components.numerics.cost import PassCounter
from components.numerics.losses import NO_ANSWER, answers
from components.numerics.random_numbers import Noise, derived
from components.threats.parts.threat import Threat

# How long a process waits before it looks again for what the processes beside it have finished.
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """An attack (`None`: none at all) under a threat model, and the images it is run on.

    `after` names an earlier task: only the images that survived it are attacked, the others stay fallen. A task that
    `counts` enters the worst case. What one that `transfers` crafts is also shown to every other model.
    """

    name: str
    attack: Attack | None
    threat: Threat
    after: str | None = None
    counts: bool = True
    transfers: bool = False


class Shard(NamedTuple):
    """Which of several processes that share a journal this one is, from 0: it does every `processes`-th unit."""

    number: int
    processes: int


ALONE = Shard(0, 1)


@dataclass
class ModelResults:
    """What became of one model's images.

    `outcomes`: per task uint8 [N], 1 where the model was right. `transfer`: per task and target model the same.
    `worst_case` is right under every task that counts. `passes`: single images forward and backward, per task.
    `unanswered`: per model bool [N], where it gave no answer under some task, whether that counts or not; the other
    models answer what transfers to them.
    `largest`: the largest perturbation of a task, in its norm; absent where no image was attacked.
    """

    worst_case: Tensor
    unanswered: dict[str, Tensor] = field(default_factory=dict)
    outcomes: dict[str, Tensor] = field(default_factory=dict)
    transfer: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    passes: dict[str, dict[str, int]] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Campaign:
    """Models under the same tasks on the same images, from the same seed.

    `targets` are the models that are also shown what tasks that transfer craft on others. `adversarials` keeps, per
    model, the first adversarial version found of every image.
    """

    victims: Mapping[str, Victim]
    test: TestSet
    seed: int
    journal: OutcomeJournal
    targets: Sequence[str] = ()
    adversarials: Mapping[str, Adversarials] = field(default_factory=dict)
    shard: Shard = ALONE
    progress: Progress = SILENT

    def run(self, model: str, tasks: Sequence[Task]) -> ModelResults:
        """What the tasks, in order, do to one of the models; what the journal holds is not done again."""
        right = torch.ones_like(self.test.labels, dtype=torch.uint8)
        results = ModelResults(worst_case=right)
        for task in tasks:
            survivors = None if task.after is None else results.outcomes[task.after].nonzero().squeeze(1)
            self._work(model, task, survivors, results.worst_case)
            self._collect(model, task, survivors, results)
        return results

    def _work(self, model: str, task: Task, survivors: Tensor | None, standing: Tensor) -> None:
        """Does this process's units of a task, but those that another process did or is about; returns when all are."""
        counter = PassCounter(*self.victims[model].networks)
        own = [
            (f"{model}/{task.name}/{number}", places)
            for number, places in enumerate(self._parts(survivors))
            if number % self.shard.processes == self.shard.number
        ]
        total = sum(len(places) for _, places in own)
        self.progress.begin(model, task, total)
        waiting = own
        while waiting:
            for unit, places in waiting:
                with self.journal.claim(unit) as free:
                    if mine := free and unit not in self.journal.units:
                        self._unit(model, task, unit, places, standing, counter)
                if unit in self.journal.units:
                    self.progress.did(model, task, len(places), total, fresh=mine)
            if waiting := [(unit, places) for unit, places in waiting if unit not in self.journal.units]:
                time.sleep(POLL_SECONDS)
            self.journal.refresh()
        counter.close()

    def _parts(self, survivors: Tensor | None) -> Sequence[Tensor]:
        """The places of each unit's images."""
        places = torch.arange(len(self.test.labels), device=self.test.labels.device) if survivors is None else survivors
        # split() of an empty tensor gives one empty part.
        return places.split(self.test.batch_size) if len(places) else ()

    def _unit(self, model: str, task: Task, unit: str, chosen: Tensor, standing: Tensor, counter: PassCounter) -> None:
        images, labels, places = next(self.test.batches(chosen))
        record, classes, images_adv = self._attack(model, task, images, labels, places)
        fallen = (classes != labels) & standing[places].bool()
        if task.counts and model in self.adversarials:
            self.adversarials[model].keep(places[fallen], images_adv[fallen])
        self.journal.append(unit, record | {"passes": counter.take()})

    def _attack(
        self, model: str, task: Task, images: Tensor, labels: Tensor, places: Tensor
    ) -> tuple[dict[str, Any], Tensor, Tensor]:
        victim, images_adv = self.victims[model], images
        if task.attack is not None:
            # One stream for all attacks on an image, so that the ε curve meets the attack that it is drawn with.
            seed = derived(self.seed, "attacks")
            images_adv = task.attack(victim, images, labels, task.threat, Noise(seed, places))
        classes = predict(victim, images_adv)
        largest = float(task.threat.size(images_adv - images).max())
        record: dict[str, Any] = {"images": places.tolist(), "predicted": classes.tolist(), "largest": largest}
        if task.transfers:
            others = [name for name in self.targets if name != model]
            record["transfer"] = {name: predict(self.victims[name], images_adv).tolist() for name in others}
        return record, classes, images_adv

    def _collect(self, model: str, task: Task, survivors: Tensor | None, results: ModelResults) -> None:
        labels = self.test.labels
        outcome, passes = torch.zeros_like(results.worst_case), {"forward": 0, "backward": 0}
        transfer: dict[str, Tensor] = {}
        for record in self._records(model, task, survivors):
            places = torch.tensor(record["images"], device=labels.device)
            given = {model: record["predicted"], **record.get("transfer", {})}
            for name, predicted in given.items():
                classes = torch.tensor(predicted, device=labels.device)
                right = classes == labels[places]
                into = outcome if name == model else transfer.setdefault(name, torch.zeros_like(outcome))
                into[places] = right.to(torch.uint8)
                unanswered = results.unanswered.setdefault(name, torch.zeros_like(outcome, dtype=torch.bool))
                unanswered[places] |= classes == NO_ANSWER
            passes = {kind: passes[kind] + record["passes"][kind] for kind in passes}
            results.largest[task.name] = max(record["largest"], results.largest.get(task.name, 0.0))
        results.outcomes[task.name], results.passes[task.name] = outcome, passes
        if task.transfers:
            results.transfer[task.name] = {model: outcome, **transfer}
        if task.counts:
            results.worst_case = torch.minimum(results.worst_case, outcome)

    def _records(self, model: str, task: Task, survivors: Tensor | None) -> Iterator[dict[str, Any]]:
        """The task's records in order, waiting for those of other processes. Error: a record of other images."""
        for number, part in enumerate(self._parts(survivors)):
            unit = f"{model}/{task.name}/{number}"
            while unit not in self.journal.units:
                time.sleep(POLL_SECONDS)
                self.journal.refresh()
            record = self.journal.units[unit]
            if record["images"] != part.tolist():
                raise InputError(f"{self.journal.path}: {unit} holds other images than this evaluation attacks there")
            yield record


def cascade(attacks: Mapping[str, Attack], threats: Sequence[Threat], clean: str = "clean") -> list[Task]:
    """Tasks for attacks in order, each only on the images that all before it left standing.

    Of several radii the smallest comes first, and what fell there is not attacked again: its adversarial image lies in
    every larger ball. The tasks are called `cascade/ATTACK`, with `@ε` behind for all but the first of `threats`.
    """
    tasks: list[Task] = []
    main = threats[0]
    for threat in sorted(threats, key=lambda one: one.epsilon):
        mark = "" if threat == main else f"@{threat.epsilon}"
        for name, attack in attacks.items():
            after = tasks[-1].name if tasks else clean
            tasks.append(Task(f"cascade/{name}{mark}", attack, threat, after, counts=threat.epsilon <= main.epsilon))
    return tasks


def rescore(victim: Victim, test: TestSet, threat: Threat, adversarials: Adversarials) -> dict[str, Any]:
    """What the exact model makes of the adversarial images read back from disk, in batches of another size.

    `fooled` of `n` are misclassified; `unanswered`: those of them without an answer; `undecided`: those whose two
    largest logits differ by float rounding alone; `largest`: the largest perturbation found; `dtype`: how the images
    were kept.
    """
    found: dict[str, Any] = {"n": len(test.labels), "fooled": 0, "unanswered": 0, "undecided": 0, "largest": 0.0}
    other = test._replace(batch_size=max(1, test.batch_size * 2 // 3))
    for images, labels, places in other.batches():
        images_adv = adversarials.read(places)
        with torch.no_grad():
            logits = victim.exact.eval()(images_adv)
        two = logits.topk(2).values
        classes = answers(logits)
        found["fooled"] += int((classes != labels).sum())
        found["unanswered"] += int((classes == NO_ANSWER).sum())
        found["undecided"] += int((two[:, 0] - two[:, 1] <= 1e-5 * logits.abs().amax(1)).sum())
        found["largest"] = max(found["largest"], float(threat.size(images_adv - images).max()))
    return found | {"dtype": adversarials.dtype}


def outcome_tensors(found: Mapping[str, ModelResults]) -> dict[str, Tensor]:
    """All outcomes under the names of `evaluation/outcomes.safetensors` (docs/evaluation.md)."""
    tensors: dict[str, Tensor] = {}
    for model, results in found.items():
        tensors |= {f"{model}/{task}": outcome for task, outcome in results.outcomes.items()}
        tensors[f"{model}/worst_case"] = results.worst_case
        for task, shown in results.transfer.items():
            # A file holds each tensor's own bytes: the model's answers to its own attack are copied.
            tensors |= {f"transfer/{task}/{model}/{target}": right.clone() for target, right in shown.items()}
    return tensors
