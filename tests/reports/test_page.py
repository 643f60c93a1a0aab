"""The report's page and what it is drawn of: self-contained, well-formed, true to the document."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from components.evaluation.criteria import Criteria
from components.evaluation.document import Evaluation
from components.foundation.params import typed
from components.foundation.storage import read_csv, read_json, write_csv, write_json
from components.reports.charts import Plot, number_axis, percent_axis, tag, whole_axis
from components.reports.measure_words import DIRECTIONS, TITLES, written
from components.reports.robustness.contents import Report
from components.reports.robustness.dated import page_to_show, write_dated
from components.reports.robustness.document import build, failed
from components.reports.robustness.figures import _epsilon_axis, capacities, staircase
from components.reports.robustness.gallery import hard_images, png
from components.reports.robustness.page import SECTIONS
from components.reports.robustness.page import page as render
from components.reports.robustness.table import text_table
from components.reports.wording import sentence
from components.statistics.documents import as_json, document_of
from components.statistics.number_text import points
from tests.parts.evaluation_files import (
    CRITERIA,
    ROLES,
    document,
    evaluation,
    evidence,
    gallery,
    judged,
    outcomes,
    run_stage,
    write_evaluation,
)

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects the addresses of a page and checks that its elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := found.get(key))]
        self.ids += [value for value in [found.get("id")] if value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of the made-up evaluation."""
    folder = tmp_path_factory.mktemp("report")
    write_evaluation(folder)
    run_stage(folder)
    return folder / "reports"


@pytest.fixture
def page(made: Path) -> str:
    """The page of the made-up evaluation."""
    return (made / "robustness.html").read_text(encoding="utf-8")


