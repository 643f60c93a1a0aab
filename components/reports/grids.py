"""Grids of cells as aligned text and as Markdown; the first row of a grid is its head. A cell is one line."""

from collections.abc import Sequence

from components.foundation.lines import one_line

Grid = Sequence[Sequence[str]]


def aligned(grid: Grid, right_from: int | None = None) -> list[str]:
    """One line per row, columns two spaces apart; columns from number `right_from` on stand to the right."""
    grid = [[one_line(cell) for cell in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    left = len(widths) if right_from is None else right_from
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]


def ruled(grid: Grid, right_from: int | None = None, closed: bool = False) -> str:
    """The lines with a rule under the head and, where `closed`, under the last row."""
    head, *lines = aligned(grid, right_from)
    rule = "─" * max(map(len, (head, *lines)))
    return "\n".join([head, rule, *lines, *([rule] if closed else [])])


def markdown(grid: Grid, right_from: int | None = None) -> str:
    """A Markdown table; a `|` in a cell is escaped."""
    head, *rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in grid]
    left = len(head) if right_from is None else right_from
    align = [":---" if place < left else "---:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))
