"""Which digit each candidate is, if it is one; broken ones are merged, touching ones are split.

The network says which digit a candidate is if it is one, and the rejector whether it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinydigits.images.components import Box, Candidate, enclosing, trim
from tinydigits.images.preprocess import prepare_candidate
from tinydigits.reader.rejection import probabilities_of

MODEL = "reader"
"""The network that reads pictures where nothing else is said."""

UNSURE = 0.9
"""The confidence below which a digit is marked as unsure."""

# What its surroundings say of a candidate below the rejection threshold.
DOUBTFUL = 0.1
"""The confidence from which on it is a digit among digits."""
AMONG_HEIGHT, AMONG_SHARE = 0.6, 0.6
"""The height of large candidates in median heights of those above the threshold, at least; and the
share of the large ones that must be above it."""
AMONG_DIGITS = 2
"""How many must be, at least."""
FITTING = 0.75, 1.35
"""Its height in these median heights, from and to."""

# When candidates are merged. Lengths are in heights of the higher one of two.
MERGE_BESIDE, MERGE_BELOW = 0.1, 0.15
"""The gaps between two that may be one, less than that."""
MERGE_ALL = range(3, 6)
"""How many candidates of a picture may all together be one."""
MERGE_CONFIDENCE, MERGE_GAIN = 0.7, 0.05
"""The confidence in the whole: more than that, and by so much more than in the worst part."""

# When a candidate is split. Lengths are in heights of the candidate.
SPLIT_HEIGHT = 0.6
"""Its height, more than that, as a share of the median height of all."""
SPLIT_PIXELS = 8
"""Its height in pixels, at least."""
SPLIT_ASPECT = 1.1, 12
"""Its width, between these."""
SPLIT_UNLESS = 0.95
"""The confidence in the whole, at most."""
CUT_PIXELS, CUT_PARTS = 2, 5
"""From one cut to the next there are at least so many pixels, and that part of the height."""
CUT_INK = 0.45
"""The ink in the column of a cut, less than that."""
PART_WIDTH = 0.15, 1.4
"""The width of a part, between these."""
PART_HEIGHT = 0.5
"""The height of its ink, more than that."""
SPLIT_CONFIDENCE = 0.8
"""The confidence in the worst part: more than that, and more than in the whole."""
SPLIT_ONES = 0.5
"""The share of ones among the parts, at most."""


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
    """Candidates (at least one) as images, and the probabilities of these."""
    images = [prepare_candidate(candidate.ink) for candidate in candidates]
    probabilities = probabilities_of(np.stack(images), model)
    return list(map(Recognized, candidates, images, probabilities))


# ----------------------------------------------------------------------------------- merge


def merge(recognized: list[Recognized], model: Any) -> list[Recognized]:
    """Merge candidates that lie close and read better as one: a digit that was broken."""
    groups = close_groups(np.array([one.candidate.box for one in recognized]))
    if not groups:
        return recognized
    united = [unite([recognized[i].candidate for i in group]) for group in groups]
    wholes = recognize(united, model)
    gone: set[int] = set()
    merged = []
    for n in np.argsort([-whole.confidence for whole in wholes]):
        worst = min(recognized[i].confidence for i in groups[n])
        better = wholes[n].confidence > max(MERGE_CONFIDENCE, worst + MERGE_GAIN)
        if better and not gone.intersection(groups[n]):
            gone.update(groups[n])
            merged.append(wholes[n])
    return [one for i, one in enumerate(recognized) if i not in gone] + merged


def close_groups(boxes: np.ndarray) -> list[tuple[int, ...]]:
    """Which boxes, int (N, 4), may belong to one digit: pairs and, where they are few, all."""
    left, top, right, bottom = boxes.T
    groups: list[tuple[int, ...]] = []
    if len(boxes) in MERGE_ALL:
        groups.append(tuple(range(len(boxes))))
    for i in range(len(boxes)):
        height = np.maximum(bottom - top, bottom[i] - top[i])
        across = np.maximum(left, left[i]) - np.minimum(right, right[i])
        down = np.maximum(top, top[i]) - np.minimum(bottom, bottom[i])
        near = (across < MERGE_BESIDE * height) & (down < MERGE_BELOW * height)
        groups += [(i, int(j)) for j in np.flatnonzero(near) if j > i]
    return groups


def unite(candidates: list[Candidate]) -> Candidate:
    """Several candidates as one."""
    boxes = np.array([candidate.box for candidate in candidates])
    left, top, right, bottom = map(int, enclosing(boxes))
    ink = np.zeros((bottom - top, right - left), np.uint8)
    for candidate in candidates:
        height, width = candidate.ink.shape
        y, x = candidate.box[1] - top, candidate.box[0] - left
        part = ink[y : y + height, x : x + width]
        np.maximum(part, candidate.ink, out=part)
    strength = max(candidate.strength for candidate in candidates)
    return Candidate((left, top, right, bottom), ink, strength)


# ----------------------------------------------------------------------------------- split


def split(recognized: list[Recognized], model: Any) -> list[Recognized]:
    """Split candidates that are digits which touch, where that reads better."""
    heights = [one.candidate.ink.shape[0] for one in recognized]
    least = SPLIT_HEIGHT * float(np.median(heights))
    result: list[Recognized] = []
    for one, height in zip(recognized, heights, strict=True):
        result += (digits_in(one, model) if height > least else None) or [one]
    return result


def digits_in(one: Recognized, model: Any) -> list[Recognized] | None:
    """The digits that a wide candidate is made of, or None if it reads better as a whole.

    Of all ways to choose among the possible cuts, the one whose worst part is read with the most
    confidence counts.
    """
    height, width = one.candidate.ink.shape
    narrowest, widest = SPLIT_ASPECT
    if height < SPLIT_PIXELS or not narrowest * height < width < widest * height:
        return None
    if one.confidence > SPLIT_UNLESS:
        return None
    cuts = possible_cuts(one.candidate.ink)
    parts = parts_between(cuts, one.candidate)
    if not parts:
        return None
    best: dict[int, tuple[float, list[Recognized]]] = {0: (1.0, [])}  # up to each cut
    read = recognize([part for *_, part in parts], model)
    for (i, j, part), digit in zip(parts, read, strict=True):
        if i in best and (part.box[3] - part.box[1]) / height > PART_HEIGHT:
            worst = min(best[i][0], digit.confidence)
            if worst > best.get(j, (0.0, []))[0]:
                best[j] = worst, [*best[i][1], digit]
    worst, chosen = best.get(len(cuts) - 1, (0.0, []))
    if len(chosen) < 2 or worst <= max(one.confidence, SPLIT_CONFIDENCE):
        return None
    # A letter with upright strokes, such as W, would come out as a row of ones.
    ones = sum(model.class_names[int(digit.probabilities.argmax())] == "1" for digit in chosen)
    return None if ones > SPLIT_ONES * len(chosen) else chosen


def possible_cuts(ink: np.ndarray) -> list[int]:
    """The columns in which to split ink, uint8 (H, W): where little of it stands; 0 and W too."""
    height, width = ink.shape
    profile = ink.astype(float).sum(axis=0) / 255
    step = max(CUT_PIXELS, height // CUT_PARTS)
    cuts = [0]
    for x in range(step, width - step + 1):
        near = profile[max(0, x - step // 2) : x + step // 2 + 1]
        if profile[x] == near.min() and profile[x] < CUT_INK * height and x - cuts[-1] >= step:
            cuts.append(x)
    return [*cuts, width]


def parts_between(cuts: list[int], candidate: Candidate) -> list[tuple[int, int, Candidate]]:
    """The parts of a candidate that may be a digit: the places in `cuts` of both ends, the part."""
    left, top, *_ = candidate.box
    narrowest, widest = (share * candidate.ink.shape[0] for share in PART_WIDTH)
    parts = []
    for i, start in enumerate(cuts):
        for j, end in enumerate(cuts[i + 1 :], i + 1):
            ink = candidate.ink[:, start:end]
            if narrowest < end - start < widest and ink.any():
                parts.append((i, j, trim(ink, left + start, top, candidate.strength)))
    return parts
