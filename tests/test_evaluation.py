import math
from typing import Any

import numpy as np
import pytest
import torch

from tinydigits import Evaluation, UsageError, evaluate


def made_of(probs: list[dict[int, float]], labels: list[int]) -> Evaluation:
    """An evaluation with these probabilities; what is not named gets next to nothing."""
    table = np.full((len(probs), 10), 1e-6)
    for row, named in zip(table, probs, strict=True):
        row[list(named)] = list(named.values())
    return Evaluation(np.log(table).astype(np.float32), np.array(labels, np.int64))


# Labels 3, 4, 4, 9; predictions 3, 9, 9, 9.
FOUR = made_of([{3: 0.95}, {9: 0.65, 4: 0.3}, {9: 0.62, 4: 0.36}, {9: 0.65}], [3, 4, 4, 9])


class Ramp:
    """A predictor without PyTorch: the same log-probabilities, -4 to -1, for every digit."""

    def __init__(self, classes: int = 10):
        self.classes = classes
        self.read: list[np.ndarray] = []

    def log_probs(self, images: np.ndarray) -> np.ndarray:
        self.read.append(images)
        return np.linspace(-4, -1, self.classes, dtype=np.float32)[None].repeat(len(images), 0)


class Named(Ramp):
    class_names = ("ant", "bee", "cicada")

    def __init__(self):
        super().__init__(3)


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n, 28, 28), np.uint8), np.arange(n) % 10


def test_loss_is_the_sum_over_the_data_divided_by_its_size():
    loss = -(math.log(0.95) + math.log(0.3) + math.log(0.36) + math.log(0.65)) / 4
    assert FOUR.loss == pytest.approx(loss, rel=1e-6)


def test_loss_of_a_predictor_is_the_one_computed_by_hand():
    # Labels 0, 1, 2 get -4, -4 + 1/3, -4 + 2/3.
    assert evaluate(Ramp(), *digits(3)).loss == pytest.approx((12 - 1 / 3 - 2 / 3) / 3)


# ---------------------------------------------------------------------------- what is evaluated


@pytest.mark.parametrize("size", [(28, 28), (5, 9)])
def test_a_predictor_gets_the_images_as_they_are(size: tuple[int, int]):
    predictor = Ramp()
    images = np.random.default_rng(0).integers(0, 256, (4, *size), np.uint8)
    evaluate(predictor, images, [0, 1, 2, 3])
    (read,) = predictor.read
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, images)


LABELS = [3, 1, 2, 0]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        np.array(LABELS, np.int8),
        np.array(LABELS, np.uint64),
        np.array(LABELS, ">i4"),
        np.array(LABELS[::-1])[::-1],
        np.array([LABELS, LABELS]).T[:, 0],
        torch.tensor(LABELS),
        torch.tensor(LABELS, dtype=torch.uint8),
    ],
    ids=["list", "tuple", "int8", "uint64", "big-endian", "flipped", "strided", "tensor", "uint8"],
)
def test_labels_of_any_whole_numbers_are_the_same_labels(labels: Any):
    result = evaluate(Ramp(), digits(4)[0], labels)
    assert result.labels.dtype == np.int64
    assert result.labels.tolist() == LABELS
    assert result.loss == evaluate(Ramp(), digits(4)[0], np.array(LABELS)).loss


@pytest.mark.parametrize(
    "view",
    [
        lambda images: images[::-1, ::-1, ::-1],
        lambda images: images.transpose(0, 2, 1),
        lambda images: images[::2],
        lambda images: np.asfortranarray(images),
        lambda images: torch.from_numpy(images),
        lambda images: torch.from_numpy(images).flip(2),
        lambda images: torch.from_numpy(images).mT,
    ],
    ids=["flipped", "transposed", "every second", "Fortran", "tensor", "flipped tensor", "mT"],
)
def test_a_view_of_images_is_read_like_its_copy(view: Any):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    expected = np.asarray(view(images)).copy()
    predictor = Ramp()
    evaluate(predictor, view(images), [0] * len(expected))
    np.testing.assert_array_equal(predictor.read[0], expected)


