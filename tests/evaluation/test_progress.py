"""How far an evaluation says it is: what is done, what is left, never too often and never in raw names."""

import random
import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from components.attacks import ATTACKS
from components.evaluation.campaign import Task
from components.evaluation.progress import SECONDS_BETWEEN, Progress, effort
from components.foundation.params import Ratio
from components.reports.wording import task_title
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

LINE = re.compile(r"^(?P<model>.+) · (?P<attack>.+) · (?P<done>\d+)/(?P<total>\d+) images( · (?P<left>.+) left)?$")
THREAT = Threat(norm=Linf(), epsilon=Ratio(8, 255))


def steps(count: int) -> Any:
    return SimpleNamespace(steps=count, restarts=1)


@pytest.mark.parametrize("seed", range(30))
def test_lines_come_now_and_then_and_never_count_beyond(seed: int) -> None:
    rng, now, lines = random.Random(seed), [0.0], list[tuple[float, str]]()
    progress = Progress(lambda line: lines.append((now[0], line)), task_title, lambda: now[0])
    tasks = [
        Task(name, steps(rng.randint(1, 50)), THREAT) for name in ("clean", "pgd_sat", "cascade/apgd_t", "curve/1")
    ]
    models, num_images = ["student", "clean_teacher"], rng.randint(1, 400)
    progress.plan(dict.fromkeys(models, tasks), num_images)
    for model in models:
        for task in tasks:
            left = total = rng.randint(1, num_images)
            progress.begin(model, task, total)
            while left:
                batch = min(left, rng.randint(1, 60))
                now[0] += rng.random() * rng.choice([0.1, 1, 15])
                left -= batch
                progress.did(model, task, batch, total, fresh=rng.random() < 0.9)
    times = [time for time, _ in lines]
    assert all(later - earlier >= SECONDS_BETWEEN for earlier, later in pairwise(times))
    for _, line in lines:
        found = LINE.match(line)
        assert found and int(found["done"]) <= int(found["total"]) <= num_images
        assert "_" not in line and "cascade/" not in line
    assert progress.seconds_left() in (None, pytest.approx(0))


UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(text: str) -> float:
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"(\d+) (s|min|h)\b", text))


@pytest.mark.parametrize("seed", range(100))
def test_a_time_that_is_told_is_about_the_time_that_passes(seed: int) -> None:
    """Batches differ, the first is up to a thousand times slower, and an image without an attack costs less."""
    rng, now, lines = random.Random(seed), [0.0], list[tuple[float, str]]()
    progress = Progress(lambda line: lines.append((now[0], line)), clock=lambda: now[0])
    counts = {"clean": 0, "fgsm": 1, "pgd": 20, "apgd_t": rng.choice([50, 900]), "curve": 20}
    tasks = [Task(name, steps(count) if count else None, THREAT) for name, count in counts.items()]
    num_images, batch, cost = rng.choice([1, 20, 500, 5000]), rng.choice([1, 20, 500]), 10 ** rng.uniform(-5, -1)
    progress.plan({"student": tasks}, num_images)
    slow = rng.choice([0.0, 1.0, 12.0, 60.0])
    for task in tasks:
        progress.begin("student", task, num_images)
        for begin in range(0, num_images, batch):
            images = min(batch, num_images - begin)
            each = cost * max(1 / 3, counts[task.name]) * rng.uniform(0.7, 1.4)
            now[0], slow = now[0] + slow + images * each, 0.0
            progress.did("student", task, images, num_images, fresh=True)
    for time, line in lines:
        if told := LINE.match(line.replace("_", " ")).group("left"):  # pyright: ignore[reportOptionalMemberAccess]
            truly, said = now[0] - time, seconds_of(told)
            assert truly / 4 - 30 <= said <= 4 * truly + 30, (line, truly)
    if num_images >= 4 * batch:
        middle = [line for time, line in lines if now[0] / 4 + 60 < time < 0.9 * now[0]]
        assert all("left" in line for line in middle), middle


def test_a_first_slow_batch_tells_no_time() -> None:
    now, lines = [0.0], list[str]()
    progress = Progress(lines.append, clock=lambda: now[0])
    tasks = [Task("clean", None, THREAT), Task("pgd", steps(950), THREAT)]
    progress.plan({"m": tasks}, 20)
    progress.begin("m", tasks[0], 20)
    now[0] += 20
    progress.did("m", tasks[0], 20, 20, fresh=True)
    assert lines == ["m · clean · 20/20 images"] and progress.seconds_left() is None


def warm(progress: Progress, model: str, task: Task, total: int) -> None:
    """A first batch, which is no measurement."""
    progress.did(model, task, 0, total, fresh=True)


def test_the_time_left_is_right_where_images_take_what_their_steps_say() -> None:
    now = [0.0]
    progress = Progress(lambda _: None, clock=lambda: now[0])
    tasks = [Task("a", steps(1), THREAT), Task("b", steps(5), THREAT)]
    progress.plan({"x": tasks, "y": tasks}, 100)
    progress.begin("x", tasks[0], 100)
    warm(progress, "x", tasks[0], 100)
    now[0] += 50
    progress.did("x", tasks[0], 50, 100, fresh=True)
    assert progress.seconds_left() == pytest.approx(50 + 500 + 100 + 500)
    progress.did("x", tasks[0], 50, 100, fresh=False)
    assert progress.seconds_left() == pytest.approx(500 + 100 + 500), "what a journal holds takes no time"


def test_what_was_measured_counts_more_than_what_was_guessed() -> None:
    now = [0.0]
    progress = Progress(lambda _: None, clock=lambda: now[0])
    task = Task("a", steps(100), THREAT)
    progress.plan({"x": [task], "y": [task]}, 10)
    progress.begin("x", task, 10)
    warm(progress, "x", task, 10)
    now[0] += 20
    progress.did("x", task, 10, 10, fresh=True)
    assert progress.seconds_left() == pytest.approx(20)


def test_more_work_is_more_effort() -> None:
    pgd = {"step_size": Ratio(1, 255), "start": "uniform", "loss": "cross_entropy"}
    make: dict[str, Any] = dict(ATTACKS)
    few, many = (make["pgd"](steps=n, restarts=r, **pgd) for n, r in ((5, 1), (20, 2)))
    assert effort(None) <= effort(few) < effort(many) == 40
    assert effort(make["eot"](samples=3, attack=many)) == 120


@pytest.mark.parametrize(
    ("task", "epsilon", "words"),
    [
        ("clean", "8/255", "clean"),
        ("cascade/apgd_t", "8/255", "APGD-T"),
        ("cascade/apgd_t@1/51", "1/51", "APGD-T at ε = 5/255"),
        ("curve/3", "1/5", "curve at ε = 51/255"),
        ("grid/fgsm_predicted/0", "2/85", "FGSM predicted at ε = 6/255"),
    ],
)
def test_tasks_have_words(task: str, epsilon: str, words: str) -> None:
    assert task_title(task, epsilon) == words
