"""What a folder of class folders may hold besides images: it is refused by name, or belongs to the system."""

import os
import re
import shutil
import socket
import stat
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from components.data.decoding import chunks
from components.data.listing import LabelledFiles
from components.data.splits import Source, read_source, require_source, write_source
from components.datasets.image_folder import ImageFolder, Streamed
from components.datasets.parts.class_folders import FOREIGN, LEFT_BEHIND, SUFFIXES
from components.foundation.errors import InputError
from tests.parts.streamed_files import jpeg

PICTURES = [jpeg(seed, (8, 8)) for seed in range(3)]
readers = pytest.mark.parametrize("streamed", [False, True], ids=["in_memory", "streamed"])


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("TEMPER_WORKERS", "0")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes, three images each in train and in test."""
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            write(tmp_path / "photos" / part / name)
    return tmp_path / "photos"


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, data in enumerate(PICTURES):
        (folder / f"{number}.jpg").write_bytes(data)
    return folder


def load(folder: Path, streamed: bool = False) -> Source:
    how = Streamed(random_crop=None) if streamed else None
    member = ImageFolder(folder=str(folder), image_size=4, color="gray", resize="crop", streamed=how)
    return require_source(member.load(folder), "image_folder")


def refused(folder: Path, streamed: bool = False) -> str:
    with pytest.raises(InputError) as error:
        load(folder, streamed)
    assert str(error.value).isprintable()
    return str(error.value)


def link(path: Path, target: str | Path) -> None:
    path.symlink_to(target)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def picture(path: Path) -> None:
    path.write_bytes(PICTURES[0])


def listening(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # since the path of a socket must be short
        server.bind(path.name)
        os.chdir(here)


# What there may be, by what makes it, and what is said of it.
STRANGERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "dead link": (lambda path: link(path, "/mnt/not-mounted/cow"), r"No such file or directory \(a link to /mnt/not-"),
    "loop": (loop, r"Too many levels of symbolic links \(a link to "),
    "pipe": (os.mkfifo, "a pipe, socket or device, want an image file or a folder"),
    "device": (lambda path: link(path, "/dev/zero"), "a pipe, socket or device, want an image file or a folder"),
    "socket": (listening, "a pipe, socket or device, want an image file or a folder"),
}


@pytest.mark.parametrize("where", ["", "train", "test", "train/ant", "test/bee"])
@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.timeout(20)
def test_what_is_neither_file_nor_folder_is_refused_by_name(photos, kind, where):
    make, reason = STRANGERS[kind]
    for name in ("cow", "cow.jpg"):
        path = photos / where / name
        make(path)
        assert re.match(f"{re.escape(str(path))}: {reason}", refused(photos)), name
        path.unlink()
    assert len(load(photos).train) == 6


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_that_is_a_link_to_nowhere_is_not_left_out(photos, split):
    shutil.rmtree(photos / "test")
    (photos / split).symlink_to("/mnt/not-mounted")
    assert refused(photos).startswith(f"{photos / split}: No such file or directory (a link to /mnt/not-mounted)")


@pytest.mark.parametrize("suffix", [*SUFFIXES, *FOREIGN, ".JPG", ".Png"])
def test_an_image_beside_the_class_folders_is_refused_by_name(photos, suffix):
    for where in ("", "train", "test"):
        path = photos / where / f"loose{suffix}"
        picture(path)
        assert refused(photos) == f"{path}: an image that belongs to no class, want it in a class folder"
        path.unlink()


@pytest.mark.parametrize("where", ["", "train", "train/ant"])
def test_what_a_system_leaves_behind_is_left_out(photos, where):
    for name in (".DS_Store", "._0.jpg", ".hidden.png", *LEFT_BEHIND, "Thumbs.db", "Desktop.ini"):
        (photos / where / name).write_bytes(b"x")
    (photos / where / ".ipynb_checkpoints").mkdir()
    (photos / where / ".dead.png").symlink_to("nowhere")
    assert len(load(photos).train) == 6 and load(photos).classes == ("ant", "bee")


def test_words_about_a_set_may_lie_beside_its_folders_but_not_among_its_images(photos):
    for where in ("", "train"):
        (photos / where / "LICENSE").write_text("free")
        (photos / where / "labels.csv").write_text("a,b")
    assert len(load(photos).train) == 6
    (photos / "train/ant/labels.csv").write_text("a,b")
    assert refused(photos).startswith(f"{photos}/train/ant/labels.csv: no known image type (allowed: .apng ")


@pytest.mark.parametrize("name", ["more", "more.jpg"])
def test_a_folder_inside_a_class_is_refused(photos, name):
    write(photos / "train/ant" / name)
    assert refused(photos) == f"{photos}/train/ant/{name}: a folder inside a class folder, want image files only"
    shutil.rmtree(photos / "train/ant" / name)
    link(photos / "train/ant" / name, photos / "train")
    assert "a folder inside a class folder" in refused(photos)


@readers
def test_links_to_files_and_folders_elsewhere_are_followed(photos, tmp_path, streamed):
    link(photos / "train/cow", write(tmp_path / "elsewhere"))
    shutil.copytree(tmp_path / "elsewhere", photos / "test/cow")
    link(photos / "train/ant/other.jpg", tmp_path / "elsewhere/1.jpg")
    source = load(photos, streamed)
    assert source.classes == ("ant", "bee", "cow") and source.train.counts(3) == [4, 3, 3]


@readers
def test_a_folder_or_file_that_may_not_be_read_is_one_line(photos, monkeypatch, streamed):
    def closed(name: str, real: Callable) -> Callable:
        def ask(path, *arguments, **options):
            if Path(os.fsdecode(path)).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return ask

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed("bee", os.scandir))
        assert refused(photos, streamed) == f"{photos}/train/bee: Permission denied"
    monkeypatch.setattr(Path, "read_bytes", closed("1.jpg", Path.read_bytes))
    assert refused(photos, streamed) == f"{photos}/train/ant/1.jpg: Permission denied"


@readers
@pytest.mark.timeout(20)
def test_a_file_that_became_a_pipe_since_it_was_listed_is_not_waited_for(photos, streamed, monkeypatch):
    files = load(photos, streamed=True).train
    path = photos / "train/ant/1.jpg"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"ant/1\.jpg: want a regular file"):
        list(chunks(files))
    assert stat.S_ISFIFO(path.stat().st_mode)


FILE_NAMES = [
    b"\xff\xfe.jpg", b"caf\xe9.jpg", b"new\nline.jpg", b"tab\t.jpg", b"\x1b[31mred.jpg", b"'quote\".jpg", b"-rf.jpg",
    b"  .jpg", "\u202egnp.jpg".encode(), "é.jpg".encode(), "e\u0301.jpg".encode(), "日本.jpg".encode(), b"A.jpg",
    b"a.jpg", b"x" * 251 + b".jpg", b"%00.jpg", b"*.jpg", b"back\\slash.jpg", b"\xed\xa0\x80.jpg",
]  # fmt: skip


@readers
def test_file_names_of_any_bytes_are_kept(photos, tmp_path, streamed):
    folder = os.fsencode(photos / "train/ant")
    for number, name in enumerate(FILE_NAMES):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(jpeg(10 + number, (8, 8)))
    source = load(photos, streamed)
    assert len(source.train) == 6 + len(FILE_NAMES)
    write_source(tmp_path / "raw.safetensors", "image_folder", source)
    _, again = read_source(tmp_path / "raw.safetensors")
    if isinstance(again.train, LabelledFiles):
        names = [os.fsencode(again.train.path(place).name) for place in range(len(again.train))]
        assert sorted(names) == sorted([*FILE_NAMES, *[f"{number}.jpg".encode() for number in (0, 1, 2, 0, 1, 2)]])
        assert len(next(iter(chunks(again.train)))) == len(names)


@readers
@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_a_broken_file_of_any_name_is_one_line(photos, streamed, name):
    path = os.path.join(os.fsencode(photos / "train/ant"), name)
    with open(path, "wb") as file:
        file.write(b"no image")
    said = refused(photos, streamed)
    assert said.startswith(f"{photos}/train/ant/") and "not readable as an image" in said


@pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"], ids=ascii)
def test_a_class_name_that_is_no_text_is_refused(photos, name):
    for part in ("train", "test"):
        shutil.copytree(
            photos / part / "ant", os.path.join(os.fsencode(photos / part), name).decode(errors="surrogateescape")
        )
    assert refused(photos).endswith(": a class name of bytes that are no UTF-8")


@pytest.mark.parametrize("name", ["new\nline", "a,b", "Ant", "é", "e\u0301", "日本", "null", " ", "x" * 255])
def test_class_names_of_any_text_are_kept(photos, tmp_path, name):
    for part in ("train", "test"):
        write(photos / part / name)
    source = load(photos)
    assert name in source.classes and len(source.classes) == 3
    write_source(tmp_path / "raw.safetensors", "image_folder", source)
    assert read_source(tmp_path / "raw.safetensors")[1].classes == source.classes


def test_two_spellings_of_one_class_are_shown_as_they_differ(photos):
    composed, decomposed = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    write(photos / "train" / composed)
    write(photos / "test" / decomposed)
    said = refused(photos)
    assert "3 classes in train, 3 in test, want the same; " in said
    assert r"'cafe\u0301', which looks the same as 'caf\xe9', is only in test" in said
    (photos / "test" / decomposed).rename(photos / "test/日本")
    assert "3 classes in train, 3 in test, want the same; 'café' is only in train" in refused(photos)
    (photos / "test/日本").rename(photos / "test" / decomposed)
    write(photos / "train" / decomposed)
    said = refused(photos)
    assert said == rf"{photos}/train: the classes 'cafe\u0301' and 'caf\xe9' look the same, want one name"


@pytest.mark.parametrize("name", ["valid", "validation", "Test", "tset", "holdout"])
def test_a_folder_that_looks_like_a_split_is_not_left_out(photos, name):
    write(photos / name / "bee")
    line = f"{photos}/{name}: holds the class 'bee' as the train folder does, but is no split "
    assert refused(photos).startswith(line) and "train, test, val; rename it or move it away" in refused(photos)
    shutil.rmtree(photos / name)
    write(photos / name / "boxes")
    assert len(load(photos).train) == 6


@readers
def test_of_three_splits_val_is_the_validation_split(photos, tmp_path, streamed):
    for name in ("ant", "bee"):
        (photos / "val" / name).mkdir(parents=True)
        (photos / "val" / name / "v.jpg").write_bytes(jpeg(7 + len(name), (8, 8)))
    source = load(photos, streamed)
    assert source.test is not None and source.validation is not None
    assert {name: len(split) for name, split in source.parts.items()} == {"train": 6, "test": 6, "validation": 2}
    write_source(tmp_path / "raw.safetensors", "image_folder", source)
    _, again = read_source(tmp_path / "raw.safetensors")
    assert again.validation is not None and again.validation.keys() == source.validation.keys()
    shutil.rmtree(photos / "test")
    source = load(photos, streamed)
    assert source.validation is None and source.test is not None and len(source.test) == 2
