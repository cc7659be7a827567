"""Candidates: the ink, cut into connected components and grouped where a stroke is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tinydigits.images.binarize import Ink
from tinydigits.images.morphology import (
    HALF_INK,
    MOST_COMPONENTS,
    fill_holes,
    label_components,
    stroke_width,
)

PALER, WHOLE_SIZE = 0.4, 1.4
"""From which share of the ink's level on a pixel may join pieces of a digit, and how large that
digit is at most, in usual sizes, which pieces lower."""
LEAST_SIDE = 3
"""The longer side of a component in pixels, at least."""

SOFT_PIXELS, SOFT_PARTS = 2, 40
"""How far the soft edge of a stroke reaches: so many pixels and that part of the height."""
DARKEST = 0.9
"""The quantile of a candidate's strength that counts as its darkest ink."""
PEN_AREA = 0.3
"""From which share of the median box's area on a candidate tells about the pen."""
PEN_WIDTH, PEN_STRENGTH = 0.4, 0.45
"""A candidate's strokes have more than these shares of the pen's median width and strength."""

# A frame is an outline around other components. A size is the longer side in pixels.
FRAME_SIZE = 20  # of the frame, more than that
FRAMED_SIZE, FRAMED_HEIGHT = 0.3, 0.25  # of something inside, at least, in shares of the frame's
FRAME_FULL, FRAME_FILLED = 0.35, 0.7  # shares of its box: without its holes less, with them more

# A bar is so many times as long as wide, and so many times as long as the usual size, or more.
LEVEL_BAR = 5, 1.5
UPRIGHT_BAR = 8, 2.5

# A component is a piece of a larger one that is broken if it is one of four kinds. Lengths are in
# statures of the larger one (`Pair.stature`), where nothing else is said.
WIDE_STATURE = 0.7  # the stature is the height, or that share of the width (a 5 without its bar)
# above or below:
CLOSE = 0.22  # gap, less than that
PIECE_SIZE = 0.75  # longer side of the piece, less
PIECE_OVERLAP = 0.4  # share of the narrower one's width that both have in common, more
PIECE_GROWTH = 1.45  # height of both together, less
# one half of a digit, as close:
HALF_OVERLAP = 0.5  # share of the narrower one's width that both have in common, more
USUAL = 1.15  # height of both together, less, in usual sizes
# flat, such as the bar of a 5:
FLAT_GAP = 0.16  # gap, less
FLAT_HEIGHT = 0.45  # height of the piece, less
FLAT_GROWTH = 1.25  # height of both together, less
FLAT_WIDTH = 1.4  # width of both together, less; in usual sizes where these are larger
# a fragment beside another; height and width of both together are less than USUAL:
FRAGMENT_GAP = 0.1  # gap, less
FRAGMENT_HEIGHT = 0.75  # height of the lower one, less, in usual sizes
# all of them:
PIECE_LEAST = 0.18  # longer side of the piece, more,
TOUCHING = 0.06  # unless the gap is less than that

# A speck is no piece, but small and near a group, and is dropped.
SPECK_SIZE, SPECK_GAP = 0.35, 2.5  # longer side and gap, less

GROUP_WIDTH = 0.5
"""The share of its width that counts as a group's height, at least."""
LEAST_HEIGHT, HEIGHT_SHARE = 5, 0.12
"""The height of a group: at least so many pixels, and that share of the highest one's."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are beyond the last pixel."""


@dataclass(frozen=True)
class Candidate:
    """A piece of ink that may be a digit: one connected component, or several."""

    box: Box
    ink: np.ndarray
    """uint8 (bottom - top, right - left): its own ink, 0 for paper, 255 for its darkest."""
    strength: float
    """How strong its darkest ink is, as in `Ink.strength`."""


def segment(ink: Ink) -> list[Candidate]:
    """Cut the ink into candidates: components, grouped where a stroke is broken, without specks."""
    labels, count = label_ink(ink)
    if count == 0:
        return []
    slices = ndimage.find_objects(labels)
    boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in slices])
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    if count > MOST_COMPONENTS:  # grain: only what is large can be a digit
        keep = np.argsort(-sizes, kind="stable")[:MOST_COMPONENTS]
        boxes, sizes = boxes[keep], sizes[keep]
        names = keep + 1
    else:
        names = np.arange(1, count + 1)
    boxes, names = boxes[sizes >= LEAST_SIDE], names[sizes >= LEAST_SIDE]
    if len(boxes) == 0:
        return []
    groups = group(boxes, labels, names)
    return of_one_pen([candidate_of(ink, labels, names[g], enclosing(boxes[g])) for g in groups])