IMAGES = np.full((2, 28, 28), 255, np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:0], np.zeros(0, int), r"with N of 1 or more, not \(0, 28, 28\)"),
        ([], [], r"with N of 1 or more, not \(0,\)"),
        (IMAGES.reshape(2, 784), [0, 1], r"\(N, height, width\) .* not \(2, 784\)"),
        (IMAGES[0], [0], r"\(N, height, width\) .* not \(28, 28\)"),
        (IMAGES[:, None], [0, 1], r"\(N, height, width\) .* not \(2, 1, 28, 28\)"),
        (IMAGES.astype(np.float32), [0, 1], "raw pixels, uint8 from 0 to 255, not float32"),
        (torch.zeros(2, 28, 28), [0, 1], "raw pixels, uint8 from 0 to 255, not float32"),
        (IMAGES.astype(np.int64), [0, 1], "raw pixels, uint8 from 0 to 255, not int64"),
        ([[1], [2, 3]], [0, 1], "images must be an array of numbers, not list"),
        (torch.zeros(2, 28, 28, dtype=torch.bfloat16), [0, 1], "images must be an array"),
        (IMAGES, np.zeros(3, int), r"labels must be \(2,\) like the images, not \(3,\)"),
        (IMAGES, np.zeros((2, 1), int), r"labels must be \(2,\)"),
        (IMAGES, 3, r"labels must be \(2,\)"),
        (IMAGES, None, r"labels must be \(2,\)"),
        (IMAGES, [0, [1]], "labels must be an array of numbers, not list"),
        (IMAGES, [0.0, 1.0], "labels must be whole numbers, not float64"),
        (IMAGES, torch.zeros(2), "labels must be whole numbers, not float32"),
        (IMAGES, [True, False], "labels must be whole numbers, not bool"),
        (IMAGES, ["0", "1"], "labels must be whole numbers, not <U1"),
        (IMAGES, [0, None], "labels must be whole numbers, not object"),
        (IMAGES, [0, -1], "labels must be from 0 to 9, .* not -1"),
        (IMAGES, torch.tensor([0, -1]), "labels must be from 0 to 9, .* not -1"),
        (IMAGES, [10, 0], "labels must be from 0 to 9, .* not 10"),
        (IMAGES, np.array([0, 255], np.uint8), "labels must be from 0 to 9, .* not 255"),
        (IMAGES, np.array([0, 2**64 - 1], np.uint64), "labels must be from 0 to 9, .* not 184467"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(images: Any, labels: Any, message: str):
    with pytest.raises(UsageError, match=message) as refusal:
        evaluate(Ramp(), images, labels)
    assert isinstance(refusal.value, ValueError)
    assert str(refusal.value).count("\n") == 0


def test_the_last_class_is_that_of_the_predictor():
    assert evaluate(Named(), IMAGES, [0, 2]).accuracy == 50
    with pytest.raises(UsageError, match="labels must be from 0 to 2, the classes of this network"):
        evaluate(Named(), IMAGES, [0, 3])


def test_classes_have_the_names_that_the_predictor_gives_them():
    result = evaluate(Named(), IMAGES, [0, 2])
    assert result.class_names == ("ant", "bee", "cicada")
    assert result.confusion().shape == (3, 3)
    assert [len(values) for values in result.precision_and_recall()] == [3, 3]


def test_classes_without_names_have_their_numbers():
    assert evaluate(Ramp(4), IMAGES, [0, 3]).class_names == ("0", "1", "2", "3")
    assert FOUR.class_names == tuple("0123456789")


# ----------------------------------------------------------------------------------- the metrics


def test_accuracy_is_in_percent():
    assert FOUR.accuracy == 50


def test_confidence_is_the_probability_of_the_prediction():
    assert FOUR.confidence == pytest.approx([0.95, 0.65, 0.62, 0.65])


def test_confusion_has_a_row_per_label_and_a_column_per_prediction():
    expected = np.zeros((10, 10), int)
    expected[3, 3], expected[4, 9], expected[9, 9] = 1, 2, 1
    assert np.array_equal(FOUR.confusion(), expected)


def test_largest_confusions_come_most_frequent_first():
    three = made_of([{1: 0.9}, {9: 0.9}, {9: 0.9}, {5: 0.9}], [7, 4, 4, 5])
    assert three.largest_confusions() == [(4, 9, 2), (7, 1, 1)]


def test_largest_confusions_are_at_most_n():
    three = made_of([{1: 0.9}, {9: 0.9}, {9: 0.9}], [7, 4, 4])
    assert three.largest_confusions(1) == [(4, 9, 2)]


def test_precision_is_the_share_of_right_predictiones():
    precision, _ = FOUR.precision_and_recall()
    assert precision[[3, 9]] == pytest.approx([1, 1 / 3])
    assert np.isnan(precision[4])  # never predictioned


def test_recall_is_the_share_of_digits_that_are_found():
    _, recall = FOUR.precision_and_recall()
    assert recall[[3, 4, 9]] == pytest.approx([1, 0, 1])
    assert np.isnan(recall[0])  # never there


def test_errors_come_worst_first():
    assert FOUR.errors().tolist() == [1, 2]  # the label had 0.3, then 0.36


def test_calibration_sorts_predictiones_by_confidence():
    count, confidence, accuracy = FOUR.calibration()
    assert count.tolist() == [0, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    assert confidence[[6, 9]] == pytest.approx([1.92 / 3, 0.95])
    assert accuracy[[6, 9]] == pytest.approx([1 / 3, 1])
    assert np.isnan(confidence[:6]).all()


def test_expected_calibration_error_weighs_gaps_by_digits():
    gap = 3 / 4 * (1.92 / 3 - 1 / 3) + 1 / 4 * (1 - 0.95)
    assert FOUR.expected_calibration_error() == pytest.approx(gap)


def test_a_certain_prediction_falls_into_the_last_bin():
    sure = made_of([{0: 1.0}], [0])
    assert sure.calibration()[0].tolist() == [0] * 9 + [1]
