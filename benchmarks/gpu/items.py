"""The ordered list of experiments: what is most valuable first, and one seed of every row before the second of any."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.passes import passes_of
from pipelines.studies.file import arm_params, read_study

ROOT = Path(__file__).resolve().parents[2]
SCALE = "gpu"
SEEDS = (0, 1, 2)
# In the order in which their arms are measured.
STUDIES = ("fast_at", "smooth_mep", "smooth", "guidance", "balance", "student", "scale", "smooth_labels")
# To plan with: seconds of an evaluation, and of one pass of ResNet-18 over the training images, there and back, at a
# fifth of the card's rate of bfloat16 products.
EVALUATION, SECONDS_PER_PASS = 200, 0.75
# Students besides those of CHAINS that should beat what is published, the preset of each, and seconds to plan with.
RECORDS = {"adaad_igdm": ("cifar10_adaad_igdm", 1150), "saad": ("cifar10_saad", 850)}


class Chain(NamedTuple):
    """A preset that is run in parts, each in one lease: what a part is for, and the seconds that it is expected to
    take."""

    preset: str
    parts: Mapping[str, tuple[str, int]]


CHAINS = {
    "chain": Chain(
        "cifar10_fast",
        {
            "teachers": ("clean and robust teacher", 600),
            "student": ("the B-MTARD student (aim: 88 % clean, 47.4 % under AutoAttack, then 49 %)", 600),
            "evaluation": ("AutoAttack on all three, verdicts, report", 600),
        },
    ),
    "paper": Chain(
        "cifar10_paper_fast",
        {
            "clean_teacher": ("ResNet-56, 60 epochs", 300),
            "robust_teacher": ("WRN-34-5 by TRADES, 35 epochs", 1150),
            "student": ("ResNet-18 by B-MTARD, 60 epochs", 700),
            "evaluation": ("AutoAttack on all three, a table beside B-MTARD's published numbers", 900),
        },
    ),
    "record": Chain("cifar10_adaad_igdm", {"robust_teacher": ("WRN-34-5 by TRADES with AWP, 30 epochs", 1200)}),
}


class Item(NamedTuple):
    """One experiment: its module and options, the seconds that it is expected to take, and whether it can be stopped
    and continued."""

    id: str
    purpose: str
    seconds: int
    command: tuple[str, ...]
    continues: bool


ADVICE = Item(
    "advice.0",
    "the teacher advisor on CIFAR-10: twelve teachers, a student of each, rank correlations",
    1200,
    ("benchmarks.gpu.advice",),
    continues=True,
)


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
        chain("chain", "teachers", 0),
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
        chain("chain", "student", 0),
        chain("chain", "evaluation", 0),
        Item(
            "kernel_cost",
            "the trace kernel of ResNet-18 for 256 and 1,024 images: seconds, memory",
            120,
            ("benchmarks.gpu.kernel_cost",),
            continues=False,
        ),
    ]
    paper = [chain("paper", part, 0) for part in CHAINS["paper"].parts]
    first = [*arms(0), ADVICE, *records(0)]
    others = [item for seed in seeds[1:] for item in (*arms(seed), *records(seed))]
    later = [
        chain(name, part, seed) for seed in seeds[1:] for name in ("chain", "paper") for part in CHAINS[name].parts
    ]
    return [*alone, *paper, *first, *others, *later]


def chain(name: str, part: str, seed: int) -> Item:
    """A part of a preset that takes several, such as the student on the way from a clean teacher to a report."""
    preset, parts = CHAINS[name]
    purpose, seconds = parts[part]
    command = ("benchmarks.gpu.chain", "--chain", name, "--part", part, "--seed", str(seed))
    return Item(f"{name}.{part}.{seed}", f"{preset}: {purpose}", seconds, command, continues=True)


def records(seed: int) -> list[Item]:
    """Students of a robust teacher that should beat what is published, with one seed, after their teacher."""
    students = [
        Item(
            f"record.{name}.{seed}",
            f"{preset}: student and AutoAttack (aim: 84.5 % clean, 52.5 % under AutoAttack)",
            seconds,
            ("benchmarks.gpu.record", "--method", name, "--seed", str(seed)),
            continues=True,
        )
        for name, (preset, seconds) in RECORDS.items()
    ]
    return [chain("record", "robust_teacher", seed), *students]


@cache
def rows() -> tuple[tuple[str, str, int], ...]:
    """Study, arm and expected seconds of every study that has a size for a GPU."""
    found = []
    for name in STUDIES:
        folder = ROOT / "studies" / name
        study = read_study(folder)
        for arm, (plain, _) in study.names().items():
            params = arm_params(ROOT, folder, study, SCALE, arm)
            seconds = EVALUATION + training(params, study.roles.get(plain, study.role))
            found.append((name, arm, round(seconds)))
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


def training(params: Mapping[str, Any], role: str) -> float:
    """Seconds to plan with for the training of one model: epochs times passes of its network over the images.

    A student's teachers are those of arms before it, or are trained once more on each new machine.
    """
    section = params["distill_student" if role == "student" else f"train_{role}"]
    epochs = section["recipe"]["epochs"]
    # There and back are two of the passes that are counted, as they are in the middle of the run.
    passes = passes_of(params, [epochs // 2]) / 2 if role == "student" else passes_per_epoch(section)
    return SECONDS_PER_PASS * section["model"]["width"] ** 2 * epochs * passes


def passes_per_epoch(section: Mapping[str, Any]) -> float:
    """How often a section that trains without teachers sends every image there and back; the pass that moves weights
    counts twice."""
    method = section["method"]
    steps = method.get("attack", {}).get("steps", method.get("steps", 1))
    if method["name"] == "standard":
        return 2
    # Its regulariser takes gradients at two points, and differentiates one of them again: published, 2.9 times N-FGSM.
    more = {"gradalign": 6, "trades": 1}.get(method["name"], 0)
    return (steps + 2 + more) * method.get("replays", 1)
