"""The overfitting sentinel: its rules on hand-made curves, looks that leave no trace, and what alarms do to a run."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.augmentation import Augmentation
from components.data.batch import Batch
from components.data.loader import Loader
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.methods.parts.contract import Loss, Method
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics.compute import Precision
from components.numerics.cost import PassCounter
from components.numerics.losses import accuracy, cross_entropy
from components.numerics.random_numbers import Rng, derived, normal
from components.schedules.one_cycle import OneCycle
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training.checkpoint import TrainingState
from components.training.loop import Plan, Recipe, fit, start
from components.training.sentinel.probe import SentinelProbe
from components.training.sentinel.replay import lead_times
from components.training.sentinel.rules import RULES, Rules, Sentinel, alarms, catastrophic, recovered
from components.training.sentinel.watch import Watch, _told
from components.training.validation import Validation
from components.wrappers.converge_smooth import Smoothing
from tests.parts.method_members import ATTACK, MEMBERS
from tests.parts.sentinel_fields import RULES as RULE_FIELDS
from tests.parts.tiny_net import TinyNet
from tests.training.test_training import data, recipe

# A shorter memory, so that curves by hand are short.
THRESHOLDS = Rules(**RULE_FIELDS | {"stride": (0.1, 0.3), "velocity": 2.0, "memory": 4, "widening": 0.12})
HEALTHY = {
    "fgsm_accuracy": 0.5,
    "pgd_accuracy": 0.45,
    "alignment": 0.8,
    "direction": 0.9,
    "clean_loss": 1.0,
    "adversarial_loss": 1.5,
    "distortion": 1.2,
    "train_loss": 1.4,
}


def curve(*changes: dict[str, float]) -> list[dict[str, float]]:
    """Looks of a healthy run, two an epoch, with these changes at the last of them."""
    count = 8 - len(changes)
    looks = [HEALTHY, *[HEALTHY] * (count - 1), *({**HEALTHY, **change} for change in changes)]
    return [{"epoch": place / 2, **look} for place, look in enumerate(looks)]


# What fires which rules at the last look; the look before never fires any.
FIRES: list[tuple[set[str], list[dict[str, float]]]] = [
    (set(), [{}]),
    ({"gap"}, [{"fgsm_accuracy": 0.61}]),
    (set(), [{"fgsm_accuracy": 0.599}]),
    ({"collapse", "catastrophic", "gap", "widening", "fall"}, [{"pgd_accuracy": 0.2}]),
    ({"collapse", "catastrophic", "gap", "widening"}, [{"pgd_accuracy": 0.36}, {"pgd_accuracy": 0.22}]),
    # Both fell: a collapse, but no overfitting.
    ({"collapse", "fall"}, [{"pgd_accuracy": 0.2, "fgsm_accuracy": 0.25}]),
    (set(), [{"pgd_accuracy": 0.26, "fgsm_accuracy": 0.25}]),
    ({"alignment"}, [{"alignment": 0.39}]),
    (set(), [{"alignment": 0.41}]),
    ({"direction"}, [{"direction": 0.44}]),
    ({"distortion"}, [{"distortion": 1.01}]),
    (set(), [{"distortion": 1.03}]),
    ({"loss"}, [{"adversarial_loss": 1.0}]),
    ({"loss"}, [{"adversarial_loss": 1.0, "clean_loss": 1.05}]),
    (set(), [{"adversarial_loss": 1.0, "clean_loss": 0.6}]),
    ({"loss"}, [{"train_loss": 1.29}]),
    (set(), [{"train_loss": 1.31}]),
    (set(), [{"train_loss": 1.8}]),
    # The stride follows the change before, up to its bound.
    (set(), [{"train_loss": 1.6}, {"train_loss": 1.41}]),
    ({"loss"}, [{"train_loss": 2.4}, {"train_loss": 2.05}]),
    ({"kernel"}, [{"kernel_rank": 20.0}, {"kernel_rank": 13.0}]),
    (set(), [{"kernel_rank": 20.0}, {"kernel_rank": 15.0}]),
    ({"kernel"}, [{"kernel_velocity": 0.02}, {}, {"kernel_velocity": 0.05}]),
    (set(), [{"kernel_velocity": 0.02}, {}, {"kernel_velocity": 0.03}]),
    (set(), [{"kernel_velocity": 0.02}, {"kernel_velocity": 0.03}, {}]),
]


@pytest.mark.parametrize(
    "want, changes", FIRES, ids=lambda value: str(sorted(value) if isinstance(value, set) else value)
)
def test_each_rule_fires_exactly_when_it_should(want, changes):
    looks = curve(*changes)
    assert set(alarms(looks, THRESHOLDS)) == want
    assert not alarms(looks[:-1], THRESHOLDS)


def test_without_a_signal_its_rules_are_silent():
    looks = [{"epoch": n, "fgsm_accuracy": 0.5, "pgd_accuracy": 0.45} for n in range(6)]
    assert not alarms(looks, THRESHOLDS) and not alarms(looks[:1], THRESHOLDS)


@pytest.mark.parametrize("best, want", [(0.06, True), (0.05, False)])
def test_what_was_not_learned_cannot_collapse(best, want):
    looks = [
        {"epoch": place / 2, "fgsm_accuracy": 0.3, "pgd_accuracy": pgd} for place, pgd in enumerate((0.0, best, 0.0))
    ]
    assert catastrophic(looks, THRESHOLDS) is want


def test_recovery_is_said_once_and_only_after_a_collapse():
    levels = [0.4, 0.45, 0.1, 0.2, 0.35, 0.37, 0.44, 0.1, 0.44]
    looks = [{"epoch": n, "fgsm_accuracy": 0.5, "pgd_accuracy": level} for n, level in enumerate(levels)]
    prefixes = [looks[:n] for n in range(1, len(looks) + 1)]
    assert [n for n, seen in enumerate(prefixes) if catastrophic(seen, THRESHOLDS)] == [2, 3, 7]
    assert [n for n, seen in enumerate(prefixes) if recovered(seen, THRESHOLDS)] == [5, 8]


def test_lead_times_are_counted_to_the_definition():
    looks = curve({"alignment": 0.3}, {}, {"direction": 0.2}, {"pgd_accuracy": 0.1, "distortion": 0.9})
    leads = lead_times(looks, THRESHOLDS)
    assert set(leads) == set(RULES)
    assert leads["catastrophic"] == (3.5, 0, 0) and leads["alignment"] == (2.0, 1.5, 0)
    assert leads["direction"] == (3.0, 0.5, 0) and leads["distortion"] == (3.5, 0, 0)
    assert leads["kernel"] == (None, None, 0)
    late = [*looks, {**looks[-1], "epoch": 4.0, "train_loss": 0.2}]
    assert lead_times(late, THRESHOLDS)["loss"] == (4.0, -0.5, 0)


def test_alarms_of_a_run_that_never_collapses_are_false():
    leads = lead_times(curve({"alignment": 0.3}, {}, {"alignment": 0.2}, {}), THRESHOLDS)
    assert leads["alignment"] == (2.0, None, 2)
    assert leads["catastrophic"] == (None, None, 0)


def sentinel(**changes: Any) -> Sentinel:
    fields: dict[str, Any] = {
        "images": 9,
        "looks": 3,
        "steps": 3,
        "step_size": Ratio(3, 255),
        "alarm_on": ("catastrophic",),
        "action": "note",
        "changes": (),
        "good": 0.8,
        "rules": THRESHOLDS,
    }
    return Sentinel(**fields | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": 1}, r"images\n.*greater than or equal to 2 "),
        ({"looks": 0}, r"looks\n.*greater than or equal to 1 "),
        ({"step_size": Ratio(0)}, r"step_size\n.*greater than 0 "),
        ({"action": "roll_back"}, "got action 'roll_back' with 0 changes, want changes with 'roll_back'"),
        ({"changes": ({"noise": 2},)}, "got action 'note' with 1 changes"),
        ({"alarm_on": ("panic",)}, "panic"),
    ],
    ids=str,
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        sentinel(**changes)


def new_probe(threat: Threat, fields: Sentinel, precision: Precision = "float32", batch_size: int = 4) -> SentinelProbe:
    images, labels = data()
    return SentinelProbe(fields, images, labels, threat, batch_size, precision, seed=0)


@pytest.mark.parametrize("norm, epsilon", [(Linf(), Ratio(8, 255)), (L2(), Ratio(1, 2))], ids=repr)
def test_signals_equal_slow_formulas(norm, epsilon):
    """On a linear float64 model in one batch, each signal from its definition, with gradients by hand."""
    threat = Threat(norm=norm, epsilon=epsilon)
    torch.manual_seed(0)
    layer = nn.Linear(64, 3)
    model = nn.Sequential(nn.Flatten(), layer).double()
    probe = new_probe(threat, sentinel(), batch_size=9)
    probe.images = x = probe.images.double()
    y, weight, radius = probe.labels, layer.weight.detach(), float(epsilon)

    def gradient(points):
        return ((model(points).softmax(1) - torch.eye(3)[y]) @ weight).view_as(points).detach()

    def project(points):
        if norm == Linf():
            return torch.minimum(torch.maximum(points, x - radius), x + radius).clamp(0, 1)
        lengths = (points - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (x + (points - x) * (radius / lengths).clamp_max(1)).clamp(0, 1)

    def step(points, toward, length):
        unit = toward.sign() if norm == Linf() else toward / toward.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return project(points + length * unit)

    noisy = threat.random_start(x, torch.Generator().manual_seed(derived(0, "sentinel", 5)))
    fgsm = step(x, gradient(x), radius)
    wolfe = fgsm / 3 + step(x, gradient(fgsm), radius) * 2 / 3
    pgd = noisy
    for _ in range(3):
        pgd = step(pgd, gradient(pgd), 3 / 255)

    def cosine(left, right):
        return torch.nn.functional.cosine_similarity(left.flatten(1), right.flatten(1)).mean().item()

    def right(points):
        return (model(points).argmax(1) == y).double().mean().item()

    want = {
        "clean_accuracy": right(x),
        "fgsm_accuracy": right(fgsm),
        "pgd_accuracy": right(pgd),
        "clean_loss": cross_entropy(model(x), y).mean().item(),
        "adversarial_loss": cross_entropy(model(fgsm), y).mean().item(),
        "alignment": cosine(gradient(x), gradient(noisy)),
        "direction": cosine(fgsm - x, pgd - x),
        "distortion": (wolfe - x).flatten(1).norm(dim=1).mean().item(),
    }
    assert probe.look(model, 5)[0] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_look_leaves_no_trace_and_its_passes_are_counted(precision, tiny, linf):
    probe = new_probe(linf, sentinel(), precision)
    tiny.train()
    tiny.features[0].eval()
    before = copy.deepcopy(tiny.state_dict())
    drawn, counter = torch.get_rng_state(), PassCounter(tiny)
    signals, passes = probe.look(tiny, 3)
    assert passes == counter.take() == {"forward": 9 * 6, "backward": 9 * 5}
    counter.close()
    assert torch.equal(torch.get_rng_state(), drawn)
    assert tiny.training and tiny.features[1].training and not tiny.features[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny.parameters())
    # The number of the look decides its random numbers, and nothing else does.
    assert probe.look(tiny, 3)[0] == signals
    assert probe.look(tiny, 4)[0]["alignment"] != signals["alignment"]


def test_a_probe_is_stratified_and_refuses_more_images_than_there_are(linf):
    probe = new_probe(linf, sentinel())
    assert torch.bincount(probe.labels).tolist() == [3, 3, 3]
    with pytest.raises(InputError, match=r"sentinel\.images: got 41, but the validation split has 40"):
        new_probe(linf, sentinel(images=41))


def test_a_model_without_gradient_has_no_cosine(linf):
    layer = nn.Linear(64, 3)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(nn.Flatten(), layer)
    signals, _ = new_probe(linf, sentinel()).look(model, 0)
    assert "alignment" not in signals and signals["clean_accuracy"] == signals["pgd_accuracy"]


# Runs


class Scripted:
    """A probe whose PGD accuracy is written down: per look number, and only for the method's first `noise`."""

    def __init__(self, probe: SentinelProbe, collapses: dict[int, float], cured: list[bool]) -> None:
        self.probe, self.labels, self.collapses, self.cured = probe, probe.labels, collapses, cured

    def look(self, model: nn.Module, number: int) -> tuple[dict[str, float], dict[str, int]]:
        signals, passes = self.probe.look(model, number)
        level = 0.5 if self.cured[0] else self.collapses.get(number, 0.5)
        return signals | {"fgsm_accuracy": 0.5, "pgd_accuracy": level}, passes


