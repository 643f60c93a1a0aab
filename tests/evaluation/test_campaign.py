"""The engine of an evaluation, on models whose every answer is known in advance and on small trained ones."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.attacks.apgd import Apgd
from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.attacks.square import Square
from components.evaluation.adversarials import Adversarials
from components.evaluation.campaign import Campaign, ModelResults, Shard, Task, cascade, outcome_tensors, rescore
from components.evaluation.journal import OutcomeJournal
from components.evaluation.one_attack import TestSet
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.outside_files import digits, network
from tests.parts.pipeline_files import environment

LINF = Threat(norm=Linf(), epsilon=Ratio(26, 255))
THREATS = [LINF, Threat(norm=L2(), epsilon=Ratio(3, 4)), Threat(norm=L1(), epsilon=Ratio(4))]
# Grey levels below 128 are of class 0, the others of class 1.
LEVELS = (0, 90, 110, 120, 135, 150, 220, 255)


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above `at`, in logits whose gradient never vanishes."""

    def __init__(self, at: float = 127.5) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at / 255), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        above = images.mean((1, 2, 3)) - self.at
        return torch.stack([-above, above], 1)


@dataclass
class Spy:
    """Moves every image by `reach` grey levels towards the other class, and notes which images it is given."""

    reach: float
    seen: list[list[int]]

    def __call__(self, model, images, labels, threat, rng) -> Tensor:
        self.seen.append(rng.images.tolist())
        sign = 1 - 2 * labels.view(-1, 1, 1, 1)
        return (images + sign * min(self.reach / 255, threat.radius)).clamp(0, 1)


def levels(batch_size: int = 3) -> TestSet:
    images = torch.tensor(LEVELS, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return TestSet(images, (torch.tensor(LEVELS) > 127).long(), batch_size)


def some_digits(count: int = 60, batch_size: int = 25) -> TestSet:
    images, labels = digits()
    return TestSet(images[1400 : 1400 + count], labels[1400 : 1400 + count], batch_size)


def run(
    folder: Path, models: dict[str, nn.Module], test: TestSet, tasks: list[Task], name: str = "journal", **fields
) -> dict[str, ModelResults]:
    victims = {model: Victim(network) for model, network in models.items()}
    with OutcomeJournal.open(folder / f"{name}.jsonl", {"test": name}) as journal:
        campaign = Campaign(victims, test, 0, journal, **{"targets": list(models), **fields})
        return {model: campaign.run(model, tasks) for model in models}


def clean() -> Task:
    return Task("clean", None, LINF)


def tasks_of(cascade_epsilons: tuple[int, ...] = (26,)) -> list[Task]:
    pgd = Pgd(steps=4, step_size=Ratio(8, 255), start="uniform", loss="cross_entropy", restarts=2)
    apgd = Apgd(steps=8, restarts=1, loss="cross_entropy", rho=0.75, targets=0)
    square = Square(queries=30, p_init=0.8, restarts=1, loss="margin")
    threats = [LINF.at(Ratio(level, 255)) for level in cascade_epsilons]
    tasks = [clean(), Task("pgd", pgd, LINF, transfers=True), *cascade({"apgd": apgd, "square": square}, threats)]
    return [*tasks, Task("curve/0", pgd, LINF.at(Ratio(52, 255)), counts=False)]


def test_a_cascade_attacks_only_what_stands_in_full_batches(tmp_path):
    first, second = Spy(10, []), Spy(20, [])
    tasks = [clean(), *cascade({"first": first, "second": second}, [LINF])]
    found = run(tmp_path, {"one": Threshold(at=99)}, levels(), tasks)["one"]
    # The images of level 110 and 120 are wrong from the start; the first attack moves level 90 beyond 99.
    assert found.outcomes["clean"].tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    assert first.seen == [[0, 1, 4], [5, 6, 7]]
    assert found.outcomes["cascade/first"].tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    assert second.seen == [[0, 4, 5], [6, 7]]
    assert found.worst_case.tolist() == found.outcomes["cascade/second"].tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    # One look at what each attack made, and the clean pass over all eight.
    assert [found.passes[task.name]["forward"] for task in tasks] == [8, 6, 5]


def test_radii_share_what_fell_at_a_smaller_one(tmp_path):
    spy = Spy(255, [])
    small, large = LINF.at(Ratio(8, 255)), LINF.at(Ratio(60, 255))
    tasks = cascade({"spy": spy}, [LINF, large, small])
    assert [task.name for task in tasks] == ["cascade/spy@8/255", "cascade/spy", "cascade/spy@4/17"]
    assert [task.counts for task in tasks] == [True, True, False]
    found = run(tmp_path, {"one": Threshold()}, levels(batch_size=8), [clean(), *tasks])["one"]
    fallen = {8: {3, 4}, 26: {2, 3, 4, 5}, 60: {1, 2, 3, 4, 5}}
    for radius, task in zip(fallen, tasks, strict=True):
        assert set((found.outcomes[task.name] == 0).nonzero().squeeze(1).tolist()) == fallen[radius]
    assert spy.seen == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 5, 6, 7], [0, 1, 6, 7]]
    # What falls only beyond the threat model's radius does not lower the worst case.
    assert set((found.worst_case == 0).nonzero().squeeze(1).tolist()) == fallen[26]


