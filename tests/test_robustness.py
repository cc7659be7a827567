"""Damaged digits: what is done to them, by hand, and what the shipped networks then read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import corruptions
from lab.robustness import CORRUPTIONS, figure, files_of, robustness, table
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json
from tinydigits.network.model import load_model
from tinydigits.quant.tdq import load_quantized
from tinydigits.training.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def square() -> np.ndarray:
    """Two images of a white square of 8 pixels, a little off the center."""
    images = np.zeros((2, 28, 28), np.uint8)
    images[:, 8:16, 10:18] = 255
    return images


def center(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(image.shape)
    mass = image.astype(float)
    return float((rows * mass).sum() / mass.sum()), float((columns * mass).sum() / mass.sum())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_no_strength_changes_nothing_and_the_most_changes_much(
    kind: str, square: np.ndarray
) -> None:
    of_kind = CORRUPTIONS[kind]
    before = square.copy()
    assert (of_kind.corrupt(square, of_kind.none) == square).all()
    corrupted = of_kind.corrupt(square, of_kind.amounts[-1])
    assert (corrupted.dtype, corrupted.shape) == (np.uint8, square.shape)
    assert abs(corrupted.astype(int) - square).mean() > 5
    assert (square == before).all()
    assert of_kind.typical in of_kind.amounts


def test_gray_background_is_the_formula() -> None:
    images = np.array([[[0, 100, 255]]], np.uint8)
    assert corruptions.gray_background(images, 0.1).tolist() == [
        [[26, 116, 255]]
    ]  # 25.5 goes to the even


def test_half_the_ink_is_half_the_value() -> None:
    images = np.array([[[0, 100, 255]]], np.uint8)
    assert corruptions.pale_ink(images, 0.5).tolist() == [[[0, 50, 128]]]


def test_noise_has_its_spread_and_is_always_the_same() -> None:
    images = np.full((4, 28, 28), 128, np.uint8)
    noisy = corruptions.noise(images, 0.1)
    assert noisy.std() == pytest.approx(25.5, abs=1)
    assert (noisy == corruptions.noise(images, 0.1)).all()


def test_a_blur_keeps_the_ink(square: np.ndarray) -> None:
    assert corruptions.blur(square, 1.0).sum() == pytest.approx(square.sum(), rel=0.01)


def test_a_shift_goes_as_far_as_it_says(square: np.ndarray) -> None:
    for image, moved in zip(square, corruptions.shift(square, 3.0), strict=True):
        (y, x), (to_y, to_x) = center(image), center(moved)
        assert np.hypot(to_y - y, to_x - x) == pytest.approx(3, abs=0.02)


def test_a_rotation_goes_about_the_center_either_way(square: np.ndarray) -> None:
    angles = []
    for image, turned in zip(square, corruptions.rotation(square, 30.0), strict=True):
        before, after = (complex(*center(i)) - complex(13.5, 13.5) for i in (image, turned))
        assert abs(after) == pytest.approx(abs(before), abs=0.05)
        angles.append(np.degrees(np.angle(after / before)))
    assert sorted(angles) == pytest.approx([-30, 30], abs=1.5)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_scale_changes_the_area(square: np.ndarray, factor: float) -> None:
    scaled = corruptions.scale(square, factor)
    assert scaled.sum() == pytest.approx(square.sum() * factor**2, rel=0.1)


@pytest.mark.parametrize(
    ("corrupt", "width"), [(corruptions.thicker, 10), (corruptions.thinner, 6)]
)
def test_strokes_gain_and_lose_pixels_of_their_width(
    square: np.ndarray, corrupt: Any, width: int
) -> None:
    row = corrupt(square, 2.0)[0, 12] / 255  # through the middle of the square
    assert row.sum() == pytest.approx(width, abs=0.3)


# ------------------------------------------------------------------------- the shipped networks


def test_it_measures_both_networks_and_leaves_other_presets_alone(
    few: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.robustness.load_mnist", lambda: few)
    robustness(("tiny2k",), tmp_path, jobs=1, digits=20)
    made = robustness(("tiny1k",), tmp_path, jobs=1, digits=50)
    assert made == read_json(tmp_path / "robustness.json")
    assert list(made["presets"]) == ["tiny2k", "tiny1k"]
    row = made["presets"]["tiny1k"]
    images, labels = few.test_images[:50], few.test_labels[:50]
    blurred = corruptions.blur(images, 1.5)
    (found,) = (r for r in row["corrupted"]["blur"] if r["amount"] == 1.5)
    for kind, network in (("float", load_model("tiny1k")), ("integers", load_quantized("tiny1k"))):
        assert row["clean"][kind] == evaluate(network, images, labels).accuracy
        assert found[kind] == evaluate(network, blurred, labels).accuracy


def test_every_shipped_network_was_measured_as_it_is() -> None:
    rows = read_json(RESULTS / "robustness.json")["presets"]
    assert list(rows) == list(PRESETS)
    for name, row in rows.items():
        assert row["sha256"] == files_of(name), f"run python -m lab robustness {name}"
        assert row["digits"] == 10_000
        for kind, of_kind in CORRUPTIONS.items():
            assert tuple(r["amount"] for r in row["corrupted"][kind]) == of_kind.amounts


def test_table_and_figure_show_every_preset_and_every_kind() -> None:
    made = read_json(RESULTS / "robustness.json")
    head, _, *lines = table(made).splitlines()
    assert all(f"{kind}, {tested.unit}: " in head for kind, tested in CORRUPTIONS.items())
    assert [line.split("`")[1] for line in lines[: len(PRESETS)]] == list(PRESETS)
    panels = figure(made).axes
    assert [axes.get_title() for axes in panels] == list(CORRUPTIONS)
    for axes in panels:
        assert {line.get_label() for line in axes.get_lines()} >= {*PRESETS}
