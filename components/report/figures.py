"""The report's figures, from the document and the training curves: title, one line on how to read it, SVG."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from components.report.document import Document, best_models
from components.report.svg import BOTTOM, TOP, Axis, Plot, describe, number_axis, percent_axis, whole_axis
from components.report.tables import epsilon_text, norm_text, title

Rows = Sequence[Mapping[str, str]]
Curves = Mapping[str, Rows]

DASHED = "dashed"


@dataclass(frozen=True)
class Figure:
    """One drawing with its title and the line that says how to read it."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, its place in the palette, its style and its points."""

    name: str
    palette: int
    points: list[tuple[float, float]]
    style: str = ""


def plane(document: Document) -> Figure:
    """Clean accuracy across, worst-case accuracy up, a cross of intervals per selected model."""
    found = [(name, document["models"][name]) for name in best_models(document)]
    shown = [(name, model["clean"], model["worst_case"]) for name, model in found if model["worst_case"]]
    clean = [rate[bound] for _, rate, _ in shown for bound in ("low", "high")]
    plot = Plot(percent_axis("clean accuracy, %", [*clean, 1.0]), percent_axis("robust"), width=460, height=330)
    for index, (name, right, robust) in enumerate(shown):
        x, y = right["value"], robust["value"]
        plot.segment((right["low"], y), (right["high"], y), f"whisker c{index}")
        plot.segment((x, robust["low"]), (x, robust["high"]), f"whisker c{index}")
        plot.mark(x, y, index, f"{describe(f'{title(name)}, clean', right)}; {describe('worst case', robust)}")
    _name_points(plot, [(title(name), right["value"], robust["value"]) for name, right, robust in shown])
    plot.text(plot.x.high, 1.0, "better ↗", "note end", (0.0, 14.0))
    return Figure(
        "Accuracy against robustness",
        "Across: share of clean images classified right. Up: share still right in the worst case over the attacks. "
        "Up and right is better; the arms are 95 % intervals.",
        plot.render("Clean accuracy against worst-case accuracy of " + ", ".join(title(name) for name, *_ in shown)),
    )


