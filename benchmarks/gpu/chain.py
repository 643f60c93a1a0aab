"""A part of a preset with one seed: teachers, the student, or the evaluation of all three.

    python -m benchmarks.gpu.chain --chain paper --part student --seed 0 --data FOLDER --work FOLDER --out FILE

The next part begins where the one before ended: on the same disk, or from its weights, which `gpu_programme.py --bring`
takes along in bfloat16. Weights that were brought back are rounded, and have no last checkpoint beside the best: the
result says so.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu import weights
from benchmarks.gpu.items import CHAINS
from benchmarks.gpu.place import DONE, MORE_TO_DO, PUBLISHED, ROOT, Aim, parser, toy_of, write_result
from benchmarks.run_preset import one_run, run_stage, seconds_of
from components.foundation.recipes import changed
from components.foundation.storage import read_json
from components.stages import STAGES
from pipelines.parameters.presets import preset_values

DATA = ("fetch_data", "normalize_data", "fetch_teachers")
PARTS = {
    "teachers": (*DATA, "train_clean_teacher", "train_robust_teacher"),
    "clean_teacher": (*DATA, "train_clean_teacher"),
    "robust_teacher": (*DATA, "train_robust_teacher"),
    "student": (*DATA, "distill_student"),
    "evaluation": (*DATA, "evaluate_attacks", "report"),
}
# The models that a part needs, and those that it leaves.
NEEDS = {"student": weights.TEACHERS, "evaluation": (*weights.TEACHERS, weights.STUDENT)}
LEAVES = {"teachers": weights.TEACHERS, **{name: (name,) for name in (*weights.TEACHERS, weights.STUDENT)}}
# The rows of a table beside what is published: their keys there, and what they are called in the report.
ROWS = {"clean": "clean", "pgd_sat": "pgd_sat", "pgd_trades": "pgd_trades", "cw": "cw", "autoattack": "cascade"}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--chain", choices=CHAINS, default=weights.FIRST)
    options.add_argument("--part", choices=PARTS, required=True)
    options.add_argument("--seed", type=int, required=True)
    args = options.parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    name, part, seed, needed = args.chain, args.part, args.seed, NEEDS.get(args.part, ())
    folder = folder_of(args.work, name, seed)
    restored = [one for one in needed if weights.restored(folder, one, seed, args.work, name)]
    # Brought weights have no last checkpoint.
    brought = {"evaluate_attacks.last_epoch_attacks": []} if restored else {}
    values = changed(recipe(CHAINS[name].preset, args.toy), brought, "the programme")
    write_params(folder, values, seed)
    for stage in PARTS[part]:
        if not run_stage(folder, stage, args.data, deadline):
            return MORE_TO_DO
    content = {"chain": name, "part": part, "seed": seed, "toy": args.toy, "restored": restored}
    content["seconds"] = {stage: seconds_of(folder, stage) for stage in PARTS[part]}
    if part == "evaluation":
        # Also the seconds that the weights have brought along; without what other experiments do in this folder.
        minutes = sum(seconds_of(folder, stage) for stage in STAGES) / 60
        content |= one_run(folder) | {"minutes": round(minutes, 1)}
        line = told(content, folder, None if args.toy else minutes)
    else:
        for one in LEAVES[part]:
            weights.kept(folder, one, seed, args.work, name)
        content["metrics"] = {one: read_json(folder / f"metrics/{one}.json") for one in LEAVES[part]}
        line = ", ".join(f"{one} {validated(found['best'])}" for one, found in content["metrics"].items())
    write_result(args.out, line, **content)
    return DONE


def folder_of(work: Path, chain: str, seed: int) -> Path:
    """Where all parts of a chain with one seed work."""
    folder = work / chain / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def recipe(preset: str, toy: bool) -> dict[str, Any]:
    """The parameters of a preset, or those at toy size."""
    values = preset_values(ROOT, preset)
    return changed(values, toy_of(values), "the programme") if toy else values


def write_params(folder: Path, values: Mapping[str, Any], seed: int) -> None:
    text = yaml.safe_dump({**values, "seed": seed}, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def told(content: dict[str, Any], folder: Path, minutes: float | None) -> str:
    """The line of an evaluation; `content` gets its aims and, where something is published, the table beside that."""
    published = read_json(PUBLISHED).get(content["chain"])
    if published is None:
        rates = shown(content["accuracies"])
        clean, attacked = (found["value"] for found in rates.values())
        content["aims"] = aims(clean, attacked, minutes)
        line = ", ".join(f"{name} {found['value']:.1%}" for name, found in rates.items())
    else:
        student = read_json(folder / "reports/robustness.json")["models"][weights.STUDENT]
        content["table"] = table(student, published["evaluation"])
        content["aims"] = [aim_of(key, row).told() for key, row in content["table"].items()]
        line = ", ".join(f"{key} {row['value']:.2%} ({row['published']:.2f})" for key, row in content["table"].items())
    return f"{line}, {content['verdicts'][weights.STUDENT]}"


def table(student: Mapping[str, Any], published: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Per row the published percentage, and the measured share with its interval."""
    found = {**student, **student["attacks"], "cascade": student["cascade"][-1]}
    return {key: {"published": published[key], **found[name]} for key, name in ROWS.items()}


def aim_of(key: str, row: Mapping[str, float]) -> Aim:
    """A row as shares: what was to be reached, and what was."""
    return Aim(f"student, {key}", round(row["published"] / 100, 4), row["value"])


def aims(clean: float, attacked: float, minutes: float | None) -> list[dict[str, Any]]:
    """What the student was to reach, as shares, and the whole chain in how many minutes."""
    found = [Aim("student, clean", 0.88, clean), Aim("student, under AutoAttack", 0.474, attacked)]
    found.append(Aim("student, under AutoAttack, second aim", 0.49, attacked))
    return [aim.told() for aim in (*found, Aim("minutes of the whole chain", 30, minutes, at_most=True))]


def validated(best: dict[str, float]) -> str:
    """Both accuracies on the validation split."""
    return f"{best['clean_accuracy']:.1%} / {best['robust_accuracy']:.1%}"


def shown(accuracies: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The student's clean accuracy and what all attacks leave, AutoAttack among them."""
    return {name: accuracies[name] for name in ("student/clean", "student/worst_case")}


if __name__ == "__main__":
    raise SystemExit(main())