def label_ink(ink: Ink) -> tuple[np.ndarray, int]:
    """Number the components of the ink, pieces of a digit that paler ink joins as one.

    Of a pen that skips, the paler ink between pieces is ink as well (hysteresis thresholding, Canny
    1986). It joins no two digits, and nothing that is larger than one.

    Returns:
        What `label_components` does.
    """
    labels, count = label_components(ink.mask)
    if not 1 < count <= MOST_COMPONENTS:
        return labels, count
    paler, wholes = label_components(ink.strength > max(ink.floor, PALER * ink.level))
    if wholes > MOST_COMPONENTS:
        return labels, count
    sides, areas = sides_of(labels), np.bincount(labels.ravel())[1:]
    sizes = sides.max(axis=1)
    order = np.argsort(-sizes, kind="stable")
    usual = usual_size(sizes[order], areas[order])
    within = np.zeros(count + 1, int)
    within[labels.ravel()] = paler.ravel()
    large = within[1:][sides[:, 0] >= FRAGMENT_HEIGHT * usual]
    one = np.bincount(within[1:], minlength=wholes + 1) > 1
    one &= np.bincount(large, minlength=wholes + 1) <= 1
    one[1:] &= sides_of(paler).max(axis=1) < WHOLE_SIZE * usual
    return label_components(ink.mask | one[paler]) if one.any() else (labels, count)


