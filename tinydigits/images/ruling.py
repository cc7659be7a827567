"""Ruled paper: rulings and grids are found and cleared, and the strokes that cross them stay.

Straight rulings are voted for as in a Hough transform (Duda and Hart 1972), by strips of the
picture in which something runs all the way; then each follows its own strips, for paper bends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tinydigits.images.binarize import Ink
from tinydigits.images.morphology import stroke_width

LEAST_PAGE = 64
"""The shorter side of a picture in pixels, at least, for rulings to be looked for."""
WRITTEN_QUANTILES = (0.002, 0.998)
"""Between which quantiles of the rows and columns with ink there is writing."""
LEAST_WRITTEN = 80
"""The shorter side in pixels of the writing, at least, for rulings to be looked for in it alone."""
WRITTEN_RULINGS = 3
"""How many rulings of one direction there must be in the writing alone."""

RULING_LEVEL = 0.12
"""From which share of the ink's level on something may be a ruling."""
STRIP_WIDTH, LEAST_STRIPS, MOST_STRIPS = 10, 8, 64
"""How wide a strip of the picture is in pixels, as far as their number allows it."""
FATTENED, FATTENED_LARGE, LARGE_SIDE = 3, 5, 200
"""The window in pixels by which rulings are made wider before they are voted for, and that of
pictures whose shorter side is over so many pixels: a steep ruling still runs through a strip."""
VOTE_WINDOW = 3
"""The window in pixels within which a strip votes for a row."""
LEAST_DRIFT, DRIFT = 2, 0.11
"""How far a ruling may rise or fall across the picture: in pixels at least, and as a share of the
longer side."""
DRIFT_STEP = 2
"""The steps in pixels in which it is tried."""
PEAK_WINDOW = 5
"""The window in pixels within which the row with most votes counts."""
VOTES = 0.55
"""The share of the strips within the picture that must vote for a ruling, more than that."""
STRIPS_WITHIN = 0.5
"""The share of all strips that must, more than that."""
MOST_VOTED = 20_000
"""How many rulings are followed at most."""
CLAIMED = 4
"""The distance in pixels within which a ruling claims the votes of the strips."""

FOLLOW = 3
"""How many pixels a strip may move a ruling up or down."""
FOLLOW_PENALTY = 1e-3
"""What each pixel of that costs, in gray levels: of equally dark rows the nearest counts."""
FOLLOW_SMOOTH = 7
"""The window, in strips, of the median that makes these moves smooth."""
LEAST_BESIDE, BESIDE_PARTS = 5, 40
"""How far beside a ruling there must be paper: in pixels at least, and as a part of the height."""
BESIDE_LEVEL, BESIDE_SHARE = 0.5, 0.6
"""What is darker there than that share of the ruling, in more than that share of the strips, makes
it a broad stroke, or the edge of something dark."""

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
THROUGHOUT = 0.85
"""The share of the strips from which on a ruling runs all the way."""

ENOUGH_RULINGS = 3
"""So many rulings cannot be the bars of a digit."""
BAR_REACH = 4
"""How far from a ruling nothing tells about the ink beside it, in pixels."""
LEAST_INK = 20
"""The pixels of ink beside rulings from which on the two are compared."""
PALER, THINNER = 0.7, 0.5
"""A ruling among few is paler or thinner than that share of the ink beside it."""

SOLID_LEVEL = 0.6
"""From which share of the ink's level on a pixel may belong to a stroke across a ruling."""
ACROSS_WIDTHS, ACROSS_PIXELS = 2, 3
"""How long, up and down, what crosses a ruling is at least: so many times its width and so many
pixels."""
CROSSING = 1.5
"""How many times as strong as the ruling a pixel is a stroke."""


class Ruling(NamedTuple):
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
    across = ruled_pixels(strength, floor, level, least)
    down = ruled_pixels(strength.T, floor, level, least).T
    return np.where(across | down, 0, strength)


def ruled_pixels(strength: np.ndarray, floor: float, level: float, least: int) -> np.ndarray:
    """Which pixels belong to a ruling from left to right or nearly so, and to no stroke."""
    height, width = strength.shape
    ruled = np.zeros(strength.shape, bool)
    tracks = find_tracks(strength, max(floor, RULING_LEVEL * level))
    measured = (measure(track, share, strength, floor) for track, share in tracks)
    rulings = [ruling for ruling in measured if ruling is not None]
    if len(rulings) < least or sum(ruling.is_throughout for ruling in rulings) < least - 1:
        return ruled
    if len(rulings) < ENOUGH_RULINGS:
        rulings = without_bars(rulings, strength, level)
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
    return Ruling(rows, inside, usual, ruling_width, tone)


def without_bars(rulings: list[Ruling], strength: np.ndarray, level: float) -> list[Ruling]:
    """One or two rulings, but for those that could be the bars of a single digit.

    Bars are neither paler nor thinner than the ink beside them.
    """
    height, width = strength.shape
    columns = np.arange(width)
    near = np.zeros(strength.shape, bool)
    for ruling in rulings:
        for d in range(-BAR_REACH, BAR_REACH + 1):
            rows = np.clip(ruling.rows + d, 0, height - 1)
            near[rows[ruling.inside], columns[ruling.inside]] = True
    rest = (strength > level) & ~near
    if rest.sum() < LEAST_INK:
        return []
    ink, pen = float(np.median(strength[rest])), stroke_width(rest)
    return [
        ruling
        for ruling in rulings
        if ruling.tone < PALER * ink or (ruling.is_throughout and ruling.width < THINNER * pen)
    ]