class Noisy(Method):
    """Cross-entropy of noisy images, of the model and a companion; remembers a running loss."""

    mean: Tensor

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("mean", torch.zeros(()))
        torch.manual_seed(5)
        self.companion = TinyNet()

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        noise = self.noise * normal(rng, batch.images)
        logits = model(batch.images + noise) + self.companion(batch.images)
        each = cross_entropy(logits, batch.labels)
        total = each.mean()
        self.mean = 0.5 * self.mean + 0.5 * total.detach()
        parts = {"running": self.mean.clone(), "train_adversarial_accuracy": accuracy(logits, batch.labels)}
        return Loss(total + 0.1 * self.mean, parts, adversarial=each)


class Run:
    """A run of four epochs of five steps each, with a sentinel that sees what is written down."""

    def __init__(self, linf: Threat, folder: Path, fields: Sentinel | None, method: Method, **given: Any) -> None:
        images, labels = data()
        plan_recipe: Recipe = given.get("recipe", recipe())
        torch.manual_seed(1)
        kernels = KernelProbe(ProbeSchedule(epochs=(0, 1, 3, 4), size=6, directions=4), images, labels, 3, seed=0)
        validation = Validation(images[:10], labels[:10], ATTACK, linf, 4, kernels, seed=0)
        self.folder, self.lines, self.adapted, self.cured = folder, [], [], [False]
        self.state: TrainingState = start(TinyNet(), method, validation, plan_recipe, seed=0)
        if fields is not None:
            probe: Any = new_probe(linf, fields)
            if "collapses" in given:
                probe = Scripted(probe, given["collapses"], self.cured)
            self.cures_at = given.get("cures_at", 1)
            self.state.watch = Watch(fields, probe, self.adapt, self.lines.append)
        loader = Loader(images, labels, 8, Augmentation(crop=1, flip=True, cutmix=0, rand_augment=None), 3)
        self.records: Iterator[dict[str, float]] = fit(
            self.state, loader, Plan(plan_recipe, OneCycle(start=0.1, peak=0.3), linf, seed=0), folder
        )

    def adapt(self, roll_backs: int) -> Method:
        self.adapted.append(roll_backs)
        self.cured[0] = roll_backs >= self.cures_at
        return Noisy(noise=0.1 * roll_backs)

    @property
    def epochs(self) -> list[int]:
        return [int(record["epoch"]) for record in self.state.history]