def test_no_image_left_is_no_work(tmp_path):
    spy = Spy(1, [])
    wrong = levels()._replace(labels=1 - levels().labels)
    found = run(tmp_path, {"one": Threshold()}, wrong, [clean(), *cascade({"spy": spy}, [LINF])])["one"]
    assert not spy.seen and found.outcomes["cascade/spy"].sum() == 0
    assert found.passes["cascade/spy"] == {"forward": 0, "backward": 0}


def test_an_attack_that_helps_shows_in_its_own_outcome_and_not_in_the_worst_case(tmp_path):
    helper = Spy(-60, [])
    found = run(tmp_path, {"one": Threshold(at=100)}, levels(), [clean(), Task("helper", helper, LINF)])["one"]
    assert found.outcomes["helper"].sum() == 8 and found.worst_case.tolist() == found.outcomes["clean"].tolist()


def test_several_models_in_one_run_are_each_as_alone(tmp_path):
    models: dict[str, nn.Module] = {"one": network(0), "two": network(1)}
    together = run(tmp_path, models, some_digits(), tasks_of())
    for name, model in models.items():
        alone = run(tmp_path, {name: model}, some_digits(), tasks_of(), name)[name]
        assert torch.equal(alone.worst_case, together[name].worst_case)
        for task, outcome in alone.outcomes.items():
            assert torch.equal(outcome, together[name].outcomes[task]), task
    assert 0 < together["one"].worst_case.sum() < 60
    # What was crafted on one is shown to the other.
    tensors = outcome_tensors(together)
    assert {name for name in tensors if name.startswith("transfer/")} == {
        f"transfer/pgd/{source}/{target}" for source in models for target in models
    }
    assert torch.equal(tensors["transfer/pgd/one/one"], tensors["one/pgd"])
    assert not torch.equal(tensors["transfer/pgd/one/two"], tensors["two/pgd"])


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_the_size_of_batches_changes_no_outcome(tmp_path, batch_size):
    want = run(tmp_path, {"one": network()}, some_digits(), tasks_of((26, 13)))["one"]
    test = some_digits(batch_size=batch_size)
    found = run(tmp_path, {"one": network()}, test, tasks_of((26, 13)), "other")["one"]
    for task, outcome in want.outcomes.items():
        assert torch.equal(outcome, found.outcomes[task]), task
    assert found.passes["clean"] == want.passes["clean"]


def test_a_journal_saves_all_work_and_changes_nothing(tmp_path):
    spy = Spy(20, [])
    first = run(tmp_path, {"one": Threshold()}, levels(), [clean(), Task("spy", spy, LINF)])["one"]
    calls = len(spy.seen)
    journal = (tmp_path / "journal.jsonl").read_bytes()
    again = run(tmp_path, {"one": Threshold()}, levels(), [clean(), Task("spy", spy, LINF)])["one"]
    assert len(spy.seen) == calls and (tmp_path / "journal.jsonl").read_bytes() == journal
    assert again.passes == first.passes and torch.equal(again.worst_case, first.worst_case)
    # Half of the journal: only the rest is done.
    (tmp_path / "journal.jsonl").write_bytes(b"".join(journal.splitlines(keepends=True)[:-2]))
    run(tmp_path, {"one": Threshold()}, levels(), [clean(), Task("spy", spy, LINF)])
    assert spy.seen[calls:] == [[3, 4, 5], [6, 7]] and (tmp_path / "journal.jsonl").read_bytes() == journal


def test_a_record_of_other_images_is_refused(tmp_path):
    run(tmp_path, {"one": Threshold()}, levels(), [clean()])
    with pytest.raises(InputError, match="one/clean/0 holds other images than this evaluation attacks there"):
        run(tmp_path, {"one": Threshold()}, levels(batch_size=4), [clean()])


