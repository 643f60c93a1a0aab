"""Every attack, method and stage on the GPU gives what the CPU gives; training is deterministic; the gpu tests pass.

    python -m benchmarks.gpu.smoke --work FOLDER --out FILE

Both devices see the same images, weights and random numbers, which belong to the image. What is compared, and how
closely, stands in `TOLERANCES`. At toy size, and where there is no GPU, the CPU is compared with itself.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from components.numerics.compute import Compute
from components.numerics.random_numbers import Noise
from components.optimizers.parts.optimizer import Group, Optimizer
from components.optimizers.sgd import Sgd
from components.stages import STAGES
from components.threats.l1 import L1
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from pipelines.parameters.presets import preset_values
from tests.conftest import TinyNet
from tests.parts.attack_members import MEMBERS as ATTACKS
from tests.parts.attack_members import THREATS
from tests.parts.method_members import MEMBERS as METHODS

TOLERANCES = {
    # Of the images, on how many the attack may succeed on one device and not on the other.
    "attack_outcomes": 0.03,
    # Of a method's loss, relative to the larger one; single steps of an inner attack may fall on either side of zero.
    "method_loss": 0.02,
    # Between accuracies that a whole chain of stages reaches on digits, where training takes another path.
    "stage_accuracy": 0.1,
}
IMAGES, TOY_IMAGES, STEPS = 128, 8, 4
CPU = torch.device("cpu")


def main() -> int:
    args = parser(__doc__).parse_args()
    # Both in float32, deterministic: `prepare` also sets what a GPU needs for it.
    device = Compute(device="auto", threads=1, deterministic=True).prepare()
    num = TOY_IMAGES if args.toy else IMAGES
    found: dict[str, Any] = {"device_type": device.type, "tolerances": TOLERANCES}
    found["attacks"] = list(attacks(device, num, args.toy))
    found["methods"] = list(methods(device))
    found["deterministic"] = same_weights(device)
    found["stages"] = stages(args.work / "smoke", device)
    found["gpu_tests"] = gpu_tests()
    found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    wrong = [f"{row['name']}: {row.get('error') or row['difference']}" for row in failures(found)]
    line = f"{len(found['attacks'])} attacks, {len(found['methods'])} methods, {len(STAGES)} stages; "
    line += f"wrong: {'; '.join(wrong)}" if wrong else "all within tolerance"
    write_result(args.out, line, toy=args.toy, wrong=wrong, **found)
    print(line)
    return DONE


def failures(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows that are outside of their tolerance, or raised an error."""
    yield from (row for row in (*found["attacks"], *found["methods"], found["stages"]) if not row["right"])
    if not found["deterministic"]:
        yield {"name": "deterministic training", "difference": "weights differ"}
    if found["gpu_tests"]["status"]:
        yield {"name": "gpu tests", "difference": found["gpu_tests"]["summary"]}


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
            yield _row(name, TOLERANCES["attack_outcomes"], lambda: _share(outcome(CPU), outcome(device)))


def methods(device: torch.device) -> Iterator[dict[str, Any]]:
    """For every method, the relative difference of its loss on the first batch."""
    threat = Threat(norm=Linf(), epsilon=Ratio(8, 255))
    images = torch.rand((16, 1, 8, 8), generator=torch.Generator().manual_seed(2))
    labels = torch.arange(16) % 3

    def loss(place: torch.device, make: Callable[[], Method]) -> float:
        torch.manual_seed(5)
        model, method = TinyNet().to(place).train(), make().to(place).train()
        method.begin_epoch(0)
        batch = Batch.of(images.to(place), labels.to(place))
        rng = Noise(0, torch.arange(len(images), device=place))
        total = method.loss(model, batch, threat, rng).total  # pyright: ignore[reportArgumentType]
        total.backward()
        return float(total)

    for name, make in METHODS.items():

        def difference(make: Callable[[], Method] = make) -> float:
            one, other = loss(CPU, make), loss(device, make)
            return abs(one - other) / max(abs(one), abs(other), 1e-6)

        yield _row(name, TOLERANCES["method_loss"], difference)


def same_weights(device: torch.device) -> bool:
    """Whether the same few steps give the same bits twice."""

    def trained() -> list[Tensor]:
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

    return all(torch.equal(one, other) for one, other in zip(trained(), trained(), strict=True))


def stages(work: Path, device: torch.device) -> dict[str, Any]:
    """All stages on digits at toy size, on both devices; the largest difference of an accuracy."""

    def reached(place: str) -> dict[str, float]:
        folder = work / place
        folder.mkdir(parents=True, exist_ok=True)
        values = changed(preset_values(ROOT, "digits"), TOY | {"compute.device": place}, "smoke")
        (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        for stage in STAGES:
            run_stage(folder, stage, None, float("inf"))
        return {name: row["value"] for name, row in one_run(folder)["accuracies"].items()}

    def difference() -> float:
        one, other = reached("cpu"), reached(device.type)
        return max(abs(one[name] - other[name]) for name in one)

    return _row("stages", TOLERANCES["stage_accuracy"], difference)


def gpu_tests() -> dict[str, Any]:
    """The tests that are marked `gpu`, in the files that have some."""
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # Without the project's settings, some of which need plug-ins.
    settings = ["-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *settings, *map(str, marked)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_code())
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    # 5: no test was selected.
    return {"status": 0 if ended.returncode == 5 else ended.returncode, "summary": lines[-1] if lines else ""}


def _share(one: Tensor, other: Tensor) -> float:
    return float((one != other).float().mean())


def _row(name: str, most: float, difference: Callable[[], float]) -> dict[str, Any]:
    """What was compared, whether it is within `most`, and how long both sides took; an error is a row, too."""
    began = time.monotonic()
    try:
        found = difference()
    # The first fault must not hide the others, and a fault of any kind is what is looked for.
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"name": name, "right": False, "error": text, "seconds": time.monotonic() - began}
    return {"name": name, "right": found <= most, "difference": found, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    raise SystemExit(main())