def assert_same(left: TrainingState, right: TrainingState, *, but: Sequence[str] = ()) -> None:
    ours, theirs = left._tensors(), right._tensors()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    ignored = {"seconds", *but}
    numbers = [{k: v for k, v in state._numbers().items() if k not in ignored} for state in (left, right)]
    assert numbers[0] == numbers[1]


ROLL_BACK = {"action": "roll_back", "changes": ({"noise": 0.1}, {"noise": 0.2})}


@pytest.mark.parametrize("name", ["pgd_at", "b_mtard"])
def test_looking_does_not_change_training(name, linf, tmp_path):
    everything = sentinel(alarm_on=tuple(RULES), rules=THRESHOLDS)
    blind = Run(linf, tmp_path / "blind", None, MEMBERS[name]())
    seeing = Run(linf, tmp_path / "seeing", everything, MEMBERS[name]())
    records, seen = list(blind.records), list(seeing.records)
    assert_same(blind.state, seeing.state, but=("history", "watch"))
    assert blind.state.passes == seeing.state.passes
    own = [{name: value for name, value in record.items() if "sentinel" not in name} for record in seen]
    assert own == records
    assert seen[1].keys() - records[1].keys() >= {"sentinel_pgd_accuracy", "sentinel_share", "sentinel_roll_backs"}
    # Three looks at nine images against the passes of forty images in training.
    spent = 3 * 9 * 11
    trained = sum(blind.state.passes.values()) / 4
    assert seen[2]["sentinel_share"] == pytest.approx(spent / trained)
    assert any("looks take" in line for line in seeing.lines)


