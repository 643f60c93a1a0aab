"""The ordered list of experiments: what is most valuable first, and one seed of every row before the second of any."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.studies.file import arm_params, read_study

ROOT = Path(__file__).resolve().parents[2]
SCALE = "gpu"
SEEDS = (0, 1, 2)
# In the order in which their arms are measured.
STUDIES = ("fast_at", "smooth_mep", "smooth", "guidance", "scale", "smooth_labels")
# To plan with: seconds of an evaluation, and of one pass of ResNet-18 over the training images, there and back, at a
# fifth of the card's rate of bfloat16 products.
EVALUATION, SECONDS_PER_PASS = 200, 0.75
PARTS = {
    "teachers": ("clean and robust teacher", 600),
    "student": ("the B-MTARD student (aim: 88 % clean, 47.4 % under AutoAttack, then 49 %)", 600),
    "evaluation": ("AutoAttack on all three, verdicts, report", 600),
}


class Item(NamedTuple):
    """One experiment: its module and options, the seconds that it is expected to take, and whether it can be stopped
    and continued."""

    id: str
    purpose: str
    seconds: int
    command: tuple[str, ...]
    continues: bool


def programme(toy: bool = False) -> list[Item]:
    """All experiments in order; at toy size the studies have one seed."""
    seeds = SEEDS[:1] if toy else SEEDS
    alone = [
        Item(
            "smoke",
            "every attack, method and stage on the GPU gives what the CPU gives; gpu tests; peak memory",
            240,
            ("benchmarks.gpu.smoke",),
            continues=False,
        ),
        Item(
            "step_speed",
            "PGD-10 and FGSM-RS steps of ResNet-18 against the published loop and the card's own rates",
            420,
            ("benchmarks.gpu.step_speed",),
            continues=False,
        ),
        chain(0, "teachers"),
        Item(
            "cascade.0",
            "AutoAttack on the robust teacher: all test images, seconds, verdict (aim: 160 s)",
            200,
            ("benchmarks.gpu.cascade",),
            continues=True,
        ),
        Item(
            "reference.0",
            "the reference's AutoAttack on a thousand of these images, one by one beside ours",
            400,
            ("benchmarks.gpu.reference",),
            continues=False,
        ),
        chain(0, "student"),
        chain(0, "evaluation"),
        Item(
            "kernel_cost",
            "the trace kernel of ResNet-18 for 256 and 1,024 images: seconds, memory",
            120,
            ("benchmarks.gpu.kernel_cost",),
            continues=False,
        ),
    ]
    later = [chain(seed, part) for seed in seeds[1:] for part in PARTS]
    return [*alone, *(item for seed in seeds for item in arms(seed)), *later]


def chain(seed: int, part: str) -> Item:
    """A part of cifar10_fast: the whole chain from a clean teacher to the report of its student."""
    purpose, seconds = PARTS[part]
    command = ("benchmarks.gpu.chain", "--part", part, "--seed", str(seed))
    return Item(f"chain.{part}.{seed}", f"cifar10_fast: {purpose}", seconds, command, continues=True)


@cache
def rows() -> tuple[tuple[str, str, int], ...]:
    """Study, arm and expected seconds of every study that has a size for a GPU."""
    found = []
    for name in STUDIES:
        folder = ROOT / "studies" / name
        study = read_study(folder)
        for arm in study.names():
            found.append((name, arm, round(expected(arm_params(ROOT, folder, study, SCALE, arm)))))
    return tuple(found)


def arms(seed: int) -> list[Item]:
    """Every arm with one seed."""
    return [
        Item(
            f"{study}.{arm}.{seed}",
            f"study {study}, arm {arm}",
            seconds,
            ("benchmarks.gpu.arm", "--study", study, "--arm", arm, "--seed", str(seed)),
            continues=True,
        )
        for study, arm, seconds in rows()
    ]


def expected(params: Mapping[str, Any]) -> float:
    """Seconds to plan with for a robust teacher and its evaluation: epochs times passes, and a flat evaluation."""
    section = params["train_robust_teacher"]
    method = section["method"]
    steps = method.get("attack", {}).get("steps", method.get("steps", 1))
    # Its regulariser takes gradients at two points, and differentiates one of them again: published, 2.9 times N-FGSM.
    more = {"gradalign": 6, "trades": 1}.get(method["name"], 0)
    passes = section["recipe"]["epochs"] * (steps + 2 + more) * method.get("replays", 1)
    return EVALUATION + SECONDS_PER_PASS * section["model"]["width"] ** 2 * passes
