"""How good a network is: its log-probabilities for every digit, and all that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Evaluation:
    """What a network said about N digits. Every metric and every picture derives from this."""

    log_probs: np.ndarray
    """float32 (N, 10): the logarithm of each class's probability."""
    labels: np.ndarray
    """int64 (N,): the true digits."""

    @property
    def loss(self) -> float:
        """Negative log-likelihood, summed over the digits and divided by their number, in nats."""
        true = self.log_probs[np.arange(len(self.labels)), self.labels]
        return float(-true.astype(np.float64).sum() / len(self.labels))

    @property
    def accuracy(self) -> float:
        """Share of the digits that are recognised, in percent."""
        return 100.0 * int((self.guesses == self.labels).sum()) / len(self.labels)

    @property
    def guesses(self) -> np.ndarray:
        """int64 (N,): the most probable class of each digit."""
        return self.log_probs.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """float32 (N,): the probability of the guess, 0 to 1."""
        return np.exp(self.log_probs.max(axis=1))

    def confusion(self) -> np.ndarray:
        """Counts, int64 (10, 10): row the true digit, column the guess."""
        counts = np.zeros((10, 10), np.int64)
        np.add.at(counts, (self.labels, self.guesses), 1)
        return counts

    def largest_confusions(self, n: int = 5) -> list[tuple[int, int, int]]:
        """The n most frequent errors as (true digit, guess, how often), the most frequent first."""
        errors = self.confusion()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")[:n]
        cells = [(int(i) // 10, int(i) % 10) for i in order]
        return [
            (true, guess, int(errors[true, guess])) for true, guess in cells if errors[true, guess]
        ]

    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Per digit, float64 (10,) each, 0 to 1; NaN where a digit was never guessed or present.

        Precision is the share of right answers among the times that the digit was guessed,
        recall the share among the times that it was there.
        """
        counts = self.confusion().astype(float)
        right = counts.diagonal()
        with np.errstate(invalid="ignore"):
            return right / counts.sum(axis=0), right / counts.sum(axis=1)

    def errors(self) -> np.ndarray:
        """Indices of the wrong digits, int64, the worst (least probable truth) first."""
        wrong = np.flatnonzero(self.guesses != self.labels)
        return wrong[np.argsort(self.log_probs[wrong, self.labels[wrong]], kind="stable")]

    def calibration(self, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The reliability diagram: digits, mean confidence and accuracy in each bin, 0 to 1.

        Bins are of equal width in the confidence of the guess (Guo et al. 2017, "On Calibration
        of Modern Neural Networks"); empty ones have NaN.
        """
        which = np.minimum((self.confidence * bins).astype(int), bins - 1)
        digits = np.bincount(which, minlength=bins)
        confidence = np.bincount(which, self.confidence, minlength=bins)
        right = np.bincount(which, self.guesses == self.labels, minlength=bins)
        with np.errstate(invalid="ignore"):
            return digits, confidence / digits, right / digits

    def expected_calibration_error(self, bins: int = 10) -> float:
        """Mean distance of confidence and accuracy over the bins, weighted by digits, 0 to 1."""
        digits, confidence, accuracy = self.calibration(bins)
        gaps = np.abs(confidence - accuracy)[digits > 0]
        return float((gaps * digits[digits > 0]).sum() / digits.sum())


def evaluate(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int = 1000
) -> Evaluation:
    """Let `model` read every digit, in eval mode and without gradients.

    The mode that the model was in is restored.

    Args:
        model: from normalised images (B, 1, 28, 28) to log-probabilities (B, 10).
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        batch_size: digits at a time; changes memory and speed, and the result by rounding only.

    Raises:
        ValueError: there are no images, or images and labels do not belong together.
    """
    import torch

    from tinydigits.data import normalise

    if images.ndim != 3 or images.shape[1:] != (28, 28) or len(images) == 0:
        raise ValueError(f"images must be (N, 28, 28) with N of 1 or more, not {images.shape}.")
    if images.dtype != np.uint8:
        raise ValueError(f"images must be raw uint8 bytes, not {images.dtype}.")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must be ({len(images)},) like the images, not {labels.shape}.")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                model(normalise(part.to(device))).float().cpu()
                for part in torch.from_numpy(images).split(batch_size)
            ]
    finally:
        model.train(was_training)
    return Evaluation(torch.cat(parts).numpy(), labels)
