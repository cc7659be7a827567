"""What people do to a program: wrong files and names, data that moved, copies without metadata."""

import dataclasses
import io
import json
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, run
from PIL import Image, ImageFont
from test_own_data import SMALL, drawn, fill, loaded

from tinydigits import Evaluation, Failure, UsageError, evaluate, read, runs
from tinydigits.images import fonts
from tinydigits.images.decode import frames_of, open_picture
from tinydigits.reader.output import annotate, overlap, placed
from tinydigits.reader.recognize import Reading
from tinydigits.terminal import plain
from tinydigits.training.hardware import COMPARED, slowed
from tinydigits.training.loop import watch_pace

Command = Callable[..., Outcome]
PICTURES = Path(__file__).parent / "pictures"
SIX = PICTURES / "exif-6.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "bars")


# -------------------------------------------------------------------------------- equal pictures


def test_equal_pictures_are_never_on_both_sides(tmp_path: Path, capsys: Any):
    data = fill(tmp_path / "twice", ("a", "b"), each=30)
    for path in sorted((data / "a").iterdir()):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    own = loaded(data)
    trained = {image.tobytes() for image in own.train_images}
    assert not any(image.tobytes() in trained for image in own.test_images)
    assert np.bincount(own.test_labels).tolist() == [12, 6]
    said = capsys.readouterr().err
    assert "(30 in all)" in said
    assert f"{data / 'a' / 'copy-0.png'} is {data / 'a' / '0.png'}" in said
    assert "and 20 more" in said


def test_one_picture_in_two_classes_is_told_and_on_one_side(tmp_path: Path, capsys: Any):
    data = fill(tmp_path / "mixed", ("a", "b"), each=20)
    for i in range(12):
        shutil.copy(data / "a" / f"{i}.png", data / "b" / f"a{i}.png")
    own = loaded(data)
    trained = {image.tobytes() for image in own.train_images}
    assert not any(image.tobytes() in trained for image in own.test_images)
    said = capsys.readouterr().err
    assert "in two classes" in said
    assert f"{data / 'b' / 'a0.png'} is {data / 'a' / '0.png'}" in said


def test_a_class_of_equal_pictures_cannot_be_measured(tmp_path: Path):
    data = fill(tmp_path / "same", ("a", "b"))
    for path in (data / "a").iterdir():
        Image.fromarray(drawn(20, 20)).save(path)
    with pytest.raises(UsageError, match=r"Too many pictures of the class a in .* are equal"):
        loaded(data)


def test_a_picture_to_train_and_to_test_on_is_told(tmp_path: Path, capsys: Any):
    fill(tmp_path / "train", each=12)
    fill(tmp_path / "test", each=3, seed=50)
    shutil.copy(tmp_path / "train" / "bar" / "3.png", tmp_path / "test" / "bar" / "seen.png")
    loaded(tmp_path)
    said = capsys.readouterr().err
    assert "trained on and tested" in said
    assert (
        f"{tmp_path / 'test' / 'bar' / 'seen.png'} is {tmp_path / 'train' / 'bar' / '3.png'}"
        in said
    )


# -------------------------------------------------------------------------------- wrong folders


def test_bad_pictures_are_named_together(folder: Path):
    for i in range(12):
        (folder / "bar" / f"bad{i:02}.png").write_text("no picture")
    with pytest.raises(Failure) as refusal:
        loaded(folder)
    said = str(refusal.value)
    assert said.startswith("12 of 42 pictures cannot be taken: ")
    assert sum(f"bad{i:02}.png" in said for i in range(12)) == 10
    assert said.endswith("; and 2 more.")


@pytest.mark.parametrize("name", ["training", "Testing", "val", "valid"])
def test_other_names_of_parts_get_a_hint(folder: Path, name: str):
    root = folder.parent / "parted"
    shutil.copytree(folder, root / name)
    shutil.copytree(folder, root / "train")
    with pytest.raises(UsageError, match=f"holds the folder {name}: call the one"):
        loaded(root)


