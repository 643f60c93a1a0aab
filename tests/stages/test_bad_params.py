"""A mistake in params.yaml is one line that names the key, what was given and what is allowed."""

import math
from typing import Any

import pytest

from components.commands import check_params
from components.distillation import DISTILLATIONS
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.stages import processes
from tests.parts.method_fields import PEER, SMOOTHING
from tests.parts.pipeline_files import ROOT, changed, small_params
from tests.parts.sentinel_fields import SENTINEL

MODELS = "mobilenet_v2, preact_resnet18, resnet18, resnet56, small_cnn, timm, torchvision, wide_resnet"
SECTIONS = (
    "compute, criteria, distill_student, evaluate_attacks, fetch_data, fetch_teachers, normalize_data, ntk, parallel, "
    "report, seed, threat, train_clean_teacher, train_robust_teacher"
)
CLEAN, STUDENT, EVALUATE = "train_clean_teacher", "distill_student", "evaluate_attacks"
OPTIMIZER = f"{CLEAN}.recipe.optimizer"
RECIPE, NO_FRACTION = f"{CLEAN}.recipe", "want a fraction such as 8/255 or a number"
ADR = {
    "name": "adr",
    "steps": 1,
    "step_size": "1/255",
    "start": "zero",
    "temperature_from": 2,
    "temperature_to": 1,
    "weight_from": 0,
    "weight_to": 1,
    "decay": 0.9,
}
SAAD = {
    "name": "saad",
    "attack": {"steps": 1, "step_size": "1/255", "start": "gaussian", "loss": "kl_teacher_linear"},
    "alpha": 1,
    "beta": 0,
    "entropy_weight": 5,
}

ATTACK = {
    "steps": 1,
    "step_size": "1/255",
    "start": "uniform",
    "loss": "cross_entropy",
    "restarts": 1,
}

FILE = {"name": "file", "file": "big.safetensors"}
PROGRAM = {"name": "file", "file": "exported.pt2", "sha256": "0" * 64}
IAD_2 = {
    "name": "iad_2",
    "attack": {"steps": 1, "step_size": "1/255", "start": "uniform", "loss": "cross_entropy"},
    "clean_weight": 0.25,
    "robust_weight": 0.5,
    "temperature": 1,
    "exponent": 0.1,
    "begin_epoch": 1,
}
ROLL_BACK = SENTINEL | {"action": "roll_back"}

