"""What size and speed buy: the best choices, the axis, and times on the dated page alone."""

import math
import re
from pathlib import Path

import pytest

from components.evaluation.latency import Latency, PerImage, TimedModel, measured, read_times, write_times
from components.reports.robustness.contents import Report
from components.reports.robustness.dated import page_to_show, write_dated
from components.reports.robustness.page import figure_files, page, speed
from components.reports.robustness.pareto import Priced, by_latency, by_parameters, front, log_axis
from components.statistics.outcomes import Rate


def priced(name: str, cost: float, right: int, index: int = 0) -> Priced:
    rate = Rate(value=right / 100, low=max(0, right / 100 - 0.1), high=min(1, right / 100 + 0.1), count=right, n=100)
    return Priced(index, name, cost, cost, rate)


@pytest.mark.parametrize(
    ("models", "best"),
    [
        ({"a": (1, 30), "b": (2, 40), "c": (3, 35), "d": (4, 41)}, "abd"),
        ({"a": (2, 30), "b": (1, 30)}, "b"),
        ({"a": (1, 30), "b": (1, 40)}, "b"),
        ({"a": (3, 50), "b": (2, 40), "c": (1, 60)}, "c"),
    ],
)
def test_the_front_holds_what_no_cheaper_model_reaches(models, best):
    found = [priced(name, *told) for name, told in models.items()]
    assert "".join(one.name for one in front(found)) == best
    # The definition, word by word.
    beaten = {
        one.name
        for one in found
        for other in found
        if (other.cost <= one.cost and other.rate.value >= one.rate.value)
        and (other.cost < one.cost or other.rate.value > one.rate.value)
    }
    assert {one.name for one in found} - beaten == set(best)


@pytest.mark.parametrize("values", [(0.23, 0.4), (1.0, 1.0), (3.0, 3000.0), (17_000, 11_000_000)])
def test_a_logarithmic_axis_holds_its_values_and_has_ticks(values):
    axis = log_axis("x", values, "{:g}".format)
    assert 2 <= len(axis.ticks) <= 8
    assert all(0 < axis.share(math.log10(value)) < 1 for value in values)
    assert all(math.isclose(10**place, float(text), rel_tol=1e-9) for place, text in axis.ticks)


def sized(document: Report, sizes: tuple[int, ...]) -> Report:
    """The document with models of these sizes."""
    best = [name for name, model in document.models.items() if model.checkpoint == "best"]
    changed = {
        name: document.models[name].model_copy(update={"num_parameters": size})
        for name, size in zip(best, sizes, strict=True)
    }
    return document.model_copy(update={"models": {**document.models, **changed}})


def times_of(document: Report) -> dict[str, TimedModel]:
    """Made-up times of the selected models."""
    best = [model for model in document.models.items() if model[1].checkpoint == "best"]
    return {
        name: TimedModel(
            sha256=model.sha256,
            bytes=123456,
            latency=Latency(
                device="cpu",
                threads=2,
                processor="A <processor>",
                by_batch={
                    "1": PerImage(median=0.2 * 3**place, p95=0.3 * 3**place, batches=20),
                    "32": PerImage(median=0.1 * 3**place, p95=0.11 * 3**place, batches=20),
                },
            ),
        )
        for place, (name, model) in enumerate(best)
    }


def test_figures_need_models_that_differ(made_up):
    assert by_parameters(sized(made_up, (7, 7, 7))) is None
    figure = by_parameters(sized(made_up, (70_000, 700_000, 7_000_000)))
    assert figure is not None and figure.svg.count('class="mark') == 3 and 'class="limit"' in figure.svg
    assert "1M" in figure.svg and "100k" in figure.svg and "95 % intervals" in figure.caption
    charts = by_latency(made_up, times_of(made_up))
    assert [chart.title for chart in charts] == [
        "Robustness against latency, one image",
        "Robustness against latency, batches of 32",
    ]
    assert by_latency(made_up, {}) == []
    assert "robustness-against-size" in " ".join(figure_files(sized(made_up, (7, 8, 9)), {}))


def test_one_hiccup_does_not_push_all_models_together(made_up):
    times = times_of(made_up)
    slow = times["student"].latency
    late = slow.by_batch["1"].model_copy(update={"p95": 1e4})
    latency = slow.model_copy(update={"by_batch": {**slow.by_batch, "1": late}})
    times["student"] = times["student"].model_copy(update={"latency": latency})
    chart = by_latency(made_up, times)[0]
    ends = [float(end) for end in re.findall(r'class="whisker c\d" x1="[\d.]+" y1="[\d.]+" x2="([\d.]+)"', chart.svg)]
    assert len(ends) == 6 and max(ends) <= 460 and ">5000<" not in chart.svg


def test_times_are_on_the_dated_page_alone(made_up, tmp_path: Path):
    declared = tmp_path / "robustness.html"
    declared.write_text(page(made_up, {}, {}, {}, 0), encoding="utf-8")
    before = declared.read_bytes()
    assert speed(made_up, {}) == ""
    for html in ("", speed(made_up, times_of(made_up))):
        dated = write_dated(declared, "run", "cpu", {}, html)
        text = dated.read_text(encoding="utf-8")
        assert ("how fast the models are</h3>" in text) == bool(html)
        # Nothing but the footer and this part tells it from the page, and that it is of this page is still seen.
        assert page_to_show(declared) == dated and declared.read_bytes() == before
    assert "A &lt;processor&gt;" in text and "2 CPU threads" in text and "Robustness against latency" in text
    assert b"how fast the models are</h3>" not in before
    declared.write_text("<p>another</p><footer></footer>", encoding="utf-8")
    assert page_to_show(declared) == declared


def test_times_of_another_file_are_not_shown(made_up, tmp_path: Path):
    times = times_of(made_up)
    hashes = {name: timed.sha256 for name, timed in times.items()}
    write_times(tmp_path / "latency.json", times)
    assert read_times(tmp_path / "latency.json", hashes) == times
    assert "student" not in read_times(tmp_path / "latency.json", hashes | {"student": "0" * 64})
    assert read_times(tmp_path / "none.json", hashes) == {}
    (tmp_path / "latency.json").write_text('{"student": 1}')
    assert read_times(tmp_path / "latency.json", hashes) == {}


def test_a_time_is_that_of_one_image_of_the_batch(monkeypatch):
    """A clock that moves by one second and a half per call and image tells what is divided by what."""
    now = [0.0]
    monkeypatch.setattr("components.evaluation.latency.time.perf_counter", lambda: now[0])

    def run(images):
        assert images.shape[1:] == (1, 2, 3) and float(images.min()) >= 0 and float(images.max()) <= 1
        now[0] += 1.5 * len(images)

    found = measured(run, (1, 2, 3))
    assert {size: (each.median, each.p95) for size, each in found.by_batch.items()} == {
        "1": (1500.0, 1500.0),
        "32": (1500.0, 1500.0),
    }
    assert all(each.batches >= 5 for each in found.by_batch.values())