def test_what_a_mac_and_a_disk_station_leave_is_junk(folder: Path):
    before = loaded(folder)
    for place in (folder, folder / "bar"):
        (place / "Icon\r").write_bytes(b"")
        (place / "@eaDir").mkdir()
    assert loaded(folder).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("barz", r"There is no data folder .*barz: did you mean .*bars\?"),
        ("bars.zip", "is not a folder but an archive: unpack it"),
        ("https://example.org/bars", "is an address: download the data"),
        ("notes.txt", "is not a folder but a file"),
    ],
)
def test_what_is_no_data_folder_is_told(
    folder: Path, data: str, says: str, command: Command, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    zipfile.ZipFile("bars.zip", "w").close()
    Path("notes.txt").write_text("hello")
    for words in (("train", "--data", data), ("evaluate", "tiny1k", "--data", data)):
        outcome = command(*words)
        assert outcome.exit_code == 2
        assert re.search(says, outcome.sentence)


def test_a_data_folder_is_no_model(folder: Path, command: Command):
    for words in (("evaluate", folder), ("predict", SIX, "--model", folder)):
        outcome = command(*words)
        assert outcome.exit_code == 2
        assert f"{folder} is no run folder: a model is a preset" in outcome.sentence


def test_control_characters_of_names_never_reach_a_terminal(
    folder: Path, command: Command, tmp_path: Path
):
    bad = folder / "bar" / "\x1b[2Jbad\n.png"
    bad.write_text("no picture")
    outcome = command("train", "--data", folder)
    assert "\x1b" not in outcome.err
    assert r"\x1b[2Jbad\n.png" in outcome.sentence
    shutil.copy(SIX, tmp_path / "\x1b[31m6.jpg")
    outcome = command("predict", tmp_path / "\x1b[31m6.jpg", bad)
    assert "\x1b" not in outcome.out + outcome.err
    assert plain("a\x7f\u0085é\t") == r"a\x7f\x85é\t"


def test_pictures_without_ink_are_unread_and_named(folder: Path, capsys: Any):
    for i in range(3):
        Image.new("L", (50, 60), 200 + i).save(folder / "bar" / f"blank{i}.png")
    loaded(folder)
    assert f"No ink is seen in 3 of 33 pictures: {folder / 'bar' / 'blank0.png'}" in (
        capsys.readouterr().err
    )

    class Always:
        """Says 0 of everything."""

        def log_probs(self, images: np.ndarray) -> np.ndarray:
            return np.log(np.tile(np.array([0.98, 0.02], np.float32), (len(images), 1)))

    images = np.zeros((4, 28, 28), np.uint8)
    images[:2, 5, 5] = 255
    result = evaluate(Always(), images, np.array([0, 0, 0, 1]))
    assert result.unread.tolist() == [False, False, True, True]
    assert result.accuracy == 50
    assert result.confusion().tolist() == [[2, 0], [0, 0]]
    precision, recall = result.precision_and_recall()
    assert precision[0] == 1
    assert np.isnan(precision[1])
    assert recall.tolist() == [2 / 3, 0]
    assert sorted(result.errors()) == [2, 3]


def test_no_share_of_nothing_is_printed(tmp_path: Path, command: Command):
    digits = fill(tmp_path / "mine", ("1", "7"), each=2)
    outcome = command("evaluate", "tiny2k", "--data", digits)
    assert "nan" not in outcome.out
    assert Evaluation(np.zeros((1, 2), np.float32), np.zeros(1, np.int64)).unread.tolist() == [
        False
    ]


# -------------------------------------------------------------------------------- files


@pytest.mark.parametrize("option", ["--annotate", "--show"])
@pytest.mark.parametrize("by", ["its name", "a link", "a hard link", "another way"])
def test_the_original_is_never_overwritten(option: str, by: str, tmp_path: Path, command: Command):
    original = tmp_path / "six.jpg"
    shutil.copy(SIX, original)
    out = {"its name": original, "another way": tmp_path / "x" / ".." / "six.jpg"}.get(
        by, tmp_path / "other.jpg"
    )
    (tmp_path / "x").mkdir()
    if by == "a link":
        out.symlink_to(original)
    if by == "a hard link":
        out.hardlink_to(original)
    outcome = command("predict", original, option, out)
    assert outcome.exit_code == 2
    assert "would overwrite the picture itself" in outcome.sentence
    assert original.read_bytes() == SIX.read_bytes()


def test_two_drawings_need_two_names(tmp_path: Path, command: Command):
    out = tmp_path / "a.png"
    assert "the same file" in command("predict", SIX, "--annotate", out, "--show", out).sentence


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "head"), [(b"iCCP", b"big\0\0"), (b"zTXt", b"note\0\0"), (b"iTXt", b"note\0\1\0\0\0")]
)
def test_a_png_with_large_notes_is_read(tmp_path: Path, kind: bytes, head: bytes, place: str):
    gray = drawn(40, 6)
    Image.fromarray(gray).save(tmp_path / "large.png")
    whole = (tmp_path / "large.png").read_bytes()
    notes = png_chunk(kind, head + zlib.compress(bytes(5_000_000)))
    at = whole.index(b"IDAT" if place == "before" else b"IEND") - 4
    (tmp_path / "large.png").write_bytes(whole[:at] + notes + whole[at:])
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "large.png")), gray)
    (tmp_path / "large.png").write_bytes(whole[:33] + notes + whole[33:60])
    with pytest.raises(Failure, match="is damaged"):
        open_picture(tmp_path / "large.png")