def sides_of(labels: np.ndarray) -> np.ndarray:
    """The height and the width of each component, int (N, 2)."""
    boxes = ndimage.find_objects(labels)
    return np.array(
        [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
    )


def enclosing(boxes: np.ndarray) -> np.ndarray:
    """The box (4,) around several (N, 4)."""
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def candidate_of(ink: Ink, labels: np.ndarray, names: np.ndarray, box: np.ndarray) -> Candidate:
    """The candidate of the components `names`, with the soft edge of their strokes."""
    left, top, right, bottom = map(int, box)
    soft = SOFT_PIXELS + (bottom - top) // SOFT_PARTS
    left, top = max(0, left - soft), max(0, top - soft)
    bottom, right = min(labels.shape[0], bottom + soft), min(labels.shape[1], right + soft)
    there = labels[top:bottom, left:right]
    own = np.isin(there, names)
    reach = ndimage.binary_dilation(own, np.ones((3, 3), bool), iterations=soft)
    strength = ink.strength[top:bottom, left:right]
    full = float(np.quantile(strength[own], DARKEST))
    own_ink = np.where(reach & (own | (there == 0)), strength, 0)
    own_ink = np.minimum(own_ink * (255 / full), 255).round().astype(np.uint8)
    return trim(own_ink, left, top, full)


def trim(ink: np.ndarray, left: int, top: int, strength: float) -> Candidate:
    """A candidate whose box is as small as its ink, `ink` having its corner at (left, top)."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)
    box = (left + first[1], top + first[0], left + last[1], top + last[0])
    return Candidate(box, ink[first[0] : last[0], first[1] : last[1]], strength)


def of_one_pen(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates without those that are much thinner or paler than most.

    Such are the rests of rulings, and print that shows through the paper.
    """
    if len(candidates) < 2:
        return candidates
    areas = np.array([candidate.ink.size for candidate in candidates])
    most = areas >= PEN_AREA * np.median(areas)
    widths = np.array([stroke_width(candidate.ink > HALF_INK) for candidate in candidates])
    strengths = np.array([candidate.strength for candidate in candidates])
    keep = widths > PEN_WIDTH * np.median(widths[most])
    keep &= strengths > PEN_STRENGTH * np.median(strengths[most])
    return [candidate for candidate, kept in zip(candidates, keep, strict=True) if kept]


# ----------------------------------------------------------------------------------- group


def group(boxes: np.ndarray, labels: np.ndarray, names: np.ndarray) -> list[np.ndarray]:
    """Which components belong together, without specks, frames and bars.

    From the largest one down: a component is a digit of its own unless a larger one is near, of
    which it then is a broken-off piece (grouped) or beside which it is a speck (dropped).

    Args:
        boxes: int (N, 4), the components' boxes.
        labels: int (H, W), as `label_components` gives it.
        names: int (N,), the components' numbers in `labels`.

    Returns:
        For each group the indices of its components.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    order = np.argsort(-sizes, kind="stable")
    usual = usual_size(sizes[order], np.bincount(labels.ravel())[names[order]])
    dropped = is_frame(boxes, labels, names) | is_bar(boxes, usual)
    groups: list[list[int]] = []
    extents: list[np.ndarray] = []
    for i in order[~dropped[order]]:
        if extents:
            known = np.array(extents)
            pair = Pair.of(known, boxes[i])
            # A shadow's corner comes in from the border; a digit's piece only with its digit.
            inwards = touches_border(boxes[i : i + 1], labels.shape)
            piece = is_piece(pair, usual) & (touches_border(known, labels.shape) | ~inwards)
            if piece.any():
                k = int(np.argmin(np.where(piece, pair.gap, np.inf)))
                groups[k].append(int(i))
                extents[k] = enclosing(np.stack([extents[k], boxes[i]]))
                continue
            if is_speck(pair).any():
                continue
        groups.append([int(i)])
        extents.append(boxes[i])
    heights = [max(box[3] - box[1], GROUP_WIDTH * (box[2] - box[0])) for box in extents]
    least = max(LEAST_HEIGHT, HEIGHT_SHARE * float(max(heights, default=0)))
    return [np.array(g) for g, h in zip(groups, heights, strict=True) if h >= least]


def usual_size(sizes: np.ndarray, areas: np.ndarray) -> float:
    """The size down to which, from the largest component on, half of all ink lies."""
    weights = np.cumsum(areas)
    return float(sizes[np.searchsorted(weights, weights[-1] / 2)])


def is_frame(boxes: np.ndarray, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Which components are outlines around others, bool (N,)."""
    height = boxes[:, 3] - boxes[:, 1]
    sizes = np.maximum(boxes[:, 2] - boxes[:, 0], height)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    frame = np.zeros(len(boxes), bool)
    for i in np.flatnonzero(sizes > FRAME_SIZE):
        left, top, right, bottom = boxes[i]
        inside = (middle[:, 0] > left) & (middle[:, 0] < right)
        inside &= (middle[:, 1] > top) & (middle[:, 1] < bottom)
        inside &= (sizes >= FRAMED_SIZE * sizes[i]) & (height >= FRAMED_HEIGHT * height[i])
        inside[i] = False
        if inside.any():
            own = labels[top:bottom, left:right] == names[i]
            frame[i] = own.mean() < FRAME_FULL and fill_holes(own).mean() > FRAME_FILLED
    return frame


def is_bar(boxes: np.ndarray, usual: float) -> np.ndarray:
    """Which components are long bars, level or upright, bool (N,)."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    level = (width > LEVEL_BAR[0] * height) & (width > LEVEL_BAR[1] * usual)
    upright = (height > UPRIGHT_BAR[0] * width) & (height > UPRIGHT_BAR[1] * usual)
    return level | upright


class Pair(NamedTuple):
    """A component beside each of the groups known so far: how they lie to one another.

    All are (groups,) but `height`. Lengths are in pixels but for those in statures of the group.
    """

    stature: np.ndarray
    """The group's height, or a share of its width if that is more."""
    gap: np.ndarray
    """Between the two boxes, in statures; 0 or less where they overlap."""
    size: np.ndarray
    """The longer side of the component, in statures."""
    overlap: np.ndarray
    """In width, as a share of the narrower one's."""
    growth: np.ndarray
    """`both_height` in statures."""
    both_height: np.ndarray
    """The height of the box around both."""
    both_width: np.ndarray
    """Its width."""
    lower: np.ndarray
    """The height of the lower one of the two."""
    height: int
    """The component's height."""

    @classmethod
    def of(cls, groups: np.ndarray, box: np.ndarray) -> Pair:
        """From the groups' boxes (groups, 4) and the component's (4,)."""
        left, top, right, bottom = groups.T
        width, height = box[2] - box[0], box[3] - box[1]
        across = np.maximum(left, box[0]) - np.minimum(right, box[2])
        down = np.maximum(top, box[1]) - np.minimum(bottom, box[3])
        stature = np.maximum(bottom - top, WIDE_STATURE * (right - left))
        both_height = np.maximum(bottom, box[3]) - np.minimum(top, box[1])
        return cls(
            stature,
            gap=np.hypot(np.maximum(across, 0), np.maximum(down, 0)) / stature,
            size=max(width, height) / stature,
            overlap=-across / np.minimum(right - left, width),
            growth=both_height / stature,
            both_height=both_height,
            both_width=np.maximum(right, box[2]) - np.minimum(left, box[0]),
            lower=np.minimum(bottom - top, height),
            height=height,
        )


def is_piece(pair: Pair, usual: float) -> np.ndarray:
    """Of which groups the component is a broken-off piece, by its place and shape, bool (groups,).

    Args:
        pair: the component and the groups.
        usual: the usual size of a component, in pixels.
    """
    not_high, not_wide = pair.both_height < USUAL * usual, pair.both_width < USUAL * usual
    above_or_below = (pair.gap < CLOSE) & (pair.size < PIECE_SIZE)
    above_or_below &= (pair.overlap > PIECE_OVERLAP) & (pair.growth < PIECE_GROWTH)
    half = (pair.gap < CLOSE) & (pair.overlap > HALF_OVERLAP) & not_high
    flat = (pair.gap < FLAT_GAP) & (pair.height < FLAT_HEIGHT * pair.stature)
    flat &= pair.growth < FLAT_GROWTH
    flat &= pair.both_width < FLAT_WIDTH * np.maximum(pair.stature, usual)
    fragment = (
        (pair.gap < FRAGMENT_GAP) & (pair.lower < FRAGMENT_HEIGHT * usual) & not_high & not_wide
    )
    large_enough = (pair.size > PIECE_LEAST) | (pair.gap < TOUCHING)
    return (above_or_below | half | flat | fragment) & large_enough


def is_speck(pair: Pair) -> np.ndarray:
    """Beside which groups the component is a speck, bool (groups,)."""
    return (pair.size < SPECK_SIZE) & (pair.gap < SPECK_GAP)


def touches_border(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which boxes touch the border of a picture of the shape (H, W), bool (N,)."""
    far = boxes[:, 2:] >= (shape[1], shape[0])
    return np.asarray((boxes[:, :2] <= 0).any(axis=1) | far.any(axis=1))
