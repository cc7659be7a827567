"""Ruled paper: rulings and grids are found and cleared, and the strokes that cross them stay.

What may be a ruling is measured. It is one if it is paler or thinner than the strokes beside it, or
lies as no stroke of a digit does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tinydigits.images.binarize import Ink
from tinydigits.images.morphology import stroke_width
from tinydigits.images.tracks import find_tracks

LEAST_PAGE = 32
"""The shorter side of a picture in pixels, at least, for rulings to be looked for."""
WRITTEN_QUANTILES = (0.002, 0.998)
"""Between which quantiles of the rows and columns with ink there is writing."""
LEAST_WRITTEN = 40
"""The shorter side in pixels of the writing, at least, for rulings to be looked for in it alone."""
WRITTEN_RULINGS = 3
"""How many rulings of one direction there must be in the writing alone."""

RULING_LEVEL = 0.12
"""From which share of the ink's level on something may be a ruling."""
RULING_INSIDE = 0.4
"""The share of a ruling's columns at which it must be inside the picture."""
PROFILE, PROFILE_PEAK = 8, 2
"""How far from a ruling its profile is measured, and how far off its peak may be, in pixels."""
LEAST_SMOOTH, SMOOTH_PARTS = 15, 3
"""The window along a ruling over which its strength is a median: in pixels at least, and as a part
of the width."""
STEADY = 1.3
"""How many times its median strength a ruling can be anywhere."""
PROFILE_LEVEL = 0.4
"""From which share of its strength on a pixel counts toward a ruling's width."""
MOST_WIDTH, WIDTH_SHARE = 4, 0.05
"""How wide a ruling may be: so many pixels, or that share of the picture's shorter side."""
END_RUN = 9
"""The pixels in a row that belong to a ruling at its ends, at least."""
THROUGHOUT = 0.85
"""The share of the strips from which on a ruling runs all the way."""

SAME_COLUMNS = 0.2
"""The share of their columns at which two tracks cover the same pixels if they are one ruling."""
ENOUGH_RULINGS = 3
"""So many rulings that run on beyond the writing may be as dark and as wide as strokes."""
BAR_REACH = 4
"""How far from a ruling nothing tells about the ink beside it, in pixels."""
LEAST_INK = 20
"""The pixels of ink beside rulings from which on the two are compared."""
PALER, THINNER = 0.7, 0.5
"""A ruling is paler or thinner than that share of the ink beside it, unless it is printed."""
WRITTEN_ENDS = 0.003, 0.997
"""Between which quantiles of the columns with ink there is writing beside rulings."""
BEYOND_PIXELS, BEYOND = 2, 0.03
"""How far a ruling runs on beyond the writing at both of its ends, in pixels at least, and as a
share of its length."""
LONG = 2
"""How many times as long as the picture is high a ruling is that alone runs on beyond writing."""
ALIKE = 1.25
"""How many times as strong and as wide as rulings of the other direction one is, at most."""
EVEN = 1.25
"""How many times as wide as the narrowest the widest gap between printed rulings is, at most."""
EVEN_RULINGS = 4
"""So many rulings, evenly spaced, are printed even where writing reaches their ends."""

SOLID_LEVEL = 0.6
"""From which share of the ink's level on a pixel may belong to a stroke across a ruling."""
ACROSS_WIDTHS, ACROSS_PIXELS = 2, 3
"""How long, up and down, what crosses a ruling is at least: so many times its width and so many
pixels."""
CROSSING = 1.5
"""How many times as strong as the ruling a pixel is a stroke."""


@dataclass(frozen=True, eq=False)
class Ruling:
    """A ruled line from left to right, or nearly so."""

    rows: np.ndarray
    """int (W,): the row that it has at each column, within the picture."""
    inside: np.ndarray
    """bool (W,): at which columns it is inside the picture."""
    strength: np.ndarray
    """float32 (W,): how strong it usually is around each column."""
    width: float
    """In pixels."""
    tone: float
    """How strong it is in the median; infinite where it does not run all the way."""
    first: int
    """The column at which it begins."""
    last: int
    """The column at which it ends."""

    @property
    def is_throughout(self) -> bool:
        """Whether it runs nearly all the way."""
        return bool(np.isfinite(self.tone))


def clear_rulings(ink: Ink) -> Ink:
    """Clear rulings and grids, and leave the strokes that cross them."""
    strength, floor, level = ink.strength, ink.floor, ink.level
    if min(strength.shape) < LEAST_PAGE or not np.isfinite(level):
        return ink
    strength = clear_directions(strength, floor, level, 1)
    # Paper may end within the picture: where ink is, the rulings may run all the way.
    rows, columns = np.nonzero(strength > level)
    if len(rows):
        top, bottom = np.quantile(rows, WRITTEN_QUANTILES).astype(int)
        left, right = np.quantile(columns, WRITTEN_QUANTILES).astype(int)
        written = slice(top, bottom + 1), slice(left, right + 1)
        if min(bottom - top, right - left) > LEAST_WRITTEN:
            part = clear_directions(strength[written], floor, level, WRITTEN_RULINGS)
            strength[written] = part
    return Ink(strength, floor)


