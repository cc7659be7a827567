"""Pictures of one symbol: training, `evaluate` and `predict` find it in the same way, and whole."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from lab.symbols import KINDS, SETS, draw, measure, picture
from tinydigits import Network, evaluate, prepare, quantize, read
from tinydigits.data.dataset import DataSource, load_dataset
from tinydigits.images.preprocess import ink_box
from tinydigits.images.symbol import see_symbol
from tinydigits.quant.tdq import load_quantized, save

Command = Callable[..., Outcome]


def pair(symbols: str, kind: str, place: int, number: int = 0) -> tuple[Image.Image, Image.Image]:
    """A drawn picture of a kind, and the same as the hand drew it."""
    clean = picture(symbols, place, "clean", 3, number)
    return picture(symbols, place, kind, 3, number), clean


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two images are: their correlation, -1 to 1, wherever within two pixels it is best.

    An image of nothing is like no other.
    """
    if not one.any() or not other.any():
        return 0.0
    shifts = [np.roll(one, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)]
    flat = other.ravel().astype(float)
    return max(float(np.corrcoef(s.ravel().astype(float), flat)[0, 1]) for s in shifts)


def untrained(symbols: str, folder: Path) -> Path:
    """The file of a network that tells the symbols of a set apart, somehow."""
    names = tuple(sorted(SETS[symbols]))
    network = Network(("pool", "conv3:6"), class_names=names, mean=0.1, std=0.3).eval()
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    save(quantize(network, images), folder / "model.tdq")
    return folder / "model.tdq"


@pytest.mark.parametrize("symbols", SETS)
def test_evaluate_and_predict_agree_on_every_picture(
    symbols: str, tmp_path: Path, command: Command
) -> None:
    model = untrained(symbols, tmp_path)
    network = load_quantized(model)
    for kind in KINDS:
        draw(tmp_path / kind, symbols, kind, each=1, seed=3)
    blank = tmp_path / "clean" / next(iter(SETS[symbols])) / "blank.png"
    Image.new("L", (60, 50), 200).save(blank)
    for kind in KINDS:
        folder = tmp_path / kind
        data = load_dataset(DataSource(folder), to_train=False)
        result = evaluate(network, data.test_images, data.test_labels)
        paths = [p for name in data.class_names for p in sorted((folder / name).iterdir())]
        outcome = command("predict", "--json", "--model", model, *paths)
        assert outcome.exit_code == 0, outcome.err
        said = [json.loads(line)["readings"] for line in outcome.out.splitlines()]
        expected = [
            None if unread else network.class_names[prediction]
            for unread, prediction in zip(result.unread, result.predictions, strict=True)
        ]
        # The classes of the folder and of the network are in the same order: all are there.
        assert [r[0]["digit"] if r else None for r in said] == expected
        assert all(len(r) <= 1 for r in said)


@pytest.mark.parametrize("symbols", SETS)
def test_on_even_paper_a_picture_is_what_prepare_makes_of_it(symbols: str) -> None:
    """So the program in C, which has `prepare`, sees the same."""
    for place in range(len(SETS[symbols])):
        for number in range(3):
            seen, _ = pair(symbols, "clean", place, number)
            symbol, gray = see_symbol(seen), np.asarray(seen)
            np.testing.assert_array_equal(symbol.image, prepare(gray))
            assert symbol.box == ink_box(gray)


@pytest.mark.parametrize("kind", ["even shadow", "vignette", "red on blue", "dark border"])
@pytest.mark.parametrize("symbols", SETS)
def test_light_color_and_borders_leave_the_symbol(symbols: str, kind: str) -> None:
    pairs = [pair(symbols, kind, place) for place in range(len(SETS[symbols]))]
    same = [alike(see_symbol(seen).image, see_symbol(clean).image) > 0.6 for seen, clean in pairs]
    assert np.mean(same) >= 0.7


def test_small_pictures_and_large_strokes_stay_as_they_are() -> None:
    small = np.full((28, 28), 255, np.uint8)
    small[4:24, 4:24] = 0
    np.testing.assert_array_equal(see_symbol(Image.fromarray(small)).image, prepare(small))
    large = np.full((200, 200), 220, np.uint8)
    large[30:170, 30:170] = 30  # nothing but ink in its middle
    np.testing.assert_array_equal(see_symbol(Image.fromarray(large)).image, prepare(large))


def test_a_picture_is_segmented_where_that_is_asked_for(tmp_path: Path, command: Command) -> None:
    model = untrained("several parts", tmp_path)
    page = Image.new("L", (700, 120), 230)
    for i in range(5):
        symbol = picture("twelve symbols", i, "clean", 3, 0)
        page.paste(symbol.resize((80, 80)), (140 * i + 20, 20))
    page.save(tmp_path / "page.png")
    assert len(read(page, model)) == 1
    assert len(read(page, model, segment=True)) == 5
    whole = command("predict", "--json", "--model", model, tmp_path / "page.png")
    many = command("predict", "--json", "--segment", "--model", model, tmp_path / "page.png")
    counts = [len(json.loads(outcome.out)["readings"]) for outcome in (whole, many)]
    assert counts == [1, 5]


def test_a_network_of_digits_segments(command: Command) -> None:
    path = Path(__file__).parent / "pictures" / "ruled-4271.jpg"
    assert len(read(path)) == 4
    assert len(read(path, segment=False)) == 1


def test_one_symbol_is_always_answered_but_where_more_confidence_is_asked_for(
    tmp_path: Path,
) -> None:
    model = untrained("frames", tmp_path)
    seen, _ = pair("frames", "clean", 0)
    (reading,) = read(seen, model)
    assert reading.digit in SETS["frames"]
    (reading,) = read(seen, model, min_confidence=1)
    assert reading.digit is None


@pytest.mark.slow
def test_light_costs_a_trained_network_little() -> None:
    for row in measure("twelve symbols", each=6):
        if row["kind"] in ("even shadow", "vignette", "red on blue", "dark border", "clean"):
            assert row["accuracy"] >= 95, row
