"""Figures of how the models were trained, from their curves files: accuracy, loss, balances, kernels, by epoch."""

from collections.abc import Mapping, Sequence

from components.reports.charts import Axis, Plot, colour, number_axis, percent_axis, whole_axis
from components.reports.robustness.figures import DASHED, Figure, Series
from components.reports.wording import title

Rows = Sequence[Mapping[str, str]]
Curves = Mapping[str, Rows]


def training(curves: Curves) -> list[Figure]:
    """Validation accuracy clean and under attack, the sentinel's, training loss and learning rate of every model, by
    epoch."""
    robust = "Validation accuracy", "In %, on held-out training images. Solid: under attack. Dashed: clean."
    loss = "Training loss", "Mean over the epoch. Each method has its own loss: compare shapes, not heights."
    rate = "Learning rate", "The step size of the optimizer in each epoch."
    overfitting = (
        "What the sentinel saw",
        "Accuracy in %, of the weights in training on a few held-out images. Solid: under PGD. Dashed: under FGSM. "
        "Where dashed rises and solid falls, training has overfitted to one-step attacks.",
    )
    accuracy = percent_axis("accuracy")
    return [
        *_chart(*robust, _two(curves, "clean_accuracy", "robust_accuracy"), accuracy),
        *_chart(*overfitting, _two(curves, "sentinel_fgsm_accuracy", "sentinel_pgd_accuracy"), accuracy),
        *_chart(*loss, _by_model(curves, "train_loss")),
        *_chart(*rate, [*_by_model(curves, "lr"), *_by_model(curves, "learning_rate")]),
    ]


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
    for part, words in _BALANCE.items():
        series = [
            Series(f"{teacher} teacher", index, _points(rows, f"{part}_{teacher}"))
            for rows in curves.values()
            for index, teacher in enumerate(("clean", "robust"))
        ]
        charts += _chart(*words, series, size=(300, 220))
    return charts


_NTK = {
    "effective_rank": (
        "Effective rank",
        "How many directions the kernel spreads over: low means that few features rule.",
    ),
    "participation_ratio": ("Participation ratio", "The same question, asked so that the large directions count more."),
    "intrinsic_dimension": (
        "Intrinsic dimension",
        "How much the kernel holds besides its largest direction: 1 is nothing.",
    ),
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
    "velocity": ("Velocity", "How far the kernel turned per epoch since the probe before."),
    "distance_clean": ("Clean against adversarial", "How far the attack turns the kernel: 0 is not at all."),
}


def ntk(curves: Curves) -> list[Figure]:
    """Properties of the tangent kernel on clean and adversarial inputs, by epoch; empty where nothing was probed."""
    found = {words: _two(curves, f"ntk_clean_{part}", f"ntk_adversarial_{part}") for part, words in _NTK.items()}
    return [chart for words, series in found.items() for chart in _chart(*words, series)]


def _chart(
    heading: str, caption: str, series: Sequence[Series], y: Axis | None = None, size: tuple[int, int] = (372, 250)
) -> list[Figure]:
    """Lines by epoch; none where there is nothing to draw."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return []
    values = [value for one in drawn for _, value in one.points]
    epochs = [epoch for one in drawn for epoch, _ in one.points]
    plot = Plot(whole_axis("epoch", epochs), y or number_axis("", values, zero=min(values) >= 0), *size)
    few = max(len(one.points) for one in drawn) <= 15
    for one in drawn:
        plot.line(one.points, f"{colour(one.palette)} {one.style}")
        for x, value in one.points if few else one.points[-1:]:
            style = "small hollow" if one.style else "small"
            plot.mark(x, value, one.palette, f"{one.name}, epoch {x:g}: {value:.4g}", style)
    return [Figure(heading, caption, plot.render(f"{heading} by epoch"))]


def _two(curves: Curves, dashed: str, solid: str) -> list[Series]:
    return [*_by_model(curves, dashed, DASHED), *_by_model(curves, solid)]


def _by_model(curves: Curves, column: str, style: str = "") -> list[Series]:
    return [
        Series(f"{title(model)}, {title(column)}", index, _points(rows, column), style)
        for index, (model, rows) in enumerate(curves.items())
    ]


def _points(rows: Rows, column: str) -> list[tuple[float, float]]:
    return [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column)]