def test_a_shard_does_its_units_and_takes_the_others_from_the_journal(tmp_path):
    whole, half = Spy(20, []), Spy(20, [])
    run(tmp_path, {"one": Threshold()}, levels(), [clean(), Task("spy", whole, LINF)])
    lines = (tmp_path / "journal.jsonl").read_text().splitlines(keepends=True)
    # The second of two processes finds what the first one did: units 0 and 2 of both tasks.
    kept = [line for line in lines if not line.startswith(('{"unit":"one/clean/1"', '{"unit":"one/spy/1"'))]
    (tmp_path / "journal.jsonl").write_text("".join(kept))
    found = run(tmp_path, {"one": Threshold()}, levels(), [clean(), Task("spy", half, LINF)], shard=Shard(1, 2))
    assert half.seen == [[3, 4, 5]] and found["one"].outcomes["spy"].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
    assert sorted(lines) == sorted((tmp_path / "journal.jsonl").read_text().splitlines(keepends=True))


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name)
def test_saved_adversarials_score_as_claimed(tmp_path, threat):
    test, victim = some_digits(), Victim(network())
    tasks = [Task(task.name, task.attack, threat, task.after, task.counts) for task in tasks_of()]
    kept = Adversarials(tmp_path / "one.npy", test, "float32")
    found = run(tmp_path, {"one": network()}, test, tasks, adversarials={"one": kept})["one"]
    claimed = int((found.worst_case == 0).sum())
    scored = rescore(victim, test, threat, Adversarials(tmp_path / "one.npy", test, "float32"))
    assert claimed > 20 and scored["fooled"] == claimed and scored["undecided"] == 0
    assert 0.9 * threat.radius < scored["largest"] <= threat.radius + 2e-6
    # The images that stand are kept as they are.
    places = found.worst_case.nonzero().squeeze(1)
    assert torch.equal(kept.read(places), test.images[places].float() / 255)


def test_eight_bit_adversarials_are_on_grey_levels_and_inside_the_ball(tmp_path):
    test = some_digits()
    images = test.images.float() / 255
    kept = Adversarials(tmp_path / "one.npy", test, "uint8")
    rng = torch.Generator().manual_seed(0)
    for threat in (LINF, LINF.at(Ratio(8, 255)), Threat(norm=L2(), epsilon=Ratio(3, 4))):
        images_adv = threat.random_start(images, rng)
        kept.keep(torch.arange(60), images_adv)
        read = kept.read(torch.arange(60))
        # To the last bit inside: a level that the attack did not reach is not rounded up to.
        assert float(threat.size(read - images).max()) <= threat.radius + 1e-6
        assert torch.equal((read * 255).round(), read * 255) and (read - images_adv).abs().max() < 1 / 255 + 1e-5
    # What an attack put exactly on a level stays there.
    edge = (images + LINF.radius).clamp(0, 1)
    kept.keep(torch.arange(60), edge)
    assert torch.allclose(kept.read(torch.arange(60)), edge, atol=1e-6)


def test_the_first_adversarial_version_of_an_image_stays(tmp_path):
    test = levels()
    kept = Adversarials(tmp_path / "one.npy", test, "float32")
    tasks = [clean(), Task("weak", Spy(20, []), LINF), Task("strong", Spy(26, []), LINF)]
    run(tmp_path, {"one": Threshold()}, test, tasks, adversarials={"one": kept})
    moved = (kept.read(torch.arange(8)) * 255 - test.images)[:, 0, 0, 0].round()
    # Levels 110 and 120, 135 and 150: what the weak attack found stays, though the strong one found more.
    assert moved.tolist() == [0, 0, 20, 20, -20, -26, 0, 0]


def test_what_one_process_began_no_other_replaces(tmp_path):
    test = levels()
    first = Adversarials(tmp_path / "one.npy", test, "float32")
    path = first.path
    hidden = path.rename(tmp_path / "hidden.npy")
    late = Adversarials.__new__(Adversarials)
    late.path, late.dtype, late.test = path, "float32", test
    hidden.rename(path)
    late._begin()  # as if it had looked before the first one began
    first.keep(torch.tensor([0]), torch.ones(1, 1, 4, 4))
    assert torch.equal(Adversarials(path, test, "float32").read(torch.tensor([0])), torch.ones(1, 1, 4, 4))


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from tests.evaluation.test_campaign import apgd_task, clean, pgd_task, run, some_digits
from tests.parts.outside_files import digits, network

