"""How far an evaluation is, in a line now and then: `student · APGD-T · 120/359 images · 41 s left`.

The time left is of the whole evaluation. It comes from what images have taken so far under the same attack or, before
that, from how many steps an attack makes; images that fall before they are met make it shorter. It is told once a share
of the whole was measured, and the first batch is no measurement: it also loads kernels and takes its memory.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Protocol

# A terminal and a log stay readable.
SECONDS_BETWEEN = 10
# A time is told if at most so many times what was measured is left.
MOST_TIMES_MEASURED = 30
# Fields that say how often an attack repeats what it does for an image.
_REPEATED = ("steps", "queries", "restarts", "samples", "targets")


class Task(Protocol):
    """What is needed of `campaign.Task`."""

    @property
    def name(self) -> str: ...
    @property
    def attack(self) -> Any: ...
    @property
    def threat(self) -> Any: ...


class Progress:
    """Says where an evaluation is, at most every `SECONDS_BETWEEN` seconds.

    Args:
        say: takes a line.
        words: a task's name and its epsilon -> what people call it.
        clock: seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        words: Callable[[str, str], str] = lambda task, _: task,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._words, self._clock = say, words, clock
        self._plan: dict[str, dict[str, float]] = {}
        self._left: dict[tuple[str, str], int] = {}
        self._taken: dict[str, tuple[float, int]] = {}
        self._is_warm = False
        self._said = self._since = clock()

    def plan(self, tasks: Mapping[str, Sequence[Task]], num_images: int, processes: int = 1) -> None:
        """What there is to do: the tasks of each model, on how many images, shared by how many processes."""
        self._plan = {model: {task.name: effort(task.attack) for task in each} for model, each in tasks.items()}
        own = -(-num_images // processes)
        self._left = {(model, name): own for model, each in self._plan.items() for name in each}
        self._said = self._since = self._clock()

    def begin(self, model: str, task: Task, num_images: int) -> None:
        """A task begins, on so many images."""
        self._left[model, task.name] = num_images
        self._since = self._clock()
        self._tell(model, task, num_images)

    def did(self, model: str, task: Task, num_images: int, total: int, fresh: bool) -> None:
        """So many more images of a task's `total` are done; `fresh` ones took time, others were done before."""
        now, key = self._clock(), (model, task.name)
        self._left[key] = max(0, self._left.get(key, total) - num_images)
        if fresh and self._is_warm:
            seconds, images = self._taken.get(task.name, (0.0, 0))
            self._taken[task.name] = seconds + now - self._since, images + num_images
        self._since, self._is_warm = now, self._is_warm or fresh
        if fresh:
            self._tell(model, task, total)

    def _tell(self, model: str, task: Task, total: int) -> None:
        now = self._clock()
        if now - self._said < SECONDS_BETWEEN:
            return
        self._said, left = now, self.seconds_left()
        done, title = total - self._left[model, task.name], self._words(task.name, str(task.threat.epsilon))
        rest = f" · {_text(left)} left" if left else ""
        self._say(f"{model.replace('_', ' ')} · {title} · {done}/{total} images{rest}")

    def checks(self, model: str) -> None:
        """The attacks on a model are over, and what the verdict asks for is measured."""
        self._say(f"{model.replace('_', ' ')} · checks of the measurement")

    def seconds_left(self) -> float | None:
        """About how long the rest takes; None where too little was measured to say so."""
        per_effort = self._per_effort()
        left = sum(images * each for images, each in self._rest(per_effort))
        measured = sum(seconds for seconds, _ in self._taken.values())
        return left if per_effort and left <= MOST_TIMES_MEASURED * measured else None

    def _rest(self, per_effort: float) -> Iterator[tuple[int, float]]:
        for (model, name), images in self._left.items():
            seconds, measured = self._taken.get(name, (0.0, 0))
            yield images, seconds / measured if measured else per_effort * self._plan.get(model, {}).get(name, 1.0)

    def _per_effort(self) -> float:
        known = {name: weight for each in self._plan.values() for name, weight in each.items()}
        effort_done = sum(images * known.get(name, 1.0) for name, (_, images) in self._taken.items())
        return sum(seconds for seconds, _ in self._taken.values()) / effort_done if effort_done else 0.0


SILENT = Progress(lambda _: None)


def effort(attack: Any) -> float:
    """Roughly how many times an attack passes an image through a model; no attack is one pass."""
    if attack is None:
        return 1.0
    inner = effort(attack.attack) if hasattr(attack, "attack") else 1.0
    counts = (getattr(attack, name, None) for name in _REPEATED)
    return inner * prod(count for count in counts if isinstance(count, int) and count > 0)


def _text(seconds: float) -> str:
    """`0 s`, `41 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
