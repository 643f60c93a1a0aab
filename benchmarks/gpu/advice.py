"""Whether the teacher advisor tells which teacher makes the better student, on CIFAR-10.

python -m benchmarks.gpu.advice --data FOLDER --work FOLDER --out FILE
"""

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import DONE, MORE_TO_DO, ROOT, parser, write_result
from benchmarks.run_preset import run_once, seconds_of
from components.foundation.storage import read_json

SIZES = ("--dataset", "cifar10", "--train", "45000", "--validation", "1000", "--test", "2000")
TOY = ("--dataset", "digits", "--train", "200", "--validation", "40", "--test", "40", "--student-width", "0.25")
TOY += ("--epochs", "1", "--student-epochs", "1", "--teachers", "standard", "n_fgsm", "n_fgsm_narrow")


def main() -> int:
    args = parser(__doc__).parse_args()
    deadline = time.monotonic() + (args.stop_after or float("inf"))
    folder: Path = args.work / "advice"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "advice.json"
    command = [sys.executable, str(ROOT / "benchmarks/teacher_advice.py"), *(TOY if args.toy else SIZES)]
    command += ["--data", str((args.data or folder).resolve()), "--work", str(folder), "--out", str(out)]
    if not run_once(command, folder, folder / "advice.seconds.json", deadline):
        return MORE_TO_DO
    result: dict[str, Any] = {**read_json(out), "toy": args.toy, "seconds": seconds_of(folder, "advice")}
    del result["machine"]
    write_result(args.out, headline(result), **result)
    return DONE


def headline(result: dict[str, Any]) -> str:
    """How the advisor's order of teachers agrees with the order of their students."""
    num, order = len(result["teachers"]), result["correlations"]["order"]
    if order is None:
        return f"{num} teachers that share a place"
    rank = f"{order['rho']:+.2f} ({order['low']:+.2f} to {order['high']:+.2f})"
    return f"rank correlation of the order with students {rank}, {num} teachers"


if __name__ == "__main__":
    raise SystemExit(main())
