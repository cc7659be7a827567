import contextlib
import dataclasses
import io
import json
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image, ImageDraw, ImageFont

from lab import drawings
from lab.pages import KINDS, compose_page, score
from lab.pictures import moved, summed, verdicts
from lab.rejector import train_rejector
from tinydigits import Failure, evaluate, read
from tinydigits.data.mnist import Mnist
from tinydigits.files import read_json
from tinydigits.images.decode import LARGEST, register_heif
from tinydigits.quant.tdq import load_quantized
from tinydigits.reader.output import text_of
from tinydigits.reader.recognize import MODEL, Reading
from tinydigits.reader.rejection import SHARED_THRESHOLD, rejection_threshold
from tinydigits.reader.text_lines import lines_of
from tinydigits.training.presets import PRESETS

PICTURES = Path(__file__).parent / "pictures"
RESULTS = Path(__file__).parents[1] / "results"
DRAWN = sorted(path.name for path in PICTURES.iterdir() if "-" in path.stem)


@pytest.fixture(scope="session")
def seven(mnist: Mnist) -> Image.Image:
    """A 7 on gray paper, dark on light, as a picture of 84 x 84 pixels."""
    image = mnist.test_images[0]
    assert mnist.test_labels[0] == 7
    paper = 230 - image * (200 / 255)
    return Image.fromarray(paper.astype(np.uint8)).resize((84, 84))


def lines_in(readings: list[Reading]) -> str:
    """The digits of each line, lines parted by _; "none" where there are none."""
    lines: dict[int, str] = {}
    for reading in readings:
        if reading.digit is not None:
            lines[reading.line] = lines.get(reading.line, "") + str(reading.digit)
    return "_".join(lines[n] for n in sorted(lines)) or "none"


def the_digit(picture: Any) -> Any:
    (reading,) = read(picture)
    return reading.digit


# ----------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("name", DRAWN)
def test_reads_pictures_of_every_kind(name: str) -> None:
    *_, answer = Path(name).stem.split("-")
    if name.endswith(".heic"):
        pytest.importorskip("pillow_heif", reason="needs the extra heif")
    assert lines_in(read(PICTURES / name)) == answer


def black_or_white(picture: Image.Image) -> Image.Image:
    """One bit per pixel."""
    return Image.fromarray(np.asarray(picture) > 128)


def deep(picture: Image.Image) -> Image.Image:
    """16 bits per pixel, of which a quarter is used."""
    return Image.fromarray(np.asarray(picture).astype(np.uint16) * 60 + 3000)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda p, mode=mode: p.convert(mode) for mode in ("RGB", "CMYK", "LA", "I", "F", "HSV")),
        lambda p: p.convert("P"),
        black_or_white,
        lambda p: p.convert("RGB").convert("YCbCr"),
        deep,
        lambda p: Image.fromarray(255 - np.asarray(p)),
        lambda p: np.asarray(p),
        lambda p: np.asarray(p) / 255,
        lambda p: np.asarray(p) > 128,
        lambda p: np.asarray(p).astype(np.uint16) * 257,
        lambda p: np.asarray(p.convert("RGB")),
        lambda p: np.asarray(p.convert("RGBA")),
        lambda p: np.asarray(p)[::-1][::-1],
    ],
)
def test_reads_every_mode_and_array(change: Callable[[Image.Image], Any], seven: Any) -> None:
    assert the_digit(change(seven)) == 7


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"])
def test_reads_every_format(kind: str, seven: Image.Image, tmp_path: Path) -> None:
    seven.convert("RGBA" if kind == "ICO" else "L").save(tmp_path / "7", kind)
    assert the_digit(tmp_path / "7") == 7


@pytest.mark.parametrize("color", [(255, 255, 255), (250, 220, 90), (0, 0, 0), (30, 90, 200)])
@pytest.mark.parametrize("hidden", [0, 255])
def test_what_is_under_full_transparency_does_not_matter(
    color: tuple[int, ...], hidden: int, mnist: Mnist
) -> None:
    opacity = np.asarray(Image.fromarray(mnist.test_images[0]).resize((84, 84)))
    pixels = np.full((84, 84, 4), hidden, np.uint8)
    pixels[opacity > 0, :3] = color
    pixels[:, :, 3] = opacity
    assert the_digit(pixels) == 7


