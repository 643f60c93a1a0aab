"""`temper init`: generated folders of images become recipes that need no change, and nobody's work is lost."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from components.commands import recipe_time
from components.commands.own_recipe import Effort, Wishes, delta, efforts, sizes
from components.commands.recipe_time import TRAINED, Speed, steps_of, work_of
from components.commands.survey_images import Survey, epsilon_for, survey
from components.data.listing import file_names
from components.data.splits import read_splits
from components.datasets.image_folder import ImageFolder
from components.foundation.errors import InputError
from components.foundation.params import Params, read_yaml
from components.foundation.storage import read_json
from components.stages import fetch_data, normalize_data
from components.stages.tasks import read_suite
from components.tracking.journal import Journal
from temper.cli import main
from temper.recipe import Wanted, write
from tests.parts.picture_files import pictures

ROOT = Path(__file__).parents[2]


class Folder(NamedTuple):
    """A folder to be made: how many classes and images, of what sizes, in what mode, in which splits."""

    classes: int
    images: int
    sides: tuple[tuple[int, int], ...]
    mode: str
    splits: tuple[str, ...]
    suffix: str


def drawn(seed: int) -> Folder:
    rng = Random(seed)
    square = rng.choice([True, False])
    sides = tuple((a := rng.randint(9, 40), a if square else rng.randint(9, 40)) for _ in range(rng.randint(1, 3)))
    splits = rng.choice([(), (), ("train",), ("train", "test"), ("train", "val"), ("train", "test", "val")])
    mode, suffix = rng.choice([("L", "png"), ("RGB", "png"), ("grey RGB", "jpg"), ("P", "gif"), ("RGBA", "webp")])
    return Folder(rng.randint(4, 6), rng.randint(6, 9), sides, mode, splits, suffix)


def made(folder: Folder, at: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for split in folder.splits or ("",):
        for name in [f"class {number}" for number in range(folder.classes)]:
            (at / split / name).mkdir(parents=True)
            for number in range(folder.images):
                width, height = folder.sides[number % len(folder.sides)]
                grey = folder.mode in ("L", "grey RGB")
                pixels = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
                mode = {"grey RGB": "RGB"}.get(folder.mode, folder.mode)
                Image.fromarray(pixels).convert(mode).save(at / split / name / f"{number}.{folder.suffix}")
    return at


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project's root with the recipes; speeds are not measured."""
    shutil.copytree(ROOT / "presets", tmp_path / "project/presets")
    shutil.copy(ROOT / "params.yaml", tmp_path / "project/params.yaml")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(recipe_time, "speed_of", lambda *_: Speed(1e-4, 1e-4))
    return tmp_path / "project"


def init(folder: Path, out: str = "params.yaml", force: bool = False, **changes: Any) -> list[str]:
    return list(write(Wanted(images=folder, **changes), Path(out), force, Path.cwd()))


@pytest.mark.parametrize("seed", range(6))
def test_every_folder_gets_a_recipe_whose_first_stages_run_as_it_is(project, tmp_path, seed):
    spec = drawn(seed)
    folder = made(spec, tmp_path / f"my images {seed}", seed)
    lines = init(folder)
    recipe = read_yaml("params.yaml")
    dataset = recipe["fetch_data"]["dataset"]
    assert dataset["color"] == ("gray" if spec.mode in ("L", "grey RGB") else "rgb")
    assert dataset["image_size"] == min(32, int(median(min(side) for side in (spec.sides * 9)[: spec.images])))
    assert dataset["title"] == f"my images {seed}" and recipe["fetch_data"]["files"] == dataset["folder"] == str(folder)
    assert (dataset["resize"] == "crop") == all(width == height for width, height in spec.sides)
    assert recipe["distill_student"]["required"] is None
    assert not any(recipe[stage]["recipe"]["augmentation"]["flip"] for stage in TRAINED)
    assert f"{spec.classes} classes" in lines[0] and lines[-1].startswith("next: temper harden")
    journal = create_autospec(Journal, instance=True)
    fetch_data.main(Params(recipe), journal)
    normalize_data.main(Params(recipe), journal)
    assert not [call for call in journal.note.call_args_list if "warning" in call.args[0]]
    splits = read_splits("data/normalized.safetensors")
    assert splits.dataset == f"my images {seed}"
    about = sizes(survey(folder), limited=False)
    for part, expected in zip(("train", "validation", "test"), about, strict=True):
        names = splits.parts[part].names
        # Each class is rounded by itself.
        assert names is not None and abs(len(names) - expected) <= spec.classes
    seen = [name for part in splits.parts.values() for name in file_names(part.names)]
    everything = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    assert sorted(seen) == sorted(everything)


