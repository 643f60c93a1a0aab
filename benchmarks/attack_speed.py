"""Times PGD-10 and the AutoAttack cascade against the peers, and PGD-10 against this machine's convolutions.

    python benchmarks/attack_speed.py --data FOLDER
    python benchmarks/attack_speed.py --only pgd/small_cnn --rounds 1 --images 8

One thread. Every entrant attacks the same network on the same images; rounds alternate between the entrants, and each
ratio is taken within a round. `benchmarks/README.md` says what is needed. Nothing else may run on the machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import attack_clock as clock  # noqa: E402
from benchmarks import attack_networks as networks  # noqa: E402
from benchmarks import attack_peers as peers  # noqa: E402
from components.attacks import ATTACKS  # noqa: E402
from components.attacks.parts.victim import Victim  # noqa: E402
from components.attacks.pgd import Pgd  # noqa: E402
from components.data.pixels import to_pixels  # noqa: E402
from components.evaluation.campaign import Campaign, Task, cascade  # noqa: E402
from components.evaluation.cascades import specs  # noqa: E402
from components.evaluation.journal import OutcomeJournal  # noqa: E402
from components.evaluation.one_attack import predict  # noqa: E402
from components.evaluation.search_network import Search, parity  # noqa: E402
from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.params import member  # noqa: E402
from components.numerics.cost import PassCounter  # noqa: E402
from components.numerics.random_numbers import Noise  # noqa: E402
from components.threats.linf import Linf  # noqa: E402

FAST, EXACT, COMPILED = "temper-bfloat16", "temper-float32", "temper-compiled"
SEARCHES = {
    FAST: Search(precision="bfloat16", compiled=False),
    EXACT: Search(precision="float32", compiled=False),
    COMPILED: Search(precision="bfloat16", compiled=True),
}
REFERENCE = "pyautoattack"
# Of the cascades these run in the first round alone: what is asked is how ours compares with the reference.
ONCE = {EXACT, "torchattacks", "art"}
# Who runs unless others are named: a compiled network pays in few cases, torchattacks' cascade is weaker than the
# reference, and ART's takes ten times the passes.
USUAL = {
    "pgd": (FAST, EXACT, *peers.PGD),
    "cascade": (FAST, EXACT, REFERENCE),
}
# How many images of which setting.
PARTS: dict[str, tuple[int, Callable[[int, Path | None], networks.Setting]]] = {
    "pgd/digits": (500, networks.digits),
    "pgd/small_cnn": (256, networks.small_cnn),
    "pgd/resnet18": (32, networks.resnet18),
    "cascade/digits": (500, networks.digits),
    "cascade/small_cnn": (256, networks.small_cnn),
    "cascade/resnet18": (4, networks.resnet18),
}
OPTIONAL = {"cascade/resnet18"}
PACKAGES = ("torch", "torchvision", "numpy", *peers.PACKAGES)


def main(given: Sequence[str] | None = None) -> int:
    args = parse(given)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": clock.machine(PACKAGES), "seed": networks.SEED, "parts": {}}
    for part in args.only:
        num, make = PARTS[part]
        began = time.monotonic()
        setting = make(args.images or num, args.data)
        print(f"\n{part}: {len(setting.test.labels)} images ({setting.images}), {setting.threat}", flush=True)
        found = pgd(setting, args) if part.startswith("pgd/") else autoattack(setting, args)
        result["parts"][part] = found | {"of": setting.images, "threat": repr(setting.threat)}
        show(found)
        print(f"{time.monotonic() - began:.0f} s with its preparation", flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {args.out}")
    return 0


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ", ".join(f"{part} {num}" for part, (num, _) in PARTS.items())
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 (default: synthetic images of its shape)")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="default: all but cascade/resnet18")
    parser.add_argument("--rounds", type=int, help="default: 5 for PGD, 2 for the cascade")
    parser.add_argument("--images", type=int, help=f"default: {defaults}")
    parser.add_argument(
        "--entrants",
        nargs="+",
        choices=[*SEARCHES, *peers.PGD],
        metavar="NAME",
        help=f"beside {FAST}; default: " + "; ".join(f"{kind}: {' '.join(names[1:])}" for kind, names in USUAL.items()),
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "attack_speed.json")
    args = parser.parse_args(given)
    args.only = args.only or [part for part in PARTS if part not in OPTIONAL]
    return args


def pgd(setting: networks.Setting, args: argparse.Namespace) -> dict[str, Any]:
    """PGD-10 by every entrant, and the machine's limits in the same rounds."""
    images = to_pixels(setting.test.images)
    # Away from the predicted class: an image that is wrong from the start would cost APGD nothing.
    labels = predict(setting.model, images)
    attack = Pgd(steps=peers.STEPS, step_size=setting.step_size, start="uniform", loss="cross_entropy", restarts=1)
    names = args.entrants or USUAL["pgd"]
    victims = our_victims(setting, names)

    def ours(victim: Victim) -> clock.Entrant:
        places = torch.arange(len(labels))
        return lambda seed: attack(victim, images, labels, setting.threat, Noise(seed, places))

    driven, missing = drive(peers.PGD, names, setting, labels)
    entrants = {name: ours(victim) for name, victim in victims.items()} | driven
    counter = pass_counter(victims.values())
    raced = {name: clock.counted(entrant, counter) for name, entrant in entrants.items()}
    clock.race(raced, 1)  # what only a first call does: kernels chosen, code compiled
    limits = {"convolutions": clock.convolutions, "matrix_product": clock.matrix_product}
    laps = clock.race(raced | limits, args.rounds or 5)
    counter.close()
    rates = {name: [lap.answer for lap in laps.pop(name)] for name in limits}
    flop = 2 * networks.multiply_adds(setting.model, tuple(images.shape[1:]))

    def row(one: list[clock.Lap]) -> dict[str, Any]:
        images_adv, passes = one[0].answer
        speeds = [flop * sum(passes.values()) / lap.cpu / 1e9 for lap in one]
        shares = [speed / rate for speed, rate in zip(speeds, rates["convolutions"], strict=True)]
        return basics(one, len(labels)) | {
            "fooled": int((predict(setting.model, images_adv) != labels).sum()) / len(labels),
            "epsilon": float(setting.threat.size(images_adv - images).max()),
            "gflop_per_s": clock.spread(speeds),
            "share_of_convolutions": clock.spread(shares),
        }

    return {
        "images": len(labels),
        "attack": repr(attack),
        "gflop_per_forward_pass": flop / 1e9,
        "limits_gflop_per_s": {name: clock.spread(values) for name, values in rates.items()},
        "entrants": {name: row(one) for name, one in laps.items()},
        "ratios": clock.ratios(laps, FAST),
        "not_installed": missing,
        "parity": parity(victims[FAST], setting.held_out, attack, setting.threat, networks.SEED),
    }


