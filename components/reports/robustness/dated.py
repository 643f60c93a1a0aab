"""The page with a footer of its own run: when, by what and on what it was made.

The declared page is the same bytes for the same inputs, so it has none of that. The dated one is written beside it,
and nothing depends on it.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from components.evaluation.latency import processor
from components.foundation.provenance import git_commit
from components.foundation.storage import read_text, write_text

SUFFIX = ".dated.html"
BEGIN, END = '<dl class="run">', "</dl></footer>"
# Where the page says how fast the models are; the end is on a dated page alone.
SPEED, SPEED_END = "<!-- speed -->", "<!-- end of speed -->"


def write_dated(page: Path, run: str, device: str, seconds: Mapping[str, float], speed: str = "") -> Path:
    """Writes the dated page beside a page that is there, and returns where.

    Args:
        page: the declared page.
        run: the pipeline run's name; empty where nothing is recorded.
        device: what the models were attacked on, `cpu` or `cuda`.
        seconds: what took how long.
        speed: HTML on how fast the models are here, for the place that the page has for it.
    """
    rows = {
        "Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Temper": _version(),
        "Commit": git_commit(),
        "Run": run,
        "Hardware": hardware(device),
        "Duration": duration(seconds),
    }
    lines = "\n".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows.items() if value)
    text, _, rest = read_text(page).rpartition("</footer>")
    dated = page.with_suffix(SUFFIX)
    place = f"{SPEED}\n{speed}{SPEED_END}" if speed else SPEED
    write_text(dated, f"{text.replace(SPEED, place)}{BEGIN}\n{lines}\n{END}{rest}")
    return dated


def page_to_show(page: Path) -> Path:
    """The dated page if it says the same as the page beside it, else that: a checkout may have changed one of them."""
    dated = page.with_suffix(SUFFIX)
    if not (dated.exists() and page.exists()):
        return page
    text, _, rest = read_text(dated).rpartition(END)
    before, mark, after = text.rpartition(BEGIN)[0].partition(SPEED)
    without = before + mark + (after.partition(SPEED_END)[2] if SPEED_END in after else after)
    return dated if f"{without}</footer>{rest}" == read_text(page) else page


def hardware(device: str) -> str:
    """The GPU, where models were attacked on one and it is here, and the processor with the number of usable cores."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" and torch.cuda.is_available() else ""
    return f"{gpu}{processor()}, {len(os.sched_getaffinity(0))} cores"


def duration(seconds: Mapping[str, float]) -> str:
    """All together, and what took a second or more: `1 min 20 s (train robust teacher 11 s, …)`."""
    if not seconds:
        return ""
    each = [f"{name.replace('_', ' ')} {_clock(took)}" for name, took in seconds.items() if took >= 1]
    parts = f" ({', '.join(each)})" if len(seconds) > 1 and each else ""
    return _clock(sum(seconds.values())) + parts


def _clock(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 7 min`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _version() -> str:
    try:
        return version("temper")
    except PackageNotFoundError:
        return ""
