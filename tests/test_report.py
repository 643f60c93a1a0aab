"""The report: numbers by hand, a document under its schema, one self-contained page, the same bytes every time."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import torch
from evaluation_files import ATTACKS, ROLES, evaluation, outcomes, write_evaluation

from components.errors import InputError
from components.journal import Journal
from components.params import Params
from components.report.__main__ import main as print_report
from components.report.document import best_models, build, headline
from components.report.gallery import png
from components.report.svg import Plot, number_axis, percent_axis, tag, whole_axis
from components.report.tables import WIDTH, epsilon_text, markdown_table, text_table
from components.stages import report
from components.storage import read_json, read_tensors, write_csv, write_json, write_tensors

OUTPUTS = (
    "reports/robustness.json",
    "reports/robustness.html",
    "metrics/report.json",
    "plots/epsilon.csv",
    "plots/transfer.csv",
)
SCHEMA = Path(report.__file__).parents[1] / "report/robustness.schema.json"
DOCS = Path(report.__file__).parents[2] / "docs/report-schema.md"


class Recorder:
    """Stands for the journal: keeps what the stage reports."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.files: list[str] = []

    def headline(self, metrics: dict[str, float]) -> None:
        self.numbers |= metrics

    def artifact(self, path: str, folder: str, on_pipeline: bool = False) -> None:
        self.files.append(str(path))

    def model(self, path: str, name: str, *rest: object) -> None:
        self.files.append(path)

    def upstream(self, hashes: dict[str, str]) -> None:
        self.hashes = hashes


def run_stage(root: Path, monkeypatch: pytest.MonkeyPatch, gallery_images: int = 3) -> Recorder:
    """Runs the stage in `root`."""
    monkeypatch.chdir(root)
    journal = Recorder()
    report.main(Params({"report": {"gallery_images": gallery_images}}), cast(Journal, journal))
    return journal


