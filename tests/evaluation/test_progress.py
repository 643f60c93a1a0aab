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
    assert progress.seconds_left() == pytest.approx(0)


def test_the_time_left_is_right_where_images_take_what_their_steps_say() -> None:
    now = [0.0]
    progress = Progress(lambda _: None, clock=lambda: now[0])
    tasks = [Task("a", steps(1), THREAT), Task("b", steps(9), THREAT)]
    progress.plan({"x": tasks, "y": tasks}, 100)
    progress.begin("x", tasks[0], 100)
    now[0] += 50
    progress.did("x", tasks[0], 50, 100, fresh=True)
    assert progress.seconds_left() == pytest.approx(50 + 900 + 100 + 900)
    progress.did("x", tasks[0], 50, 100, fresh=False)
    assert progress.seconds_left() == pytest.approx(900 + 100 + 900), "what a journal holds takes no time"


def test_what_was_measured_counts_more_than_what_was_guessed() -> None:
    now = [0.0]
    progress = Progress(lambda _: None, clock=lambda: now[0])
    task = Task("a", steps(100), THREAT)
    progress.plan({"x": [task], "y": [task]}, 10)
    progress.begin("x", task, 10)
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