def test_a_damaged_heic_is_damaged(tmp_path: Path):
    pytest.importorskip("pillow_heif", reason="needs the extra heif")
    whole = (PICTURES / "telephone-6.heic").read_bytes()
    for content in (whole[:40], whole[:30] + b"\xff" * 60 + whole[90:]):
        (tmp_path / "a.heic").write_bytes(content)
        with pytest.raises(Failure, match="is damaged") as refusal:
            read(tmp_path / "a.heic")
        assert "extra" not in str(refusal.value)


def test_a_heic_without_its_extra_says_what_to_install(monkeypatch: Any, tmp_path: Path):
    monkeypatch.setattr("tinydigits.images.decode.register_heif", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))  # whatever it is called
    with pytest.raises(Failure, match=r"needs the extra heif; .*'\.\[heif\]'"):
        read(tmp_path / "a.jpg")


def test_frames_are_counted_and_chosen(tmp_path: Path, command: Command, folder: Path, capfd: Any):
    frames = [
        open_picture(PICTURES / name).convert("L").resize((120, 150))
        for name in ("exif-6.jpg", "thick-8.png")
    ]
    for name in ("both.gif", "both.tif"):
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert frames_of(open_picture(path)) == 2
        outcome = command("predict", path)
        assert "holds 2 frames, of which this is the first: see --frame" in outcome.err
        outcome = command("predict", path, "--frame", "2")
        assert outcome.out.startswith("8")
        assert outcome.err == ""
        outcome = command("predict", path, "--frame", "3")
        assert outcome.exit_code == 2
        assert "has no frame 3: it holds 2, from 1 on" in outcome.sentence
    shutil.copy(tmp_path / "both.gif", folder / "bar")
    capfd.readouterr()
    loaded(folder)
    assert "both.gif, which hold several frames, the first is taken" in capfd.readouterr().err


def test_open_files_and_bytes_are_pictures():
    content = SIX.read_bytes()
    with SIX.open("rb") as file:
        assert read(file)[0].digit == 6
    for picture in (content, bytearray(content), io.BytesIO(content)):
        assert read(picture)[0].digit == 6
    with pytest.raises(UsageError, match="open as text"):
        read(io.StringIO("no picture"))
    with pytest.raises(Failure, match="is no picture"):
        read(b"no picture")


