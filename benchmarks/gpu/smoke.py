"""Every attack, method and stage on the GPU gives what the CPU gives; training is deterministic; the gpu tests pass.

    python -m benchmarks.gpu.smoke --work FOLDER --out FILE

Both devices see the same images, weights and random numbers, which belong to the image. What is compared, and how
closely, stands in `TOLERANCES`. At toy size, and where there is no GPU, the CPU is compared with itself.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from benchmarks.gpu.place import DONE, ROOT, TOY, parser, write_result
from benchmarks.run_preset import one_run, run_stage, with_code
from components.attacks.bim import Bim
from components.attacks.iter_ll import IterLl
from components.data.batch import Batch
from components.data.normalization import Normalization
from components.foundation.params import Ratio
from components.foundation.recipes import changed
from components.methods.parts.contract import Method
from components.models.parts.batch_norm import BatchNorm
from components.models.small_cnn import SmallCnn
from components.numerics.compute import Compute, Precision, training_arithmetic
from components.numerics.random_numbers import Noise
from components.optimizers.parts.optimizer import Group, Optimizer
from components.optimizers.sgd import Sgd
from components.stages import STAGES
from components.threats.l1 import L1
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from pipelines.parameters.presets import preset_values
from tests.parts.attack_members import MEMBERS as ATTACKS
from tests.parts.attack_members import THREATS
from tests.parts.golden_steps import CASES, NOT_CAPTURED, captured_steps, deviation, make_ready, steps
from tests.parts.method_members import MEMBERS as METHODS
from tests.parts.tiny_net import TinyNet

# How far apart two things may lie. Of the images of an attack, on how many it may succeed on one device alone.
ATTACK = {"outcomes": 0.03}
# Of a method's steps, relative: single pixels of an inner attack may fall on either side of a zero gradient.
METHOD = {"loss": 0.02, "gradient": 0.1, "weights": 0.02}
HALF = {"loss": 0.03, "gradient": 0.1, "weights": 0.05}
# Of what must be the same to the bit, and of captured steps from the same ones as they stand: sums may differ.
SAME = {"tensors": 0.0}
REPLAYED = {"loss": 1e-4, "gradient": 1e-3, "weights": 1e-4}
# Between accuracies that a whole chain of stages reaches on digits, where training takes another path.
STAGES_APART = {"accuracy": 0.1}
TOLERANCES = {
    "attacks": ATTACK,
    "methods": METHOD,
    "bfloat16": HALF,
    "deterministic": SAME,
    "captured": REPLAYED,
    "stages": STAGES_APART,
}
# Methods of which whole steps can be recorded, or the attack alone; and those whose bits are compared twice.
CAPTURED = [name for name in CASES if name not in NOT_CAPTURED]
TWICE = ("pgd_at", "b_mtard", "trades")
IMAGES, TOY_IMAGES, STEPS = 128, 8, 4
CPU = torch.device("cpu")


class Steps(NamedTuple):
    """The losses of a few steps, the gradient of the first, and the weights after the last."""

    losses: Tensor
    gradient: Tensor
    weights: Tensor


def main() -> int:
    args = parser(__doc__).parse_args()
    # Both in float32, deterministic: `prepare` also sets what a GPU needs for it.
    device = Compute(device="auto", threads=1, deterministic=True).prepare()
    num = TOY_IMAGES if args.toy else IMAGES
    found: dict[str, Any] = {"device_type": device.type, "tolerances": TOLERANCES}
    found["attacks"] = list(attacks(device, num, args.toy))
    found["methods"] = list(methods(device))
    found["deterministic"] = list(same_bits(device))
    with peak_memory(device) as peak:
        found["stages"] = [stages(args.work / "smoke", device, args.data)]
        found["gpu_tests"] = [gpu_tests()]
    found["peak_gib"] = peak
    wrong = [f"{row['name']}: {row.get('error') or row['difference']}" for row in failures(found)]
    line = f"{len(found['attacks'])} attacks, {len(found['methods'])} methods, {len(STAGES)} stages; "
    line += f"wrong: {'; '.join(wrong)}" if wrong else "all within tolerance"
    write_result(args.out, line, toy=args.toy, wrong=wrong, **found)
    print(line)
    return DONE


def failures(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows that are outside of their tolerance, or raised an error."""
    for kind in ("attacks", "methods", "deterministic", "stages", "gpu_tests"):
        yield from (row for row in found[kind] if not row["right"])


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """GiB that the whole device had in use at most inside the block, other processes too; nothing without a GPU."""
    peak: dict[str, float] = {}
    if device.type != "cuda":
        yield peak
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            free, total = torch.cuda.mem_get_info()
            peak["device"] = max(peak.get("device", 0.0), (total - free) / 2**30)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()
        peak["own"] = torch.cuda.max_memory_allocated() / 2**30