@pytest.fixture
def made_up() -> dict[str, Any]:
    """The document of the made-up evaluation."""
    return build(evaluation(60), outcomes(60, torch.Generator().manual_seed(7)), {}, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the made-up evaluation."""
    write_evaluation(tmp_path)
    return tmp_path


# --- the document -----------------------------------------------------------------------------------------------------


def four_images() -> dict[str, Any]:
    """One model, four images, two classes, two attacks, by hand."""
    described = evaluation(4) | {"attacks": {"a": "A()", "b": "B()"}, "classes": ["zero", "one"]}
    described["models"] = {"student": described["models"]["student"]}
    bits = {"labels": [0, 0, 0, 1], "student/clean": [1, 1, 0, 1], "student/a": [1, 0, 1, 0], "student/b": [1, 1, 1, 0]}
    return build(described, {name: torch.tensor(values) for name, values in bits.items()}, {}, {})


def test_the_worst_case_is_per_image_and_includes_clean() -> None:
    model = four_images()["models"]["student"]
    # Image 2 is right only when attacked: the attack did not make it robust.
    assert (model["worst_case"]["count"], model["worst_case"]["n"]) == (1, 4)
    assert model["worst_case"]["attacks"] == ["a", "b"]


def test_w_robust_is_the_mean_of_clean_and_attacked() -> None:
    model = four_images()["models"]["student"]
    assert {name: found["value"] for name, found in model["w_robust"].items()} == {
        "a": 0.625,
        "b": 0.75,
        "worst_case": 0.5,
    }
    low = (model["clean"]["low"] + model["worst_case"]["low"]) / 2
    assert model["w_robust"]["worst_case"]["low"] == pytest.approx(low, abs=1e-6)


def test_classes_are_counted_apart() -> None:
    zero, one = four_images()["models"]["student"]["per_class"]
    assert (zero["class"], zero["clean"]["count"], zero["clean"]["n"], zero["worst_case"]["count"]) == ("zero", 2, 3, 1)
    assert (one["class"], one["clean"]["count"], one["clean"]["n"], one["worst_case"]["count"]) == ("one", 1, 1, 0)


def test_best_and_last_are_compared_on_shared_attacks(made_up: dict[str, Any]) -> None:
    pair = made_up["best_versus_last"]["student"]
    assert pair["attacks"] == ["fgsm", "pgd_sat"]
    assert pair["best"]["worst_case"]["count"] >= made_up["models"]["student"]["worst_case"]["count"]
    assert (pair["best"]["epoch"], pair["last"]["epoch"]) == (9, 12)


def test_the_document_follows_its_schema(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the extras pipelines and tracking")
    run_stage(folder, monkeypatch)
    validator = jsonschema.Draft202012Validator(read_json(SCHEMA))
    validator.validate(read_json("reports/robustness.json"))
    validator.validate(four_images())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(four_images() | {"surprise": 1})


def test_the_schema_is_documented(made_up: dict[str, Any]) -> None:
    schema, text = read_json(SCHEMA), DOCS.read_text(encoding="utf-8")
    assert set(schema["properties"]) == set(made_up)
    keys = [*schema["properties"], *schema["$defs"]["model"]["properties"]]
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "temper/evaluation/9"}, "schema 'temper/evaluation/9', want 'temper/evaluation/1'"),
        ({"num_images": 61}, r"clean is \[60\], want \[61\]"),
        ({"models": {}}, "no model with checkpoint 'best'"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    found = outcomes(60, torch.Generator().manual_seed(7))
    labels = found.pop("labels")
    with pytest.raises(InputError, match=message):
        build(evaluation(60) | change, found | {"labels": labels}, {}, {})


def test_announced_outcomes_must_be_there() -> None:
    found = outcomes(60, torch.Generator().manual_seed(7))
    del found["student/clean"]
    with pytest.raises(InputError, match="no tensor 'student/clean'"):
        build(evaluation(60), found, {}, {})


# --- the stage --------------------------------------------------------------------------------------------------------


def test_the_stage_writes_the_same_bytes_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = run_stage(folder, monkeypatch)
    first = {name: (folder / name).read_bytes() for name in OUTPUTS}
    run_stage(folder, monkeypatch)
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == first
    assert str(folder).encode() not in b"".join(first.values())
    assert capsys.readouterr().out.rstrip().endswith("Report: reports/robustness.html")
    assert journal.numbers == headline(read_json("reports/robustness.json")) == read_json("metrics/report.json")
    assert journal.files[:2] == ["reports/robustness.json", "reports/robustness.html"]
    assert journal.files[-1] == "models/student.safetensors"
    assert {Path(file).suffix for file in journal.files[2:-1]} == {".svg"}


def test_a_sparse_evaluation_is_reported_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, _ = read_tensors(folder / "evaluation/outcomes.safetensors")
    kept = {name: value for name, value in tensors.items() if name == "labels" or name.endswith("/clean")}
    write_tensors(folder / "evaluation/outcomes.safetensors", kept | {"student/cw": tensors["student/cw"]})
    for role in ROLES:
        write_csv(folder / f"curves/{role}.csv", [{"epoch": 1, "train_loss": 1.0}])
    run_stage(folder, monkeypatch, gallery_images=0)
    document = read_json("reports/robustness.json")
    assert document["models"]["clean_teacher"]["worst_case"] is None
    assert document["models"]["student"]["worst_case"]["attacks"] == ["cw"]
    page = Path("reports/robustness.html").read_text(encoding="utf-8")
    assert 'id="costs"' in page and 'id="gallery"' not in page and 'id="balance"' not in page


def test_a_missing_input_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "curves/student.csv").unlink()
    with pytest.raises(InputError, match=r"curves/student\.csv: no such file"):
        run_stage(folder, monkeypatch)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_attacks", [1, 4, 12])
def test_the_text_table_is_aligned_and_narrow(num_attacks: int) -> None:
    found, described = outcomes(60, torch.Generator().manual_seed(7)), evaluation(60)
    described["attacks"] = {f"attack_{i}": "Attack()" for i in range(num_attacks)}
    found |= {f"{role}/attack_{i}": found[f"{role}/cw"] for role in ROLES for i in range(num_attacks)}
    lines = text_table(build(described, found, {}, {})).splitlines()
    assert max(map(len, lines)) <= WIDTH
    table = lines[3:-4]
    assert {len(line) for line in table[1:] if "±" in line} == {len(table[0])}
    assert table[0] == "\u2500" * len(table[0])


def test_every_rate_of_the_table_has_an_interval(made_up: dict[str, Any]) -> None:
    rows = [
        line for line in text_table(made_up).splitlines() if line.startswith(("clean teacher", "robust t", "student"))
    ]
    assert len(rows) == 3
    assert all(line.count("±") == 3 + len(ATTACKS) for line in rows)


def test_markdown_has_one_row_per_model(made_up: dict[str, Any]) -> None:
    rows = [line for line in markdown_table(made_up).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(best_models(made_up))
    assert {line.count("|") for line in rows} == {5 + len(ATTACKS)}


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [("1/5", "1/5 (51/255)"), ("8/255", "8/255"), ("0", "0"), ("1/2", "1/2"), ("1/51", "1/51 (5/255)")],
)
def test_epsilon_is_shown_in_grey_levels_where_whole(epsilon: str, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_the_command_prints_table_and_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage(folder, monkeypatch)
    printed = capsys.readouterr().out
    print_report(["reports/robustness.json"])
    assert capsys.readouterr().out.strip() == printed.strip()
    print_report(["reports/robustness.json", "--markdown"])
    assert capsys.readouterr().out.rstrip().endswith("Report: `reports/robustness.html`")


@pytest.mark.parametrize("content", [None, {"schema": "other"}, [1]])
def test_the_command_refuses_other_files_in_one_line(tmp_path: Path, content: Any) -> None:
    if content is not None:
        write_json(tmp_path / "robustness.json", content)
    with pytest.raises(SystemExit, match=r"^error: .*robustness\.json: ") as stopped:
        print_report([str(tmp_path / "robustness.json")])
    assert "\n" not in str(stopped.value)


# --- the page ---------------------------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link", "input", "hr"}


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


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of the made-up evaluation."""
    run_stage(folder, monkeypatch)
    return Path("reports/robustness.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_self_contained(page: str) -> None:
    read = Page(page)
    assert read.open == []
    assert [address for address in read.addresses if not address.startswith("data:")] == []
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert read.ids == [
        *("results", "trade-off", "transfer", "classes", "gallery", "checkpoints"),
        *("training", "balance", "kernel", "costs", "provenance"),
    ]


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


def test_the_page_says_the_numbers_of_the_document(page: str) -> None:
    student = read_json("reports/robustness.json")["models"]["student"]
    for found in (student["clean"], student["worst_case"], *student["attacks"].values()):
        assert f"{100 * found['value']:.1f}" in page
        assert f"{100 * found['low']:.1f}\u2013{100 * found['high']:.1f}" in page


def test_names_are_escaped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = read_json(folder / "evaluation/evaluation.json")
    described["classes"][0] = "<script>"
    write_json(folder / "evaluation/evaluation.json", described)
    run_stage(folder, monkeypatch)
    text = Path("reports/robustness.html").read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text


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


def test_points_land_where_the_axes_say() -> None:
    plot = Plot(number_axis("x", [0, 1]), number_axis("y", [0, 1]), width=160, height=150)
    assert plot.at(0, 0) == (46, 112)
    assert plot.at(1, 1) == (146, 12)


def test_a_tag_escapes_its_attributes() -> None:
    assert tag("text", "x", class_="a", aria_label='"<') == '<text class="a" aria-label="&quot;&lt;">x</text>'


def test_the_schema_file_is_json() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]["schema"] == {"const": "temper/robustness/1"}
