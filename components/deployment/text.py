"""Exports as a table for a terminal."""

from collections.abc import Mapping
from pathlib import Path

from components.deployment.check import CLEAN, WORST_CASE
from components.deployment.contents import Agreement, Export
from components.evaluation.latency import PerImage
from components.reports import grids
from components.reports.wording import setting_text
from components.statistics.number_text import bounds, percent

HEAD = ("file", "run by", "KiB", "logits differ by", "same: clean", "attacked", "worst case", "pixels outside")
TIMED = ("ms per image", "batch 1: median", "p95", "batch 32: median", "p95")


def table(exports: Mapping[Path, Export]) -> str:
    """What was checked, and how fast the exports are; accuracies with their intervals."""
    one = next(iter(exports.values()))
    (checked,) = [one.checks[by] for by in list(one.checks)[:1]]
    clean, attacked = checked.answers[CLEAN].export, checked.answers[WORST_CASE].export
    rows = [
        _row(path, by, export, agreement) for path, export in exports.items() for by, agreement in export.checks.items()
    ]
    times = [
        [str(path), *(_milliseconds(each) for each in export.latency.by_batch.values() for each in _both(each))]
        for path, export in exports.items()
    ]
    machine = one.latency
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    return "\n\n".join(
        [
            f"{one.source.file}: {one.num_parameters:,} parameters; {setting_text(one.dataset, clean.n, one.threat)}\n"
            f"right: clean {percent(clean.value)} % ({bounds(clean)}), "
            f"under {' and '.join(one.attacks)} {percent(attacked.value)} % ({bounds(attacked)}), n = {clean.n}",
            grids.ruled([HEAD, *rows], right_from=2),
            grids.ruled([TIMED, *times], right_from=1) + f"\n{machine.processor}, {threads}",
        ]
    )


def _row(path: Path, by: str, export: Export, agreement: Agreement) -> list[str]:
    rows = agreement.answers
    attacks = [rows[name] for name in export.attacks]
    same = [(rows[CLEAN].same, rows[CLEAN].n), (sum(one.same for one in attacks), sum(one.n for one in attacks))]
    counts = [f"{right}/{n}" for right, n in [*same, (rows[WORST_CASE].same, rows[WORST_CASE].n)]]
    differ = f"{agreement.largest_difference:.2g} (at most {export.tolerance:.2g})"
    return [str(path), by, f"{export.bytes / 1024:,.0f}", differ, *counts, agreement.pixels_outside]


def _both(each: PerImage) -> tuple[float, float]:
    return each.median, each.p95


def _milliseconds(number: float) -> str:
    return f"{number:.3g}"