def test_it_looks_before_training_in_epochs_and_at_their_ends(linf, tmp_path):
    run = Run(linf, tmp_path, sentinel(), MEMBERS["pgd_at"]())
    list(run.records)
    assert run.state.watch is not None
    rows = run.state.watch.looks
    assert [row["epoch"] for row in rows][:5] == [0, 2 / 5, 3 / 5, 1, 1 + 2 / 5] and len(rows) == 13
    for row, record in (
        (row, record) for row in rows for record in run.state.history if row["epoch"] == record["epoch"]
    ):
        assert record["sentinel_alignment"] == row["alignment"]
    steps = [row for row in rows if 1 < row["epoch"] <= 2]
    weights = [2, 1, 2]
    mean = sum(w * row["train_loss"] for w, row in zip(weights, steps, strict=True)) / 5
    assert mean == pytest.approx(run.state.history[2]["train_loss"])
    # Kernels are measured at 0, 1, 3 and 4: a velocity needs one before, and is per epoch.
    assert [row["epoch"] for row in rows if "kernel_rank" in row] == [0, 1, 3, 4]
    turned = run.state.history[3]["ntk_adversarial_distance_previous"]
    assert next(row["kernel_velocity"] for row in rows if row["epoch"] == 3) == turned / 2


def test_a_note_is_made_once_and_recovery_too(linf, tmp_path):
    collapses = {4: 0.1, 5: 0.1, 7: 0.42}
    run = Run(linf, tmp_path, sentinel(), Noisy(0.0), collapses=collapses)
    list(run.records)
    assert run.lines[1:] == [
        "sentinel: epoch 1.4: catastrophic overfitting (FGSM 50.0 %, PGD 10.0 %, n = 9): noted",
        "sentinel: epoch 2: no longer overfitted (FGSM 50.0 %, PGD 50.0 %, n = 9): recovered",
    ]
    assert run.epochs == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("number, at", [(7, "2.4"), (9, "3")])