@pytest.mark.parametrize("orientation", range(1, 9))
def test_obeys_the_orientation(orientation: int, seven: Image.Image, tmp_path: Path) -> None:
    back = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
        6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
    }  # fmt: skip
    wide = Image.new("L", (120, 84), 230)
    wide.paste(seven, (36, 0))
    turned = wide
    if orientation > 1:
        turned = wide.transpose(Image.Transpose[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "7.png", exif=exif)
    (reading,) = read(tmp_path / "7.png")
    (plain,) = read(wide)
    assert reading.digit == 7
    assert reading.box == plain.box


@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_the_stem_of_a_large_digit_is_no_ruling(resampling: Image.Resampling, mnist: Mnist) -> None:
    large = Image.fromarray(mnist.test_images[0]).resize((280, 280), resampling)
    assert the_digit(large) == 7


def test_boxes_are_in_pixels_of_the_original(seven: Image.Image) -> None:
    large = Image.new("L", (3000, 2400), 230)
    large.paste(seven.resize((840, 840)), (1500, 700))
    (reading,) = read(large)
    left, top, right, bottom = reading.box
    assert reading.digit == 7
    assert 1500 < left < 1800 < 1900 < right < 2340
    assert 700 < top < 1000 < 1300 < bottom < 1540


def test_reads_slanting_lines_in_order() -> None:
    boxes = [(60 * x, 90 * y + 6 * x, 60 * x + 30, 90 * y + 6 * x + 40)
             for y in range(3) for x in range(9)]  # fmt: skip
    order = np.random.default_rng(0).permutation(len(boxes))
    lines = lines_of(np.array(boxes)[order])
    assert lines.tolist() == [int(k) // 9 for k in order]


@pytest.mark.parametrize(
    ("kind", "pages"),
    [(0, 1), (5, 1), *(pytest.param(k, 4, marks=pytest.mark.slow) for k in range(6))],
)
def test_reads_composed_pages(kind: int, pages: int, mnist: Mnist) -> None:
    scores = []
    for k in range(pages):
        rng = np.random.default_rng((7, kind, k))
        page = compose_page(
            rng, mnist.test_images, mnist.test_labels, KINDS[kind % 3], kind >= 3
        )  # fmt: skip
        scores.append(score(page, read(page.picture)))
    total = summed(scores)
    assert total["right"] >= 0.9 * total["digits"]
    assert total["false"] <= 1


@pytest.mark.parametrize("count", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_moved_digits_keep_their_answer(count: int, mnist: Mnist) -> None:
    network = load_quantized(MODEL)
    lost = 0
    for k in range(count):
        picture = moved(np.random.default_rng(k), mnist.test_images[k])
        predictions = [int(reading.probabilities.argmax()) for reading in read(picture, network)]
        lost += predictions != [int(network.log_probs(mnist.test_images[k : k + 1]).argmax())]
    assert lost <= 1


# -------------------------------------------------------------------------------- rejector


def test_a_lower_threshold_reads_more_and_a_higher_one_less(seven: Image.Image) -> None:
    letters = PICTURES / "letters-none.png"
    assert lines_in(read(letters)) == "none"
    assert lines_in(read(letters, min_confidence=0)) != "none"
    assert lines_in(read(seven, min_confidence=1)) == "none"


def test_probabilities_lack_what_speaks_against_a_digit(seven: Image.Image) -> None:
    (reading,) = read(seven)
    assert reading.confidence == reading.probabilities.max() > 0.9
    assert 0.9 < reading.probabilities.sum() <= 1 + 1e-6
    for reading in read(PICTURES / "letters-none.png"):
        assert reading.confidence < (load_quantized(MODEL).rejection_threshold or 0)


def test_the_rejection_thresholds_are_what_was_measured() -> None:
    measured = read_json(RESULTS / "integers.json")["presets"][MODEL]["rejection_threshold"]
    assert load_quantized(MODEL).rejection_threshold == measured
    assert read_json(RESULTS / "rejector.json")["shared_threshold"] == pytest.approx(
        SHARED_THRESHOLD, abs=5e-4
    )
    for name in PRESETS:
        network = load_quantized(name)
        own = network.rejection_threshold
        assert rejection_threshold(network, None) == (SHARED_THRESHOLD if own is None else own)


def test_a_network_of_other_classes_without_a_threshold_rejects_nothing() -> None:
    network = load_quantized(MODEL)
    description = dataclasses.replace(network.description, mean=0.5)
    other = dataclasses.replace(network, description=description, rejection_threshold=None)
    assert rejection_threshold(other, None) == 0
    assert lines_in(read(PICTURES / "letters-none.png", other, segment=True)) != "none"


def test_what_is_required_was_measured() -> None:
    measured = read_json(RESULTS / "pictures.json")
    assert measured["all_pages"]["pages"] == 500
    assert measured["moved"]["digits"] >= 2_000
    assert {row.what for row in verdicts(measured) if not row.reaches(row.required)} == MISSED


MISSED = {"drawn digits of hands that were held out rejected"}
"""What falls short of what is required, by a little: docs/use.md has the figures."""


def test_finds_no_digits_in_a_page_of_text_but_those_of_a_receipt() -> None:
    def written(lines: list[str]) -> Image.Image:
        image = Image.new("L", (640, 40 * len(lines) + 20), 240)
        for k, line in enumerate(lines):
            ImageDraw.Draw(image).text((20, 40 * k + 10), line, 30, ImageFont.load_default(26))
        return image

    text = ["The quick brown fox jumps over the", "golden dog and looks for some more"] * 2
    assert lines_in(read(written(text))) == "none"
    receipt = ["Bread    3.45", "Butter   2.99", "Total    6.44"]
    digits = [reading.digit for reading in read(written(receipt)) if reading.digit is not None]
    assert digits == [3, 4, 5, 2, 9, 9, 6, 4, 4]


# ----------------------------------------------------------------------------- command line


def test_prints_one_digit_with_its_confidence(command: Callable[..., Outcome]) -> None:
    outcome = command("predict", PICTURES / "exif-6.jpg")
    assert outcome.exit_code == 0
    assert re.fullmatch(r"6 \(\d+\.\d %\)\n", outcome.out)


def test_prints_a_line_for_each_line(command: Callable[..., Outcome]) -> None:
    outcome = command("predict", PICTURES / "slanting-31415_92653_58979.jpg")
    assert outcome.out == "31415\n92653\n58979\n"


def test_parts_numbers_and_marks_the_unsure() -> None:
    def reading(digit: int | None, left: int, line: int, sure: float = 0.99) -> Reading:
        probabilities = np.full(10, (1 - sure) / 9)
        probabilities[digit or 0] = sure
        box = (left, 50 * line, left + 20, 50 * line + 30)
        return Reading(box, digit, probabilities, line, np.zeros((28, 28), np.uint8))

    readings = [
        reading(1, 0, 0), reading(2, 25, 0), reading(3, 90, 0), reading(None, 120, 0, 0.1),
        reading(4, 145, 0), reading(5, 0, 1, 0.7),
    ]  # fmt: skip
    assert text_of(readings) == "12 3 4\n5?"
    assert text_of(readings[:1]) == "1 (99.0 %)"
    assert text_of([]) == text_of(readings[3:4]) == ""


def test_prints_json(command: Callable[..., Outcome]) -> None:
    names = [str(PICTURES / name) for name in ("ruled-4271.jpg", "divide-none.png")]
    outcome = command("predict", "--json", *names)
    first, second = map(json.loads, outcome.out.splitlines())
    assert [first["picture"], second["picture"]] == names
    assert [reading["digit"] for reading in first["readings"]] == [4, 2, 7, 1]
    assert all(reading["digit"] is None for reading in second["readings"])
    for entry in first["readings"]:
        assert set(entry) == {"digit", "confidence", "box", "line", "probabilities"}
        assert entry["confidence"] == max(entry["probabilities"])
        assert len(entry["probabilities"]) == 10
        assert entry["line"] == 0
    boxes = [entry["box"] for entry in first["readings"]]
    assert boxes == sorted(boxes)


def test_one_bad_file_does_not_stop_the_others(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    outcome = command(
        "predict", PICTURES / "pale-2.jpg", bad, tmp_path / "none.png", PICTURES / "exif-6.jpg"
    )
    assert outcome.exit_code == 1
    assert [line.split(": ")[1][0] for line in outcome.out.splitlines()] == ["2", "6"]
    assert "bad.png is no picture" in outcome.err
    assert "There is no picture" in outcome.err
    assert "Traceback" not in outcome.err


def test_says_when_there_is_nothing(command: Callable[..., Outcome]) -> None:
    outcome = command("predict", PICTURES / "blank-none.jpg")
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert "no digit found" in outcome.err


def test_draws_what_it_read_and_what_it_saw(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    annotated, shown = tmp_path / "a.jpg", tmp_path / "s.png"
    name = PICTURES / "slanting-31415_92653_58979.jpg"
    assert command("predict", name, "--annotate", annotated, "--show", shown).exit_code == 0
    with Image.open(annotated) as image, Image.open(name) as original:
        assert image.size == original.size
        assert np.ptp(np.asarray(image).astype(int), axis=2).max() > 60  # color on gray
    with Image.open(shown) as image:
        assert image.size == (5 * 30 * 4, 3 * 30 * 4)


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch, seven: Image.Image) -> None:
    content = io.BytesIO()
    seven.save(content, "PNG")
    content.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    assert the_digit("-") == 7


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("none.png",),
        (".",),
        ("exif-6.jpg", "--min-confidence", "1.5"),
        ("exif-6.jpg", "--model", "no-such-model"),
        ("exif-6.jpg", "--annotate", "a.doc"),
        ("exif-6.jpg", "pale-2.jpg", "--show", "a.png"),
    ],
)
def test_usage_error_is_one_sentence(
    words: tuple[str, ...], command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PICTURES)
    outcome = command("predict", *words)
    assert outcome.exit_code == 2
    if words:
        assert outcome.sentence


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5)), "no pixels"),
        (np.zeros((5, 5, 2)), "A picture is"),
        (np.zeros(5), "A picture is"),
        (np.full((5, 5), np.nan), "finite"),
        (np.array([["a"]]), "numbers"),
        (object(), "must be an array|A picture"),
    ],
)
def test_refuses_what_is_no_picture(array: Any, message: str) -> None:
    with pytest.raises(Failure, match=message):
        read(array)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 2), (7, 3), (28, 28)])