# The key that is set, what to (`...`: taken away), and how the error's line begins after "params.yaml: ".
MISTAKES: list[tuple[str, Any, str]] = [
    # keys
    ("devise", "cpu", f"unknown key 'devise' (allowed: {SECTIONS})"),
    ("ntk", ..., "missing key 'ntk'"),
    ("seed", ..., "missing key 'seed'"),
    ("report", ..., "missing key 'report'"),
    (f"{STUDENT}.required", ..., f"missing key '{STUDENT}.required'"),
    (f"{STUDENT}.igdm", ..., f"missing key '{STUDENT}.igdm'"),
    ("train_robust_teacher.warm_start", ..., "missing key 'train_robust_teacher.warm_start'"),
    (f"{RECIPE}.epochs", ..., f"{RECIPE}.epochs: missing"),
    (
        f"{RECIPE}.epocs",
        3,
        f"{RECIPE}.epocs: unknown key (allowed: augmentation, average, batch_size, epochs, extra_share, gradient_clip, "
        "layers, learning_rate, micro_batch, optimizer, patience, precision, select_by)",
    ),
    (
        f"{CLEAN}.recip",
        {},
        f"{CLEAN}.recip: unknown key (allowed: files, initial, method, model, perturbation, recipe, schedule, "
        "sentinel, smoothing, validation_attack)",
    ),
    (f"{CLEAN}.method", {"name": "hat"}, f"{CLEAN}.method"),
    (f"{CLEAN}.warm_start", True, f"{CLEAN}.warm_start: unknown key (allowed: "),
    (f"{CLEAN}.model.widht", 1, f"{CLEAN}.model.widht: unknown key (allowed: batch_norm, width)"),
    (
        f"{CLEAN}.model.batch_norm.momentun",
        1,
        f"{CLEAN}.model.batch_norm.momentun: unknown key (allowed: estimator, momentum)",
    ),
    # types
    (f"{RECIPE}.epochs", "many", f"{RECIPE}.epochs: input should be a valid integer, got 'many'"),
    (f"{RECIPE}.epochs", True, f"{RECIPE}.epochs: input should be a valid integer, got True"),
    (f"{OPTIMIZER}.nesterov", 1, f"{OPTIMIZER}.nesterov: input should be a valid boolean, got 1"),
    (f"{RECIPE}.learning_rate", math.nan, f"{RECIPE}.learning_rate: input should be a finite number"),
    (f"{RECIPE}.learning_rate", "fast", f"{RECIPE}.learning_rate: got 'fast', {NO_FRACTION}"),
    (RECIPE, [1], f"{RECIPE}: input should be an object, got [1]"),
    (CLEAN, None, f"{CLEAN}: input should be an object, got None"),
    ("threat", 3, "threat: input should be an object, got 3"),
    ("ntk.epochs", 3, "ntk.epochs: input should be a valid array, got 3"),
    ("seed", "a", "seed: input should be a valid integer, got 'a'"),
    ("train_robust_teacher.warm_start", "yes", "train_robust_teacher.warm_start: input should be a valid boolean"),
    (f"{CLEAN}.model", "small_cnn", f"{CLEAN}.model: input should be an object, got 'small_cnn'"),
    # values
    ("threat.epsilon", "8/x", f"threat.epsilon: got '8/x', {NO_FRACTION}"),
    ("threat.epsilon", "0/0", f"threat.epsilon: got '0/0', {NO_FRACTION}"),
    ("threat.epsilon", "-8/255", "threat.epsilon: got '-8/255', want at least 0"),
    ("threat.epsilon", 8, "threat: got epsilon 8, want a share of the pixel range [0, 1], such as 8/255"),
    ("threat.epsilon", 0, f"{STUDENT}.validation_attack.step_size: got '13/51*epsilon', want more than 0"),
    ("threat.norm", "l3", "threat.norm: unknown 'l3' (allowed: l1, l2, linf)"),
    ("seed", -1, "seed: got -1, want at least 0"),
    ("seed", 2**60, f"seed: got {2**60}, want at most 4294967296"),
    ("seed", 2**32, f"seed: got {2**32}, want at most 4294967295"),
    ("compute.device", "gpu", "compute.device: input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    ("compute.capture", "always", "compute.capture: input should be 'auto', 'on' or 'off', got 'always'"),
    ("compute.threads", 0, "compute.threads: got 0, want 1 to 1024, or auto"),
    (f"{RECIPE}.epochs", 0, f"{RECIPE}.epochs: got 0, want at least 1"),
    (f"{RECIPE}.batch_size", 1, f"{RECIPE}.batch_size: got 1, want at least 2"),
    (f"{RECIPE}.learning_rate", 0, f"{RECIPE}.learning_rate: got 0, want more than 0"),
    (f"{RECIPE}.gradient_clip", 0, f"{RECIPE}.gradient_clip: got 0, want more than 0"),
    (f"{OPTIMIZER}.weight_decay", -1, f"{OPTIMIZER}.weight_decay: got -1, want at least 0"),
    (f"{OPTIMIZER}.momentum", 0, f"{OPTIMIZER}: got momentum 0.0 with nesterov, want more than 0"),
    (f"{OPTIMIZER}.momentum", 2, f"{OPTIMIZER}.momentum: got 2, want less than 1"),
    (f"{OPTIMIZER}.name", "adam", f"{OPTIMIZER}.name: unknown 'adam' (allowed: adamw, sgd)"),
    (OPTIMIZER, {"name": "adamw", "momentum": 0.9}, f"{OPTIMIZER}.momentum: unknown key (allowed: betas, "),
    (OPTIMIZER, "sgd", f"{OPTIMIZER}: input should be an object, got 'sgd'"),
    (f"{RECIPE}.layers", {"decay": 2, "frozen_epochs": 0}, f"{RECIPE}.layers.decay: got 2, want at most 1"),
    (f"{CLEAN}.initial", {"replace_head": True}, f"{CLEAN}.initial.file: missing"),
    (
        f"{CLEAN}.initial",
        {"file": "w.safetensors", "normalization": {"mean": [0.5], "std": [0]}},
        f"{CLEAN}.initial.normalization.std.0: got 0, want more than 0",
    ),
    (f"{CLEAN}.initial", "my.safetensors", f"{CLEAN}.initial: "),
    (f"{CLEAN}.files", " ", f"{CLEAN}.files: got ' ', want a file"),
    (f"{RECIPE}.layers", {"decay": 1}, f"{RECIPE}.layers.frozen_epochs: missing"),
    (f"{RECIPE}.average.decay", 1, f"{RECIPE}.average.decay: got 1, want less than 1"),
    (f"{RECIPE}.average.name", "mean", f"{RECIPE}.average: "),
    (f"{RECIPE}.patience", 0, f"{RECIPE}.patience: got 0, want at least 1"),
    (f"{CLEAN}.model.width", 0, f"{CLEAN}.model.width: got 0, want more than 0"),
    (f"{CLEAN}.validation_attack.steps", 0, f"{CLEAN}.validation_attack.steps: got 0, want at least 1"),
    ("ntk.size", 1, "ntk.size: got 1, want at least 2"),
    ("normalize_data.validation", 1, "normalize_data: got validation 1 and test 1/5, want a sum below 1"),
    (f"{STUDENT}.igdm", {"alpha": 0}, f"{STUDENT}.igdm.alpha: got 0, want more than 0"),
    (f"{STUDENT}.igdm", {"beta": 1}, f"{STUDENT}.igdm.beta: unknown key (allowed: alpha)"),
    (f"{CLEAN}.igdm", None, f"{CLEAN}.igdm: unknown key (allowed: "),
    (f"{STUDENT}.teachers", ..., f"missing key '{STUDENT}.teachers'"),
    (f"{STUDENT}.teachers.clean_teacher", [], f"{STUDENT}.teachers.clean_teacher: got no teacher, but the method asks"),
    (
        f"{STUDENT}.teachers.robust_teacher",
        ["robust_teacher", "big"],
        f"{STUDENT}.teachers.robust_teacher.1: no teacher 'big' (allowed: clean_teacher, robust_teacher; ",
    ),
    (
        f"{STUDENT}.teachers.robust_teacher",
        ["robust_teacher"] * 2,
        f"{STUDENT}.teachers.robust_teacher.1: got robust_teacher twice",
    ),
    ("fetch_teachers", ..., "missing key 'fetch_teachers'"),
    ("fetch_teachers", {"student": FILE}, "fetch_teachers.student: want a name of letters, digits, "),
    ("fetch_teachers", {"../big": FILE}, "fetch_teachers.../big: want a name of letters, digits, "),
    ("fetch_teachers", {"big": {"name": "disk"}}, "fetch_teachers.big: "),
    ("fetch_teachers", {"big": {"name": "file"}}, "fetch_teachers.big.file: missing"),
    ("fetch_teachers", {"big": FILE | {"sha256": "ABC"}}, "fetch_teachers.big.sha256: "),
    ("fetch_teachers", {"big": FILE | {"architecture": {"name": "vgg"}}}, "fetch_teachers.big.architecture.name: "),
    (
        "fetch_teachers",
        {"big": FILE | {"normalization": {"mean": [0.1], "std": [1, 1]}}},
        "fetch_teachers.big.normalization: got 1 means and 2 deviations, want as many, at least one",
    ),
    (
        "fetch_teachers",
        {"big": {"name": "registry", "model": "models:/team@champion"}},
        "fetch_teachers.big.model: got 'models:/team@champion', want models:/NAME/VERSION or runs:/ID/PATH",
    ),
    (f"{STUDENT}.method", SAAD | {"epochs": 7}, f"{STUDENT}.method: got epochs 7, want the recipe's 2"),
    (f"{STUDENT}.required.clean_accuracy", 95, f"{STUDENT}.required.clean_accuracy: got 95, want at most 1"),
    (f"{EVALUATE}.batch_size", 0, f"{EVALUATE}.batch_size: got 0, want 1 to 1048576, or auto"),
    (f"{EVALUATE}.grid.epsilons", ["-8/255"], f"{EVALUATE}.grid.epsilons.0: got '-8/255', want at least 0"),
    (f"{EVALUATE}.cascade", "fast", f"{EVALUATE}: got cascade 'fast', want autoattack, quick, none, or"),
    (f"{EVALUATE}.search.precision", "float16", f"{EVALUATE}.search.precision: "),
    (f"{EVALUATE}.transfer_attacks", ["pgd"], f"{EVALUATE}.transfer_attacks: unknown 'pgd'"),
    (f"{EVALUATE}.probe_images", 0, f"{EVALUATE}.probe_images: got 0, want at least 1"),
    (f"{EVALUATE}.curve_epsilons", ["-1/255"], f"{EVALUATE}.curve_epsilons.0: got '-1/255', want at least 0"),
    ("report.gallery_images", -1, "report.gallery_images: got -1, want at least 0"),
    # names
    ("fetch_data.dataset.name", "mnist", "fetch_data.dataset.name: unknown 'mnist' (allowed: cifar10, cifar100, "),
    ("fetch_data.dataset", {"nam": "digits"}, "fetch_data.dataset: want a mapping with a name (one of: cifar10, "),
    (
        f"{CLEAN}.model",
        {"name": "torchvision", "architecture": "resnet81"},
        f"{CLEAN}.model.architecture: torchvision has no classifier 'resnet81'; did you mean resnet18",
    ),
    (f"{CLEAN}.model.name", "vgg", f"{CLEAN}.model.name: unknown 'vgg' (allowed: {MODELS})"),
    (
        f"{CLEAN}.method.name",
        "at",
        f"{CLEAN}.method.name: unknown 'at' (allowed: adr, cktat, ensemble_at, ",
    ),
    (f"{CLEAN}.method", ADR | {"epochs": 7}, f"{CLEAN}.method: got epochs 7, want the recipe's 2"),
    (
        f"{CLEAN}.schedule.name",
        "x",
        f"{CLEAN}.schedule.name: unknown 'x' (allowed: constant, cosine, cyclic, linear, one_cycle, step)",
    ),
    (
        f"{RECIPE}.layers",
        {"decay": 1, "frozen_epochs": 3},
        f"{RECIPE}.layers.frozen_epochs: got 3, want at most 2, the recipe's epochs",
    ),
    (
        f"{STUDENT}.schedule",
        {"name": "cosine", "warmup": 2.5},
        f"{STUDENT}.schedule.warmup: got 2.5, want less than 2, the recipe's epochs",
    ),
    (f"{CLEAN}.recipe.micro_batch", 1, f"{CLEAN}.recipe.micro_batch: got 1, want at least 2"),
    (f"{STUDENT}.method.name", "kd", f"{STUDENT}.method.name: unknown 'kd' (allowed: {', '.join(DISTILLATIONS)})"),
    (f"{EVALUATE}.attacks.fgsm.name", "aa", f"{EVALUATE}.attacks.fgsm.name: unknown 'aa' (allowed: apgd, bim, cw,"),
    (
        f"{EVALUATE}.attacks.clean",
        {"name": "fgsm"},
        f"{EVALUATE}: got an attack called 'clean', want no '/' or '@'",
    ),
    (f"{EVALUATE}.curve_attack", "no", f"{EVALUATE}.curve_attack: unknown 'no' (allowed: cw, fgsm, pgd_50, pgd_sat, "),
    (f"{EVALUATE}.curve_attack", "cw", f"{EVALUATE}.curve_attack: cw is Cw("),
    (f"{EVALUATE}.last_epoch_attacks", ["no"], f"{EVALUATE}.last_epoch_attacks: unknown 'no' (allowed: cw, "),
]


IDS = [f"{key}={value}"[:80] for key, value, _ in MISTAKES]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES, ids=IDS)
def test_mistakes_in_params(key, value, message):
    with pytest.raises(InputError) as caught:
        check_params.check(Params(changed(small_params(), {key: value})))
    assert str(caught.value).startswith(f"params.yaml: {message}") and "\n" not in str(caught.value)


