"""Points with their names on a chart: no name covers a mark or another name, and none leaves the drawing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.reports.charts import Plot, Stroke

# On a telephone names are drawn largest: 15 units high, bold, about so wide for each letter.
LETTER, HEIGHT = 9.4, 18.0
# Half the size of a mark, and the air between it and a name.
MARK, AIR = 6.0, 3.0
# Marks so near to each other hide each other: the lower is drawn larger, by so much for each of a few upon it.
NEAR, GROWTH, FEW = 7.0, 0.5, 3
LONGEST = 24


class Box(NamedTuple):
    """A rectangle on the drawing; `top` is less than `bottom`."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two have any area in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def inside(self, other: "Box") -> bool:
        """Whether all of it lies in the other."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies in it."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of it that is nearest to a point."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a straight line between two points has a part in it (Liang and Barsky's clipping)."""
        first, last = 0.0, 1.0
        sides = (self.left, self.right, start[0], end[0]), (self.top, self.bottom, start[1], end[1])
        for low, high, a, b in sides:
            if a == b:
                if not low <= a <= high:
                    return False
                continue
            enter, leave = sorted(((low - a) / (b - a), (high - a) / (b - a)))
            first, last = max(first, enter), min(last, leave)
        return first < last


@dataclass(frozen=True)
class Point:
    """What a chart shows of one thing: name, place in the axes' units, mark, and the words a pointer shows."""

    name: str
    x: float
    y: float
    shape: int
    words: str


@dataclass(frozen=True)
class Name:
    """Where a name stands: its box, how it is anchored, and whether a line leads to its point."""

    text: str
    box: Box
    anchor: str
    led: bool


def draw(plot: Plot, points: Sequence[Point]) -> None:
    """Draws the marks, the first ones larger where later ones lie on them, and their names.

    The legend tells a mark's name too, so one for which no room is left has none.
    """
    at = [plot.at(point.x, point.y) for point in points]
    scales = [1 + GROWTH * min(FEW, _upon(place, at)) for place in range(len(at))]
    for point, scale in zip(points, scales, strict=True):
        plot.mark(point.x, point.y, point.shape, point.words, scale=scale)
    names = placed([point.name for point in points], at, scales, plot.frame, plot.strokes)
    for (x, y), name in zip(at, names, strict=True):
        if name is None:
            continue
        if name.led:
            plot.stroke((x, y), name.box.nearest(x, y), "axis")
        across = {"": name.box.left, "middle": (name.box.left + name.box.right) / 2, "end": name.box.right}
        plot.words(across[name.anchor], name.box.bottom - 4.5, name.text, f"name {name.anchor}".strip())


def note(plot: Plot, text: str, x: float) -> None:
    """Writes words beside an upright line at `x` in the axes' units, as high as they cover the fewest lines."""
    _, top, _, bottom = plot.frame
    line, width = plot.at(x, 0.0)[0], LETTER * len(text)
    sides = [(line + AIR, ""), (line - AIR - width, "end")]
    tops = [top + AIR * step for step in range(int((bottom - top - HEIGHT) // AIR) + 1)]
    boxes = [(Box(start, high, start + width, high + HEIGHT), anchor) for high in tops for start, anchor in sides]
    free = [one for one in boxes if one[0].inside(Box(*plot.frame))]
    box, anchor = min(free, key=lambda one: sum(one[0].crossed_by(*stroke) for stroke in plot.strokes))
    plot.words(box.left if anchor == "" else box.right, box.bottom - 4.5, text, f"note {anchor}".strip())


def _upon(place: int, at: Sequence[tuple[float, float]]) -> int:
    """How many later marks lie on that of number `place`."""
    x, y = at[place]
    return sum(max(abs(x - across), abs(y - down)) < NEAR for across, down in at[place + 1 :])


def placed(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    scales: Sequence[float],
    frame: Sequence[float],
    strokes: Sequence[Stroke] = (),
) -> list[Name | None]:
    """Where each name stands beside its point; None where there is no room.

    Args:
        names, points, scales: the texts, and the middles of their marks on the drawing and how large they are drawn.
        frame: left, top, right and bottom of the drawing.
        strokes: straight lines on the drawing, on which a name stands only where it has to.
    """
    marks = [_around(x, y, MARK * scale) for (x, y), scale in zip(points, scales, strict=True)]
    taken, found = list(marks), list[Name | None]()
    for name, point in zip(names, points, strict=True):
        text = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
        # What lies on this mark or under it has to be passed too.
        reach = max(mark.right - x for mark, (x, y) in zip(marks, points, strict=True) if mark.holds(*point))
        candidates = _candidates(text, point, reach + AIR, Box(*frame))
        free = [one for one in candidates if not any(one.box.meets(box) for box in taken)]
        best = min(free, key=lambda one: _cost(one, point, strokes, taken), default=None)
        taken += [best.box] if best else []
        found.append(best)
    return found


def _cost(name: Name, point: tuple[float, float], strokes: Sequence[Stroke], taken: Sequence[Box]) -> int:
    """How many lines a name covers, and for a name that a line leads to, how much that line covers."""
    covered = sum(name.box.crossed_by(*stroke) for stroke in strokes)
    if not name.led:
        return covered
    end = name.box.nearest(*point)
    return covered + 1 + sum(box.crossed_by(point, end) for box in taken if not box.holds(*point))


def _candidates(text: str, point: tuple[float, float], gap: float, frame: Box) -> Iterator[Name]:
    """Places for a name inside the frame: around its point, then all over the drawing, near ones first."""
    (x, y), width = point, LETTER * len(text)
    above, beside, below = y - gap - HEIGHT, y - HEIGHT / 2, y + gap
    around = [
        *((x + gap, top, "") for top in (above, below)),
        *((x - gap - width, top, "end") for top in (above, below)),
        *((x - width / 2, top, "middle") for top in (above, below)),
        (x + gap, beside, ""),
        (x - gap - width, beside, "end"),
    ]
    for left, top, anchor in around:
        box = Box(left, top, left + width, top + HEIGHT)
        if box.inside(frame):
            yield Name(text, box, anchor, led=False)
    lefts = [frame.left + 9 * step for step in range(int((frame.right - frame.left - width) // 9) + 1)]
    tops = [frame.top + 6 * step for step in range(int((frame.bottom - frame.top - HEIGHT) // 6) + 1)]
    boxes = [Box(left, top, left + width, top + HEIGHT) for left in lefts for top in tops]
    for box in sorted(boxes, key=lambda box: math.dist((x, y), box.nearest(x, y))):
        yield Name(text, box, "middle", led=True)


def _around(x: float, y: float, reach: float) -> Box:
    return Box(x - reach, y - reach, x + reach, y + reach)
