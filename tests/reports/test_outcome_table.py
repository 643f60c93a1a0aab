"""The outcomes as a tidy table: every outcome once, under the right model, attack and size."""

import sys
from pathlib import Path

import pandas
import pytest

from components.foundation.errors import InputError
from components.foundation.storage import read_json, write_json
from components.numerics.tensor_files import read_tensors
from components.reports.outcome_table import outcome_table, write_outcome_table
from temper.cli import main as temper
from temper.commands.report import evaluation_beside
from tests.parts.evaluation_files import CLASSES, run_stage, write_evaluation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder evaluation/ of the made-up evaluation, beside which is its report."""
    write_evaluation(tmp_path)
    return tmp_path / "evaluation"


def test_every_outcome_is_there_once(folder: Path) -> None:
    table, (tensors, _) = outcome_table(folder), read_tensors(folder / "outcomes.safetensors")
    assert list(table) == ["model", "image", "label", "attack", "epsilon", "right"]
    assert len(table) == 60 * (len(tensors) - 1)
    assert not table.duplicated(["model", "image", "attack", "epsilon"]).any()
    counts = table.groupby(["model", "attack", "epsilon"], sort=False)["right"].sum()
    for key, name in (
        (("student", "clean", 0.0), "student/clean"),
        (("student", "cw", 0.2), "student/cw"),
        (("student_last", "fgsm", 0.2), "student_last/fgsm"),
        (("student", "worst_case", 0.2), "student/worst_case"),
        (("robust_teacher", "cascade/apgd_t", 0.2), "robust_teacher/cascade/apgd_t"),
        (("student", "curve", 0.4), "student/curve/6"),
        (("student", "grid/bim", 0.1), "student/grid/bim/1"),
        (("student", "transfer/mi_fgsm/clean_teacher", 0.2), "transfer/mi_fgsm/clean_teacher/student"),
    ):
        assert counts[key] == int(tensors[name].sum()), name
    rows = table[(table["model"] == "student") & (table["attack"] == "cw")]
    assert rows["image"].tolist() == list(range(60)) and rows["right"].tolist() == (tensors["student/cw"] != 0).tolist()
    assert rows["label"].tolist() == [CLASSES[label] for label in tensors["labels"]]


def test_a_cascade_at_another_size_has_rows_of_its_own(folder: Path) -> None:
    from components.numerics.tensor_files import write_tensors

    described, (tensors, _) = read_json(folder / "evaluation.json"), read_tensors(folder / "outcomes.safetensors")
    described["cascade"]["epsilons"] = ["1/10", "1/5"]
    write_json(folder / "evaluation.json", described)
    fallen = tensors["labels"].bool().logical_not().byte()
    write_tensors(folder / "outcomes.safetensors", tensors | {"student/cascade/apgd_t@1/10": fallen})
    table = outcome_table(folder)
    mine = table[(table["model"] == "student") & (table["attack"] == "cascade/apgd_t")]
    assert mine.groupby("epsilon")["right"].sum().to_dict() == {
        0.1: int(fallen.sum()),
        0.2: int(tensors["student/cascade/apgd_t"].sum()),
    }


def test_both_kinds_of_file_hold_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow comes with mlflow")
    run_stage(folder.parent)
    temper(["report", str(folder), "--outcomes", str(folder / "out.parquet")])
    # From the report the evaluation is found, too.
    temper(["report", str(folder.parent / "reports/robustness.json"), "--outcomes", str(folder / "out.csv")])
    table = outcome_table(folder)
    assert pandas.read_parquet(folder / "out.parquet").equals(table)
    assert pandas.read_csv(folder / "out.csv").equals(table)
    assert f"written: {folder / 'out.csv'} ({len(table)} rows)" in capsys.readouterr().out


def test_mistakes_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"got .*out\.xlsx, want a file that ends in \.parquet or \.csv"):
        write_outcome_table(folder, folder / "out.xlsx")
    with pytest.raises(InputError, match=r"nowhere: no evaluation\.json there"):
        evaluation_beside(folder.parent / "a/b/nowhere")
    monkeypatch.setattr("components.reports.outcome_table.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"out\.parquet: needs pyarrow, which is not installed \(pip install pyarrow"):
        write_outcome_table(folder, folder / "out.parquet")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"need pandas, which is not installed \(pip install '\.\[report\]'\)"):
        write_outcome_table(folder, folder / "out.csv")
    assert not list(folder.glob("*out*.csv*")), "half a table was left"


def test_outcomes_of_another_number_of_images_are_refused(folder: Path) -> None:
    write_json(folder / "evaluation.json", read_json(folder / "evaluation.json") | {"num_images": 61})
    with pytest.raises(InputError, match=r"outcomes\.safetensors: .* is uint8 \[60\], want uint8 \[61\]"):
        outcome_table(folder)