@pytest.mark.parametrize("fill", ["flat", "noise"])
def test_reads_any_size(shape: tuple[int, int], fill: str) -> None:
    rng = np.random.default_rng(0)
    array = np.full(shape, 200) if fill == "flat" else rng.integers(0, 256, shape)
    readings = read(array.astype(np.uint8))
    assert fill == "noise" or not readings


# ------------------------------------------------------------------------------- bad files


def png(width: int, height: int) -> bytes:
    """A PNG of one gray level whose header names any size; the pixels are a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(10_000, 10_000), (1, LARGEST), (60_000, 60_000)])
def test_refuses_a_bomb_before_it_is_unpacked(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(*_: Any) -> None:
        raise AssertionError("the picture was unpacked")

    monkeypatch.setattr(Image.Image, "load", unpack)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", unpack)
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(Failure, match="pixels"):
        read(tmp_path / "bomb.png")


def test_refuses_a_truncated_picture(tmp_path: Path) -> None:
    whole = (PICTURES / "squared-5.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failure, match="damaged"):
        read(tmp_path / "half.jpg")


def every_format() -> dict[str, bytes]:
    """A small picture in each format that is both written and read here."""
    Image.init()
    register_heif()
    found: dict[str, bytes] = {}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8))
    for kind in sorted(Image.SAVE.keys() & Image.OPEN.keys()):
        for mode in ("L", "RGB", "RGBA", "1", "F"):
            content = io.BytesIO()
            with contextlib.suppress(Exception):  # many formats know few modes
                picture.resize((64, 64)).convert(mode).save(content, kind)
                found[kind] = content.getvalue()
                break
    return found


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """A file with some bytes changed, cut off, or repeated."""
    content = bytearray(whole)
    for _ in range(int(rng.integers(1, 8))):
        at = int(rng.integers(len(content)))
        if rng.random() < 0.5:
            at = int(rng.integers(min(len(content), 64)))
        match rng.integers(4):
            case 0:
                content[at] = int(rng.integers(256))
            case 1:
                content[at] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2 if len(content) > 20:
                del content[at : at + int(rng.integers(1, 9))]
            case _:
                content[at:at] = rng.bytes(int(rng.integers(1, 5)))
    if rng.random() < 0.2:
        del content[int(rng.integers(8, max(9, len(content)))) :]
    return bytes(content)


def survive(rounds: int, tmp_path: Path) -> int:
    """Read damaged files of every format; how many were read or refused in a sentence."""
    network = load_quantized(MODEL)
    path = tmp_path / "damaged"
    files = 0
    for kind, whole in every_format().items():
        for k in range(rounds):
            path.write_bytes(damaged(np.random.default_rng((k, *kind.encode())), whole))
            began = time.perf_counter()
            with contextlib.suppress(Failure):
                read(path, network)
            assert time.perf_counter() - began < 20, (kind, k)
            files += 1
    return files


def test_survives_damaged_files(tmp_path: Path) -> None:
    assert survive(3, tmp_path) > 50


@pytest.mark.slow
def test_survives_thousands_of_damaged_files(tmp_path: Path) -> None:
    assert survive(200, tmp_path) > 3000


@pytest.mark.slow
def test_a_rejector_learns_to_tell_digits_from_what_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawings, "HANDWRITING", {})  # those fonts are not on every machine
    network, images, labels = train_rejector(count=1000, epochs=2)
    assert network.class_names == ("digit", "none")
    assert evaluate(network, images, labels).accuracy > 80
