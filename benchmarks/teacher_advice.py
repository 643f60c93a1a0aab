"""Does the teacher advisor tell which teacher makes the better student? Teachers, their students, rank correlations.

    python benchmarks/teacher_advice.py --data FOLDER           (one core: about 85 minutes, an estimate from --quick)
    python benchmarks/teacher_advice.py --data FOLDER --quick   (two minutes; of four teachers it says nothing)

FOLDER holds Fashion-MNIST in torchvision's layout, or what `--dataset` names. Teachers differ in method, width and
length of training. Each makes a student of one size by RSLAD. The advisor (`temper advise`) sees the teachers and two
reference networks of the student's size, which no teacher taught, on validation images; the students are attacked by
the same cascade on test images. Every network has a folder under --work and is trained once: run again, the script
continues.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import temper  # noqa: E402
from benchmarks.attack_clock import machine  # noqa: E402
from components.commands.advise import main as advise  # noqa: E402
from components.commands.advise_options import AdviseOptions  # noqa: E402
from components.data.dividing import stratified_subset  # noqa: E402
from components.data.normalization import fit_normalization  # noqa: E402
from components.data.splits import LabelledImages, Splits, read_splits, write_splits  # noqa: E402
from components.datasets.cifar10 import Cifar10  # noqa: E402
from components.datasets.digits import Digits  # noqa: E402
from components.datasets.fashion_mnist import FashionMnist  # noqa: E402
from components.distillation.parts.inner_attack import InnerAttack  # noqa: E402
from components.distillation.rslad import Rslad  # noqa: E402
from components.evaluation.advice.attacks import attacks_of  # noqa: E402
from components.evaluation.advice.document import MeasureName  # noqa: E402
from components.evaluation.advice.looks import look  # noqa: E402
from components.evaluation.one_attack import TestSet  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import Ratio  # noqa: E402
from components.foundation.process import as_process  # noqa: E402
from components.foundation.storage import read_json, write_json  # noqa: E402
from components.models.parts.batch_norm import BatchNorm  # noqa: E402
from components.models.parts.model_file import ModelCard, load_model, save_model  # noqa: E402
from components.models.small_cnn import SmallCnn  # noqa: E402
from components.numerics.compute import Compute  # noqa: E402
from components.numerics.random_numbers import derived  # noqa: E402
from components.reports.advice.contents import Advice, Calibration  # noqa: E402
from components.statistics.bootstrap import percentile_interval  # noqa: E402
from components.statistics.documents import document_of, read_document, write_document  # noqa: E402
from components.statistics.rank_correlation import spearman, spearman_interval  # noqa: E402
from components.threats.linf import Linf  # noqa: E402
from components.threats.parts.threat import Threat  # noqa: E402

STEP = Ratio(4, 13)
"""Of epsilon."""
ATTACK = {"steps": 5, "step_size": f"{STEP}*epsilon", "start": "uniform", "loss": "cross_entropy", "restarts": 1}
PGD_AT = {"name": "pgd_at", "attack": ATTACK}
TRADES = {"name": "trades", "steps": 5, "step_size": f"{STEP}*epsilon"}
RESAMPLES = 2000


class World(NamedTuple):
    """Images, how far the attacker may change them, and how training does."""

    dataset: FashionMnist | Cifar10 | Digits
    epsilon: Ratio
    crop: int
    flip: bool

    @property
    def threat(self) -> Threat:
        return Threat(norm=Linf(), epsilon=self.epsilon)


WORLDS = {
    "fashion_mnist": World(FashionMnist(), Ratio(26, 255), 1, True),
    "cifar10": World(Cifar10(), Ratio(8, 255), 4, True),
    "digits": World(Digits(), Ratio(51, 255), 0, False),
}


class Made(NamedTuple):
    """How a network is trained: by a method, at a width, for a multiple of the option `--epochs`."""

    method: str | Mapping[str, Any]
    width: float
    length: float


TEACHERS: dict[str, Made] = {
    "standard": Made("standard", 1, 1),
    "fgsm_rs": Made("fgsm_rs", 1, 1),
    "n_fgsm_early": Made("n_fgsm", 1, 0.25),
    "n_fgsm": Made("n_fgsm", 1, 1),
    "n_fgsm_late": Made("n_fgsm", 1, 3),
    "n_fgsm_narrow": Made("n_fgsm", 0.25, 1),
    "n_fgsm_wide": Made("n_fgsm", 2, 1),
    "pgd_at_early": Made(PGD_AT, 1, 0.25),
    "pgd_at": Made(PGD_AT, 1, 1),
    "pgd_at_smooth": Made(PGD_AT | {"label_smoothing": 0.3}, 1, 1),
    "trades": Made(TRADES, 1, 1),
    "trades_early": Made(TRADES, 1, 0.25),
}
REFERENCES = {"reference": Made("n_fgsm", 0, 0.5), "reference_pgd": Made(PGD_AT, 0, 0.25)}
"""Networks of the student's size (width 0 stands for its width)."""


