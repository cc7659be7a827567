"""The page: sheets that lie on something else, outlines of boxes, and what runs along a border."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tinydigits.images.binarize import NEIGHBORHOOD, Ink, otsu
from tinydigits.images.morphology import (
    MOST_COMPONENTS,
    block_mean,
    dilate,
    erode,
    fill_holes,
    label_components,
    open_mask,
    stroke_width,
)

UPRIGHT = 15
"""Degrees by which the sides of a sheet or a frame may be turned."""

# Sheets are looked for in a reduced picture. Lengths in pixels are those of the reduced one.

SHEET_SIDE = 300
"""The shorter side, about, of the reduced picture."""
SHEET_SPECK = 5
"""The window of the median filter that clears what is small beside a sheet."""
MOSTLY_INK = 0.5
"""The share of a block's pixels that must be ink for the block to be."""
SHEET_EDGE = 2
"""How far inside its edge a sheet begins, in pixels of the picture beyond one block."""

LEAST_SHEET, SHEET_PARTS = 20, 5
"""A sheet's shorter side is at least so many pixels, and that part of the picture's (a fifth)."""
SHEET_ASPECT = 4
"""How many times as long as the shorter side the longer one may be."""
SHEET_SOLID = 0.5
"""The share of a sheet, holes filled, that must not be holes."""
SHEET_STRAIGHT = 0.9
"""The share of the smallest turned box around a sheet that it must fill."""
SHEET_BAND = 5
"""How wide the bands are in which brightness is compared: inside the edge, and outside as far
away again."""
SHEET_CONTRAST, SHEET_SPREAD = 12, 0.4
"""By how many gray levels the bands differ at least, and by which share of the standard deviations
on the sheet and beside it."""
SHEET_LEADS = 2
"""How many times as large as the next a sheet must be."""

FRAME_LEVEL = 0.5
"""From which share of the ink's level on something belongs to a frame."""
LEAST_FRAME = 20
"""The shorter side of a frame in pixels, at least."""
FRAME_FULL = 0.5
"""The share of its box that an outline covers at most."""
FRAME_STRAIGHT = 0.92
"""The share of the smallest turned box around a frame that it must fill with what it encloses."""
FRAME_QUANTILE = 0.3
"""Which of the widths along a side of a frame counts as its width."""
FRAME_EDGE = 2
"""How far the soft edge of a frame goes, in pixels."""
FRAME_ROOM = 7
"""How many times as high and as wide as its lines are a frame is, at least."""
FRAME_STUB = 2
"""What sticks out of a frame is narrower than so many times the frame's width."""

ALONG_BORDER = 0.4
"""The share of a border from which on what touches it runs along it."""
STRIP_TOUCHES, STRIP_LONG = 0.6, 2
"""The share of its length with which a strip lies on a border, at least, and how many times as long
as wide it is."""
STRIP_STROKES = 0.75, 1.3
"""A strip at the left or right is narrower or wider than these shares of the strokes' width, or
stands beside nothing; else it may be a 1."""
AROUND = 0.9
"""The share of the picture's height and width from which on something goes around everything."""
INSIDE = 0.15
"""The height of what stands in a frame around everything, as a share of the picture's, at least."""
SOLID = 0.2
"""The share of its box that a digit covers, and a frame does not."""
LEAST_REST, REST_SHARE = 5, 0.04
"""What remains must hold something higher than so many pixels, and that share of the picture's
height; else nothing is cleared."""
BORDER_EDGE = 2
"""How far around what is cleared its soft edge goes, in pixels."""


