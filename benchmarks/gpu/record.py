"""A student that should beat what is published, from our own robust teacher, and AutoAttack on it.

    python -m benchmarks.gpu.record --method saad --seed 0 --data FOLDER --work FOLDER --out FILE

The teacher is that of the chain `record` with the same seed: on the same disk, or from its weights.
"""

import time
from typing import Any

from benchmarks.gpu import weights
from benchmarks.gpu.cascade import alone, attack
from benchmarks.gpu.chain import DATA, folder_of, recipe, write_params
from benchmarks.gpu.items import RECORDS
from benchmarks.gpu.place import DONE, KINDS, MORE_TO_DO, Aim, parser, write_result
from benchmarks.run_preset import run_stage, seconds_of
from components.foundation.storage import read_json

CHAIN, TEACHER = "record", "robust_teacher"
STAGE = "distill_student"
AIMS = {"clean": 0.845, "worst_case": 0.525}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--method", choices=RECORDS, required=True)
    options.add_argument("--seed", type=int, required=True)
    args = options.parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    name, seed = args.method, args.seed
    folder = folder_of(args.work, f"{CHAIN}-{name}", seed)
    brought = weights.lent(folder, folder_of(args.work, CHAIN, seed), TEACHER, seed, args.work, CHAIN)
    write_params(folder, alone(recipe(RECORDS[name][0], args.toy)), seed)
    for stage in (*DATA, STAGE):
        if not run_stage(folder, stage, args.data, deadline):
            return MORE_TO_DO
    weights.kept(folder, weights.STUDENT, seed, args.work, name)
    if not attack(folder, deadline, weights.STUDENT):
        return MORE_TO_DO
    report = read_json(folder / "cascade" / "robustness.json")
    student = report["models"][weights.STUDENT]
    found: dict[str, Any] = {kind: student[kind] for kind in KINDS}
    found |= {"verdict": report["verdict"][weights.STUDENT], "teacher_brought": brought}
    found |= {"seconds": {stage: seconds_of(folder, stage) for stage in (STAGE, "cascade")}}
    found["aims"] = [Aim(f"student, {kind}", aim, student[kind]["value"]).told() for kind, aim in AIMS.items()]
    line = ", ".join(f"{kind.replace('_', ' ')} {student[kind]['value']:.1%}" for kind in AIMS)
    write_result(args.out, f"{line}, {found['verdict']['status']}", method=name, seed=seed, toy=args.toy, **found)
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