def test_names_stay_with_their_pixels(project, tmp_path):
    for number in range(40):
        path = tmp_path / f"grey/{number % 4}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * number).save(path)
    init(tmp_path / "grey")
    journal = create_autospec(Journal, instance=True)
    for stage in (fetch_data, normalize_data):
        stage.main(Params(read_yaml("params.yaml")), journal)
    for part in read_splits("data/normalized.safetensors").parts.values():
        for name, image, label in zip(file_names(part.names), part.images, part.labels.tolist(), strict=True):
            assert name == f"{label}/{int(image[0, 0, 0]) // 6}.png"


def test_what_is_asked_for_is_what_is_written(project, tmp_path):
    folder = made(Folder(4, 6, ((12, 12),), "RGB", (), "png"), tmp_path / "photos", 0)
    lines = init(folder, epsilon="4/255", flip=True, size=10, title="My photos")
    recipe = read_yaml("params.yaml")
    assert recipe["threat"] == {"norm": "linf", "epsilon": "4/255"}
    assert recipe["train_clean_teacher"]["recipe"]["augmentation"]["flip"] is True
    assert recipe["fetch_data"]["dataset"]["image_size"] == 10
    assert recipe["fetch_data"]["dataset"]["title"] == "My photos"
    head = [line for line in Path("params.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("Epsilon 4/255: as asked for" in line for line in head) and any("About" in line for line in head)
    assert any("Mirrored images are trained on" in line for line in lines)
    # The radius stands once: all else follows it.
    assert Path("params.yaml").read_text().count("/255") == 2


@pytest.mark.parametrize(("side", "size", "said"), [(40, None, True), (32, None, False), (40, 40, False)])
def test_that_images_are_shrunk_is_said(project, tmp_path, side, size, said):
    lines = init(made(Folder(4, 6, ((side, side),), "L", (), "png"), tmp_path / "photos", 0), size=size)
    shrunk = [line for line in lines if "Images are shrunk to 32 x 32 pixels" in line and "--size" in line]
    assert bool(shrunk) == said == ("are shrunk to" in Path("params.yaml").read_text().replace("\n# ", " "))


def test_a_folder_inside_the_project_is_named_relative_to_it(project):
    made(Folder(4, 6, ((9, 9),), "L", (), "png"), project / "data/mine", 0)
    init(Path("data/mine"))
    assert read_yaml("params.yaml")["fetch_data"]["files"] == "data/mine"


def spoil_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def spoil_classes(folder: Path) -> None:
    for path in sorted(folder.iterdir())[2:]:
        shutil.rmtree(path)


def spoil_image(folder: Path) -> None:
    (folder / "class 1/0.png").write_bytes(b"no image")


def spoil_count(folder: Path) -> None:
    for number in range(2, 6):
        (folder / f"class 1/{number}.png").unlink()


def spoil_type(folder: Path) -> None:
    (folder / "class 1/notes.txt").write_bytes(b"no image")


def spoil_loose(folder: Path) -> None:
    shutil.copy(folder / "class 1/0.png", folder / "loose.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing, "no images in it, want CLASS"),
        (spoil_classes, "2 classes, but evaluate_attacks.cascade: quick needs at least 4"),
        (spoil_classes, "init writes no such recipe: change a file of presets/ by hand"),
        (spoil_count, "class 'class 1' has 2 images, want at least 3"),
        (spoil_image, "class 1/0.png: not readable as an image"),
        (spoil_type, "class 1/notes.txt: "),
        (spoil_loose, "loose.png: "),
    ],
)
def test_a_wrong_folder_is_refused_and_nothing_is_written(project, tmp_path, spoil, message):
    folder = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / "wrong", 0)
    spoil(folder)
    before = Path("params.yaml").read_bytes()
    with pytest.raises(InputError, match=message):
        init(folder)
    assert Path("params.yaml").read_bytes() == before and not Path(".temper").exists()


