"""Is model B more robust than model A, by how much, how sure? Both evaluated on the same test images."""

import textwrap
from collections.abc import Iterator

from components.reports import grids
from components.reports.comparison.contents import Comparison, PairedDifference
from components.reports.wording import WIDTH, condition_title, setting_text, title
from components.statistics.number_text import bounds, p_value, percent, points


def text(found: Comparison) -> str:
    """The comparison for a terminal, at most 100 columns."""
    blocks = [
        _heading(found),
        "\n".join(grids.aligned(_fitting(_sides(found)))),
        "\n".join(_wrapped(*_answers(found), *found.remarks)),
        grids.ruled(_conditions(found), right_from=1, closed=True),
    ]
    if found.per_class:
        blocks += ["Worst case by class", grids.ruled(_classes(found), right_from=1, closed=True)]
    return "\n\n".join([*blocks, "\n".join(_wrapped(*_notes(found)))])


def markdown(found: Comparison) -> str:
    """The comparison as Markdown."""
    blocks = [
        f"**{_heading(found)}**",
        grids.markdown([["", "model", "from", "made of"], *_sides(found)]),
        *(f"**{answer}**" for answer in _answers(found)),
        *found.remarks,
        grids.markdown(_conditions(found), right_from=1),
    ]
    if found.per_class:
        blocks += ["Worst case by class", grids.markdown(_classes(found), right_from=1)]
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in _notes(found))])


def _heading(found: Comparison) -> str:
    return f"Is B more robust than A?  {setting_text(found.dataset, found.num_images, found.threat)}"


def _answers(found: Comparison) -> list[str]:
    """The answer to the question, then what it costs, or brings, on clean images."""
    both = dict.fromkeys((found.answer, found.conditions["clean"].answer))
    return [f"{answer[0].upper()}{answer[1:]}." for answer in both]


def _sides(found: Comparison) -> list[list[str]]:
    rows = []
    for letter, side in (("A", found.a), ("B", found.b)):
        architecture = (side.architecture or {}).get("name", "unknown architecture")
        size = f"{side.num_parameters:,} parameters" if side.num_parameters else ""
        facts = ", ".join(part for part in (architecture, size, f"verdict: {side.verdict}") if part)
        rows.append([letter, title(side.model), side.title, facts])
    return rows


def _fitting(sides: list[list[str]]) -> list[list[str]]:
    """The rows with the starts of long titles, which are paths, cut off so that a line fits a terminal."""
    longest = max(len(row[2]) for row in sides)
    room = max(20, longest + WIDTH - max(map(len, grids.aligned(sides))))
    cut = [row[2] if len(row[2]) <= room else f"…{row[2][1 - room :]}" for row in sides]
    return [[*row[:2], place, *row[3:]] for row, place in zip(sides, cut, strict=True)]


def _conditions(found: Comparison) -> list[list[str]]:
    rows = [["% right", "A", "B", "B − A, points", "only A", "only B", "p"]]
    for name, condition in found.conditions.items():
        sides = [f"{percent(side.value)} ({bounds(side)})" for side in (condition.a, condition.b)]
        heading, difference = condition_title(name, found.cascade), condition.difference
        rows.append([heading, *sides, *_difference(difference), p_value(difference.p)])
    return rows


def _classes(found: Comparison) -> list[list[str]]:
    rows = [["% right", "n", "A", "B", "B − A, points", "only A", "only B", "p", "corrected"]]
    for row in found.per_class:
        difference, shares = row.difference, [percent(side.value) for side in (row.a, row.b)]
        ps = [p_value(p) for p in (difference.p, difference.p_corrected)]
        rows.append([row.class_, str(difference.n), *shares, *_difference(difference), *ps])
    return rows


def _notes(found: Comparison) -> Iterator[str]:
    if "worst_case" in found.conditions:
        yield "Worst case: right clean and under every attack above, image by image."
    share = f"{100 * found.confidence:.0f} %"
    yield f"In brackets: {share} intervals (of differences: Tango's; where they disagree with p, the exact p decides)."
    yield "Only A, only B: images that one model alone gets right; p: exact McNemar test on them."
    if found.per_class:
        yield "Corrected: for the number of classes, after Holm."
    yield "All this is about two models. Which way of training is better takes several seeds of each."


def _difference(difference: PairedDifference) -> list[str]:
    value, low, high = map(points, (difference.value, difference.low, difference.high))
    return [f"{value} ({low} to {high})", str(difference.only_a), str(difference.only_b)]


def _wrapped(*paragraphs: str) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from textwrap.wrap(paragraph, WIDTH)