def autoattack(setting: networks.Setting, args: argparse.Namespace) -> dict[str, Any]:
    """The standard cascade by every entrant, and the images on which they disagree with the reference."""
    attacks = {name: member(ATTACKS, spec, name) for name, spec in specs("autoattack", 10, Linf()).items()}
    tasks = [Task("clean", None, setting.threat), *cascade(attacks, [setting.threat])]
    names = args.entrants or USUAL["cascade"]
    victims = our_victims(setting, [name for name in names if name != COMPILED])
    labels, steps = setting.test.labels, {}

    def ours(name: str) -> clock.Entrant:
        def run(seed: int) -> Tensor:
            with tempfile.TemporaryDirectory() as folder, OutcomeJournal.open(Path(folder) / "journal", {}) as journal:
                findings = Campaign({name: victims[name]}, setting.test, seed, journal).run(name, tasks)
            standing = {task: int(outcome.sum()) for task, outcome in findings.outcomes.items()}
            steps[name] = {task: {"standing": standing[task], **passes} for task, passes in findings.passes.items()}
            return findings.worst_case.bool()

        return run

    def theirs(run: peers.Run) -> clock.Entrant:
        return lambda seed: predict(setting.model, run(seed)) == labels

    driven, missing = drive(peers.CASCADES, names, setting, labels)
    entrants = {name: ours(name) for name in victims} | {name: theirs(run) for name, run in driven.items()}
    counter = pass_counter(victims.values())
    raced = {name: clock.counted(entrant, counter) for name, entrant in entrants.items()}
    laps = clock.race(raced, args.rounds or 2, ONCE)
    counter.close()

    def row(one: list[clock.Lap]) -> dict[str, Any]:
        verdicts = [lap.answer[0] for lap in one]
        pairs = [(mine, lap.answer[0]) for mine, lap in zip(verdicts, laps.get(REFERENCE, []), strict=False)]
        return basics(one, len(labels)) | {
            "robust_accuracy": [int(verdict.sum()) / len(labels) for verdict in verdicts],
            "fell_only_here": [(~mine & its).nonzero().squeeze(1).tolist() for mine, its in pairs],
            "fell_only_at_the_reference": [(mine & ~its).nonzero().squeeze(1).tolist() for mine, its in pairs],
        }

    return {
        "images": len(labels),
        "attack": repr(attacks),
        "entrants": {name: row(one) for name, one in laps.items()},
        "ratios": clock.ratios(laps, FAST),
        "our_steps": steps,
        "not_installed": missing,
        "parity": parity(victims[FAST], setting.held_out, attacks["apgd_ce"], setting.threat, networks.SEED),
    }