def test_images_are_looked_at_as_the_first_stage_reads_them(project, tmp_path):
    """Of files of every kind: the same pixels, or the same refusal in the same words."""
    folder, seen = tmp_path / "kinds", Counter[str]()
    kinds = [(name, picture.data) for name, picture in pictures(seed=4, count=52)]
    broken = [(name, data[: len(data) // 2]) for name, data in kinds[::3]]
    for name, data in [*kinds, *broken, ("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")]:
        for number in range(4):
            made(Folder(1, 3, ((9, 9),), "RGB", (), "png"), folder / f"{number}", number)
            (folder / f"{number}/class 0").rename(folder / f"class {number}")
            (folder / f"{number}").rmdir()
        (folder / "class 0/0.png").unlink()
        (folder / "class 0" / name).write_bytes(data)
        said = []
        for look in (survey, lambda at: image_folder(at).load(at)):
            try:
                said.append(look(folder))
            except InputError as error:
                said.append(str(error))
        assert isinstance(said[0], str) == isinstance(said[1], str), name
        assert not isinstance(said[0], str) or said[0] == said[1]
        seen[type(said[0]).__name__] += 1
        shutil.rmtree(folder)
    assert min(seen["Survey"], seen["str"]) > 15


def image_folder(folder: Path) -> ImageFolder:
    return ImageFolder(folder=str(folder), image_size=9, color="rgb", resize="crop", streamed=None)


def test_deep_images_are_seen_in_all_their_levels(project, tmp_path):
    """16 bits, dark in one class and less dark in the other: pillow alone would call both white."""
    for name, level in (("a", 20), ("b", 60)):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((9, 9), (level + number) * 257, np.uint16)).save(tmp_path / f"{name}/{number}.png")
    shutil.rmtree(project)
    found = survey(tmp_path)
    assert found.gray and not found.drawing and found.apart == 38


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b"${oops}", b"tab\t"])
def test_a_path_that_a_recipe_cannot_hold_is_refused(project, tmp_path, name):
    folder = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / os.fsdecode(name), 0)
    with pytest.raises(InputError, match="want a path of printable characters") as caught:
        init(folder)
    assert "\n" not in str(caught.value) and str(caught.value).encode()


@pytest.mark.parametrize("name", ["größe", "猫", "it's # 1: {a}", "- x", "n" * 120, "yes", "1e3"])
def test_any_name_that_is_text_is_taken(project, tmp_path, name):
    folder = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / name, 0)
    init(folder)
    recipe = read_yaml("params.yaml")
    assert recipe["fetch_data"]["dataset"]["title"] == name[:100]
    assert recipe["fetch_data"]["files"] == recipe["fetch_data"]["dataset"]["folder"] == str(folder)


@pytest.mark.parametrize("wrong", [{"epsilon": "far"}, {"epsilon": "0"}, {"epsilon": "2"}, {"title": "two\nlines"}])
def test_a_wrong_wish_is_refused_and_nothing_is_written(project, tmp_path, wrong):
    folder = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / "images", 0)
    before = Path("params.yaml").read_bytes()
    with pytest.raises(InputError):
        init(folder, **wrong)
    assert Path("params.yaml").read_bytes() == before


def test_mistakes_show_before_torch_is_imported(tmp_path):
    made(Folder(3, 3, ((9, 9),), "L", (), "png"), tmp_path / "three", 0)
    code = (
        f"import sys; from temper.cli import main; assert main(['init', '--images', {str(tmp_path / 'three')!r}]) == 2"
    )
    code += "; print(sorted({'torch', 'prefect', 'mlflow', 'dvc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr.count("\n") == 1


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))


def commit(path: Path) -> None:
    edit(path)
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], check=True)


@pytest.mark.parametrize(
    ("before", "kept"),
    [(edit, True), (commit, False), (Path.unlink, False), (lambda path: None, False)],
    ids=["edited", "committed", "absent", "a recipe of presets"],
)
def test_a_file_with_changes_is_never_lost(project, tmp_path, before: Callable[[Path], None], kept: bool):
    folder, path = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / "images", 0), Path("params.yaml")
    before(path)
    if kept:
        mine = path.read_bytes()
        with pytest.raises(InputError, match=r"params.yaml: has changes that are in no commit"):
            init(folder)
        assert path.read_bytes() == mine
        init(folder, out="other.yaml")
        assert path.read_bytes() == mine and read_yaml("other.yaml")["fetch_data"]["files"] == str(folder)
        init(folder, force=True)
    else:
        init(folder)
    # What init has written it may write again, until somebody changes it.
    init(folder, flip=True)
    assert read_yaml("params.yaml")["train_clean_teacher"]["recipe"]["augmentation"]["flip"] is True
    edit(path)
    with pytest.raises(InputError, match="has changes"):
        init(folder)