def test_an_address_is_no_picture(command: Command):
    outcome = command("predict", "https://example.org/6.jpg")
    assert outcome.exit_code == 2
    assert "is an address: download the picture" in outcome.sentence


# -------------------------------------------------------------------------------- data that moved


@pytest.fixture
def moved(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run that was stopped after one of its epochs, and where its data are since."""
    monkeypatch.setattr("tinydigits.runs.write_report", lambda *_: None)
    config = dataclasses.replace(SMALL, epochs=2, data=folder, out=tmp_path / "run")
    next(runs.epochs(runs.start(config)))
    return tmp_path / "run", folder.rename(tmp_path / "elsewhere")


def test_a_run_goes_on_where_its_data_are_now(moved: tuple[Path, Path], command: Command):
    run_folder, data = moved
    outcome = command("train", "--resume", run_folder)
    assert outcome.exit_code == 2
    assert (
        "is gone: bring it back, or name the place of the same data by --data" in outcome.sentence
    )
    outcome = command("train", "--resume", run_folder, "--data", data, "--lr", "0.1")
    assert "a run keeps its options" in outcome.sentence
    outcome = command("train", "--resume", run_folder, f"--data={data}")
    assert outcome.exit_code == 0, outcome.err
    assert json.loads((run_folder / "config.json").read_text())["data"] == str(data)
    assert json.loads((run_folder / "summary.json").read_text())["dataset"] == "bars"
    assert command("evaluate", run_folder).exit_code == 0
    again = data.rename(data.with_name("further"))
    assert "name the place" in command("report", run_folder).sentence
    outcome = command("report", run_folder, "--data", again)
    assert outcome.exit_code == 0, outcome.err
    (run_folder / "model.tdq").unlink()
    words = ("export", run_folder / "model.safetensors", "--to", "c", "--out", data.parent / "c")
    assert "name the place" in command(*words).sentence
    assert command(*words, "--data", again).exit_code == 0


def test_other_data_do_not_pass_for_those_that_moved(moved: tuple[Path, Path], command: Command):
    run_folder, data = moved
    (data / "bar" / "0.png").unlink()
    shutil.copy(data / "bar" / "1.png", data / "bar" / "0.png")
    outcome = command("train", "--resume", run_folder, "--data", data)
    assert outcome.exit_code == 1
    assert "are not those that" in outcome.sentence
    assert json.loads((run_folder / "config.json").read_text())["data"] != str(data)


def test_a_newer_field_is_not_damage(moved: tuple[Path, Path], command: Command):
    path = moved[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"color": True}))
    outcome = command("train", "--resume", moved[0])
    assert outcome.exit_code == 1
    assert "has the field color, which this version of tinydigits does not know" in outcome.sentence
    assert "damaged" not in outcome.sentence


# -------------------------------------------------------------------------------- labels


def reading(box: tuple[int, int, int, int], digit: int | str | None = 7) -> Reading:
    return Reading(box, digit, np.full(10, 0.1), 0, np.zeros((28, 28), np.uint8))


def test_labels_cover_neither_each_other_nor_a_digit():
    rng = np.random.default_rng(0)
    for _ in range(20):
        boxes = [
            (int(x), int(y), int(x + w), int(y + h))
            for x, y, w, h in rng.integers((0, 0, 10, 10), (350, 250, 50, 50), (15, 4))
        ]
        readings = [reading(box, 7 if k % 3 else None) for k, box in enumerate(boxes)]
        places = placed(["7 100 %"] * 15, readings, (400, 300), ImageFont.load_default(12))
        found = [place for place in places if place is not None]
        assert found
        for k, place in enumerate(found):
            assert place[0] >= 0
            assert place[2] <= 400
            assert not any(overlap(place, other) for other in found[:k])
            assert not any(overlap(place, r.box) for r in readings if r.digit is not None)


def test_a_strip_along_the_border_makes_no_label_large(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    font = ImageFont.load_default
    monkeypatch.setattr(ImageFont, "load_default", lambda size: sizes.append(size) or font(size))
    boxes = [(50 * i + 40, 60, 50 * i + 70, 100) for i in range(5)]
    annotate(Image.new("L", (400, 1000), 230), [*map(reading, boxes)])
    usual = sizes[-1]
    strip = reading((0, 0, 20, 1000), None)
    annotate(Image.new("L", (400, 1000), 230), [strip, *map(reading, boxes)])
    assert sizes[-1] == usual


def test_names_are_drawn_in_a_font_that_has_them_or_as_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    picture = Image.new("L", (300, 200), 230)
    one = [reading((100, 100, 150, 150), "가")]
    monkeypatch.setattr("tinydigits.reader.output.font_path", lambda _: None)
    annotate(picture, one)
    assert "numbers stand for them in the picture: (1) 가" in capsys.readouterr().err
    monkeypatch.undo()
    assert fonts.lacking(ImageFont.load_default(12), "a7 가") == "가"
    path = fonts.font_path("字")
    if path is not None:
        assert fonts.has_all(path, "字")


# -------------------------------------------------------------------------------- unusual places


def test_a_copy_without_metadata_ends_in_no_traceback(tmp_path: Path):
    source = Path(__file__).parents[1] / "tinydigits"
    shutil.copytree(source, tmp_path / "tinydigits", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import importlib.metadata as m, sys\n"
        "def none(name): raise m.PackageNotFoundError(name)\n"
        "m.requires = none\n"
        "sys.modules['torch'] = None\n"
        "from tinydigits.cli import main\n"
        "main(['train'])"
    )
    outcome = run(sys.executable, "-c", code, cwd=tmp_path)
    assert outcome.exit_code == 1
    assert "needs torch, which is not installed" in outcome.sentence


def test_a_zip_of_the_package_says_to_unpack_it(tmp_path: Path):
    source = Path(__file__).parents[1] / "tinydigits"
    shutil.make_archive(str(tmp_path / "all"), "zip", source.parent, "tinydigits")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'all.zip')!r})\n"
        "import tinydigits\n"
        "assert 'all.zip' in tinydigits.__file__\n"
        "from tinydigits.cli import main\n"
        f"main(['predict', {str(SIX)!r}])"
    )
    outcome = run(sys.executable, "-c", code, cwd=tmp_path)
    assert outcome.exit_code == 1
    assert "if the package is in a zip file, unpack it" in outcome.sentence


def test_matplotlib_without_a_place_speaks_for_itself(command: Command, monkeypatch: Any):
    def refuse(*_: Any) -> None:
        raise OSError("Set the MPLCONFIGDIR environment variable to a writable directory")

    monkeypatch.setattr("tinydigits.runs.rewrite_report", refuse)
    outcome = command("report", "run")
    assert outcome.exit_code == 1
    assert outcome.sentence == (
        "tinydigits: Set the MPLCONFIGDIR environment variable to a writable directory."
    )


def test_steps_of_several_threads_that_have_slowed_are_told(capsys: Any):
    assert not slowed([1.0])
    assert not slowed([3.5, 1.0, 2.9])
    assert slowed([3.5, 1.0, 3.1])

    def told(threads: int, seconds: list[float]) -> str:
        run = SimpleNamespace(threads=threads, paces=[])
        ends = [0.0]
        for now in np.cumsum(seconds):
            watch_pace(run, ends, float(now))  # pyright: ignore[reportArgumentType]
        return capsys.readouterr().err

    slow = [1.0] * 2 * COMPARED + [4.0] * 2 * COMPARED
    assert told(2, slow).count("--threads 1") == 1
    assert told(1, slow) == ""
    assert told(2, [1.0] * COMPARED + [50.0] + [1.0] * COMPARED) == ""