class Sizes(NamedTuple):
    """Which images, and how much of everything: images, a teacher's epochs, the student's width, teachers by name."""

    dataset: str
    train: int
    validation: int
    test: int
    epochs: int
    student_epochs: int
    student_width: float
    teachers: tuple[str, ...]
    student_seeds: tuple[int, ...]


QUICK: dict[str, Any] = {
    "train": 1500,
    "validation": 100,
    "test": 100,
    "epochs": 3,
    "student_epochs": 3,
    "student_width": 0.25,
    "teachers": ("standard", "n_fgsm", "n_fgsm_narrow", "pgd_at"),
}


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    device = Compute(device=args.device, threads=args.threads, deterministic=True).prepare()
    with as_process():
        result = measured(args.work / ("quick" if args.quick else "full"), sizes_of(args), args.data, device)
    write_json(args.out, result)
    calibration = document_of(Calibration, result["calibration"], "calibration")
    write_document(args.out.with_suffix(".calibration.json"), calibration)
    print(table(result))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set")
    parser.add_argument("--dataset", choices=WORLDS, default="fashion_mnist")
    parser.add_argument("--quick", action="store_true", help="a rehearsal of two minutes")
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--validation", type=int, default=500, help="images of the advisor")
    parser.add_argument("--test", type=int, default=1000, help="images on which students are attacked")
    parser.add_argument("--epochs", type=int, default=8, help="of a teacher; early, late: a quarter, three times that")
    parser.add_argument("--student-epochs", type=int, default=8)
    parser.add_argument("--student-width", type=float, default=0.5)
    parser.add_argument("--student-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / ".temper" / "benchmarks" / "teacher_advice")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "teacher_advice.json")
    return parser.parse_args(arguments)


def sizes_of(args: argparse.Namespace) -> Sizes:
    told = {name: getattr(args, name) for name in Sizes._fields} | (QUICK if args.quick else {})
    for key in ("teachers", "student_seeds"):
        told[key] = tuple(told[key])
    return Sizes(**told)


def measured(work: Path, sizes: Sizes, data: Path, device: torch.device) -> dict[str, Any]:
    """Everything: what is in the folder already is not done again."""
    require_same(work / "sizes.json", sizes._asdict())
    splits = data_of(work / "normalized.safetensors", sizes, data)
    for name in sizes.teachers:
        taught(work / "teachers" / name, TEACHERS[name], splits, sizes.epochs, device)
    for name, made in REFERENCES.items():
        taught(work / "references" / name, made._replace(width=sizes.student_width), splits, sizes.epochs, device)
    advice = advised(work, sizes, device)
    students = {name: students_of(work, name, splits, sizes, device) for name in sizes.teachers}
    return summary(advice, students, sizes, seconds_in(work))


def require_same(file: Path, sizes: Mapping[str, Any]) -> None:
    """Refuses a folder of networks of other sizes; more teachers or seeds may join."""
    fixed = {key: value for key, value in sizes.items() if key not in ("teachers", "student_seeds")}
    if file.exists() and read_json(file) != fixed:
        raise temper.InputError(f"{file}: of a run with {read_json(file)}, want the same sizes, or another --work")
    write_json(file, fixed)


def data_of(file: Path, sizes: Sizes, data: Path) -> Splits[LabelledImages]:
    """A data file in the form of the pipeline's, from the official splits."""
    if not file.exists():
        source = WORLDS[sizes.dataset].dataset.load(data)
        train, test = source.train, source.test
        assert isinstance(train, LabelledImages) and isinstance(test, LabelledImages | None)
        if test is None:
            test, train = drawn(train, sizes.test, "official test")
        chosen, _ = drawn(train, sizes.train + sizes.validation, "drawn")
        held_out, taught = drawn(chosen, sizes.validation, "held out")
        few, _ = drawn(test, sizes.test, "test")
        normalization = fit_normalization(taught.images, "standardize")
        write_splits(file, Splits(sizes.dataset, source.classes, taught, held_out, few, normalization))
    return read_splits(file)


def drawn(images: LabelledImages, count: int, use: str) -> tuple[LabelledImages, LabelledImages]:
    """So many images, of each class its share, and the others."""
    chosen = stratified_subset(images.labels, count, derived(0, use))
    rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False).nonzero().squeeze(1)
    return images.take(chosen), images.take(rest)


