"""A part of cifar10_fast with one seed: its teachers, its student, or the evaluation of all three.

    python -m benchmarks.gpu.chain --part teachers --seed 0 --data FOLDER --work FOLDER --out FILE

The next part begins where the one before ended: on the same disk, or from its weights, which `gpu_programme.py --bring`
takes along in bfloat16. Weights that were brought back are rounded, and have no last checkpoint beside the best: the
result says so.
"""

import time
from typing import Any

import yaml

from benchmarks.gpu import weights
from benchmarks.gpu.place import DONE, MORE_TO_DO, ROOT, TOY, Aim, parser, write_result
from benchmarks.run_preset import one_run, run_stage, seconds_of
from components.foundation.recipes import changed
from components.foundation.storage import read_json
from components.stages import STAGES
from pipelines.parameters.presets import preset_values

PRESET = "cifar10_fast"
DATA = ("fetch_data", "normalize_data", "fetch_teachers")
PARTS = {
    "teachers": (*DATA, "train_clean_teacher", "train_robust_teacher"),
    "student": (*DATA, "distill_student"),
    "evaluation": (*DATA, "evaluate_attacks", "report"),
}
# The models that a part needs, and those that it leaves.
NEEDS = {"teachers": (), "student": weights.TEACHERS, "evaluation": (*weights.TEACHERS, weights.STUDENT)}
LEAVES = {"teachers": weights.TEACHERS, "student": (weights.STUDENT,), "evaluation": ()}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--part", choices=PARTS, required=True)
    options.add_argument("--seed", type=int, required=True)
    args = options.parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    folder = args.work / "chain" / str(args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    restored = [name for name in NEEDS[args.part] if weights.restored(folder, name, args.seed, args.work)]
    # Brought weights have no last checkpoint.
    brought = {"evaluate_attacks.last_epoch_attacks": []} if restored else {}
    values = changed(preset_values(ROOT, PRESET), (TOY if args.toy else {}) | brought, "the programme")
    text = yaml.safe_dump(values | {"seed": args.seed}, sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    for stage in PARTS[args.part]:
        if not run_stage(folder, stage, args.data, deadline):
            return MORE_TO_DO
    for name in LEAVES[args.part]:
        weights.kept(folder, name, args.seed, args.work)
    seconds = {stage: seconds_of(folder, stage) for stage in PARTS[args.part]}
    content = {"part": args.part, "seed": args.seed, "toy": args.toy, "restored": restored, "seconds": seconds}
    if args.part == "evaluation":
        content |= one_run(folder)
        line = ", ".join(f"{name} {found['value']:.1%}" for name, found in shown(content["accuracies"]).items())
        line += f", {content['verdicts']['student']}"
        clean, attacked = (found["value"] for found in shown(content["accuracies"]).values())
        # Also those that the weights have brought along; without what other experiments do in this folder.
        took = sum(seconds_of(folder, stage) for stage in STAGES) / 60
        content["aims"] = aims(clean, attacked, None if args.toy else took)
    else:
        content["metrics"] = {name: read_json(folder / f"metrics/{name}.json") for name in LEAVES[args.part]}
        line = ", ".join(f"{name} {validated(found['best'])}" for name, found in content["metrics"].items())
    write_result(args.out, line, **content)
    return DONE


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
