"""Grids of cells: columns line up, and a cell cannot break out of a Markdown table."""

from components.reports import grids

GRID = [["name", "share", "why"], ["a", "1.0", "x|y"], ["longer", "100.0", ""]]


def test_columns_line_up() -> None:
    assert grids.aligned(GRID) == ["name    share  why", "a       1.0    x|y", "longer  100.0"]
    assert grids.aligned(GRID, right_from=1) == ["name    share  why", "a         1.0  x|y", "longer  100.0"]


def test_rules_stand_below_the_head_and_the_last_row() -> None:
    rule = "─" * len("name    share  why")
    lines = grids.ruled(GRID, closed=True).splitlines()
    assert [place for place, line in enumerate(lines) if line == rule] == [1, 4]
    assert grids.ruled(GRID).splitlines() == lines[:-1]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    head, align, first, _ = grids.markdown(GRID, right_from=1).splitlines()
    assert (head, align, first) == ("| name | share | why |", "| :--- | ---: | ---: |", "| a | 1.0 | x\\|y |")
    assert grids.markdown([["only"]]).splitlines() == ["| only |", "| :--- |"]


def test_a_cell_forges_no_line_and_moves_no_cursor():
    grid = [["class", "n"], ["a\nforged\x1b[2J", "1"]]
    for text in (grids.ruled(grid), grids.markdown(grid)):
        assert text.count("forged") == 1 and "\\nforged\\x1b[2J" in text and "\x1b" not in text