TOLD_LATE: list[tuple[dict[str, Any], str]] = [
    ({f"{STUDENT}.method": PEER, f"{STUDENT}.igdm": {"alpha": 5}}, f"{STUDENT}.igdm: got method peer, want one that "),
    (
        {f"{STUDENT}.method": IAD_2, f"{STUDENT}.recipe.augmentation.cutmix": 0.5},
        f"{STUDENT}.recipe.augmentation.cutmix: iad_2 needs one class for each image, want 0",
    ),
    (
        {"train_robust_teacher.method": ADR | {"epochs": 2}, "train_robust_teacher.recipe.augmentation.cutmix": 1},
        "train_robust_teacher.recipe.augmentation.cutmix: adr needs one class for each image, want 0",
    ),
    ({f"{STUDENT}.smoothing": SMOOTHING}, f"{STUDENT}.smoothing: b_mtard has no adversarial losses, want a method "),
    (
        {f"{STUDENT}.smoothing": SMOOTHING | {"clean": "start"}},
        f"{STUDENT}.smoothing: got clean 'start', want 'pass' around b_mtard: it is no one-step method",
    ),
    ({f"{CLEAN}.perturbation": {"gamma": 1, "start": 0}}, f"{CLEAN}.perturbation: got method standard, want one that "),
    (
        {"train_robust_teacher.sentinel": ROLL_BACK | {"changes": [{"smoothing": SMOOTHING | {"clean": "start"}}]}},
        "train_robust_teacher.sentinel.changes.0.smoothing: got clean 'start', want 'pass' around ",
    ),
    (
        {"parallel.processes": 4, f"{STUDENT}.recipe.batch_size": 7},
        f"{STUDENT}.recipe.batch_size: got 7 for 4 processes, want at least 8",
    ),
    (
        {
            f"{STUDENT}.method": PEER | {"begins": "robust_teacher"},
            "fetch_teachers": {"exported": PROGRAM},
            f"{STUDENT}.teachers.robust_teacher": ["robust_teacher", "exported"],
        },
        f"{STUDENT}.teachers.robust_teacher.1: exported is a program, which has no training mode, and the method "
        "trains it further in that mode (want another teacher, or method.begins student)",
    ),
]