def _name_points(plot: Plot, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes each name above its point, or below where another name is already there."""
    taken: list[tuple[float, float]] = []
    for name, x, y in points:
        left, (across, up) = plot.x.share(x) > 0.5, plot.at(x, y)
        above, below = up - 10, up + 20
        down = below if any(abs(across - a) < 150 and abs(above - b) < 16 for a, b in taken) else above
        taken.append((across, down))
        plot.text(x, y, name, "name end" if left else "name", (-8.0 if left else 8.0, down - up))


def epsilon_curves(document: Document) -> Figure | None:
    """Accuracy against the size of the perturbation, with bands; None where no curve was measured."""
    names = [name for name in best_models(document) if document["models"][name]["curve"]]
    if not names:
        return None
    x, position = _epsilon_axis(document)
    plot = Plot(x, percent_axis("accuracy"), width=460, height=330)
    limit = position(document["threat"]["epsilon"])
    if limit <= x.high:
        plot.segment((limit, 0.0), (limit, 1.0), "limit")
        # Right of the line, where accuracies have fallen already, unless the drawing ends there.
        style, shift = ("note", (5.0, 12.0)) if x.share(limit) < 0.7 else ("note end", (-5.0, 12.0))
        plot.text(limit, 1.0, "threat model", style, shift)
    for name in names:
        _epsilon_curve(plot, document, name, position)
    return Figure(
        "Accuracy as the attack grows",
        f"Across: the size of the change the attack may make ({norm_text(document['threat']['norm'])} ε). Up: accuracy "
        "in %. Bands are 95 % intervals; the dashed line is the threat model's ε.",
        plot.render("Accuracy against epsilon of " + ", ".join(map(title, names))),
    )


def _epsilon_axis(document: Document) -> tuple[Axis, Callable[[str], float]]:
    """The axis over the measured epsilons, and where one lies on it: in grey levels for L∞, in its own unit else."""
    unit = 255 if document["threat"]["norm"] == "linf" else 1

    def position(epsilon: str) -> float:
        return float(Fraction(epsilon) * unit)

    epsilons = [position(epsilon) for epsilon in document["curve"]["epsilons"]]
    return whole_axis("ε, in grey levels of 255", epsilons) if unit == 255 else number_axis("ε", epsilons), position


def _epsilon_curve(plot: Plot, document: Document, name: str, position: Callable[[str], float]) -> None:
    index, curve = best_models(document).index(name), document["models"][name]["curve"]
    at = [position(point["epsilon"]) for point in curve]
    low, value, high = (list(zip(at, (p[key] for p in curve), strict=True)) for key in ("low", "value", "high"))
    plot.band(low, high, f"c{index}")
    plot.line(value, f"c{index}")
    for (x, y), point in zip(value, curve, strict=True):
        plot.mark(x, y, index, describe(f"{title(name)}, ε = {epsilon_text(point['epsilon'])}", point))


def training(curves: Curves) -> list[Figure]:
    """Validation accuracy clean and under attack, training loss and learning rate of every model, by epoch."""
    accuracy = [*_by_model(curves, "clean_accuracy", DASHED), *_by_model(curves, "robust_accuracy")]
    robust = "Validation accuracy", "In %, on held-out training images. Solid: under attack. Dashed: clean."
    loss = "Training loss", "Mean over the epoch. Each method has its own loss: compare shapes, not heights."
    rate = "Learning rate", "The step size of the optimizer in each epoch."
    charts = [
        _chart(*robust, accuracy, percent_axis("accuracy")),
        _chart(*loss, _by_model(curves, "train_loss")),
        _chart(*rate, [*_by_model(curves, "lr"), *_by_model(curves, "learning_rate")]),
    ]
    return [chart for chart in charts if chart]


_BALANCE = {
    "temperature": ("Temperatures", "How much each teacher's answers are softened: higher is softer."),
    "entropy": ("Entropies", "How undecided each teacher's softened answers are; balancing brings the two together."),
    "weight": ("Weights", "How much each teacher counts in the student's loss."),
    "relative_loss": (
        "Relative losses",
        "What is left of each loss since the start: the teacher that lags gets more weight.",
    ),
}


def balance(curves: Curves) -> list[Figure]:
    """How the distillation balanced its two teachers, by epoch; empty where no model was distilled that way."""
    charts = []
    for part, (heading, caption) in _BALANCE.items():
        series = [
            Series(f"{teacher} teacher", index, points)
            for rows in curves.values()
            for index, teacher in enumerate(("clean", "robust"))
            if (points := _points(rows, f"{part}_{teacher}"))
        ]
        charts.append(_chart(heading, caption, series, size=(300, 220)))
    return [chart for chart in charts if chart]


_NTK = {
    "effective_rank": (
        "Effective rank",
        "How many directions the kernel spreads over: low means that few features rule.",
    ),
    "participation_ratio": ("Participation ratio", "The same question, asked so that the large directions count more."),
    "top10_mass": (
        "Mass of the top ten",
        "Share of the ten largest eigenvalues (of all squares): high means few features rule.",
    ),
    "alignment": (
        "Alignment with the labels",
        "How well the kernel's idea of similar images fits the classes: 1 is perfect.",
    ),
    "distance_previous": (
        "Change since the last probe",
        "How far the kernel turned since the probe before: 0 is not at all.",
    ),
    "distance_first": (
        "Change since the start",
        "How far the kernel has turned since the first probe: 0 is not at all.",
    ),
}


def ntk(curves: Curves) -> list[Figure]:
    """Properties of the tangent kernel on clean and adversarial inputs, by epoch; empty where nothing was probed."""
    charts = []
    for part, (heading, caption) in _NTK.items():
        series = [*_by_model(curves, f"ntk_clean_{part}", DASHED), *_by_model(curves, f"ntk_adversarial_{part}")]
        charts.append(_chart(heading, caption, series))
    return [chart for chart in charts if chart]


def per_class(document: Document) -> list[Figure]:
    """One chart per selected model: clean and worst-case accuracy of every class with their intervals."""
    return [_class_chart(document, name, index) for index, name in enumerate(best_models(document))]


def _class_chart(document: Document, name: str, index: int) -> Figure:
    rows = document["models"][name]["per_class"]
    ticks = tuple((-float(place), _cut(row["class"])) for place, row in enumerate(rows))
    left = 14 + 7 * max((len(text) for _, text in ticks), default=1)
    y = Axis("class", 0.5 - len(rows) if rows else -1.0, 0.5, ticks)
    plot = Plot(percent_axis("accuracy, %"), y, height=TOP + BOTTOM + 21 * len(rows), left=left)
    for place, row in enumerate(rows):
        for key, style, shift in (("clean", "hollow", 0.16), ("worst_case", "", -0.16)):
            if found := row[key]:
                at = shift - place
                plot.segment((found["low"], at), (found["high"], at), f"whisker c{index}")
                plot.mark(found["value"], at, index, describe(f"{row['class']}, {title(key)}", found), style)
    return Figure(
        title(name).capitalize(), "", plot.render(f"Clean and worst-case accuracy per class of the {title(name)}")
    )


def _cut(text: str, limit: int = 16) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _chart(
    heading: str, caption: str, series: Sequence[Series], y: Axis | None = None, size: tuple[int, int] = (372, 250)
) -> Figure | None:
    """Lines by epoch; None where there is nothing to draw."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    values = [value for one in drawn for _, value in one.points]
    epochs = [epoch for one in drawn for epoch, _ in one.points]
    plot = Plot(whole_axis("epoch", epochs), y or number_axis("", values, zero=min(values) >= 0), *size)
    few = max(len(one.points) for one in drawn) <= 15
    for one in drawn:
        plot.line(one.points, f"c{one.palette} {one.style}")
        for x, value in one.points if few else one.points[-1:]:
            style = "small hollow" if one.style else "small"
            plot.mark(x, value, one.palette, f"{one.name}, epoch {x:g}: {value:.4g}", style)
    return Figure(heading, caption, plot.render(f"{heading} by epoch"))


def _by_model(curves: Curves, column: str, style: str = "") -> list[Series]:
    name = f"{title(column)}"
    return [
        Series(f"{title(model)}, {name}", i, _points(rows, column), style)
        for i, (model, rows) in enumerate(curves.items())
    ]


def _points(rows: Rows, column: str) -> list[tuple[float, float]]:
    return [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column)]