class Sheet(NamedTuple):
    """A card or a screen that lies on something else."""

    rows: slice
    """Where it is in the picture, with `columns` its box."""
    columns: slice
    nearest: np.ndarray
    """int (2, height, width): for each pixel of the box the place in it that is nearest on the
    sheet: row and column."""

    def cut_out(self, pixels: np.ndarray) -> np.ndarray:
        """The sheet alone: what is at its edge goes on around it, so that nothing there is ink.

        Args:
            pixels: float32 (H, W, channels), the picture.

        Returns:
            float32 (height, width, channels).
        """
        return pixels[self.rows, self.columns][tuple(self.nearest)]

    def put_back(self, ink: Ink, shape: tuple[int, ...]) -> Ink:
        """Ink of the sheet alone as ink of the picture, of shape (H, W), that it lies in."""
        strength = np.zeros(shape, np.float32)
        strength[self.rows, self.columns] = ink.strength
        return Ink(strength, ink.floor)


def find_sheets(gray: np.ndarray, ink: np.ndarray) -> Iterator[Sheet]:
    """Sheets of paper, cards and screens that may hold all that is written; likely ones first.

    Args:
        gray: float32 (H, W), as `normalize_page` gives it.
        ink: bool (H, W), what was taken for ink; a card may be among it.
    """
    step = max(1, min(gray.shape) // SHEET_SIDE)
    coarse = ndimage.median_filter(block_mean(gray, step), SHEET_SPECK)
    bright = coarse > otsu(coarse)
    brighter = coarse > ndimage.uniform_filter(coarse, min(coarse.shape) // NEIGHBORHOOD)
    taken = block_mean(ink.astype(np.float32), step) > MOSTLY_INK
    for mask in (taken, bright, ~bright, brighter, ~brighter):
        sheet = sheet_in(mask, coarse)
        if sheet is None:
            continue
        whole = np.zeros(gray.shape, bool)
        fine = sheet.repeat(step, axis=0).repeat(step, axis=1)
        whole[: fine.shape[0], : fine.shape[1]] = fine
        (rows, columns), *_ = ndimage.find_objects(whole.astype(np.int8))
        inner = erode(np.pad(whole[rows, columns], 1), SHEET_EDGE + step)[1:-1, 1:-1]
        if not inner.any():
            continue
        nearest = ndimage.distance_transform_edt(
            ~inner, return_distances=False, return_indices=True
        )
        yield Sheet(rows, columns, np.asarray(nearest))


def sheet_in(mask: np.ndarray, gray: np.ndarray) -> np.ndarray | None:
    """The one component of a mask that has the shape of a sheet, holes filled, or None."""
    labels, _ = label_components(mask)
    found = []
    for k, box in enumerate(ndimage.find_objects(labels), 1):
        filled = filled_sheet(labels[box] == k, box, mask.shape)
        if filled is None:
            continue
        whole = np.zeros(mask.shape, bool)
        whole[box] = filled
        if has_edge(whole, gray):
            found.append(whole)
    found.sort(key=np.count_nonzero, reverse=True)
    if not found or (len(found) > 1 and SHEET_LEADS * found[1].sum() > found[0].sum()):
        return None
    return found[0]


def filled_sheet(
    part: np.ndarray, box: tuple[slice, slice], shape: tuple[int, ...]
) -> np.ndarray | None:
    """A component, bool of the size of its box, with its holes filled if it is a sheet's shape."""
    height, width = part.shape
    shorter, longer = min(height, width), max(height, width)
    if shorter < max(LEAST_SHEET, min(shape) / SHEET_PARTS) or longer > SHEET_ASPECT * shorter:
        return None
    if any(where.start == 0 and where.stop == n for where, n in zip(box, shape, strict=True)):
        return None  # it goes right through the picture
    filled = fill_holes(part)
    if part.sum() < SHEET_SOLID * filled.sum():
        return None
    return filled if filled.sum() >= SHEET_STRAIGHT * upright_area(np.pad(filled, 1)) else None


def has_edge(sheet: np.ndarray, gray: np.ndarray) -> bool:
    """Whether other ground begins beyond a sheet's edge.

    Light that falls has no edge, and behind a ruling the same paper goes on.
    """
    inside = sheet & ~erode(sheet, SHEET_BAND)
    outside = dilate(sheet, 2 * SHEET_BAND) & ~dilate(sheet, SHEET_BAND)
    edge = np.median(gray[inside]) - np.median(gray[outside]) if outside.any() else 0
    spread = float(gray[sheet].std() + gray[~sheet].std())
    return bool(abs(edge) > max(SHEET_CONTRAST, SHEET_SPREAD * spread))


def clear_frames(ink: Ink) -> Ink:
    """Clear the outlines of boxes, and leave what is in them, even where it touches."""
    strength = ink.strength.copy()
    labels, count = label_components(strength > max(ink.floor, FRAME_LEVEL * ink.level))
    if not 0 < count < MOST_COMPONENTS:
        return ink
    margin = FRAME_EDGE + 1
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        if min(rows.stop - rows.start, columns.stop - columns.start) < LEAST_FRAME:
            continue
        box = tuple(slice(max(0, n.start - margin), n.stop + margin) for n in (rows, columns))
        own = labels[box] == k
        if own.mean() > FRAME_FULL:
            continue
        widths = side_widths(own)
        # What sticks out of a frame is no part of it.
        core = open_mask(fill_holes(own), FRAME_STUB * max(widths))
        if min(core.any(axis=0).sum(), core.any(axis=1).sum()) < FRAME_ROOM * max(widths):
            continue
        if core.sum() < FRAME_STRAIGHT * upright_area(np.pad(core, 1)):
            continue
        strength[box][frame_pixels(own, core, strength[box] > ink.level, widths)] = 0
    return Ink(strength, ink.floor)


def frame_pixels(
    own: np.ndarray, core: np.ndarray, ink: np.ndarray, widths: list[int]
) -> np.ndarray:
    """Which pixels belong to a frame or to its soft edge, and to no stroke, bool (H, W).

    Args:
        own: bool (H, W), the frame with whatever touches it.
        core: bool (H, W), the frame with what it encloses.
        ink: bool (H, W), all ink.
        widths: of the frame's sides, as `side_widths` gives them.
    """
    width = max(widths)
    ring = np.zeros(own.shape, bool)
    for k, side in enumerate(widths):
        turned = np.rot90(core, k)
        begins = np.where(turned.any(axis=1), turned.argmax(axis=1), core.size)
        along = np.arange(turned.shape[1]) - begins[:, None]
        np.rot90(ring, k)[(along >= 0) & (along < side)] = True
    ring &= core
    # Its soft edge is no ink, and what is ink there may be a stroke that goes on beyond.
    beside = ink & ~ring
    soft = dilate(ring, FRAME_EDGE) & ~ring
    strokes = parts_with(beside, beside & ~soft)
    outside = strokes & ~core
    stubs = own & outside & ~longer_parts(outside, FRAME_STUB * width)
    # Where a stroke comes out on the other side, it crosses the frame.
    reach = width + 1
    crossing = ring & ink & dilate(strokes & core, reach) & dilate(outside & ~stubs, reach)
    return (ring & ~crossing) | (soft & ~strokes) | dilate(stubs, FRAME_EDGE) & ~core


def side_widths(own: np.ndarray) -> list[int]:
    """How wide a frame, bool (H, W), is at its left, top, right and bottom, in pixels.

    A side is as wide as rows, or columns, begin with where no digit stands on it.
    """
    widths = []
    for k in (0, 1, 2, 3):
        turned = np.rot90(own, k)
        rows = np.pad(turned[turned.any(axis=1)], ((0, 0), (0, 1)))
        first = rows.argmax(axis=1)
        ends = [int((~row[f:]).argmax()) for row, f in zip(rows, first, strict=True)]
        widths.append(max(1, int(np.quantile(ends, FRAME_QUANTILE))))
    return widths


def parts_with(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The components of a mask that hold one of the pixels `seeds`, bool (H, W)."""
    labels, count = label_components(mask)
    return np.isin(labels, np.unique(labels[seeds & mask])) & mask if count else mask


def longer_parts(mask: np.ndarray, length: int) -> np.ndarray:
    """The components of a mask that are longer than so many pixels, bool (H, W)."""
    labels, _ = label_components(mask)
    boxes = ndimage.find_objects(labels)
    longer = [max(r.stop - r.start, c.stop - c.start) > length for r, c in boxes]
    return np.array([False, *longer])[labels]


def upright_area(mask: np.ndarray) -> float:
    """The area of the smallest box around a mask, which may be turned a little, in pixels."""
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    x, y = np.concatenate([left, right]), np.concatenate([rows, rows])
    angles = np.deg2rad(np.arange(-UPRIGHT, UPRIGHT + 1))[:, None]
    widths = np.ptp(x * np.cos(angles) - y * np.sin(angles), axis=1)
    heights = np.ptp(x * np.sin(angles) + y * np.cos(angles), axis=1) + 1
    return float((widths * heights).min())


def clear_borders(ink: Ink) -> Ink:
    """Clear strips, tables and frames: what runs along much of a border, or around everything.

    Nothing is cleared if nothing else is there, for a digit may touch the borders too.
    """
    strength = ink.strength
    labels, count = label_components(ink.mask)
    if count < 2:
        return ink
    height, width = strength.shape
    boxes = ndimage.find_objects(labels)
    heights = [rows.stop - rows.start for rows, _ in boxes]
    beside = np.zeros(count + 1, bool)
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching = np.bincount(border, minlength=count + 1)
        beside |= touching > ALONG_BORDER * len(border)
    beside |= border_strips(labels, boxes)
    inside = sum(h > INSIDE * height for h in heights)
    for k, (rows, columns) in enumerate(boxes, 1):
        spans = columns.stop - columns.start >= AROUND * width
        if spans and heights[k - 1] >= AROUND * height:
            solid = float((labels[rows, columns] == k).mean()) > SOLID
            beside[k] |= inside > 1 and not solid
    beside[0] = False
    rest = [h for h, cleared in zip(heights, beside[1:], strict=True) if not cleared]
    if not any(h > max(LEAST_REST, REST_SHARE * height) for h in rest):
        return ink
    gone = beside[labels]
    if gone.any():
        gone = dilate(gone, BORDER_EDGE) & ((labels == 0) | gone)
        strength = np.where(gone, 0, strength)
    return Ink(strength, ink.floor)


def border_strips(labels: np.ndarray, boxes: list[tuple[slice, slice]]) -> np.ndarray:
    """Which components are strips of a table or a page along a border, bool (1 + N,).

    Args:
        labels: int (H, W), as `label_components` gives it.
        boxes: of its N components.
    """
    strips = np.zeros(len(boxes) + 1, bool)
    for k in range(4):
        turned = np.rot90(labels, k)
        touching = np.bincount(turned[:, 0], minlength=len(strips))
        for n in (np.flatnonzero(touching[1:]) + 1).tolist():
            rows, columns = boxes[n - 1][:: -1 if k % 2 else 1]
            length, width = rows.stop - rows.start, columns.stop - columns.start
            if touching[n] < STRIP_TOUCHES * length or length < STRIP_LONG * width:
                continue
            strips[n] = k % 2 == 1 or not may_be_one(n, labels, boxes)
    return strips


def may_be_one(n: int, labels: np.ndarray, boxes: list[tuple[slice, slice]]) -> bool:
    """Whether component `n`, at the left or right border, stands in a line with like strokes."""
    rows = boxes[n - 1][0]
    others = labels[rows]
    others = (others > 0) & (others != n)
    if not others.any():
        return False
    low, high = (share * stroke_width(others) for share in STRIP_STROKES)
    return bool(low <= stroke_width(labels[boxes[n - 1]] == n) <= high)
