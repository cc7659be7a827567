"""Where rulings may run: the tracks that strips of a picture vote for.

Straight tracks are voted for as in a Hough transform (Duda and Hart 1972), by strips of the picture
in which something runs all the way; then each follows its own strips, for paper bends.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

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