def taught(folder: Path, made: Made, splits: Splits[LabelledImages], epochs: int, device: torch.device) -> Path:
    """The file of a network that is trained from labels."""
    return trained(folder, made.width, splits, lambda: made.method, max(1, round(made.length * epochs)), 0, device)


def trained(
    folder: Path,
    width: float,
    splits: Splits[LabelledImages],
    method: Callable[[], Any],
    epochs: int,
    seed: int,
    device: torch.device,
) -> Path:
    """The file of a trained network, trained unless it is there; beside it how long that took."""
    file = folder / "model.safetensors"
    if file.exists():
        return file
    began = time.process_time()
    architecture = SmallCnn(width=width, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    torch.manual_seed(derived(seed, "weights"))
    model = architecture.build(len(splits.classes), splits.image_shape, splits.normalization).to(device)
    train, held_out, world = splits.train, splits.validation, WORLDS[splits.dataset]
    found = temper.train(
        model,
        train.images,
        train.labels,
        world.threat,
        method=method(),
        epochs=epochs,
        crop=world.crop,
        flip=world.flip,
        learning_rate=0.1,
        validation=(held_out.images, held_out.labels),
        seed=seed,
        folder=folder,
    )
    section = {"name": "small_cnn", "width": width, "batch_norm": {"estimator": "running", "momentum": 0.1}}
    card = ModelCard(
        architecture=section,
        classes=splits.classes,
        image_shape=splits.image_shape,
        normalization=splits.normalization,
        stage="teacher_advice",
        epoch=found.best_epoch,
        upstream={},
    )
    write_json(folder / "seconds.json", {"cpu_seconds": time.process_time() - began})
    save_model(file, found.model.state_dict(), card)
    print(f"{folder.parent.name}/{folder.name}: {time.process_time() - began:.0f} s", flush=True)
    return file


def advised(work: Path, sizes: Sizes, device: torch.device) -> Advice:
    """What `temper advise` says of the teachers, with the reference networks as students."""
    file, began = work / "advice" / "advice.json", time.process_time()
    if file.exists() and set((found := read_document(Advice, file)).order) == set(sizes.teachers):
        return found
    teachers = [f"{name}={work / 'teachers' / name / 'model.safetensors'}" for name in sizes.teachers]
    students = [f"{name}={work / 'references' / name / 'model.safetensors'}" for name in REFERENCES]
    given = AdviseOptions(
        teacher=teachers,
        student=students,
        data=str(work / "normalized.safetensors"),
        count=sizes.validation,
        threat=f"linf:{WORLDS[sizes.dataset].epsilon}",
        device=device.type,
        threads=torch.get_num_threads(),
        out=file.parent,
    )
    found = advise(given)
    write_json(file.parent / "seconds.json", {"cpu_seconds": time.process_time() - began})
    return found


def students_of(
    work: Path, teacher: str, splits: Splits[LabelledImages], sizes: Sizes, device: torch.device
) -> list[dict[str, float]]:
    """The accuracies on test images of the students that a teacher makes, one for each seed."""
    found, threat = [], WORLDS[splits.dataset].threat
    for seed in sizes.student_seeds:
        folder = work / "students" / f"{teacher}-{seed}"

        def method() -> Any:
            model = load_model(work / "teachers" / teacher / "model.safetensors", device)[0].requires_grad_(False)
            attack = InnerAttack(
                steps=5, step_size=Ratio(STEP * threat.epsilon), start="gaussian", loss="kl_teacher_clean"
            )
            return Rslad(attack=attack, adversarial_weight=5 / 6, reduction="batch_mean").build(model)

        file = trained(folder, sizes.student_width, splits, method, sizes.student_epochs, seed, device)
        found.append(accuracies(folder / "test.json", file, splits.test, threat, device))
    return found


def accuracies(kept: Path, file: Path, test: LabelledImages, threat: Threat, device: torch.device) -> dict[str, float]:
    """Clean and worst-case accuracy under the advisor's own attacks, on test images."""
    if not kept.exists():
        began, labels = time.process_time(), test.labels
        images = TestSet(*test.on(device), 250)
        attacks = attacks_of(threat, int(labels.max()) + 1)
        seen = look(load_model(file, device)[0], images, attacks, threat, derived(0, "test"))
        clean = (seen.clean.argmax(1) == labels).float().mean().item()
        rates = {"clean": clean, "worst_case": seen.worst_case.float().mean().item()}
        write_json(kept, rates | {"n": len(labels), "cpu_seconds": time.process_time() - began})
    return read_json(kept)


def seconds_in(work: Path) -> float:
    """CPU seconds of all that is in the folder."""
    files = [*work.rglob("seconds.json"), *work.rglob("test.json")]
    return sum(read_json(file)["cpu_seconds"] for file in files)


def summary(
    advice: Advice, students: Mapping[str, Sequence[Mapping[str, float]]], sizes: Sizes, seconds: float
) -> dict[str, Any]:
    """Rows of teachers with their students, the correlations, and the calibration."""
    rows = {}
    for name in advice.order:
        teacher = advice.teachers[name]
        robust = [one["worst_case"] for one in students[name]]
        rows[name] = {
            "place": teacher.place,
            "measures": {key: measure.value for key, measure in teacher.measures.items()},
            "student": {"worst_case": sum(robust) / len(robust), "by_seed": list(students[name])},
        }
    return {
        "machine": machine(["torch"]),
        "sizes": sizes._asdict(),
        "cpu_seconds": round(seconds, 1),
        "teachers": rows,
        "correlations": correlations(rows),
        "calibration": calibration(rows, advice, sizes),
    }


def correlations(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Per measure, and for the order (minus the place), Spearman's correlation with the students' accuracy."""
    students = [row["student"]["worst_case"] for row in rows.values()]
    shared = set.intersection(*(set(row["measures"]) for row in rows.values()))
    columns = {"order": [-row["place"] for row in rows.values()]}
    columns |= {key: [row["measures"][key] for row in rows.values()] for key in next(iter(rows.values()))["measures"]}
    found = {}
    for key, values in columns.items():
        if key != "order" and key not in shared:
            continue
        low, high = spearman_interval(values, students, derived(0, "correlation"), RESAMPLES)
        rho = spearman(values, students)
        # Of what never differs there is no correlation, and JSON has no NaN.
        known = rho == rho and low == low
        found[key] = {"rho": rho, "low": low, "high": high, "n": len(values)} if known else None
    return found


def calibration(rows: Mapping[str, Any], advice: Advice, sizes: Sizes) -> dict[str, Any]:
    """The document that `temper advise --calibration` reads."""
    keys: tuple[MeasureName, ...] = ("worst_case", advice.decides)
    table = torch.tensor([[row["measures"][key] for key in keys] for row in rows.values()], dtype=torch.float64)
    students = torch.tensor([row["student"]["worst_case"] for row in rows.values()], dtype=torch.float64)
    return {
        "schema": "temper/advice-calibration/1",
        "dataset": advice.dataset,
        "norm": advice.threat.norm,
        "epsilon": advice.threat.epsilon,
        "method": "rslad",
        "student": f"small_cnn of width {sizes.student_width:g}",
        "confident": advice.confident,
        "num_teachers": len(rows),
        "slopes": dict(zip(keys, slopes(table, students), strict=True)),
    }


def slopes(table: torch.Tensor, students: torch.Tensor) -> list[dict[str, float]]:
    """The slopes of a least squares fit with an intercept, and their bootstrap intervals over the rows.

    Resamples whose rows do not determine a fit do not count. Where none does, the interval is all that JSON can say: a
    slope of 0 between -1 and 1, which tells nothing.
    """

    def fit(places: torch.Tensor) -> torch.Tensor | None:
        design = torch.cat([torch.ones(len(places), 1, dtype=torch.float64), table[places]], 1)
        if int(torch.linalg.matrix_rank(design)) < design.shape[1]:
            return None
        return torch.linalg.lstsq(design, students[places]).solution[1:]

    whole = fit(torch.arange(len(students)))
    draw = torch.Generator().manual_seed(derived(0, "calibration"))
    resampled = [fit(torch.randint(len(students), (len(students),), generator=draw)) for _ in range(RESAMPLES)]
    kept = [one for one in resampled if one is not None]
    if whole is None or not kept:
        return [{"value": 0.0, "low": -1.0, "high": 1.0}] * table.shape[1]
    found = []
    for value, column in zip(whole.tolist(), torch.stack(kept).T, strict=True):
        low, high = percentile_interval(column)
        found.append({"value": value, "low": low, "high": high})
    return found


def table(result: Mapping[str, Any]) -> str:
    """The correlations, and the teachers in the advisor's order with what became of their students."""
    lines = [f"{len(result['teachers'])} teachers, {result['cpu_seconds'] / 60:.1f} CPU minutes in all"]
    for name, row in result["teachers"].items():
        worst, student = row["measures"]["worst_case"], row["student"]["worst_case"]
        lines.append(f"  {row['place']:2} {name:16} worst case {worst:.1%}, its student {student:.1%}")
    for key, found in result["correlations"].items():
        told = (
            "does not differ" if found is None else f"{found['rho']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
        )
        lines.append(f"  rank correlation of {key:22} {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
