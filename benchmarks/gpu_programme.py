"""Measures on a GPU whatever has not been measured yet: the next experiments of an ordered list, until time is up.

    python benchmarks/gpu_programme.py --data FOLDER --seconds 540
    python benchmarks/gpu_programme.py --list
    python benchmarks/gpu_programme.py --toy --seconds 600          # the whole list on a CPU, at toy size

An experiment that has a file in `benchmarks/results/gpu/` is done. One that was stopped continues from `--work`, a
folder on the machine's own disk. Nothing is started that cannot end, or stop and be continued, before time is up. What
fails is noted, and comes last in the next call. `benchmarks/gpu/README.md` says how to get there and back.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import tally, transfer  # noqa: E402
from benchmarks.gpu.items import Item, programme  # noqa: E402
from benchmarks.gpu.place import DONE, MORE_TO_DO, Place  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.process import as_process  # noqa: E402
from components.foundation.storage import read_json, write_json  # noqa: E402
from pipelines.running import process  # noqa: E402

# So long before its time is up, an experiment begins to stop by itself and to leave a checkpoint.
MARGIN = 30
# So much later it is told to, and killed in the end: in the rest of the margin.
LATE = MARGIN - sum(grace for _, grace in process.STOP_SEQUENCE)
# Less is not worth the start of an experiment.
LEAST = 30


class Outcome(NamedTuple):
    """How an experiment stands after this call."""

    item: Item
    status: str
    seconds: float = 0.0


def main(given: Sequence[str] | None = None) -> int:
    """The exit status: 0 if all is measured and right, 3 if there is more to do, 1 if something failed or is wrong."""
    args = parse(given)
    place = Place(data=args.data, work=args.work, results=args.results, toy=args.toy)
    if args.unpack is not None:
        print("\n".join(transfer.unpacked(args.unpack, place)))
        return 0
    items = [item for item in programme(args.toy) if not args.only or item.id in args.only]
    if unknown := set(args.only) - {item.id for item in items}:
        raise SystemExit(f"--only: no experiment {', '.join(sorted(unknown))} (--list shows them)")
    left = [item for item in items if not place.has(item.id)]
    print(f"{len(items) - len(left)} of {len(items)} experiments are done; {rest(left, args.toy)}", flush=True)
    outcomes = list[Outcome]()
    for outcome in () if args.list else work_through(ordered(left, place), place, time.monotonic() + args.seconds):
        outcomes.append(outcome)
        # After each, since the machine may be taken away at any time.
        if args.bring is not None and outcome.seconds:
            print("\n".join(transfer.packed(args.bring, place)), flush=True)
    show(items, place, outcomes)
    # What was wrong in an earlier call still is.
    if any(outcome.status == "failed" for outcome in outcomes) or any(place.wrong(item.id) for item in items):
        return 1
    return 0 if args.list or all(place.has(item.id) for item in items) else MORE_TO_DO


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 in torchvision's layout")
    parser.add_argument("--seconds", type=float, default=540, help="stop before so many have passed (default: 540)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "temper-gpu")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--bring", type=Path, help="put results and weights of this machine there, to be taken along")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="take in what --bring has put there; run nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these experiments of the list alone")
    parser.add_argument("--list", action="store_true", help="show the list; run nothing")
    parser.add_argument("--toy", action="store_true", help="toy size: digits and small networks, on any machine")
    args = parser.parse_args(given)
    if args.toy and args.results == parser.get_default("results"):
        args.results = args.work / "toy-results"
    if args.data is None and not (args.toy or args.list or args.unpack):
        parser.error("--data is missing: a folder with CIFAR-10 in torchvision's layout")
    if args.data is not None and not args.data.is_dir():
        parser.error(f"--data: {args.data}: no such folder")
    return args


def ordered(items: Iterable[Item], place: Place) -> list[Item]:
    """In the order of the list, but what has failed here before comes last."""
    return sorted(items, key=lambda item: place.failure(item.id).exists())


def work_through(items: Iterable[Item], place: Place, deadline: float) -> Iterable[Outcome]:
    """Runs what fits before the deadline, a time of the monotonic clock."""
    for item in items:
        left = deadline - time.monotonic() - MARGIN
        if left < LEAST or not (item.continues or item.seconds <= left):
            yield Outcome(item, "no time left")
            continue
        print(f"\n{item.id}: {item.purpose}", flush=True)
        began = time.monotonic()
        status = run(item, place, left)
        yield Outcome(item, status, time.monotonic() - began)


def run(item: Item, place: Place, seconds: float) -> str:
    """Runs an experiment for so many seconds at most: `done`, `stopped` or `failed`."""
    out, failure = place.made(item.id), place.failure(item.id)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", *item.command, *place.options(), "--out", str(out)]
    command += ["--stop-after", f"{seconds:.0f}"] if item.continues else []
    status, lines = ended(command, seconds + LATE)
    if status == DONE and out.exists():
        failure.unlink(missing_ok=True)
        place.publish(item.id)
        return "done"
    if status == MORE_TO_DO:
        return "stopped"
    write_json(failure, {"id": item.id, "status": status, "lines": lines[-40:]})
    return "failed"


def ended(command: Sequence[str], seconds: float) -> tuple[int, list[str]]:
    """The exit status of a process and the last lines that it printed, which are shown as they come.

    One that takes longer is stopped, and with it, however this process ends, all that it has started.
    """

    def show_line(line: str) -> None:
        print(line, flush=True)

    told = {"root": ROOT, "environment": os.environ, "log": show_line, "stop": threading.Event()}
    end = process.run(command, **told, time_limit=seconds)
    lines = list(end.lines)
    return end.returncode, lines if end.ended_by == "itself" else [*lines, f"stopped after {seconds:.0f} s"]


def rest(left: Sequence[Item], toy: bool) -> str:
    """How much is left to do. The seconds that are planned with hold for a GPU, and for nothing of toy size."""
    planned = f" (about {sum(item.seconds for item in left) / 60:.0f} GPU minutes)"
    return f"left: {len(left)}{'' if toy else planned}"


def show(items: Sequence[Item], place: Place, outcomes: Iterable[Outcome]) -> None:
    """A line for each experiment that is done, was run now, or comes next."""
    now = {outcome.item.id: outcome for outcome in outcomes}
    print()
    for item in items:
        waiting = "failed before" if place.failure(item.id).exists() else "to do"
        state = f"{now[item.id].status if item.id in now else waiting}: {item.purpose}"
        if place.has(item.id):
            state = f"{'WRONG' if place.wrong(item.id) else 'done '}  {read_json(place.result(item.id))['headline']}"
        expected = "" if place.toy else f"{item.seconds:5d} s  "
        print(f"{item.id:36} {expected}{state}")
    # Nothing is published of toy size.
    rows = [] if place.toy else tally.lines(place)
    print(*rows, rest([item for item in items if not place.has(item.id)], place.toy), sep="\n")


if __name__ == "__main__":
    with as_process():
        raise SystemExit(main())