torch.set_num_threads(1)
steps, restarts, count = map(int, sys.argv[1:])
images, labels = digits()
images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
repeat = lambda part: part.repeat(3, *[1] * (part.ndim - 1))[:count]
test = some_digits(1)._replace(images=repeat(images), labels=repeat(labels), batch_size=200)
model = torch.nn.Sequential(torch.nn.AvgPool2d(4), network())
warm = test._replace(images=test.images[:200], labels=test.labels[:200])
run(Path("."), {"one": model}, warm, [clean(), pgd_task(2, 1), apgd_task(4)], "warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(Path("."), {"one": model}, test, [clean(), pgd_task(steps, restarts), apgd_task(steps)], "run")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
MIB = 1024  # ru_maxrss counts KiB
BOUND = 8 * MIB


def pgd_task(steps: int, restarts: int) -> Task:
    attack = Pgd(steps=steps, step_size=Ratio(1, 255), start="uniform", loss="cross_entropy", restarts=restarts)
    return Task("pgd", attack, LINF.at(Ratio(4, 255)))


def apgd_task(steps: int) -> Task:
    attack = Apgd(steps=steps, restarts=1, loss="cross_entropy", rho=0.75, targets=0)
    return Task("apgd", attack, LINF.at(Ratio(4, 255)))


def growth(folder: Path, steps: int = 4, restarts: int = 1, count: int = 400) -> int:
    """By how many KiB the peak of a fresh process grows beyond that of a first, small evaluation in it."""
    name = f"{steps}-{restarts}-{count}"
    (folder / name).mkdir()
    command = [sys.executable, "-c", MEMORY, str(steps), str(restarts), str(count)]
    # Freed memory goes back at once: else the peak would show the allocator's holes, 10 MiB and more of them.
    tight = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    given = {"cwd": folder / name, "env": environment() | tight, "check": True}
    done = subprocess.run(command, **given, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_steps_restarts_or_images(tmp_path):
    # A batch of float images is 0.8 MiB: 40 steps, 5 restarts of 4 steps and 20 batches would each keep 16 MiB or more.
    least = growth(tmp_path)
    assert growth(tmp_path, steps=40) <= least + BOUND
    assert growth(tmp_path, restarts=5) <= least + BOUND
    # The images themselves, 4 MiB, are there before; outcomes and records are a few dozen bytes an image and task.
    assert growth(tmp_path, count=4_000) <= least + BOUND


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_continues_what_a_cpu_began(tmp_path):
    want = run(tmp_path, {"one": network()}, some_digits(), tasks_of())["one"]
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    test = some_digits()
    there = test._replace(images=test.images.cuda(), labels=test.labels.cuda())
    import copy

    found = run(tmp_path, {"one": copy.deepcopy(network()).cuda()}, there, tasks_of())["one"]
    for task, outcome in want.outcomes.items():
        # Sums of floats differ between devices, which moves an image at the edge now and then.
        assert (outcome != found.outcomes[task].cpu()).sum() <= 2, task


class Silent(Threshold):
    """The same, but without an answer where the top left pixel is above the others."""

    def forward(self, images: Tensor) -> Tensor:
        whole = images.mean((1, 2, 3))
        return super().forward(images) + 0 * torch.sqrt(1e-3 + whole - images[:, 0, 0, 0])[:, None]


@dataclass
class Corner:
    """Brightens the top left pixel, for images made for the model `Threshold` alone."""

    def __call__(self, model, images, labels, threat, rng) -> Tensor:
        images_adv = images.clone()
        if not isinstance(model.exact, Silent):
            images_adv[:, 0, 0, 0] += threat.radius
        return images_adv.clamp(0, 1)


def test_what_was_made_for_another_model_and_gets_no_answer_is_noted(tmp_path):
    models = {"one": Threshold(), "two": Silent()}
    found = run(tmp_path, models, levels(), [clean(), Task("corner", Corner(), LINF, transfers=True)])
    assert not any(result.unanswered[name].any() for name, result in found.items()), "each on its own images"
    # White stays white: there the corner is no brighter than the rest.
    assert found["one"].unanswered["two"].tolist() == [True] * 7 + [False]
    assert found["one"].transfer["corner"]["two"].tolist() == [0] * 7 + [1]


def test_a_saved_image_without_an_answer_is_noted(tmp_path):
    test = levels()
    kept = Adversarials(tmp_path / "one.npy", test, "float32")
    images_adv = (test.images.float() / 255).clone()
    images_adv[:3, 0, 0, 0] = 1
    kept.keep(torch.arange(8), images_adv)
    scored = rescore(Victim(Silent()), test, LINF, kept)
    assert scored["unanswered"] == 3 and scored["fooled"] == 3