def test_stop_ends_with_the_last_whole_epoch(number, at, linf, tmp_path):
    stopping = sentinel(action="stop")
    run = Run(linf, tmp_path / "a", stopping, Noisy(0.0), collapses={number: 0.1})
    list(run.records)
    assert run.epochs == [0, 1, 2]
    line = f"sentinel: epoch {at}: catastrophic overfitting (FGSM 50.0 %, PGD 10.0 %, n = 9): stopped"
    assert run.lines[-1] == line
    twin = Run(linf, tmp_path / "b", stopping, Noisy(0.0), collapses={})
    for _ in range(3):
        next(twin.records)
    assert_same(run.state, twin.state, but=("watch", "passes"))
    assert sum(run.state.passes.values()) > sum(twin.state.passes.values())
    # Continued, it stays stopped.
    again = Run(linf, tmp_path / "a", stopping, Noisy(0.0), collapses={})
    assert list(again.records) == [] and again.epochs == [0, 1, 2]


def test_a_roll_back_restores_the_good_weights_and_makes_the_change(linf, tmp_path):
    run = Run(linf, tmp_path / "a", sentinel(**ROLL_BACK), Noisy(0.0), collapses={6: 0.35, 7: 0.1})
    seen = [next(run.records) for _ in range(3)]
    # Epoch 2 is below the share of the best that is good, so epoch 1 is the last good one.
    twin = Run(linf, tmp_path / "b", sentinel(**ROLL_BACK), Noisy(0.0), collapses={})
    for _ in range(2):
        next(twin.records)
    good = {name: tensor.clone() for name, tensor in twin.state._tensors().items()}
    seen.append(next(run.records))
    assert [record["epoch"] for record in seen] == [0, 1, 2, 2]
    assert run.lines[-1] == (
        "sentinel: epoch 2.4: catastrophic overfitting (FGSM 50.0 %, PGD 10.0 %, n = 9): "
        "rolled back to epoch 1, noise 0.1"
    )
    assert run.adapted[-1] == 1 and isinstance(run.state.method, Noisy) and run.state.method.noise == 0.1
    # What the epoch after the roll back began with: run it by hand from the good state with the changed method.
    hand = Run(linf, tmp_path / "c", None, Noisy(0.1), collapses={})
    hand.state._restore(good, twin.state._numbers())
    hand.state.save(tmp_path / "c")
    redone = next(hand.records)
    assert {name: seen[3][name] for name in redone} == redone
    assert seen[3]["sentinel_roll_backs"] == 1 and seen[3]["train_loss"] != seen[2]["train_loss"]
    list(run.records)
    assert run.epochs == [0, 1, 2, 3, 4]
    assert run.state.watch is not None
    dropped = [row["epoch"] for row in run.state.watch.rows if row["dropped"]]
    assert dropped == [1.4, 1.6, 2, 2.4]
    epochs = [row["epoch"] for row in run.state.watch.looks]
    assert epochs == sorted(set(epochs))


def test_roll_backs_are_bounded_by_the_list_of_changes(linf, tmp_path):
    always = {number: 0.1 for number in range(4, 20)}
    run = Run(linf, tmp_path, sentinel(**ROLL_BACK), Noisy(0.0), collapses=always, cures_at=9)
    list(run.records)
    assert run.epochs == [0, 1] and run.adapted[-1] == 2
    assert [line.split(": ")[-1] for line in run.lines if line.startswith("sentinel: epoch")] == [
        "rolled back to epoch 1, noise 0.1",
        "rolled back to epoch 1, noise 0.2",
        "stopped",
    ]
    assert run.state.watch is not None and run.state.watch.roll_backs == 2 and run.state.watch.stopped