def clear_directions(strength: np.ndarray, floor: float, level: float, least: int) -> np.ndarray:
    """Clear the rulings that run through a picture, if a direction has at least so many of them.

    Of these, all but one must run nearly all the way.
    """
    turned = strength.T
    across, down = (find_rulings(each, floor, level, least) for each in (strength, turned))
    writing = strength > level
    writing &= ~near_rulings(across, strength.shape) & ~near_rulings(down, turned.shape).T
    printed = printed_rulings(merged(across), merged(down), writing)
    across = without_strokes(across, printed[0], strength, level)
    down = without_strokes(down, printed[1], turned, level)
    ruled = ruled_pixels(across, strength, level) | ruled_pixels(down, turned, level).T
    return np.where(ruled, 0, strength)


def find_rulings(strength: np.ndarray, floor: float, level: float, least: int) -> list[Ruling]:
    """What may be a ruling from left to right or nearly so: `least` of them or more, or none."""
    tracks = find_tracks(strength, max(floor, RULING_LEVEL * level))
    measured = (measure(track, share, strength, floor) for track, share in tracks)
    rulings = [ruling for ruling in measured if ruling is not None]
    apart = merged(rulings)
    if len(apart) < least or sum(ruling.is_throughout for ruling in apart) < least - 1:
        return []
    return rulings


def merged(rulings: list[Ruling]) -> list[Ruling]:
    """Rulings, the likeliest first, without those that cover the pixels of one before.

    A broad or slanting stroke is found as several.
    """
    apart: list[Ruling] = []
    for ruling in rulings:
        if not any(cover_the_same(ruling, other) for other in apart):
            apart.append(ruling)
    return apart


def cover_the_same(one: Ruling, other: Ruling) -> bool:
    """Whether two rulings lie on one another at some of their columns."""
    distance = np.abs(one.rows - other.rows)
    both = one.inside & other.inside
    return bool((both & (distance <= (one.width + other.width) / 2)).mean() > SAME_COLUMNS)


def ruled_pixels(rulings: list[Ruling], strength: np.ndarray, level: float) -> np.ndarray:
    """Which pixels belong to a ruling and to no stroke, bool (H, W)."""
    height, width = strength.shape
    ruled = np.zeros(strength.shape, bool)
    columns = np.arange(width)
    solid = strength > SOLID_LEVEL * level
    crossings: dict[int, np.ndarray] = {}
    for ruling in rulings:
        # What is much darker than its ruling, or goes on across it, is a stroke.
        across = int(ACROSS_WIDTHS * round(ruling.width) + ACROSS_PIXELS)
        if across not in crossings:
            opened = ndimage.minimum_filter1d(solid, across, axis=0)
            crossings[across] = ndimage.maximum_filter1d(opened, across, axis=0)
        reach = int(np.ceil(ruling.width / 2)) + 1
        for d in range(-reach, reach + 1):
            rows = ruling.rows + d
            there = ruling.inside & (rows >= 0) & (rows < height)
            r, c = rows[there], columns[there]
            stroke = strength[r, c] > CROSSING * ruling.strength[there]
            ruled[r, c] |= ~(stroke | crossings[across][r, c])
    return ruled


