"""How good a network is: its log-probabilities for every digit, and all that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tinydigits.errors import UsageError


class Predictor(Protocol):
    """Whatever reads images: a PyTorch network, or one of integers."""

    def log_probs(self, images: np.ndarray, /) -> np.ndarray:
        """Images uint8 (N, height, width) to log-probabilities, float32 (N, classes)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What a network said about N digits. Every metric and every figure derives from this."""

    log_probs: np.ndarray
    """float32 (N, classes): the logarithm of each class's probability."""
    labels: np.ndarray
    """int64 (N,): the true classes, 0 to classes - 1."""
    class_names: tuple[str, ...] = ()
    """A name for each class; by default its number."""
    unread: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """bool (N,): images without any ink. Whatever was said of them counts as wrong."""

    def __post_init__(self) -> None:
        if not len(self.unread):
            object.__setattr__(self, "unread", np.zeros(len(self.labels), bool))
        if not self.class_names:
            names = tuple(map(str, range(self.log_probs.shape[1])))
            object.__setattr__(self, "class_names", names)

    @property
    def loss(self) -> float:
        """Negative log-likelihood, summed over the digits and divided by their number, in nats."""
        true = self.log_probs[np.arange(len(self.labels)), self.labels]
        return float(-true.astype(np.float64).sum() / len(self.labels))

    @property
    def accuracy(self) -> float:
        """Share of the digits that are recognized, in percent."""
        return 100.0 * int(self.right.sum()) / len(self.labels)

    @property
    def right(self) -> np.ndarray:
        """Bool (N,): which digits are recognized."""
        return (self.predictions == self.labels) & ~self.unread

    @property
    def predictions(self) -> np.ndarray:
        """int64 (N,): the most probable class of each digit."""
        return self.log_probs.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """float32 (N,): the probability of the prediction, 0 to 1."""
        return np.exp(self.log_probs.max(axis=1))

    def confusion(self) -> np.ndarray:
        """Counts, int64 (classes, classes): row the true class, column the prediction.

        What is unread has none.
        """
        classes = len(self.class_names)
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels[~self.unread], self.predictions[~self.unread]), 1)
        return counts

    def largest_confusions(self, n: int = 5) -> list[tuple[int, int, int]]:
        """The n most frequent errors as (label, prediction, how often), the most frequent first."""
        errors = self.confusion()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")[:n]
        cells = [divmod(int(i), len(errors)) for i in order]
        return [
            (label, prediction, int(errors[label, prediction]))
            for label, prediction in cells
            if errors[label, prediction]
        ]

    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Per class, float64 (classes,) each, 0 to 1; NaN where it was never predicted or present.

        Precision is the share of right answers among the times that the class was predicted,
        recall the share among the times that it was there.
        """
        counts = self.confusion().astype(float)
        right = counts.diagonal()
        present = np.bincount(self.labels, minlength=len(counts))
        with np.errstate(invalid="ignore"):
            return right / counts.sum(axis=0), right / present

    def errors(self) -> np.ndarray:
        """Indices of the wrong digits, int64, the worst (least probable label) first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(self.log_probs[wrong, self.labels[wrong]], kind="stable")]

    def calibration(self, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The reliability diagram: digits, mean confidence and accuracy in each bin, 0 to 1.

        Bins are of equal width in the confidence of the prediction (Guo et al. 2017, "On
        Calibration of Modern Neural Networks"); empty ones have NaN.
        """
        which = np.minimum((self.confidence * bins).astype(int), bins - 1)
        digits = np.bincount(which, minlength=bins)
        confidence = np.bincount(which, self.confidence, minlength=bins)
        right = np.bincount(which, self.right, minlength=bins)
        with np.errstate(invalid="ignore"):
            return digits, confidence / digits, right / digits

    def expected_calibration_error(self, bins: int = 10) -> float:
        """Mean distance of confidence and accuracy over the bins, weighted by digits, 0 to 1."""
        digits, confidence, accuracy = self.calibration(bins)
        gaps = np.abs(confidence - accuracy)[digits > 0]
        return float((gaps * digits[digits > 0]).sum() / digits.sum())


def evaluate(predictor: Predictor, images: Any, labels: Any) -> Evaluation:
    """Let `predictor` read every image, and keep what it said beside the label.

    Args:
        predictor: what has `log_probs(images)`, and perhaps `class_names`.
        images: uint8 (N, height, width), raw pixels; an array, or what numpy makes one of.
        labels: whole numbers (N,), the true classes, from 0 to the number of classes - 1.

    Raises:
        UsageError: (a ValueError) there are no images, they are not raw pixels, or images and
            labels do not belong together.
    """
    images, labels = as_array(images, "images"), as_array(labels, "labels")
    if images.ndim != 3 or len(images) == 0:
        raise UsageError(
            f"images must be (N, height, width) with N of 1 or more, not {images.shape}."
        )
    if images.dtype != np.uint8:
        raise UsageError(f"images must be raw pixels, uint8 from 0 to 255, not {images.dtype}.")
    if labels.shape != (len(images),):
        raise UsageError(f"labels must be ({len(images)},) like the images, not {labels.shape}.")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"labels must be whole numbers, not {labels.dtype}.")
    log_probs = predictor.log_probs(np.ascontiguousarray(images))
    classes = log_probs.shape[1]
    beyond = (labels < 0) | (labels >= classes)
    if beyond.any():
        raise UsageError(
            f"labels must be from 0 to {classes - 1}, the classes of this network, "
            f"not {labels[beyond][0]}."
        )
    names = tuple(getattr(predictor, "class_names", ()))
    unread = ~images.any(axis=(1, 2))
    return Evaluation(log_probs, labels.astype(np.int64), names, unread)


def as_array(values: Any, name: str) -> np.ndarray:
    """`values` as an array of NumPy; a tensor is brought to the CPU first.

    Raises:
        UsageError: they are ragged, or no array at all.
    """
    try:
        if hasattr(values, "detach"):  # a tensor, without importing PyTorch to ask
            values = values.detach().cpu()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{name} must be an array of numbers, not {type(values).__name__}."
        ) from error
