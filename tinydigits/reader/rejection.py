"""What is no digit: the rejector, and the confidence below which a network's answer does not count.

A network for digits answers everything. A second network, the rejector, says whether a candidate is
a digit at all (an out-of-distribution detector). The product of both is the probability. How low it
may be depends on the network, so the threshold is kept with that, in its .tdq file.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinydigits.data.dataset import Dataset
from tinydigits.data.split import hold_out_mask
from tinydigits.errors import UsageError
from tinydigits.network.checkpoint import SHIPPED
from tinydigits.quant.tdq import load_quantized

REJECTOR = SHIPPED / "rejector.tdq"
"""The network that says whether a candidate is a digit at all."""

SHARED_THRESHOLD = 0.303
"""What networks of MNIST's digits take that bring no threshold: that of `tiny20k`."""

REJECTED = 0.01
"""The share of unseen images that fall below a threshold."""

LEAST_UNSEEN, MOST_UNSEEN = 300, 1_000
"""How many images a threshold is measured on."""
UNSEEN_SHARE = 10
"""They are at most a tenth of the training images."""


@functools.cache
def rejector() -> Any:
    """The network that tells digits from what is none."""
    return load_quantized(REJECTOR)


def probabilities_of(images: np.ndarray, model: Any) -> np.ndarray:
    """Images uint8 (N, 28, 28) to the probabilities, float64 (N, classes), of being each digit.

    A network that was trained on something else than MNIST answers without the rejector.
    """
    log_probs = model.log_probs(images).astype(np.float64)
    if model.description.of_mnist:
        log_probs += rejector().log_probs(images)[:, :1]
    return np.exp(log_probs)


def rejection_threshold(model: Any, min_confidence: float | None) -> float:
    """The confidence below which a candidate is no digit: the given one, or the network's own.

    A network that brings none takes the shared one, if it reads MNIST's digits. Else it is 0, so
    that nothing is rejected.

    Raises:
        UsageError: `min_confidence` is not from 0 to 1.
    """
    if min_confidence is None:
        if model.rejection_threshold is None and model.description.of_mnist:
            return SHARED_THRESHOLD
        return model.rejection_threshold or 0.0
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"min_confidence must be from 0 to 1, not {min_confidence}.")
    return min_confidence


def measure_threshold(model: Any, images: np.ndarray) -> float | None:
    """The confidence that 1 % of images fall below; None where they are under 300.

    Args:
        model: an integer network.
        images: uint8 (N, 28, 28), of its classes, that neither it nor the rejector was trained on.
    """
    if len(images) < LEAST_UNSEEN:
        return None
    return round(float(np.quantile(probabilities_of(images, model).max(axis=1), REJECTED)), 6)


def spare(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """Hold training images out, to measure the rejection threshold of a network on them.

    Returns:
        The data set without them, and the images, uint8 (N, 28, 28): a tenth of each class, but at
        most about 1,000, or none where that would be under 300. If images were held out from
        training to be measured on, the data set stays as it is.
    """
    images, labels = dataset.train_images, dataset.train_labels
    count = min(len(labels) // UNSEEN_SHARE, MOST_UNSEEN)
    if count < LEAST_UNSEEN:
        return dataset, images[:0]
    out = hold_out_mask(images, labels, count / len(labels))
    spared = dataset._replace(train_images=images[~out], train_labels=labels[~out])
    return spared, images[out]
