"""Digits that are broken are merged, and digits that touch are split, where that reads better."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinydigits.images.components import Candidate, enclosing, trim
from tinydigits.images.morphology import HALF_INK, stroke_width
from tinydigits.images.page import parts_with
from tinydigits.reader.recognize import DOUBTFUL, Recognized, recognize

# When candidates are merged. Lengths are in heights of the higher one of two.
MERGE_BESIDE, MERGE_BELOW = 0.2, 0.15
"""The gaps between two that may be one, less than that."""
MERGE_ALL = range(2, 6)
"""How many candidates of a picture may all together be one."""
MERGE_CONFIDENCE, MERGE_GAIN = 0.7, 0.05
"""The confidence in the whole: more than that, and by so much more than in the worst part."""
MERGE_CERTAINTY, MERGE_LARGEST = 0.9, 0.75
"""Or its certainty, in the same way, if no part fills that share of its box: what does so is a
digit with something beside it."""

# When a candidate is split. Lengths are in heights of the candidate.
SPLIT_HEIGHT = 0.6
"""Its height, more than that, as a share of the median height of all."""
SPLIT_PIXELS = 8
"""Its height in pixels, at least."""
SPLIT_ASPECT = 0.5, 12
"""Its width, between these."""
SPLIT_UNLESS = 0.95
"""The confidence in the whole, at most."""
NARROW, MOST_NARROW = 1.1, 50
"""Where more candidates than that are narrower than that and read badly, it is a page of letters
and none of them is cut."""
SEAM_HEIGHT = 80
"""The height in pixels that ink is thinned out to, about, to find cuts."""
BEND = 0.1
"""What it costs a cut to move on to the next column, in pixels of full ink."""
CUT_PIXELS, CUT_PARTS = 2, 5
"""From one cut to the next there are at least so many pixels, and that part of the height."""
CUT_INK = 0.45
"""What a cut costs, less than that."""
TOUCH = 0.9
"""What a cut of a narrow candidate costs, less than that, in widths of its strokes."""
PART_WIDTH = 0.15, 1.4
"""The width of a part, between these."""
PART_HEIGHT, ONE_HEIGHT = 0.45, 0.8
"""The height of its ink, more than that; and of a 1, for shorter strokes are pieces of others."""
SPLIT_CONFIDENCE = 0.8
"""The confidence in the worst part: more than that, and more than in the whole."""
SPLIT_ONES = 0.5
"""The share of ones among the parts, at most."""
ARCHES = [["1", "2"], ["1", "7"], ["7", "1"]]
"""What narrow letters with an arch come out as."""


# ----------------------------------------------------------------------------------- merge


def merge(recognized: list[Recognized], model: Any) -> list[Recognized]:
    """Merge candidates that lie close and read better as one: a digit that was broken."""
    boxes = np.array([one.candidate.box for one in recognized])
    groups = [
        group
        for group in close_groups(boxes)
        if any(recognized[i].confidence < 1 - MERGE_GAIN for i in group)
    ]
    if not groups:
        return recognized
    united = [unite([recognized[i].candidate for i in group]) for group in groups]
    wholes = recognize(united, model)
    gone: set[int] = set()
    merged = []
    for n in np.argsort([-whole.confidence for whole in wholes]):
        parts = [recognized[i] for i in groups[n]]
        if not gone.intersection(groups[n]) and reads_better(wholes[n], parts):
            gone.update(groups[n])
            merged.append(wholes[n])
    return [one for i, one in enumerate(recognized) if i not in gone] + merged


def reads_better(whole: Recognized, parts: list[Recognized]) -> bool:
    """Whether parts of a digit read better as a whole.

    A half of a 0 may be a digit like any other to the rejector, and the broken 0 none: so it is
    enough that the network is certain of the whole and not of a part.
    """
    confidence = min(part.confidence for part in parts)
    if whole.confidence > max(MERGE_CONFIDENCE, confidence + MERGE_GAIN):
        return True
    certainty = min(part.certainty for part in parts)
    largest = max(part.candidate.ink.size for part in parts)
    return (
        whole.confidence > DOUBTFUL
        and whole.certainty > max(MERGE_CERTAINTY, certainty + MERGE_GAIN)
        and largest < MERGE_LARGEST * whole.candidate.ink.size
    )


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
    tried = [
        height > least and may_touch(one) for one, height in zip(recognized, heights, strict=True)
    ]
    narrow = [is_narrow(one) for one in recognized]
    if sum(t and n for t, n in zip(tried, narrow, strict=True)) > MOST_NARROW:
        tried = [t and not n for t, n in zip(tried, narrow, strict=True)]
    result: list[Recognized] = []
    for one, cut in zip(recognized, tried, strict=True):
        result += (digits_in(one, model) if cut else None) or [one]
    return result


def may_touch(one: Recognized) -> bool:
    """Whether a candidate may be digits that touch, by its shape and how badly it reads."""
    height, width = one.candidate.ink.shape
    narrowest, widest = SPLIT_ASPECT
    shaped = height >= SPLIT_PIXELS and narrowest * height < width < widest * height
    return shaped and one.confidence <= SPLIT_UNLESS


def is_narrow(one: Recognized) -> bool:
    """Whether a candidate is hardly wider than high, as most digits and letters are."""
    height, width = one.candidate.ink.shape
    return width <= NARROW * height


def digits_in(one: Recognized, model: Any) -> list[Recognized] | None:
    """The digits that a candidate is made of, or None if it reads better as a whole.

    Of all ways to choose among the possible cuts, the one whose worst part is read with the most
    confidence counts.
    """
    height = one.candidate.ink.shape[0]
    cuts = possible_cuts(one.candidate.ink)
    parts = parts_between(cuts, one.candidate)
    if not parts:
        return None
    best: dict[int, tuple[float, list[Recognized]]] = {0: (1.0, [])}  # up to each cut
    read = recognize([part for *_, part in parts], model)
    for (i, j, part), digit in zip(parts, read, strict=True):
        piece = name_of(digit, model) == "1" and part.ink.shape[0] < ONE_HEIGHT * height
        if i in best and not piece:
            worst = min(best[i][0], digit.confidence)
            if worst > best.get(j, (0.0, []))[0]:
                best[j] = worst, [*best[i][1], digit]
    worst, chosen = best.get(len(cuts) - 1, (0.0, []))
    if len(chosen) < 2 or worst <= max(one.confidence, SPLIT_CONFIDENCE):
        return None
    # A letter with upright strokes, such as W, would come out as a row of ones.
    names = [name_of(digit, model) for digit in chosen]
    if names.count("1") > SPLIT_ONES * len(names):
        return None
    # And one with an arch, such as h or n, as a 1 and what begins with an arch.
    return None if is_narrow(one) and names in ARCHES else chosen


def name_of(digit: Recognized, model: Any) -> str:
    """What the network takes this for."""
    return model.class_names[int(digit.probabilities.argmax())]


def possible_cuts(ink: np.ndarray) -> np.ndarray:
    """Where to split ink, uint8 (H, W): cheapest paths from its top to its bottom.

    Each crosses as little ink as any that passes through its column at half the height (a seam, as
    in Avidan and Shamir 2007). So it leans between digits that do, and winds past a 5 below a 1.

    Returns:
        int (cuts, H): the column of each cut at each row, from the left to the right. The first is
        0 everywhere, the last W.
    """
    height, width = ink.shape
    thinned = max(1, height // SEAM_HEIGHT)
    cost = ink[::thinned, ::thinned] / 255
    half = len(cost) // 2
    (above, upper), (below, lower) = (
        cheapest_paths(cost[:half]),
        cheapest_paths(cost[: half - 1 : -1]),
    )
    profile = above + below
    step = max(CUT_PIXELS, len(cost) // CUT_PARTS)
    most = CUT_INK * len(cost)
    if width <= NARROW * height:  # most such are one digit, whose strokes are not cut
        most = min(most, TOUCH * stroke_width(ink > HALF_INK) / thinned)
    columns = [0]
    for x in range(step, len(profile) - step + 1):
        near = profile[max(0, x - step // 4) : x + step // 4 + 1]
        if profile[x] == near.min() and profile[x] < most and x - columns[-1] >= step:
            columns.append(x)
    seams = np.concatenate([upper, lower[::-1]])[:, columns[1:]].T
    seams = (seams * thinned).repeat(thinned, axis=1)[:, :height]
    return np.concatenate([np.zeros((1, height), int), seams, np.full((1, height), width)])


def cheapest_paths(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paths from the first row to each column of the last that cost least.

    Args:
        cost: float (H, W), of each pixel.

    Returns:
        What they cost, float (W,), and their columns, int (H, W): `[:, x]` is that which ends in x.
    """
    columns = np.arange(cost.shape[1])
    total, paths = cost[0], columns[None]
    for row in cost[1:]:
        left, right = np.pad(total, (1, 0), constant_values=np.inf), np.append(total, np.inf)
        before = np.stack([total, left[:-1] + BEND, right[1:] + BEND])
        came = columns + np.array([0, -1, 1])[before.argmin(axis=0)]
        total = before.min(axis=0) + row
        paths = np.concatenate([paths[:, came], columns[None]])
    return total, paths


def parts_between(cuts: np.ndarray, candidate: Candidate) -> list[tuple[int, int, Candidate]]:
    """The parts of a candidate that may be a digit: the places in `cuts` of both ends, the part."""
    left, top, *_ = candidate.box
    height, width = candidate.ink.shape
    narrowest, widest = (share * height for share in PART_WIDTH)
    columns = np.arange(width)
    parts = []
    for i, start in enumerate(cuts):
        for j, end in enumerate(cuts[i + 1 :], i + 1):
            between = (columns >= start[:, None]) & (columns < end[:, None])
            ink = np.where(between, candidate.ink, 0)
            # A soft edge on the other side of the cut is no part of the digit.
            ink = np.where(parts_with(ink > 0, ink > HALF_INK), ink, 0)
            if ink.any():
                part = trim(ink, left, top, candidate.strength)
                tall, wide = part.ink.shape
                if tall > PART_HEIGHT * height and narrowest < wide < widest:
                    parts.append((i, j, part))
    return parts
