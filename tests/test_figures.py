"""Each picture, at the sizes that occur and at the edges: no error at all, one epoch."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tinydigits.errors import Failure
from tinydigits.evaluation import Evaluation
from tinydigits.network.architecture import DIGITS
from tinydigits.report import figures

NAMES = ("ant", "bee", "cicada")
"""Of other classes than digits."""


def make_evaluation(errors: int, n: int = 2000, names: Sequence[str] = DIGITS) -> Evaluation:
    """Sure of every digit, but for `errors` of them, where the next class is predicted."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % len(names)
    scores = random.normal(0, 1, (n, len(names)))
    scores[np.arange(n), labels] += 20
    wrong = random.choice(n, errors, replace=False)
    scores[wrong, (labels[wrong] + 1) % len(names)] += random.uniform(24, 30, errors)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return Evaluation(log_probs.astype(np.float32), labels, tuple(names))


def make_history(epochs: int, part: str = "test") -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 0.6 / epoch,
            "train_accuracy": 100 - 14 / epoch,
            f"{part}_loss": 0.2 / epoch,
            f"{part}_accuracy": 100 - 3 / epoch,
            "lr": 0.01,
            "seconds": 10.5,
        }
        for epoch in range(1, epochs + 1)
    ]


def make_images(n: int = 2000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    """All that is written in a figure, but for the marks of its axes."""
    figure.draw_without_rendering()
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return [text for text in found if text]


@pytest.mark.parametrize("epochs", [1, 2, 15, 40])
def test_curves_show_every_epoch_and_the_goal(epochs: int):
    figure = figures.curves(make_history(epochs))
    loss, accuracy = figure.axes
    for axes in (loss, accuracy):
        for line in axes.get_lines()[:2]:
            assert list(line.get_xdata()) == list(range(1, epochs + 1))  # pyright: ignore
    assert "goal: 99.4 %" in texts(figure)
    bottom, top = accuracy.get_ylim()
    assert bottom > 100 - 99.4 > top


def test_the_marks_of_the_accuracy_are_accuracies():
    _, accuracy = figures.curves(make_history(15)).axes
    show = accuracy.yaxis.get_major_formatter()
    assert [show(error) for error in (2, 1, 0.6)] == ["98", "99", "99.4"]
    bottom, top = accuracy.get_ylim()
    marks = [show(mark) for mark in accuracy.get_yticks() if top < mark < bottom]
    assert {"90", "98", "99", "99.4", "99.6"} <= set(marks)


def test_curves_of_perfect_or_infinite_values():
    rows = make_history(2)
    rows[1] |= {"train_accuracy": 100.0, "test_accuracy": 100.0}
    rows[1] |= {"train_loss": 0.0, "test_loss": float("inf")}
    assert figures.png(figures.curves(rows)).startswith(b"\x89PNG")


@pytest.mark.parametrize("part", ["test", "validation"])
def test_curves_draw_the_digits_that_are_reported_on(part: str):
    rows = make_history(4, part)
    for axes, value in zip(figures.curves(rows).axes, ("loss", "accuracy"), strict=True):
        drawn = [row[f"{part}_{value}"] for row in rows]
        if value == "accuracy":
            drawn = [100 - accuracy for accuracy in drawn]
        assert list(axes.get_lines()[1].get_ydata()) == drawn  # pyright: ignore


def test_curves_name_the_digits_that_are_reported_on():
    found = texts(figures.curves(make_history(1, "validation"), "held-out training digits"))
    assert "held-out training digits" in found
    assert not any("test digits" in text for text in found)


@pytest.mark.parametrize(("errors", "heading"), [(1, "(1)"), (60, "(60)"), (90, "(90)")])
def test_misclassified_shows_every_error_the_worst_first(errors: int, heading: str):
    evaluation = make_evaluation(errors)
    images = make_images()
    figure = figures.misclassified(evaluation, images)
    shown = figure.axes[0].get_images()
    assert len(shown) == errors
    order = evaluation.errors()
    for picture, index in zip(shown, order, strict=True):
        np.testing.assert_array_equal(np.asarray(picture.get_array()), images[index])
    worst = order[0]
    found = texts(figure)
    assert heading in found[0]
    assert found[1] == f"{evaluation.labels[worst]} → {evaluation.predictions[worst]}"
    assert found[2] == figures.percent(float(evaluation.confidence[worst]))


def test_misclassified_stays_below_its_limit_and_says_so():
    figure = figures.misclassified(make_evaluation(60), make_images(), limit=12)
    assert len(figure.axes[0].get_images()) == 12
    assert "worst 12 of 60" in texts(figure)[0]


def test_confusion_writes_every_count_and_colors_only_errors():
    evaluation = make_evaluation(60)
    counts = evaluation.confusion()
    figure = figures.confusion(evaluation)
    found = texts(figure)
    written = sorted(int(text) for text in found if text.isdigit())
    assert written == sorted(int(count) for count in counts.flat if count)
    colored = figure.axes[0].get_images()[0].get_array()
    assert colored is not None
    assert np.isnan(np.ma.filled(colored, np.nan).diagonal()).all()
    true, prediction, count = evaluation.largest_confusions()[0]
    assert any(f"{true} taken for {prediction}: {count} times" in text for text in found)


def test_a_single_confusion_is_said_in_english():
    evaluation = make_evaluation(1)
    ((true, prediction, _),) = evaluation.largest_confusions()
    assert figures.describe_confusions(evaluation) == [f"{true} taken for {prediction}: once"]


def test_classes_have_the_names_that_the_evaluation_says():
    evaluation = make_evaluation(6, n=30, names=NAMES)
    figure = figures.confusion(evaluation)
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(NAMES)
    assert axes.get_images()[0].get_size() == (3, 3)
    for label, prediction, count in evaluation.largest_confusions():
        times = "once" if count == 1 else f"{count} times"
        words = f"{NAMES[label]} taken for {NAMES[prediction]}: {times}"
        assert words in " ".join(texts(figure)).replace("\n", " ")
    found = texts(figures.misclassified(evaluation, make_images(30)))
    worst = evaluation.errors()[0]
    label, prediction = (NAMES[of[worst]] for of in (evaluation.labels, evaluation.predictions))
    assert f"{label} → {prediction}" in found


def test_reliability_says_the_error_and_how_many_digits_a_bin_has():
    evaluation = make_evaluation(60)
    found = texts(figures.reliability(evaluation))
    digits, _, _ = evaluation.calibration()
    assert [f"{count:,}" for count in digits] == [text for text in found if text[0].isdigit()]
    assert f"{100 * evaluation.expected_calibration_error():.2f} %" in " ".join(found)
    sure = evaluation.confidence > 0.99
    wrong = (sure & (evaluation.predictions != evaluation.labels)).sum()
    assert any(f"{sure.sum():,} of 2,000 digits, and {wrong} of" in text for text in found)


def test_without_errors_every_picture_says_so():
    evaluation = make_evaluation(0)
    found = texts(figures.misclassified(evaluation, make_images()))
    assert found == ["None of 2,000 digits is misread"]
    assert "No digit is taken for another." in texts(figures.confusion(evaluation))
    for draw in (figures.confusion, figures.reliability):
        assert figures.png(draw(evaluation)).startswith(b"\x89PNG")


def test_one_digit_is_enough():
    evaluation = Evaluation(np.log(np.full((1, 10), 0.1, np.float32)), np.array([3]))
    for figure in (
        figures.misclassified(evaluation, make_images(1)),
        figures.confusion(evaluation),
        figures.reliability(evaluation),
    ):
        assert figures.png(figure).startswith(b"\x89PNG")


def test_the_interval_is_wilsons():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
    below, above = figures.wilson(np.array([263, 148, 20]), np.array([81 / 263, 15 / 148, 0]))
    np.testing.assert_allclose(below, [0.2553, 0.0624, 0], atol=6e-5)
    np.testing.assert_allclose(above, [0.3662, 0.1605, 0.1611], atol=6e-5)


def test_what_is_not_certain_is_not_rounded_to_certainty():
    assert [figures.percent(p) for p in (0.5, 0.9985, 0.99999, 1.0)] == [
        "50.0 %", "99.9 %", "over 99.9 %", "over 99.9 %",
    ]  # fmt: skip


def test_the_same_figure_is_saved_as_the_same_bytes(tmp_path: Path):
    for name in ("first.png", "second.png"):
        figures.save(figures.curves(make_history(3)), tmp_path / name)
    first, second = (tmp_path / name for name in ("first.png", "second.png"))
    assert first.read_bytes() == second.read_bytes()
    picture = Image.open(first)
    assert picture.size == (1200, 1120)
    assert picture.text.keys() == set()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Failure, match="Cannot write"):
        figures.save(figures.curves(make_history(1)), tmp_path / "file" / "curves.png")


def test_a_notebook_shows_a_figure_without_pyplot():
    shown = figures.curves(make_history(1))._repr_png_()  # pyright: ignore
    assert Image.open(io.BytesIO(shown)).size == (600, 560)
