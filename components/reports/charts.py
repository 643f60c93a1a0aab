"""Small charts as SVG text: colours come from the page's style sheet, so one figure serves light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from components.statistics.number_text import percent
from components.statistics.outcomes import Rate

Points = Sequence[tuple[float, float]]
Stroke = tuple[tuple[float, float], tuple[float, float]]

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38


@dataclass(frozen=True)
class Axis:
    """A straight axis from `low` to `high` with ticks (position, text)."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where `value` lies on the axis: 0 at its low end, 1 at its high end."""
        return (value - self.low) / (self.high - self.low)


def number_axis(title: str, values: Sequence[float], count: int = 4, zero: bool = False) -> Axis:
    """An axis over `values` with round ticks; `zero` starts it at 0."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if zero else low
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    places = [round(index * step, 12) for index in range(first, last + 1)]
    return Axis(title, places[0], places[-1], tuple((place, f"{place:g}") for place in places))


def percent_axis(title: str, values: Sequence[float] = (0.0, 1.0)) -> Axis:
    """An axis in percent over shares; by default from 0 to 100 %, and never beyond."""
    found = number_axis(title, [max(0.0, min(values)), min(1.0, max(values))], count=5)
    return Axis(title, found.low, found.high, tuple((tick, f"{100 * tick:g}") for tick, _ in found.ticks))


def whole_axis(title: str, values: Sequence[float], count: int = 5) -> Axis:
    """An axis that ends at the smallest and largest value and has ticks at whole numbers only, as epochs need."""
    low, high = math.floor(min(values, default=0)), math.ceil(max(values, default=1))
    high = max(high, low + 1)
    step = max(1, round(_step((high - low) / count)))
    ticks = range(math.ceil(low / step) * step, high + 1, step)
    return Axis(title, low, high, tuple((tick, str(tick)) for tick in ticks))


def _step(width: float) -> float:
    scale = 10.0 ** math.floor(math.log10(width))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= width * (1 - 1e-9))


def tag(name: str, content: str = "", **attributes: object) -> str:
    """One SVG element; attribute `class_` is `class`, `stroke_width` is `stroke-width`; floats get one decimal."""
    texts = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    written = "".join(f' {key}="{escape(_short(value))}"' for key, value in texts.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


MARKS = {
    0: "M-4.5,-4.5H4.5V4.5H-4.5Z",
    1: "M0,-5.5 5.5,4.5H-5.5Z",
    2: "M-4.8,0A4.8,4.8 0 1 0 4.8,0A4.8,4.8 0 1 0 -4.8,0Z",
    3: "M0,-6 6,0 0,6-6,0Z",
}


PALETTE = 8


def colour(index: int) -> str:
    """The class of the colour of series number `index`; after eight, they come again."""
    return f"c{index % PALETTE}"


def mark(shape: int, x: float = 0.0, y: float = 0.0, class_: str = "", title: str = "", scale: float = 1) -> str:
    """The mark of series number `shape` (square, triangle, circle, diamond), so that no figure needs colour alone."""
    text = tag("title", escape(title)) if title else ""
    path, place = (
        MARKS[shape % len(MARKS)],
        f"translate({x:.1f} {y:.1f})" + (f" scale({scale:g})" if scale != 1 else ""),
    )
    return tag("path", text, class_=f"mark {colour(shape)} {class_}".strip(), d=path, transform=place)


class Plot:
    """A chart that grows by what is drawn into it; `render` gives the SVG text."""

    def __init__(self, x: Axis, y: Axis, width: int = 372, height: int = 250, left: int = LEFT) -> None:
        self.x, self.y, self.width, self.height, self.left = x, y, width, height, left
        self.parts: list[str] = []
        self.strokes: list[Stroke] = []

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the area between the axes, on the drawing."""
        return self.left, TOP, self.width - RIGHT, self.height - BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place on the drawing of a point in the axes' units."""
        across, up = self.width - self.left - RIGHT, self.height - TOP - BOTTOM
        return self.left + across * self.x.share(x), TOP + up * (1 - self.y.share(y))

    def line(self, points: Points, class_: str) -> None:
        """A line through the points."""
        self.strokes += pairwise([self.at(*point) for point in points])
        self.parts.append(tag("polyline", class_=f"line {class_}", points=self._path(points)))

    def band(self, low: Points, high: Points, class_: str) -> None:
        """The area between two lines."""
        self.parts.append(tag("polygon", class_=f"band {class_}", points=self._path([*high, *reversed(list(low))])))

    def mark(self, x: float, y: float, shape: int, title: str, class_: str = "", scale: float = 1) -> None:
        """A mark with the text a pointer shows."""
        self.parts.append(mark(shape, *self.at(x, y), class_=class_, title=title, scale=scale))

    def segment(self, start: tuple[float, float], end: tuple[float, float], class_: str) -> None:
        """A straight stroke between two points in the axes' units."""
        self.stroke(self.at(*start), self.at(*end), class_)

    def stroke(self, start: tuple[float, float], end: tuple[float, float], class_: str) -> None:
        """A straight stroke between two points on the drawing."""
        self.strokes.append((start, end))
        (x1, y1), (x2, y2) = start, end
        self.parts.append(tag("line", class_=class_, x1=x1, y1=y1, x2=x2, y2=y2))

    def text(self, x: float, y: float, content: str, class_: str = "", shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Words at a point in the axes' units, moved by `shift` on the drawing."""
        across, down = self.at(x, y)
        self.words(across + shift[0], down + shift[1], content, class_)

    def words(self, across: float, down: float, content: str, class_: str = "") -> None:
        """Words at a point on the drawing."""
        self.parts.append(tag("text", escape(content), class_=class_, x=across, y=down))

    def render(self, label: str) -> str:
        """The drawing with its axes; `label` says in words what it shows."""
        content = "".join([*self._grid(), *self.parts])
        size = {"viewBox": f"0 0 {self.width} {self.height}", "width": self.width, "height": self.height}
        return tag("svg", content, role="img", aria_label=label, **size)

    def _path(self, points: Points) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))

    def _grid(self) -> list[str]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        parts = []
        for tick, text in self.y.ticks:
            y = self.at(self.x.low, tick)[1]
            parts.append(tag("line", class_="grid", x1=self.left, x2=right, y1=y, y2=y))
            parts.append(tag("text", escape(text), class_="tick end", x=self.left - 7, y=y + 4))
        for tick, text in self.x.ticks:
            x = self.at(tick, self.y.low)[0]
            parts.append(tag("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
            parts.append(tag("text", escape(text), class_="tick middle", x=x, y=bottom + 17))
        parts.append(tag("line", class_="axis", x1=self.left, x2=right, y1=bottom, y2=bottom))
        parts.append(tag("text", escape(self.x.title), class_="title end", x=right, y=self.height - 4))
        return parts


def describe(name: str, found: Rate) -> str:
    """A rate in words, as a pointer shows it: name, value, interval and n."""
    return f"{name}: {percent(found.value)} % ({percent(found.low)} to {percent(found.high)} %, n = {found.n})"