def words(html: str) -> str:
    """What a reader sees of a piece of the page."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.split("</style>")[-1]).split())


def test_the_page_is_well_formed_and_self_contained(page: str) -> None:
    read = Page(page)
    assert read.open == []
    assert {address[:1] for address in read.addresses if not address.startswith("data:")} == {"#"}
    # Every link leads somewhere on the page, the one that skips the verdict first; nothing has two names.
    assert read.addresses[0] == "#results" and len(set(read.ids)) == len(read.ids)
    assert {address[1:] for address in read.addresses if address.startswith("#")} == set(read.ids)
    assert "<script" not in page and "@import" not in page and "url(" not in page


def test_the_decision_first_then_the_main_table_then_every_section(page: str) -> None:
    assert Page(page).ids == ["results", *(name for _, name, _ in SECTIONS)]
    text = words(page)
    places = [
        text.index(part)
        for part in (
            "NO-GO The student gets",
            "written criteria: measurement",
            "On clean images",
            "Weakest class:",
            "Measurement: suspect.",
            "Criteria for GO",
            "Worst case, % right",
            "What the verdict",
        )
    ]
    assert places == sorted(places)
    assert "APGD-CE + APGD-T and 5 more attacks" in text and "AutoAttack" not in text


def test_a_model_without_robustness_gets_no_tick() -> None:
    """Neither alone, nor decided on, nor beside others; those that may go live are the only ones."""
    for decided, answer in (("clean_teacher", "NO-GO"), ("student", "GO")):
        made = decide_on(decided)
        assert made.decision is not None and made.decision.answer == answer
        tensors, metadata = gallery(4, torch.Generator().manual_seed(0))
        page = render(made, {}, tensors, metadata, 4)
        assert ("✓" in page) == (answer == "GO")
        # All of them are above what is said of other models.
        assert "✓" not in page[page.index("<main") :]


def decide_on(model: str) -> Report:
    """The made-up evaluation with a clean teacher that every attack fools, decided on a model."""
    seen = outcomes(60, torch.Generator().manual_seed(7))
    for name in seen:
        if name.startswith("clean_teacher/") and not name.endswith("/clean") and "/grid" not in name:
            seen[name] = seen[name] * 0
    asked = {"model": model, "not_worse_than": {"clean": None, "worst_case": None}}
    criteria = typed(Criteria, CRITERIA | asked, "criteria")
    described = document_of(Evaluation, evaluation(60), "evaluation.json")
    return build(described, seen, {}, {}, judged, criteria=criteria)


def test_a_report_without_criteria_decides_nothing() -> None:
    text = words(render(document(), {}, {}, {}, 0))
    assert "No decision The student gets" in text and "No criteria were written down" in text
    assert "Criteria for GO" not in text and "GO" not in text.replace("Criteria", "")


def test_the_dated_page_says_when_where_and_by_what_run(made: Path, page: str) -> None:
    dated = made / "robustness.dated.html"
    text = words(dated.read_text(encoding="utf-8"))
    for name in ("Made 20", "Run 20261127-093000-ab12", "Hardware", "cores"):
        assert name in text and name not in words(page)
    assert Page(dated.read_text(encoding="utf-8")).open == []
    assert page_to_show(made / "robustness.html") == dated


def test_a_dated_page_of_another_result_is_not_shown(tmp_path: Path) -> None:
    page = tmp_path / "robustness.html"
    page.write_text("<p>one</p><footer>end</footer></html>", encoding="utf-8")
    assert page_to_show(page) == page
    dated = write_dated(page, "<run>", "cpu", {"train": 61.0, "report": 0.2})
    assert page_to_show(page) == dated
    text = dated.read_text(encoding="utf-8")
    assert "&lt;run&gt;" in text and "1 min 1 s (train 1 min 1 s)" in text
    page.write_text("<p>two</p><footer>end</footer></html>", encoding="utf-8")
    assert page_to_show(page) == page


@pytest.mark.parametrize(
    ("status", "helped", "opening"),
    [
        ("suspect", 8, "Measurement: suspect. The numbers may be"),
        ("broken", 0, "Measurement: broken. The numbers cannot"),
    ],
)
def test_a_bad_verdict_says_which_rule_and_what_to_do(status: str, helped: int, opening: str) -> None:
    found = evidence(helped)
    if status == "broken":
        found["training"] = {"modules": 2, "names": ["norm", "dropout"]}
    made = document(evidence={"student": found})
    (check,) = failed(made, "student")
    text = words(render(made, {}, {}, {}, 0))
    assert opening in text and check.remedy in text and check.meaning in text
    assert text.index(check.remedy) < text.index("Worst case, % right")
    assert "not judged" in text  # the two others


def test_any_models_without_curves_and_images_make_a_page() -> None:
    page = render(document(roles=["a", "b", "c", "d", "e"]), {}, {}, {}, 3)
    assert Page(page).open == []
    ids = Page(page).ids
    assert {"transfer", "leak", "steps", "hardest"} < set(ids)
    assert not {"training", "balance", "kernel", "gallery", "capacity"} & set(ids)


def test_the_kernels_curves_are_read_for_every_model(page: str) -> None:
    text = words(page)
    for role in ROLES:
        reading = f"{sentence(role.replace('_', ' '))}. The kernel of attacked images was measured"
        assert text.count(reading) == 1, reading
    assert text.count("Its effective rank went from") == len(ROLES)


def test_what_scrolls_can_be_reached_by_keyboard(page: str) -> None:
    regions = re.findall(r'<div class="scroll"[^>]*>', page)
    assert len(regions) > 10
    assert all('tabindex="0" role="region" aria-label="' in region for region in regions)
    # The criteria never need to be scrolled.
    assert len(re.findall("<table(?! class=.criteria)", page)) == len(regions)


def test_every_drawing_is_xml_with_numbers_inside_its_frame(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 15
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label") or root.get("aria-hidden")
        assert "nan" not in drawing and "inf" not in drawing
        left, top, width, height = map(float, root.get("viewBox", "").split())
        for line in root.iter("polyline"):
            for x, y in (map(float, point.split(",")) for point in line.get("points", "").split()):
                assert left <= x <= left + width and top <= y <= top + height


def test_the_page_says_the_numbers_of_the_document(made: Path, page: str) -> None:
    found = read_json(made / "robustness.json")
    student, transfer = found["models"]["student"], found["transfer"]
    rates = [student["clean"], student["worst_case"], *student["attacks"].values(), *student["cascade"]]
    rates += [rate for points in student["grid"].values() for rate in points]
    rates += [rate for kind in ("accuracy", "fooling") for rate in transfer[kind]["mi_fgsm"]["student"].values()]
    for rate in rates:
        assert f"{100 * rate['value']:.1f}" in page
        assert f"{100 * rate['low']:.1f}\u2013{100 * rate['high']:.1f}" in page
    for row in student["label_leak"]:
        assert points(row["mask"]["value"]) in page
    text = words(page)
    for image in found["hardest"]["images"]:
        assert re.search(rf"\b{image['index']} {image['class']} (wrong unattacked|stands|falls at)", text)


def test_the_staircase_stands_at_the_document_s_heights() -> None:
    made = document(roles=["student"])
    drawn = staircase(made)
    assert drawn is not None
    line = next(line for line in ElementTree.fromstring(drawn.svg).iter("polyline"))
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    model = made.models["student"]
    top, bottom = 12, 330 - 38
    values = [step.value for step in (model.clean, *model.cascade)]
    # Each step is level: two points of the same height.
    want = [bottom - value * (bottom - top) for value in values for _ in range(2)]
    assert heights == pytest.approx(want, abs=0.06)


def test_models_of_one_size_are_not_joined() -> None:
    two, three = (document(roles=roles) for roles in (["robust_teacher", "student"], list(ROLES)))
    assert two.capacity and three.capacity  # the robust teacher is the wide one
    assert [drawn.svg.count("<polyline") for made in (two, three) for drawn in capacities(made)] == [2, 0]


def test_alarms_of_the_sentinel_and_what_it_saw_are_shown(tmp_path: Path, page: str) -> None:
    assert "Overfitting alarms" not in words(page) and "What the sentinel saw" not in words(page)
    write_evaluation(tmp_path)
    line = "epoch 7.25: catastrophic overfitting (FGSM 81.0 %, PGD 12.5 %, n = 200): rolled back to epoch 6, noise 2"
    events = [{"epoch": 7.25, "rules": ["catastrophic"], "action": "roll_back", "line": f"sentinel: {line}"}]
    write_json(tmp_path / "curves/robust_teacher.sentinel.json", {"events": events, "looks": []})
    rows = [
        {**row, "sentinel_fgsm_accuracy": 0.8, "sentinel_pgd_accuracy": 0.01 * place}
        for place, row in enumerate(read_csv(tmp_path / "curves/robust_teacher.csv"))
    ]
    write_csv(tmp_path / "curves/robust_teacher.csv", rows)
    run_stage(tmp_path)
    text = words((tmp_path / "reports/robustness.html").read_text(encoding="utf-8"))
    alarmed, said = "Overfitting alarms in the training of the robust teacher: 1", f"E{line[1:]}."
    assert alarmed in text and said in text and text.count("Overfitting alarms") == 1
    assert text.index(alarmed) < text.index(said) < text.index("What the sentinel saw")
    document = read_json(tmp_path / "reports/robustness.json")
    assert [run["alarms"] for run in document["training"].values()] == [[], [line], []]


def test_the_teachers_of_the_student(page: str, made: Path) -> None:
    """The table has every number of the document; the sentences are about the robust teacher."""
    found = read_json(made / "robustness.json")["teachers"]
    section = page[page.index('<section aria-labelledby="teachers">') :]
    section = unescape(section[: section.index("</section>")])
    text = words(section)
    for role in found["roles"].values():
        for name, one in role["measures"].items():
            value, low, high = (written(name, one[key]) for key in ("value", "low", "high"))
            row = words(section[section.index(f'<th scope="row">{sentence(TITLES[name])}') :].split("</tr>")[0])
            assert f"{value} {low}–{high}" in row, (name, row)
            assert DIRECTIONS.get(name, "") in row and ("is better" in row) == (name in DIRECTIONS)
    assert section.count('<span class="value">') == sum(len(role["measures"]) for role in found["roles"].values()) == 19
    assert "Measured on 40 validation images" in text and "robust_ teacher , big" in text and "temper advise" in text
    assert "The robust teacher is confidently wrong on 52.0 % of the student's attacked images (95 %" in text
    assert "Role: robust teacher" in text and "Role: clean" not in text
    assert "Criteria and comparisons elsewhere are with the robust teacher that this pipeline trained, not with" in text
    # One attack is not the worst case.
    assert "Under PGD alone the student gets 9 of 40" in text
    assert "the student gets 9 of 40 validation images wrong, which are called unlearnable here" in text
    assert "entropy on these, clean, is 0.80 nats (95 % interval 0.70 to 0.90); on all of the images" in text
    assert "it is 0.50. Equal probabilities for all 4 classes would be 1.39." in text
    assert "Entropy, unlearnable images, nats – 0.80 0.70–0.90" in text


def test_without_a_distilled_student_nothing_is_said_of_teachers() -> None:
    tensors, metadata = gallery(4, torch.Generator().manual_seed(0))
    assert "teachers" in as_json(document())
    alone = document(roles=["clean_teacher"])
    page = render(alone, {}, tensors, metadata, 0)
    assert "teachers" not in as_json(alone) and 'id="teachers"' not in page and "#teachers" not in page


def test_names_are_escaped(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    described = read_json(tmp_path / "evaluation/evaluation.json")
    described["classes"][0] = "<script>"
    write_json(tmp_path / "evaluation/evaluation.json", described)
    run_stage(tmp_path)
    text = (tmp_path / "reports/robustness.html").read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_hard_images_are_shown_where_their_pixels_are_known() -> None:
    made, (tensors, metadata) = document(), gallery(4, torch.Generator().manual_seed(0))
    assert made.hardest is not None
    hard = made.hardest.images[0].index
    metadata["indices"][3] = hard
    shown = {row["index"]: row["picture"] for row in hard_images(made, tensors, metadata)}
    assert shown[hard] and list(shown) == [image.index for image in made.hardest.images]
    assert f'src="{shown[hard]}"' in render(made, {}, tensors, metadata, 0)


def test_images_are_called_by_their_files_where_they_have_some() -> None:
    """The hardest images and the gallery; a name is text, whatever is in it."""
    made, (tensors, metadata) = document(), gallery(4, torch.Generator().manual_seed(0))
    assert made.hardest is not None
    metadata["indices"][3] = hard = made.hardest.images[0].index
    plain = render(made, {}, tensors, metadata, 4)
    assert f"image {hard}" in plain
    metadata["files"] = [f"train/cat/{place}.png" for place in range(3)] + ["<b>/no \\xff.png"]
    assert {row["index"]: row["file"] for row in hard_images(made, tensors, metadata)}[hard] == "<b>/no \\xff.png"
    page = render(made, {}, tensors, metadata, 4)
    assert page.count("&lt;b&gt;/<wbr>no \\xff.<wbr>png") == 2 and "<b>/no" not in page and f"image {hard}" not in page
    assert "train/<wbr>cat/<wbr>0.<wbr>png" in page


def test_the_report_says_what_a_limit_left_out() -> None:
    made, (tensors, metadata) = document(), gallery(4, torch.Generator().manual_seed(0))
    said = "A limit left out 8000 of 10000 test images."
    assert said not in render(made, {}, tensors, metadata, 4) + text_table(made)
    made = made.model_copy(update={"data": {"left_out": {"test": {"images": 8000, "of": 10000}}}})
    assert said in render(made, {}, tensors, metadata, 4) and said in text_table(made)


def test_what_a_model_makes_of_a_hard_image_is_what_was_measured() -> None:
    made = document()
    assert made.hardest is not None
    names = [name for name, model in made.models.items() if model.checkpoint == "best"]
    for image, row in zip(made.hardest.images, hard_images(made, {}, {}), strict=True):
        for name, fate in zip(names, row["fates"], strict=True):
            wrong, keeps = name not in image.clean, name in image.worst_case
            start = "wrong unattacked" if wrong else "stands" if keeps else "falls at "
            assert fate["text"].startswith(start) and fate["good"] is (False if wrong else True if keeps else None)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB")])
def test_a_png_holds_the_pixels(channels: int, mode: str) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="pillow comes with the extra data")
    from io import BytesIO

    levels = torch.randint(0, 256, (channels, 5, 7), generator=torch.Generator().manual_seed(0))
    read = image_module.open(BytesIO(png(levels / 255)))
    assert (read.mode, read.size) == (mode, (7, 5))
    kept = levels[: 3 if mode == "RGB" else 1]
    assert list(read.tobytes()) == kept.permute(1, 2, 0).flatten().tolist()


# --- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0.0, 1.0], [3.0], [0.0], [-2.0, 5.5], [1e-6, 3e-6], [99.99, 100.0]])
def test_an_axis_holds_its_values_on_round_ticks(values: list[float]) -> None:
    axis = number_axis("", values)
    assert axis.low <= min(values) and max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 7
    assert all(float(text) == pytest.approx(place, abs=1e-12) for place, text in axis.ticks)


def test_percent_axes_stay_between_0_and_100() -> None:
    axis = percent_axis("", [0.93, 1.0])
    assert 0.9 <= axis.low <= 0.93 and axis.high == pytest.approx(1)
    assert axis.ticks[-1][1] == "100"


@pytest.mark.parametrize(
    ("values", "ticks"), [([1.0], ["1", "2"]), ([0.0, 102.0], ["0", "50", "100"]), ([1.0, 4.0], ["1", "2", "3", "4"])]
)
def test_epochs_have_whole_ticks(values: list[float], ticks: list[str]) -> None:
    assert [text for _, text in whole_axis("epoch", values).ticks] == ticks


@pytest.mark.parametrize(("epsilons", "ends"), [(["4/255"], (0, 4)), (["2/255", "4/255"], (2, 4))])
def test_a_single_epsilon_is_the_end_of_its_axis(epsilons: list[str], ends: tuple[int, int]) -> None:
    axis, position = _epsilon_axis(document(roles=["student"]), epsilons)
    assert (axis.low, axis.high) == ends and position("4/255") == 4


def test_points_land_where_the_axes_say() -> None:
    plot = Plot(number_axis("x", [0, 1]), number_axis("y", [0, 1]), width=160, height=150)
    assert plot.at(0, 0) == (46, 112)
    assert plot.at(1, 1) == (146, 12)


def test_a_tag_escapes_its_attributes() -> None:
    assert tag("text", "x", class_="a", aria_label='"<') == '<text class="a" aria-label="&quot;&lt;">x</text>'
