"""Text lines: which candidates stand in one line, and which readings are words, not numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinydigits.reader.recognize import Reading

# Neighbors in a line. Heights are those of the two.
OVERLAP = 0.4
"""What they have in common in height, more than that share of the lower one's height."""
HEIGHTS = 3
"""How many times as high as the other the higher one may be, less than that."""
NEIGHBOR_GAP = 4
"""The gap between them in heights of the higher one, less than that."""

CHAIN = 3
"""The boxes of a chain, at least, for its slope to count."""
STEEPEST = 0.5
"""The slope of lines, at most: how much they fall or rise per pixel."""
LINE_GAP, LOWER_CHAIN = 0.5, 1.5
"""How far apart, across the line, the ends of two chains of one line may lie, less than that: in
median heights of all boxes, or in so many of the lower chain where these are less."""

WORD_GAP = 0.35
"""The gap in heights of the higher neighbor above which a new word begins."""
WORD, WORD_DIGITS = 3, 0.5
"""The readings of a word, at least, and the share of digits in it below which none is one."""
PAGE, PAGE_DIGITS = 30, 0.3
"""The same of a page: with fewer digits it is a page of text."""
NARROW = 0.5
"""The width of a bracket or a bar, in its heights, less than that."""


def lines_of(boxes: np.ndarray) -> np.ndarray:
    """Which line each box is in; lines may slant.

    Neighbors that overlap in height are chained; chains that lie on one another's straight
    continuation are one line.

    Args:
        boxes: int (N, 4): left, top, right, bottom.

    Returns:
        int (N,), counted from 0 at the top.
    """
    n = len(boxes)
    left, top, right, bottom = boxes.astype(float).T
    middle, center, height = (left + right) / 2, (top + bottom) / 2, bottom - top
    chain = np.arange(n)
    for i in np.argsort(middle, kind="stable"):
        lap = np.minimum(bottom[i], bottom) - np.maximum(top[i], top)
        lower, higher = np.minimum(height[i], height), np.maximum(height[i], height)
        near = (lap > OVERLAP * lower) & (middle > middle[i])
        near &= higher < HEIGHTS * lower
        near &= left - right[i] < NEIGHBOR_GAP * np.maximum(higher, 1)
        if near.any():
            j = int(np.argmin(np.where(near, middle, np.inf)))
            chain[chain == chain[j]] = chain[i]
    chains = [np.flatnonzero(chain == k) for k in np.unique(chain)]
    slopes = [np.polyfit(middle[c], center[c], 1)[0] for c in chains if len(c) >= CHAIN]
    slope = float(np.clip(np.median(slopes), -STEEPEST, STEEPEST)) if slopes else 0.0
    level = center - slope * middle  # where each would be on an upright page
    chains.sort(key=lambda c: float(np.median(level[c])))
    line = np.empty(n, int)
    rows: list[np.ndarray] = []
    for c in chains:
        for r, row in enumerate(rows):
            across = np.minimum(right[c][:, None], right[row])
            apart = bool((np.maximum(left[c][:, None], left[row]) > across).all())
            lower = min(np.median(height[c]), np.median(height[row]))
            usual = max(lower, min(np.median(height), LOWER_CHAIN * lower))
            if apart and abs(gap_between(row, c, middle, center, slope)) < LINE_GAP * usual:
                rows[r] = np.concatenate([row, c])
                break
        else:
            rows.append(c)
    rows.sort(key=lambda row: float(np.median(level[row])))
    for r, row in enumerate(rows):
        line[row] = r
    return line


def gap_between(
    one: np.ndarray, other: np.ndarray, middle: np.ndarray, center: np.ndarray, slope: float
) -> float:
    """How far apart two chains lie where they are nearest, across the line they slant along."""
    distance = np.abs(middle[one][:, None] - middle[other])
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    end, start = one[i], other[j]
    return float(center[start] - center[end] - slope * (middle[start] - middle[end]))


def words_of(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings in reading order, parted where a line ends or a gap is wide."""
    words: list[list[Reading]] = []
    for reading in readings:
        left, top, _, bottom = reading.box
        before = words[-1][-1] if words else reading
        gap = left - before.box[2] if before.line == reading.line else np.inf
        higher = max(bottom - top, before.box[3] - before.box[1])
        if not words or gap > WORD_GAP * higher:
            words.append([])
        words[-1].append(reading)
    return words


def reject_text(readings: Sequence[Reading]) -> list[Reading]:
    """Readings in reading order, without digits in words and on pages that hold few of them.

    In "golden" the o is no 0, and a page with few digits among many letters is one of text.
    """
    readings = [
        reading
        for word in words_of(readings)
        for reading in without_few_digits(word, WORD, WORD_DIGITS)
    ]
    return without_few_digits(readings, PAGE, PAGE_DIGITS)


def is_narrow(reading: Reading) -> bool:
    """Whether a reading is as narrow as brackets and bars are."""
    left, top, right, bottom = reading.box
    return right - left < NARROW * (bottom - top)


def without_few_digits(readings: list[Reading], least: int, share: float) -> list[Reading]:
    """Readings, none of them a digit if they are at least so many and too few of them digits.

    What is no digit and as narrow as a bracket or a bar counts half.
    """
    digits = sum(reading.digit is not None for reading in readings)
    brackets = sum(reading.digit is None and is_narrow(reading) for reading in readings)
    count = len(readings) - brackets / 2
    if count < least or digits >= share * count:
        return readings
    return [replace(reading, digit=None) for reading in readings]
