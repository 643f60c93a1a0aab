"""`temper advise`: its document, its page, its words, and one line for every mistake."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.attacks.apgd import Apgd
from components.attacks.pgd import Pgd
from components.commands.advise import main as advise
from components.commands.advise_options import AdviseOptions, named, validation_images
from components.data.normalization import Normalization
from components.data.splits import LabelledImages, Splits, write_splits
from components.evaluation.advice.attacks import attacks_of
from components.evaluation.advice.looks import Attacks
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.foundation.storage import read_json, sha256, write_json
from components.reports.advice.contents import Advice
from components.statistics.documents import as_json, read_document
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from temper.cli import main as temper
from tests.parts.outside_files import CLASSES, digits, save, write_images

COUNT = 60


def options(folder: Path, *teachers: str, **more: Any) -> AdviseOptions:
    given = {"data": str(folder / "images.safetensors"), "count": COUNT, "threat": "linf:26/255", "threads": 1} | more
    return AdviseOptions(teacher=[f"{name}={folder / name}.safetensors" for name in teachers], **given)


@pytest.fixture(scope="module", autouse=True)
def short_attacks() -> Iterator[None]:
    """A few steps: what the attacks of the command are is a test of its own."""
    apgd = Apgd(steps=5, restarts=1, loss="cross_entropy", rho=0.75)
    pgd = Pgd(steps=3, step_size=Ratio(13, 255), start="uniform", loss="cross_entropy", restarts=1)
    deterministic = torch.get_deterministic_debug_mode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.commands.advise.attacks_of", lambda *_: Attacks(pgd, {"apgd_ce": apgd}))
        yield
    torch.set_deterministic_debug_mode(deterministic)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advise")
    for seed, name in enumerate(("one", "two", "pupil")):
        save(folder / f"{name}.safetensors", seed)
    write_images(folder / "images.safetensors", COUNT)
    return folder


@pytest.fixture(scope="module")
def advised(case: Path) -> Advice:
    """Two teachers with a student."""
    return advise(options(case, "one", "two", student=[f"pupil={case / 'pupil.safetensors'}"], out=case / "out"))


def test_it_measures_every_teacher(case, advised):
    assert read_document(Advice, case / "out/advice.json") == advised
    assert (advised.num_images, advised.threat.epsilon, set(advised.order)) == (COUNT, "26/255", {"one", "two"})
    assert list(advised.students) == ["pupil"] and 0 < (advised.unlearnable or 0) < COUNT
    for name in ("one", "two"):
        found = advised.teachers[name]
        assert found.sha256 == sha256(case / f"{name}.safetensors") and found.epoch == 3
        measures = found.measures
        assert len(measures) == 11 and all(one.low <= one.value <= one.high for one in measures.values())
        assert measures["clean"].value > 0.8 and measures["worst_case"].value < measures["clean"].value
        assert measures["entropy_unlearnable"].n == advised.unlearnable
        assert all(measures[key].n == COUNT for key in ("clean", "worst_case", "tas", "confident_student"))
    assert advised.decides == "confident_student"
    against = advised.teachers[advised.order[0]].against_first
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in against.values())


def test_the_order_of_teachers_and_the_batch_size_change_nothing(case, advised):
    student = [f"pupil={case / 'pupil.safetensors'}"]
    again = advise(options(case, "two", "one", student=student, batch_size=17))
    assert list(again.teachers) == list(advised.teachers)
    first, second = (as_json(found) for found in (advised, again))
    assert first == second


def test_a_teacher_and_itself_cannot_be_told_apart(case):
    same = [f"{name}={case / 'one.safetensors'}" for name in ("a", "b")]
    found = advise(AdviseOptions(**{**vars(options(case)), "teacher": same}))
    assert [found.teachers[name].place for name in found.order] == [1, 1]
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in found.teachers["b"].against_first.values())
    assert "a and b cannot be told apart in robustness (difference 0.0 points" in found.sentences[0]


def test_without_a_student_the_page_says_what_is_missing(case, capsys):
    found = advise(options(case, "one", out=case / "alone"))
    assert "tas" not in found.teachers["one"].measures and found.unlearnable is None
    assert found.decides == "confident_adversarial"
    said = "No student was given, so nothing is said of how attacks transfer"
    assert said in (case / "alone/advice.html").read_text() and said in " ".join(capsys.readouterr().out.split())
    assert "students" not in read_json(case / "alone/advice.json")


def test_the_page_shows_every_measure(case, advised):
    page = (case / "out/advice.html").read_text()
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>") and "<script" not in page
    for words in ("Transferable samples (TAS), %", "Entropy, unlearnable images, nats", "PGD: 3 steps"):
        assert words in page, words
    assert all(sentence[:40] in page for sentence in advised.sentences)


def test_validation_images_are_those_of_no_test_split(tmp_path):
    images, labels = digits()
    train, held_out, test = (LabelledImages(images[at : at + 50], labels[at : at + 50]) for at in (0, 100, 200))
    splits = Splits("digits", CLASSES, train, held_out, test, Normalization(method="none", offset=(0.0,), scale=(1.0,)))
    write_splits(tmp_path / "normalized.safetensors", splits)
    found = validation_images(str(tmp_path / "normalized.safetensors"))
    assert torch.equal(found.test.images, images[100:150]) and found.held_out is None and found.name == "digits"


def test_few_classes_get_an_attack_that_they_have():
    threat = Threat(norm=Linf(), epsilon=Ratio(1, 10))
    assert list(attacks_of(threat, 10).cascade) == ["apgd_ce", "apgd_t"]
    assert list(attacks_of(threat, 3).cascade) == ["apgd_ce"]


def test_names_of_networks():
    assert named(["models/a.safetensors", "b=c.safetensors"], "TEACHER") == {
        "a": "models/a.safetensors",
        "b": "c.safetensors",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": ["x=a b", "x=c"]}, "TEACHER: two networks called 'x', want NAME=REF for one of them"),
        ({"teacher": ["m=x.pt2"]}, "x.pt2: a program, want the weights as .safetensors"),
        ({"teacher": ["?=x"]}, "TEACHER: got '?=x', want FILE or NAME=REF"),
        ({"student": ["one=x"]}, "--student: 'one' is a teacher's name too"),
        ({"count": 0}, "--count: got 0, want 1 to"),
        ({"confident": 1.0}, "--confident: got 1, want a probability between 0 and 1"),
        ({"threat": "linf"}, "--threat: got 'linf', want NORM:EPSILON"),
        ({"threat": None}, "--threat: missing"),
        ({"data": "fashion_mnist"}, "--data: got 'fashion_mnist', want data/normalized.safetensors, whose validation"),
        ({"teacher": ["one=none.safetensors"]}, "none.safetensors: no such file"),
        ({"calibration": Path("none.json")}, "none.json: no such file"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(case, tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        advise(AdviseOptions(**{**vars(options(case, "one")), **changes}))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_calibration_of_other_images_is_refused(case, tmp_path):
    slope = {"value": -0.25, "low": -0.4, "high": -0.1}
    about = {"dataset": "images", "norm": "linf", "epsilon": "26/255", "method": "rslad", "student": "small_cnn"}
    content = {"schema": "temper/advice-calibration/1", **about, "confident": 0.5, "num_teachers": 9}
    content["slopes"] = {"worst_case": slope}
    path = tmp_path / "calibration.json"
    write_json(path, content)
    assert advise(options(case, "one", calibration=path)).calibration is not None
    write_json(path, content | {"dataset": "cifar10"})
    with pytest.raises(InputError, match="dataset cifar10 instead of images, so it says nothing of these teachers"):
        advise(options(case, "one", calibration=path))


def test_the_command_line(case, monkeypatch, capsys):
    monkeypatch.chdir(case)
    told: dict[str, Any] = {}
    monkeypatch.setattr("components.commands.advise.run", told.update)
    assert temper(["advise", "one.safetensors", "b=two.safetensors", "--count", "40", "--out", "there"]) == 0
    assert AdviseOptions(**told) == AdviseOptions(
        teacher=["one.safetensors", "b=two.safetensors"], count=40, out=Path("there")
    )
