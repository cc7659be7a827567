"""Damaged digits: what is done to them, by hand, and what the shipped networks then read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydigits.config import PRESETS
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json
from tinydigits.integer import load
from tinydigits.lab import damage
from tinydigits.lab.stress import STRESSES, figure, files_of, stress, table
from tinydigits.model import load_model

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def square() -> np.ndarray:
    """Two images of a white square of 8 pixels, a little off the centre."""
    images = np.zeros((2, 28, 28), np.uint8)
    images[:, 8:16, 10:18] = 255
    return images


def centre(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(image.shape)
    mass = image.astype(float)
    return float((rows * mass).sum() / mass.sum()), float((columns * mass).sum() / mass.sum())


@pytest.mark.parametrize("kind", STRESSES)
def test_no_strength_changes_nothing_and_the_most_changes_much(
    kind: str, square: np.ndarray
) -> None:
    of_kind = STRESSES[kind]
    before = square.copy()
    assert (of_kind.harm(square, of_kind.none) == square).all()
    damaged = of_kind.harm(square, of_kind.amounts[-1])
    assert (damaged.dtype, damaged.shape) == (np.uint8, square.shape)
    assert abs(damaged.astype(int) - square).mean() > 5
    assert (square == before).all()
    assert of_kind.typical in of_kind.amounts


def test_grey_paper_is_the_formula() -> None:
    images = np.array([[[0, 100, 255]]], np.uint8)
    assert damage.grey_paper(images, 0.1).tolist() == [[[26, 116, 255]]]  # 25.5 goes to the even


def test_half_the_ink_is_half_the_value() -> None:
    images = np.array([[[0, 100, 255]]], np.uint8)
    assert damage.pale_ink(images, 0.5).tolist() == [[[0, 50, 128]]]


def test_noise_has_its_spread_and_is_always_the_same() -> None:
    images = np.full((4, 28, 28), 128, np.uint8)
    noisy = damage.noise(images, 0.1)
    assert noisy.std() == pytest.approx(25.5, abs=1)
    assert (noisy == damage.noise(images, 0.1)).all()


def test_a_blur_keeps_the_ink(square: np.ndarray) -> None:
    assert damage.blur(square, 1.0).sum() == pytest.approx(square.sum(), rel=0.01)


def test_a_shift_goes_as_far_as_it_says(square: np.ndarray) -> None:
    for image, moved in zip(square, damage.shift(square, 3.0), strict=True):
        (y, x), (to_y, to_x) = centre(image), centre(moved)
        assert np.hypot(to_y - y, to_x - x) == pytest.approx(3, abs=0.02)


def test_a_rotation_goes_about_the_centre_either_way(square: np.ndarray) -> None:
    angles = []
    for image, turned in zip(square, damage.rotation(square, 30.0), strict=True):
        before, after = (complex(*centre(i)) - complex(13.5, 13.5) for i in (image, turned))
        assert abs(after) == pytest.approx(abs(before), abs=0.05)
        angles.append(np.degrees(np.angle(after / before)))
    assert sorted(angles) == pytest.approx([-30, 30], abs=1.5)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_scale_changes_the_area(square: np.ndarray, factor: float) -> None:
    scaled = damage.scale(square, factor)
    assert scaled.sum() == pytest.approx(square.sum() * factor**2, rel=0.1)


@pytest.mark.parametrize(("harm", "width"), [(damage.thicker, 10), (damage.thinner, 6)])
def test_strokes_gain_and_lose_pixels_of_their_width(
    square: np.ndarray, harm: Any, width: int
) -> None:
    row = harm(square, 2.0)[0, 12] / 255  # through the middle of the square
    assert row.sum() == pytest.approx(width, abs=0.3)


# ------------------------------------------------------------------------- the shipped networks


def test_it_measures_both_networks_and_leaves_other_presets_alone(
    few: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinydigits.lab.stress.load_mnist", lambda: few)
    stress(("tiny2k",), tmp_path, jobs=1, digits=20)
    made = stress(("tiny1k",), tmp_path, jobs=1, digits=50)
    assert made == read_json(tmp_path / "stress.json")
    assert list(made["presets"]) == ["tiny2k", "tiny1k"]
    row = made["presets"]["tiny1k"]
    images, labels = few.test_images[:50], few.test_labels[:50]
    blurred = damage.blur(images, 1.5)
    (found,) = (r for r in row["damaged"]["blur"] if r["amount"] == 1.5)
    for kind, network in (("float", load_model("tiny1k")), ("integers", load("tiny1k"))):
        assert row["clean"][kind] == evaluate(network, images, labels).accuracy
        assert found[kind] == evaluate(network, blurred, labels).accuracy


def test_every_shipped_network_was_measured_as_it_is() -> None:
    rows = read_json(RESULTS / "stress.json")["presets"]
    assert list(rows) == list(PRESETS)
    for name, row in rows.items():
        assert row["sha256"] == files_of(name), f"run tinydigits lab stress {name}"
        assert row["digits"] == 10_000
        for kind, of_kind in STRESSES.items():
            assert tuple(r["amount"] for r in row["damaged"][kind]) == of_kind.amounts


def test_table_and_figure_show_every_preset_and_every_kind() -> None:
    made = read_json(RESULTS / "stress.json")
    head, _, *lines = table(made).splitlines()
    assert all(f"{kind}, {tested.unit}: " in head for kind, tested in STRESSES.items())
    assert [line.split("`")[1] for line in lines[: len(PRESETS)]] == list(PRESETS)
    panels = figure(made).axes
    assert [axes.get_title() for axes in panels] == list(STRESSES)
    for axes in panels:
        assert {line.get_label() for line in axes.get_lines()} >= {*PRESETS}
