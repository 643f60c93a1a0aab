"""Is model B more robust than model A, by how much, how sure? Both evaluated on the same test images."""

import textwrap
from collections.abc import Iterator

from components.reports.comparison.document import Document, p_text, signed_points
from components.reports.wording import WIDTH, bounds, epsilon_text, norm_text, percent, title


def text(found: Document) -> str:
    """The comparison for a terminal, at most 100 columns."""
    blocks = [
        _heading(found),
        "\n".join(_aligned(_fitting(_sides(found)), right_from=9)),
        "\n".join(_wrapped(*_answers(found), *found["remarks"])),
        _ruled(_conditions(found)),
    ]
    if found["per_class"]:
        blocks += ["Worst case by class", _ruled(_classes(found))]
    return "\n\n".join([*blocks, "\n".join(_wrapped(*_notes(found)))])


def markdown(found: Document) -> str:
    """The comparison as Markdown."""
    blocks = [
        f"**{_heading(found)}**",
        _table([["", "model", "from", "made of"], *_sides(found)], right_from=9),
        *(f"**{answer}**" for answer in _answers(found)),
        *found["remarks"],
        _table(_conditions(found)),
    ]
    if found["per_class"]:
        blocks += ["Worst case by class", _table(_classes(found))]
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in _notes(found))])


def _heading(found: Document) -> str:
    threat = found["threat"]
    budget = f"{norm_text(threat['norm'])} ε = {epsilon_text(threat['epsilon'])}"
    return f"Is B more robust than A?  {found['dataset']}, {found['num_images']} test images, {budget}"


def _answers(found: Document) -> list[str]:
    """The answer to the question, then what it costs, or brings, on clean images."""
    both = dict.fromkeys((found["answer"], found["conditions"]["clean"]["answer"]))
    return [f"{answer[0].upper()}{answer[1:]}." for answer in both]


def _sides(found: Document) -> list[list[str]]:
    rows = []
    for letter in "ab":
        side = found[letter]
        architecture = (side["architecture"] or {}).get("name", "unknown architecture")
        size = f"{side['num_parameters']:,} parameters" if side["num_parameters"] else ""
        verdict = f"verdict: {side['verdict']}"
        facts = ", ".join(part for part in (architecture, size, verdict) if part)
        rows.append([letter.upper(), title(side["model"]), side["title"], facts])
    return rows


def _fitting(sides: list[list[str]]) -> list[list[str]]:
    """The rows with the starts of long titles, which are paths, cut off so that a line fits a terminal."""
    longest = max(len(row[2]) for row in sides)
    room = max(20, longest + WIDTH - max(map(len, _aligned(sides, right_from=9))))
    cut = [row[2] if len(row[2]) <= room else f"…{row[2][1 - room :]}" for row in sides]
    return [[*row[:2], place, *row[3:]] for row, place in zip(sides, cut, strict=True)]


def _conditions(found: Document) -> list[list[str]]:
    rows = [["% right", "A", "B", "B − A, points", "only A", "only B", "p"]]
    for name, condition in found["conditions"].items():
        difference = condition["difference"]
        rows.append(
            [
                _title(found, name),
                *(f"{percent(condition[letter]['value'])} ({bounds(condition[letter])})" for letter in "ab"),
                _difference(difference),
                str(difference["only_a"]),
                str(difference["only_b"]),
                _p(difference["p"]),
            ]
        )
    return rows


def _classes(found: Document) -> list[list[str]]:
    rows = [["% right", "n", "A", "B", "B − A, points", "only A", "only B", "p", "corrected"]]
    for row in found["per_class"]:
        difference = row["difference"]
        counts = [str(difference[key]) for key in ("only_a", "only_b")]
        shares = [percent(row[letter]["value"]) for letter in "ab"]
        ps = [_p(difference[key]) for key in ("p", "p_corrected")]
        rows.append([row["class"], str(difference["n"]), *shares, _difference(difference), *counts, *ps])
    return rows


def _notes(found: Document) -> Iterator[str]:
    if "worst_case" in found["conditions"]:
        yield "Worst case: right clean and under every attack above, image by image."
    share = f"{100 * found['confidence']:.0f} %"
    yield f"In brackets: {share} intervals (of differences: Tango's; where they disagree with p, the exact p decides)."
    yield "Only A, only B: images that one model alone gets right; p: exact McNemar test on them."
    if found["per_class"]:
        yield "Corrected: for the number of classes, after Holm."
    yield "All this is about two models. Which way of training is better takes several seeds of each."


def _title(found: Document, condition: str) -> str:
    if condition != "cascade":
        return title(condition)
    cascade = found["cascade"]
    return "AutoAttack" if cascade["name"] == "autoattack" else " + ".join(map(title, cascade["attacks"]))


def _difference(difference: Document) -> str:
    value, low, high = (signed_points(difference[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")


def _ruled(rows: list[list[str]]) -> str:
    head, *lines = _aligned(rows)
    rule = "─" * max(map(len, (head, *lines)))
    return "\n".join([head, rule, *lines, rule])


def _aligned(rows: list[list[str]], right_from: int = 1) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < right_from else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _table(rows: list[list[str]], right_from: int = 1) -> str:
    head, *lines = rows
    align = [":---" if place < right_from else "---:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *lines))


def _wrapped(*paragraphs: str) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from textwrap.wrap(paragraph, WIDTH)