def our_victims(setting: networks.Setting, names: Sequence[str]) -> dict[str, Victim]:
    some = to_pixels(setting.held_out.images[:16])
    return {name: one.victim(setting.model, some) for name, one in SEARCHES.items() if name == FAST or name in names}


def pass_counter(victims: Collection[Victim]) -> PassCounter:
    """Counts passes through the networks; through the exact one at its head, whose outputs are the logits as well.

    ART calls a model's layers one by one, past the model's own hooks.
    """
    searches = {victim.search for victim in victims if victim.search is not victim.exact}
    heads = {list(victim.exact.children())[-1] for victim in victims}
    return PassCounter(*searches, *heads)


def drive(
    drivers: Mapping[str, peers.Drive], names: Sequence[str], setting: networks.Setting, labels: Tensor
) -> tuple[dict[str, peers.Run], list[str]]:
    """The peers wanted that are installed, ready to run, and the names of the others."""
    case = peers.Case(
        model=setting.model,
        images=to_pixels(setting.test.images),
        labels=labels,
        epsilon=setting.threat.radius,
        step_size=float(setting.step_size),
        batch_size=setting.test.batch_size,
    )
    ready, missing = {}, []
    for name in [name for name in drivers if name in names]:
        try:
            ready[name] = drivers[name](case)
        except ImportError as error:
            missing.append(name)
            print(f"{name}: not installed ({error})")
    return ready, missing


def basics(laps: Sequence[clock.Lap], num: int) -> dict[str, Any]:
    """What every row has: seconds of every round, speed, and the passes of the first round."""
    return clock.times(laps) | {
        "images_per_cpu_second": num / statistics.median(lap.cpu for lap in laps),
        "passes_per_image": {kind: count / num for kind, count in laps[0].answer[1].items()},
    }


def show(found: Mapping[str, Any]) -> None:
    """The part as an aligned table, each column at its median."""
    table = [line(name, row, found["ratios"].get(name)) for name, row in found["entrants"].items()]
    rows = [list(table[0]), *(list(one.values()) for one in table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        print(
            first.ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True)),
            sep="  ",
        )
    for name, rate in found.get("limits_gflop_per_s", {}).items():
        print(f"limit, bfloat16 {name}: {rate['median']:.0f} GFLOP/s ({rate['min']:.0f} to {rate['max']:.0f})")
    print(f"parity: {found['parity']}")


def line(name: str, row: Mapping[str, Any], ratio: Mapping[str, float] | None) -> dict[str, str]:
    """An entrant's columns; some belong to PGD alone, some to the cascade."""
    passes = row["passes_per_image"]
    columns = {
        "": name,
        "CPU s": f"{statistics.median(row['cpu_seconds']):.2f}",
        "wall s": f"{statistics.median(row['wall_seconds']):.2f}",
        "images/s": f"{row['images_per_cpu_second']:.1f}",
        "passes fwd/bwd": f"{passes['forward']:.0f}/{passes['backward']:.0f}",
    }
    if "fooled" in row:
        share = row["share_of_convolutions"]
        columns["GFLOP/s"] = f"{row['gflop_per_s']['median']:.0f}"
        columns["of convolutions"] = f"{share['median']:.0%} ({share['min']:.0%} to {share['max']:.0%})"
        columns["fooled"] = f"{row['fooled']:.1%}"
    else:
        columns["robust, each round"] = " ".join(f"{rate:.1%}" for rate in row["robust_accuracy"])
        columns["fell only here"] = " ".join(str(len(places)) for places in row["fell_only_here"]) or "-"
        columns["only at reference"] = " ".join(str(len(places)) for places in row["fell_only_at_the_reference"]) or "-"
    columns[f"time / {FAST}"] = f"{ratio['median']:.2f} ({clock.between(ratio)})" if ratio else "1"
    return columns


if __name__ == "__main__":
    raise SystemExit(main())