@pytest.mark.parametrize(("changes", "message"), TOLD_LATE, ids=[message[:60] for _, message in TOLD_LATE])
def test_what_a_method_would_refuse_at_its_first_step_is_told_before_anything_is_trained(changes, message):
    """A dozen epochs of two teachers would be lost else."""
    with pytest.raises(InputError) as caught:
        check_params.check(Params(changed(small_params(), changes)))
    assert str(caught.value).startswith(f"params.yaml: {message}") and "\n" not in str(caught.value)


def test_the_line_names_the_file_that_was_read():
    values = changed(small_params(), {f"{STUDENT}.method": PEER, f"{STUDENT}.igdm": {"alpha": 5}})
    with pytest.raises(InputError, match=r"^other\.yaml: distill_student\.igdm: got method peer"):
        check_params.check(Params(values, "other.yaml"))


def test_a_change_after_an_alarm_asks_for_the_same_networks():
    """None others were loaded."""
    sentinel = ROLL_BACK | {"changes": [{"method": {"begins": "clean_teacher"}}]}
    values = changed(small_params(), {f"{STUDENT}.method": PEER, f"{STUDENT}.sentinel": sentinel})
    line = r"sentinel\.changes\.0\.method: asks for clean_teacher, want what it asks for before: student$"
    with pytest.raises(InputError, match=line):
        check_params.check(Params(values))


