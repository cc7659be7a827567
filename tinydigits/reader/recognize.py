"""Which digit each candidate is, if it is one.

The network says which digit a candidate is if it is one, and the rejector whether it is one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinydigits.images.components import Box, Candidate
from tinydigits.images.preprocess import prepare, prepare_candidate
from tinydigits.reader.rejection import probabilities_of

MODEL = "reader"
"""The network that reads pictures where nothing else is said."""

UNSURE = 0.9
"""The confidence below which a digit is marked as unsure."""

# What its surroundings say of a candidate below the rejection threshold.
DOUBTFUL = 0.03
"""The confidence from which on it is a digit among digits."""
AMONG_HEIGHT, AMONG_SHARE = 0.6, 0.6
"""The height of large candidates in median heights of those above the threshold, at least; and the
share of the large ones that must be above it."""
AMONG_DIGITS = 2
"""How many must be, at least."""
FITTING = 0.75, 1.35
"""Its height in these median heights, from and to."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A candidate in a picture, and what it was read as."""

    box: Box
    """Left, top, right, bottom in pixels of the upright picture; the latter two are beyond it."""
    digit: int | str | None
    """The digit; a name where the network's classes are no digits; None for what is no digit."""
    probabilities: np.ndarray
    """float64 (classes,): that it is this digit. What they lack to 1: that it is none."""
    line: int
    """The text line of the picture that it is in, from 0 at the top."""
    image: np.ndarray = field(repr=False)
    """uint8 (28, 28): what the network saw."""

    @property
    def confidence(self) -> float:
        """The largest probability, 0 to 1."""
        return float(self.probabilities.max())

    @property
    def unsure(self) -> bool:
        """Whether the digit is one that a person should look at."""
        return self.digit is not None and self.confidence < UNSURE


class Recognized(NamedTuple):
    """A candidate and what the network makes of it."""

    candidate: Candidate
    image: np.ndarray
    """uint8 (28, 28): what the network saw."""
    probabilities: np.ndarray
    """float64 (classes,), as in `Reading`."""

    @property
    def confidence(self) -> float:
        """The largest probability, 0 to 1."""
        return float(self.probabilities.max())

    @property
    def certainty(self) -> float:
        """The largest probability if it is a digit at all, 0 to 1."""
        return self.confidence / max(float(self.probabilities.sum()), sys.float_info.min)


def known_digits(
    recognized: Sequence[Recognized], threshold: float, in_context: bool
) -> np.ndarray:
    """Which candidates are digits, bool (N,): those above the threshold.

    In context so are those about as high as these, where most large candidates are above it: a
    digit of an unusual hand or an uneven pen stands among others, and a letter among letters.
    """
    confidence = np.array([one.confidence for one in recognized])
    heights = np.array([one.candidate.ink.shape[0] for one in recognized])
    known = confidence >= threshold
    if not in_context or known.sum() < AMONG_DIGITS:
        return known
    usual = np.median(heights[known])
    if known[heights >= AMONG_HEIGHT * usual].mean() < AMONG_SHARE:
        return known
    fits = (heights >= FITTING[0] * usual) & (heights <= FITTING[1] * usual)
    return known | (fits & (confidence >= DOUBTFUL))


def recognize(candidates: Sequence[Candidate], model: Any) -> list[Recognized]:
    """Candidates (at least one) as images, and the probabilities of these.

    The strokes of a fine pen are made as wide as MNIST's for a network that was trained on that.
    """
    of_mnist = model.description.of_mnist
    images = [
        prepare_candidate(candidate.ink) if of_mnist else prepare(candidate.ink, paper=0)
        for candidate in candidates
    ]
    probabilities = probabilities_of(np.stack(images), model)
    return list(map(Recognized, candidates, images, probabilities))