def attacks(device: torch.device, num: int, toy: bool) -> Iterator[dict[str, Any]]:
    """For every attack and norm, the share of images on which only one device's attack succeeds."""
    torch.manual_seed(0)
    nothing = Normalization(method="none", offset=(0.0,), scale=(1.0,))
    model = (
        SmallCnn(width=0.25, batch_norm=BatchNorm(estimator="running", momentum=0.1))
        .build(10, (1, 8, 8), nothing)
        .eval()
    )
    images = torch.rand((num, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    for attack in ATTACKS:
        for threat in THREATS[:1] if toy else THREATS:
            small = isinstance(attack, Bim | IterLl) and threat.norm == L1()
            ball = threat.at(Ratio(1, 10)) if small else threat

            def outcome(place: torch.device, attack: Any = attack, ball: Threat = ball) -> Tensor:
                network = model.to(place)
                given, truth = images.to(place), labels.to(place)
                adversarial = attack(network, given, truth, ball, Noise(0, torch.arange(num, device=place)))
                return (network(adversarial).argmax(1) == truth).cpu()

            name = f"{attack!r} {threat.norm.name}"
            yield _row(name, ATTACK, lambda: {"outcomes": _share(outcome(CPU), outcome(device))})


def methods(device: torch.device) -> Iterator[dict[str, Any]]:
    """For every method, and every wrapper around one, a few steps: on both devices in float32, and on this one in
    bfloat16 beside float32."""
    for name, make in CASES.items():
        yield _row(name, METHOD, lambda make=make: apart(trained(CPU, make), trained(device, make)))
        half = partial(trained, device, make, "bfloat16")
        yield _row(f"{name} bfloat16", HALF, lambda make=make, half=half: apart(trained(device, make), half()))


def trained(place: torch.device, make: Callable[[], Method], precision: Precision = "float32") -> Steps:
    """A few steps with random numbers that belong to the image, so that every device draws the same."""
    threat, count = Threat(norm=Linf(), epsilon=Ratio(8, 255)), 16
    torch.manual_seed(5)
    model, method = TinyNet().to(place).train(), make().to(place).train()
    make_ready(method)
    rule = Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norms=True)
    optimizer = Optimizer(rule, [Group(list(model.parameters()))])
    images = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(2)).to(place)
    batch = Batch.of(images, (torch.arange(count) % 3).to(place))._replace(total=count)
    losses, gradients = list[float](), list[Tensor]()
    method.begin_epoch(2)
    for step in range(STEPS):
        optimizer.zero_grad()
        rng = Noise(step, torch.arange(count, device=place))
        with training_arithmetic(place, precision):
            total = method.loss(model, batch, threat, rng).total
        total.backward()
        losses.append(float(total.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu())
        optimizer.step(0.1, 0.9)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()
    return Steps(torch.tensor(losses), gradients[0], weights)


def apart(one: Steps, other: Steps) -> dict[str, float]:
    """How far two runs lie apart, relative to the longer: the worst loss, the first gradient, the last weights."""
    losses = (one.losses - other.losses).abs() / one.losses.abs().maximum(other.losses.abs()).clamp_min(1e-6)
    found = {"loss": float(losses.max())}
    for kind in ("gradient", "weights"):
        left, right = getattr(one, kind), getattr(other, kind)
        found[kind] = float((left - right).norm() / torch.maximum(left.norm(), right.norm()).clamp_min(1e-12))
    return found


def same_bits(device: torch.device) -> Iterator[dict[str, Any]]:
    """Whether the same few steps give the same bits twice, as they stand and captured; and captured ones, of every
    method and in both precisions, those as they stand."""
    yield _row("the same steps twice", SAME, lambda: differing(partial(weights_of_steps, device)))
    for name in TWICE:
        run = partial(captured, name, device, "bfloat16")
        yield _row(f"captured steps of {name} twice", SAME, lambda run=run: differing(lambda: list(run().values())))
    for name in CAPTURED:
        yield _row(f"captured steps of {name}", REPLAYED, partial(from_those_that_stand, name, device, "float32"))
        yield _row(f"captured steps of {name} bfloat16", HALF, partial(from_those_that_stand, name, device, "bfloat16"))


def differing(run: Callable[[], list[Tensor]]) -> dict[str, float]:
    """How many tensors differ between two runs."""
    return {"tensors": float(sum(not torch.equal(a, b) for a, b in zip(run(), run(), strict=True)))}


def captured(name: str, device: torch.device, precision: Precision) -> dict[str, Tensor]:
    """A few steps of which the last comes from a recording, on a CPU from a stand-in. Errors: nothing was recorded."""
    found, reason = captured_steps(name, torch.float32, precision, device.type)
    if reason:
        raise RuntimeError(reason)
    return found


def from_those_that_stand(name: str, device: torch.device, precision: Precision) -> dict[str, float]:
    """How far captured steps lie from the same ones uncaptured."""
    plain = steps(name, torch.float32, precision, device.type)
    return deviation(captured(name, device, precision), plain)._asdict()


def weights_of_steps(device: torch.device) -> list[Tensor]:
    """The weights after a few steps of PGD training."""
    torch.manual_seed(7)
    model, method = TinyNet().to(device).train(), METHODS["pgd_at"]().to(device).train()
    rule = Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norms=True)
    optimizer = Optimizer(rule, [Group(list(model.parameters()))])
    rng = torch.Generator(device).manual_seed(8)
    images, labels = torch.rand((16, 1, 8, 8), generator=rng, device=device), torch.arange(16, device=device) % 3
    for _ in range(STEPS):
        optimizer.zero_grad()
        threat = Threat(norm=Linf(), epsilon=Ratio(8, 255))
        method.loss(model, Batch.of(images, labels), threat, rng).total.backward()
        optimizer.step(0.1, 0.9)
    return [tensor.cpu() for tensor in model.state_dict().values()]