@pytest.mark.parametrize("collapses", [{7: 0.1}, {9: 0.1}, {1: 0.1}], ids=str)
@pytest.mark.parametrize("kill_after", [1, 3])
def test_killed_and_continued_is_bit_exact_after_a_roll_back_too(kill_after, collapses, linf, tmp_path):
    def new(folder: Path) -> Run:
        return Run(linf, folder, sentinel(**ROLL_BACK), Noisy(0.0), collapses=collapses)

    whole = new(tmp_path / "whole")
    list(whole.records)
    assert whole.state.watch is not None and whole.state.watch.roll_backs == 1
    cut = new(tmp_path / "cut")
    while len(list(itertools.islice(cut.records, kill_after))) == kill_after:
        torch.manual_seed(999)
        cut = new(tmp_path / "cut")
    assert_same(whole.state, cut.state)
    best = [run.state.best_weights(run.folder) for run in (whole, cut)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_killed_between_writes_it_rolls_back_to_the_same_place(linf, tmp_path, monkeypatch):
    """A kill right after the decision, before the checkpoint: the run decides once more, and alike."""
    whole = Run(linf, tmp_path / "whole", sentinel(**ROLL_BACK), Noisy(0.0), collapses={7: 0.1})
    list(whole.records)
    cut = Run(linf, tmp_path / "cut", sentinel(**ROLL_BACK), Noisy(0.0), collapses={7: 0.1})
    for _ in range(3):
        next(cut.records)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(cut.records)
    again = Run(linf, tmp_path / "cut", sentinel(**ROLL_BACK), Noisy(0.0), collapses={7: 0.1})
    list(again.records)
    assert_same(whole.state, again.state)


def test_the_best_weights_of_a_roll_back_survive(linf, tmp_path):
    """An epoch that was best but is rolled back must not take the best file of the good epoch with it."""
    run = Run(linf, tmp_path, sentinel(**ROLL_BACK), Noisy(0.0), collapses={6: 0.35, 7: 0.1})
    for record in run.records:
        assert (tmp_path / f"best-{run.state.best_epoch:04d}.safetensors").exists()
        assert run.state.best_weights(tmp_path)
        if record["epoch"] == 2 and not run.adapted:
            run.state.best_epoch = 2
    assert len(list(tmp_path.glob("good-*"))) == 1


SMOOTHING = Smoothing(
    form="batch",
    weight_adversarial=0.5,
    weight_clean=1.0,
    stride_min=0.02,
    stride_max=0.03,
    weight_centralisation=0.1,
    centre_epochs=2,
    clean="pass",
    loss="smoothed",
    distance="absolute",
    warm_up=0,
    guard=0,
)


def test_smoothing_can_be_put_around_a_method_that_remembers(linf, tmp_path):
    """The wrapper begins anew, what it wraps goes on from the good checkpoint; continued runs agree."""

    def new(folder: Path) -> Run:
        run = Run(linf, folder, sentinel(**ROLL_BACK), Noisy(0.0), collapses={7: 0.1})
        assert run.state.watch is not None
        schedule = OneCycle(start=0.1, peak=0.3)
        adapt = run.state.watch.adapt
        run.state.watch.adapt = lambda roll_backs: SMOOTHING.build(adapt(roll_backs), schedule, 4)
        return run

    whole, cut = new(tmp_path / "whole"), new(tmp_path / "cut")
    remembered = [next(whole.records) for _ in range(3)][-1]["running"]
    redone = next(whole.records)
    assert redone["epoch"] == 3 and "smooth_stride" not in redone and "smooth_loss" in redone
    assert abs(redone["running"] - remembered) < 0.5 * remembered  # 0 would be a new method's
    list(whole.records)
    for _ in range(3):
        next(cut.records)
    next(cut.records)
    again = new(tmp_path / "cut")
    list(again.records)
    assert_same(whole.state, again.state)


def test_changes_are_told_in_few_words():
    assert _told({"noise": 2}) == "noise 2"
    assert _told({"attack": {"steps": 3, "step_size": "2/255"}}) == "attack.steps 3, attack.step_size 2/255"
    assert _told({"noise": 2, "smoothing": dict.fromkeys("abcdefghij", 1)}) == "noise 2, smoothing: 10 values"