def measure(track: np.ndarray, share: float, strength: np.ndarray, floor: float) -> Ruling | None:
    """How strong and how wide the ruling along a track is, or None if it is none.

    Args:
        track: float (W,), its row at each column, which may be outside the picture.
        share: of the strips, those that have it.
        strength: float32 (H, W), as in `Ink`.
        floor: as in `Ink`.
    """
    height, width = strength.shape
    rows = np.clip(np.round(track).astype(int), 0, height - 1)
    inside = (track >= 0) & (track < height)
    if inside.mean() < RULING_INSIDE:
        return None
    offsets = range(-PROFILE, PROFILE + 1)
    columns = np.arange(width)
    around = np.stack([strength[np.clip(rows + d, 0, height - 1), columns] for d in offsets])
    around[:, ~inside] = 0
    peak = around[PROFILE - PROFILE_PEAK : PROFILE + PROFILE_PEAK + 1].max(axis=0)
    window = max(LEAST_SMOOTH, width // SMOOTH_PARTS)
    usual = ndimage.median_filter(peak, window, mode="nearest")
    # A stroke along a ruling must not count as the ruling, which is about as dark everywhere.
    usual = np.minimum(usual, STEADY * np.median(peak[inside]))
    ruling_width = float(np.median((around > PROFILE_LEVEL * usual).sum(axis=0)[inside]))
    if ruling_width > max(MOST_WIDTH, WIDTH_SHARE * min(strength.shape)):
        return None
    tone = float(np.median(peak[inside & (peak > floor)])) if share > THROUGHOUT else np.inf
    # What only crosses the track is no part of it.
    long = ndimage.minimum_filter1d(inside & (peak > floor), END_RUN, mode="constant")
    present = np.flatnonzero(ndimage.maximum_filter1d(long, END_RUN))
    first, last = (int(present[0]), int(present[-1])) if len(present) else (0, 0)
    return Ruling(rows, inside, usual, ruling_width, tone, first, last)


def near_rulings(rulings: list[Ruling], shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels lie so near to a ruling that they may be its own, bool (H, W)."""
    near = np.zeros(shape, bool)
    columns = np.arange(shape[1])
    for ruling in rulings:
        for d in range(-BAR_REACH, BAR_REACH + 1):
            rows = np.clip(ruling.rows + d, 0, shape[0] - 1)
            near[rows[ruling.inside], columns[ruling.inside]] = True
    return near


def without_strokes(
    rulings: list[Ruling], printed: list[Ruling], strength: np.ndarray, level: float
) -> list[Ruling]:
    """Rulings of one direction, but for those that could be bars and stems of digits.

    Strokes are neither paler nor thinner than the ink beside them. Rulings that are `printed` may
    be as dark and as wide.
    """
    rest = (strength > level) & ~near_rulings(rulings, strength.shape)
    ink, pen = 0.0, 0.0
    if rest.sum() >= LEAST_INK:
        ink, pen = float(np.median(strength[rest])), stroke_width(rest)
    return [
        ruling
        for ruling in rulings
        if ruling.tone < PALER * ink
        or (ruling.is_throughout and ruling.width < THINNER * pen)
        or any(cover_the_same(ruling, other) for other in printed)
    ]


def printed_rulings(
    across: list[Ruling], down: list[Ruling], writing: np.ndarray
) -> tuple[list[Ruling], list[Ruling]]:
    """Rulings that are none of the strokes of digits by where they lie, of both directions.

    They run on beyond the writing, are evenly spaced, or cross all those of the other direction.
    """
    ends, ends_down = ends_of(writing), ends_of(writing.T)
    beyond = [r for r in across if runs_beyond(r, *ends)]
    beyond_down = [r for r in down if runs_beyond(r, *ends_down)]
    if len(beyond) + len(beyond_down) < ENOUGH_RULINGS:
        beyond = [r for r in beyond if is_long(r, writing.shape[0])]
        beyond_down = [r for r in beyond_down if is_long(r, writing.shape[1])]
    beyond = across if are_even(across) else beyond
    beyond_down = down if are_even(down) else beyond_down
    return (
        [r for r in across if r in beyond or crosses_all(r, beyond_down)],
        [r for r in down if r in beyond_down or crosses_all(r, beyond)],
    )


def ends_of(writing: np.ndarray) -> tuple[float, float]:
    """From which column to which there is writing, bool (H, W); everywhere if there is none."""
    up_to = np.cumsum(writing.sum(axis=0))
    if up_to[-1] < LEAST_INK:
        return -np.inf, np.inf
    left, right = (int(np.searchsorted(up_to, share * up_to[-1])) for share in WRITTEN_ENDS)
    return left, right


def runs_beyond(ruling: Ruling, left: float, right: float) -> bool:
    """Whether a ruling begins before the columns with writing, and ends after them."""
    beyond = max(BEYOND_PIXELS, BEYOND * (ruling.last - ruling.first))
    return bool(ruling.first < left - beyond and ruling.last > right + beyond)


def is_long(ruling: Ruling, height: int) -> bool:
    """Whether a ruling runs all the way through a picture that is too wide for a single digit."""
    return ruling.is_throughout and ruling.last - ruling.first > LONG * height


def are_even(rulings: list[Ruling]) -> bool:
    """Whether there are enough rulings, and about the same distance from each to the next."""
    if len(rulings) < EVEN_RULINGS:
        return False
    gaps = np.diff(np.sort([ruling.rows[len(ruling.rows) // 2] for ruling in rulings]))
    return bool(gaps.max() <= EVEN * gaps.min())


def crosses_all(ruling: Ruling, others: list[Ruling]) -> bool:
    """Whether a ruling crosses enough of the other direction, all of them, and is as they are."""
    if len(others) < ENOUGH_RULINGS:
        return False
    places = [other.rows[len(other.rows) // 2] for other in others]
    strength = np.median([np.median(other.strength) for other in others])
    width = np.median([other.width for other in others])
    return bool(
        ruling.first <= min(places)
        and ruling.last >= max(places)
        and np.median(ruling.strength) <= ALIKE * strength
        and ruling.width <= ALIKE * width
    )