def look(counts: dict[str, int], **changes: Any) -> Survey:
    whole = {"folder": Path("x"), "counts": {"train": counts}, "sizes": {(28, 28): 10}}
    return Survey(**whole | {"gray": True, "drawing": True, "apart": 100} | changes)


def test_epsilon_is_below_half_of_what_separates_two_classes():
    for gray, drawing, apart in [(g, d, a) for g in (True, False) for d in (True, False) for a in (3, 10, 40, 200)]:
        epsilon, reason = epsilon_for(look({"a": 1}, gray=gray, drawing=drawing, apart=apart))
        assert 0 < 2 * epsilon * 255 <= apart and str(apart) in reason
    assert epsilon_for(look({"a": 1}))[0] == Fraction(26, 255)
    assert epsilon_for(look({"a": 1}, gray=False))[0] == Fraction(8, 255)


def test_efforts_fall_and_only_large_sets_are_cut():
    small, large = look(dict.fromkeys("abcd", 100)), look(dict.fromkeys("abcd", 20_000))
    for found, cut in ((small, False), (large, True)):
        tried = list(efforts(found, gpu=False))
        assert [one.width for one in tried] == sorted((one.width for one in tried), reverse=True)
        assert [one.epochs for one in tried] == sorted((one.epochs for one in tried), reverse=True)
        assert any(one.limited for one in tried) == cut
    assert next(efforts(small, gpu=True)) == Effort("resnet18", 1.0, 30)


@pytest.mark.parametrize(
    ("side", "batch", "probed"), [(32, None, 50), (95, None, 50), (96, "auto", 16), (224, "auto", 16)]
)
def test_large_images_are_evaluated_in_what_memory_holds(side, batch, probed):
    wishes = Wishes(epsilon=Fraction(8, 255), flip=True, side=side, title="pictures")
    written = delta(look(dict.fromkeys("abcd", 100)), Effort("small_cnn", 1, 10), wishes)
    assert written.get("evaluate_attacks.batch_size") == batch and written["ntk"]["size"] == probed


def test_the_counted_passes_are_those_of_a_recorded_run():
    """Of the digits: the passes of training and evaluation that benchmarks/results/ holds, from above but not far."""
    values = yaml.safe_load((ROOT / "presets/digits.yaml").read_text())
    recorded = read_json(ROOT / "benchmarks/results/digits-cpu.json")["seeds"]["0"]["passes"]
    evaluated = sum(cost["backward"] for task in recorded["evaluation"].values() for cost in task.values())
    estimate = 359 * steps_of(read_suite(Params(values), "evaluate_attacks", 10))
    assert 0.9 < estimate / evaluated < 1.4
    trained = sum(cost["backward"] for cost in recorded["training"].values())
    work = work_of(values, sizes(look({"a": 1574}), limited=False)._replace(train=1259, validation=0, test=0))
    assert 0.9 < (work.training + work.attack) / trained < 1.3


def test_a_speed_is_measured(monkeypatch):
    monkeypatch.setattr(recipe_time, "SECONDS", 0.01)
    values = yaml.safe_load((ROOT / "presets/digits.yaml").read_text())
    values["compute"]["threads"] = torch.get_num_threads()
    speed = recipe_time.speed_of(values, 10, (1, 8, 8))
    torch.set_deterministic_debug_mode("default")
    assert 0 < speed.attack < 1 and 0 < speed.training < 1


def test_the_command_says_what_it_found_wrote_and_what_is_next(project, tmp_path, capsys):
    folder = made(Folder(4, 6, ((9, 9),), "L", (), "png"), tmp_path / "images", 0)
    assert main(["init", "--images", str(folder)]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{folder}: 24 grey images of 9 x 9 pixels, 4 classes of 6; no test folder")
    assert second.startswith("written: params.yaml (small_cnn") and last.startswith("next: temper harden")