def stages(work: Path, device: torch.device, data: Path | None) -> dict[str, Any]:
    """All stages at toy size, on both devices; the largest difference of an accuracy.

    On CIFAR-10 where it is at hand, else on digits, for which scikit-learn must be there.
    """
    images = {} if data is None else {"fetch_data.dataset": {"name": "cifar10"}}

    def reached(place: str) -> dict[str, float]:
        folder = work / place
        # What an earlier call has left would be no measurement.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        values = changed(preset_values(ROOT, "digits"), TOY | images | {"compute.device": place}, "smoke")
        (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        for stage in STAGES:
            run_stage(folder, stage, data, float("inf"))
        return {name: row["value"] for name, row in one_run(folder)["accuracies"].items()}

    def difference() -> dict[str, float]:
        one, other = reached("cpu"), reached(device.type)
        return {"accuracy": max(abs(one[name] - other[name]) for name in one)}

    return _row("stages", STAGES_APART, difference)


def gpu_tests() -> dict[str, Any]:
    """The tests that are marked `gpu`, in the files that have some."""
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # Without the project's settings, some of which need plug-ins.
    settings = ["-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *settings, *map(str, marked)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_code())
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    # 5: no test was selected.
    right = ended.returncode in (0, 5)
    return {"name": "gpu tests", "right": right, "difference": lines[-1] if lines else "", "lines": lines[-30:]}


def _share(one: Tensor, other: Tensor) -> float:
    return float((one != other).float().mean())


def _row(name: str, most: Mapping[str, float], difference: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What was compared, whether each difference is within `most`, and how long it took; an error is a row, too."""
    began = time.monotonic()
    try:
        found = difference()
    # The first fault must not hide the others, and a fault of any kind is what is looked for.
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"name": name, "right": False, "error": text, "seconds": time.monotonic() - began}
    right = all(found[kind] <= limit for kind, limit in most.items())
    return {"name": name, "right": right, "difference": found, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    raise SystemExit(main())