def test_a_method_that_needs_the_whole_batch_is_told_before_anything_is_trained():
    values = changed(small_params(), {f"{STUDENT}.recipe.micro_batch": 4})
    check_params.check(Params(values))
    values = changed(values, {f"{RECIPE}.micro_batch": 4, f"{CLEAN}.method": ADR | {"epochs": 2}})
    line = rf"^params\.yaml: {RECIPE}\.micro_batch: adr needs the whole batch at once \(want null\)$"
    with pytest.raises(InputError, match=line):
        check_params.check(Params(values))


def test_a_wrapper_that_needs_the_whole_batch_is_told_before_anything_is_trained():
    values = small_params(**{f"{CLEAN}.method": {"name": "pgd_at", "attack": ATTACK, "label_smoothing": 0.0}})
    values = changed(values, {f"{RECIPE}.micro_batch": 4})
    line = rf"^params\.yaml: {RECIPE}\.micro_batch: perturbation needs the whole batch at once"
    check_params.check(Params(values))
    with pytest.raises(InputError, match=line):
        check_params.check(Params(changed(values, {f"{CLEAN}.perturbation": {"gamma": 0.01, "start": 0}})))


def test_the_repositorys_own_params_are_right():
    check_params.check(Params.read(ROOT / "params.yaml"))


def test_far_more_processes_than_cores_are_refused_before_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: False)
    processes._require_possible(8, "auto")
    for device in ("auto", "cpu"):
        with pytest.raises(InputError, match=r"parallel.processes: got 9, want at most 8 on these cores"):
            processes._require_possible(9, device)
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: True)
    processes._require_possible(64, "auto")