def find_tracks(strength: np.ndarray, floor: float) -> list[tuple[np.ndarray, float]]:
    """Where rulings may run from left to right.

    Returns:
        For each its row at each column, float (W,), which may be outside the picture; and the share
        of the strips that have it.
    """
    height, width = strength.shape
    strips = int(np.clip(width // STRIP_WIDTH, LEAST_STRIPS, MOST_STRIPS))
    edges = np.linspace(0, width, strips + 1).astype(int)
    fattened = FATTENED_LARGE if min(strength.shape) > LARGE_SIDE else FATTENED
    fat = ndimage.maximum_filter1d(strength, fattened, axis=0)
    runs = np.minimum.reduceat(fat, edges[:-1], axis=1).T  # (strips, height)
    votes = ndimage.maximum_filter1d(runs > floor, VOTE_WINDOW, axis=1)
    drift = max(LEAST_DRIFT, int(DRIFT * max(width, height)))
    pad = 2 * drift  # rows above and below the picture that a ruling may have
    padded = np.zeros((strips, height + 2 * pad), np.int16)
    padded[:, pad : pad + height] = votes
    claimed = np.zeros(padded.shape, bool)
    place = (np.arange(strips) + 0.5) / strips
    middles = (edges[:-1] + edges[1:]) / 2
    k = np.arange(strips)
    tracks = []
    for share, d, y in straight_rulings(padded, place, drift)[:MOST_VOTED]:
        rows = y + np.round(d * (place - 0.5)).astype(int)
        at = rows + pad
        if (padded[k, at] * ~claimed[k, at]).sum() < STRIPS_WITHIN * strips * VOTES:
            continue
        for e in range(-CLAIMED, CLAIMED + 1):
            claimed[k, at + e] = True
        bent = follow(runs, rows)
        if not has_paper_beside(runs, np.round(bent).astype(int)):
            continue
        track = np.interp(np.arange(width), middles, bent)
        # Beyond the middle of the outermost strips the ruling goes on as it was.
        slope = (bent[-1] - bent[0]) / (middles[-1] - middles[0])
        left, right = int(middles[0]), int(middles[-1])
        track[:left] = bent[0] + slope * (np.arange(left) - middles[0])
        track[right:] = bent[-1] + slope * (np.arange(right, width) - middles[-1])
        tracks.append((track, share))
    return tracks


def straight_rulings(
    votes: np.ndarray, place: np.ndarray, drift: int
) -> list[tuple[float, int, int]]:
    """Straight rulings that enough strips vote for.

    Args:
        votes: int16 (strips, 2 * drift + H + 2 * drift), the rows that each strip votes for.
        place: float (strips,), where the strips' middles are, from 0 at the left to 1.
        drift: how many pixels a ruling may rise or fall.

    Returns:
        (share of the strips, pixels that it falls, its row in the middle), the best ones first and
        of equals the more level ones.
    """
    strips, length = votes.shape[0], votes.shape[1] - 2 * drift
    picture = np.zeros(votes.shape[1], np.int16)
    picture[2 * drift : votes.shape[1] - 2 * drift] = 1
    found = []
    for d in range(-drift, drift + 1, DRIFT_STEP):
        offsets = np.round(d * (place - 0.5)).astype(int) + drift
        cast = sum(votes[k, o : o + length] for k, o in enumerate(offsets))
        possible = sum(picture[o : o + length] for o in offsets)
        share = cast / np.maximum(possible, 1)
        best = share == ndimage.maximum_filter1d(share, PEAK_WINDOW)
        good = np.flatnonzero(best & (share > VOTES) & (cast > STRIPS_WITHIN * strips))
        found += [(-float(share[y]), abs(d), d, int(y) - drift) for y in good]
    return [(-share, d, y) for share, _, d, y in sorted(found)]


def follow(runs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A straight ruling's rows (strips,), moved by a few pixels to where the strips have it."""
    strips, height = runs.shape
    offsets = np.arange(-FOLLOW, FOLLOW + 1)
    at = np.clip(rows[:, None] + offsets, 0, height - 1)
    values = runs[np.arange(strips)[:, None], at] - FOLLOW_PENALTY * np.abs(offsets)
    total = np.maximum(values, 0).sum(axis=1)
    shift = (np.maximum(values, 0) * offsets).sum(axis=1) / np.maximum(total, 1e-6)
    return rows + ndimage.median_filter(shift, FOLLOW_SMOOTH, mode="nearest")


def has_paper_beside(runs: np.ndarray, rows: np.ndarray) -> bool:
    """Whether there is paper above and below a ruling, given its row in each strip."""
    strips, height = runs.shape
    own = runs[np.arange(strips), np.clip(rows, 0, height - 1)]
    dark = runs > BESIDE_LEVEL * own[:, None]
    beside = int(max(LEAST_BESIDE, height / BESIDE_PARTS))
    for at in (rows - beside, rows + beside):
        inside = (at >= 0) & (at < height)
        if inside.any() and dark[np.flatnonzero(inside), at[inside]].mean() > BESIDE_SHARE:
            return False
    return True
