"""One arm of a study with one seed, at the size for a GPU: trained, attacked, and set beside what was published.

python -m benchmarks.gpu.arm --study fast_at --arm n_fgsm --seed 0 --data FOLDER --work FOLDER --out FILE
"""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.items import SCALE
from benchmarks.gpu.place import DONE, KINDS, MORE_TO_DO, PUBLISHED, ROOT, parser, toy_of, write_result
from components.foundation.storage import read_json
from pipelines.studies.file import arm_params, read_study
from pipelines.studies.job import Workplace, record, run
from pipelines.studies.plan import ArmRun, Job, plan

HOURS = 3600.0


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--study", required=True)
    options.add_argument("--arm", required=True)
    options.add_argument("--seed", type=int, required=True)
    args = options.parse_args()
    folder = ROOT / "studies" / args.study
    delta = toy_of(arm_params(ROOT, folder, read_study(folder), SCALE, args.arm)) if args.toy else {}
    planned = plan(ROOT, folder, SCALE, [args.seed], [args.arm], delta)
    place = Workplace(
        root=ROOT,
        # One folder for all: jobs are known by what they are told, and studies share teachers.
        work=args.work / "studies",
        data=args.data,
        environment={"TEMPER_TRACKING": "off"},
    )
    timer = threading.Timer(args.stop_after or threading.TIMEOUT_MAX, place.stop.set)
    timer.daemon = True
    timer.start()
    for job in upstream_first(planned.runs[0].evaluated):
        ended = run(job, place, lambda line, job=job: print(f"{job.stage} | {line}", flush=True), HOURS)
        if ended.status == "stopped":
            return MORE_TO_DO
        if not ended.well:
            print(f"{job.stage}: {ended.message}", file=sys.stderr)
            return 1
    numbers = measured(planned.runs[0], place)
    theirs = read_json(PUBLISHED).get(args.study, {}).get(args.arm)
    write_result(args.out, headline(numbers, theirs), **vars_of(args), **numbers, published=theirs)
    return DONE


def upstream_first(job: Job) -> Iterator[Job]:
    """The jobs that a job needs, once each, and the job itself."""
    seen: set[str] = set()

    def walk(one: Job) -> Iterator[Job]:
        if one.key not in seen:
            seen.add(one.key)
            for read in one.reads:
                yield from walk(read.job)
            yield one

    return walk(job)


def measured(arm: ArmRun, place: Workplace) -> dict[str, Any]:
    """Accuracies with n and interval of the best and the last checkpoint, their verdicts, and the seconds."""
    report = read_json(place.folder(arm.evaluated) / "evaluation" / "robustness.json")
    return {
        "accuracies": {name: {kind: model[kind] for kind in KINDS} for name, model in report["models"].items()},
        "verdicts": {name: verdict["status"] for name, verdict in report["verdict"].items()},
        "seconds": {
            "training": record(arm.trained, place)["seconds"],
            "evaluation": record(arm.evaluated, place)["seconds"],
        },
    }


def headline(numbers: dict[str, Any], theirs: dict[str, float] | None) -> str:
    best = numbers["accuracies"]["best"]
    rates = (f"{name} {best[kind]['value']:.1%}" for name, kind in (("clean", "clean"), ("worst case", "worst_case")))
    text = ", ".join((*rates, numbers["verdicts"]["best"]))
    if theirs is not None:
        text += f" (published: clean {theirs['clean']:.1f}, AutoAttack {theirs['autoattack']:.1f})"
    return text


def vars_of(args: Any) -> dict[str, Any]:
    return {"study": args.study, "arm": args.arm, "seed": args.seed, "toy": args.toy}


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    raise SystemExit(status)
