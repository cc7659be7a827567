"""The way in: from a picture of one symbol to the 28 x 28 pixels that MNIST would have had.

A picture that holds one symbol comes whole (`tinydigits.images.symbol`), and `prepare` finds the
ink in it. Of a page with digits come candidates, whose ink is found already; the strokes of a fine
pen are made as wide as MNIST's (`prepare_candidate`).

The rules of `prepare` are those of MNIST (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of
handwritten digits"): light ink on black, fitted into 20 x 20 pixels, its center of mass in the
middle of 28 x 28. `tinydigits_prepare` in engine/prepare.c does the same in C, bit for bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinydigits.errors import UsageError, reason
from tinydigits.network.architecture import SIZE

FITTED = 20
"""Pixels of the longer side of the ink."""
MIDDLE = 14
"""Row and column, counted from 0, that the center of mass goes to."""
LONGEST = 4096
"""Pixels of the longest side of a crop: sums of the filter fit into 32 bits up to there."""
WINDOW = 32
"""Neighboring gray levels that may belong to one paper."""

STEPS = 64
"""Entries of the filter's table per unit of its argument."""
LOBES = 3
"""Where the filter ends, in units of its argument."""
LANCZOS = np.rint(
    256 * np.sinc(np.arange(LOBES * STEPS) / STEPS) * np.sinc(np.arange(LOBES * STEPS) / STEPS / 3)
).astype(np.int64)
"""int64 (192,): Lanczos-3 in units of 1/256, at the arguments 0, 1/64 ... 191/64."""
FRACTION = 64
"""Between the two passes of the filter, and after them, values are in units of 1/64."""

MARGIN_PARTS = 24
"""The margin is as wide as that part of a side, rounded down, and one pixel."""
MARGIN_INK = 3, 8
"""In the margin, what is farther from the paper than that fraction of `top` is ink."""
SEEN, ONE_SIDED = 16, 2
"""There is ink where `top` is over so many times the noise, or over so many times `other`."""
NOISE_LIMIT = 6
"""How many times the noise a pixel must exceed to be in the box, or half of `top`."""

PEN = 0.07
"""How wide MNIST's strokes are, as a share of a digit's longer side."""
FINE_PEN = 0.05
"""Up to which share strokes are made that wide."""


def prepare_candidate(ink: np.ndarray) -> np.ndarray:
    """Bring a candidate to the form of MNIST, the strokes of a fine pen as wide as MNIST's.

    Args:
        ink: uint8 (H, W), 0 for paper, 255 for the darkest ink.

    Returns:
        uint8 (28, 28).
    """
    return prepare(widen_strokes(ink), paper=0)


def widen_strokes(ink: np.ndarray) -> np.ndarray:
    """Ink of a fine pen as if it were of a pen as wide, for its height, as in MNIST."""
    from scipy.ndimage import maximum_filter

    from tinydigits.images.morphology import HALF_INK, stroke_width

    longer, width = max(ink.shape), stroke_width(ink > HALF_INK)
    missing = round(PEN * longer - width)
    if width > FINE_PEN * longer or missing < 1:
        return ink
    return maximum_filter(np.pad(ink, missing // 2 + 1), missing + 1)


def prepare(array: Any, paper: int | None = None) -> np.ndarray:
    """Bring a gray picture of one digit into the form of MNIST, which the networks know.

    Dark on light and light on dark both do, and so do pale ink, gray paper and a digit that is
    large, small or away from the middle. The digits of MNIST come back as they were. Cutting a
    picture into digits and taking away rulings and shadows is not done here: everything that stands
    out from the paper is ink.

    All arithmetic is in integers, and // rounds down:

    1. *Paper.* If `paper` is None, it is looked for in the margin: the H // 24 + 1 rows at the top
       and at the bottom, and the W // 24 + 1 columns at either side. Of all 32 neighboring gray
       levels, take those that hold most pixels of the margin (the darkest, if several do); the
       paper is the lower median of these pixels.
    2. *Side.* Ink is on that side of the paper, darker or lighter, on which the picture's extreme
       lies farther away (darker, if both are as far). Let `top` be this distance, `other` the
       distance of the other extreme, and d of a pixel its signed distance from the paper, positive
       toward the ink.
    3. *Noise.* Among the pixels of the margin with d <= 3 * top // 8, `noise` is the third quartile
       of d: the least value that three quarters of them do not exceed, and at least 0. On clean
       paper it is 0, and every pixel that differs from the paper counts. Where top <= 16 * noise
       and top <= 2 * other, there is nothing but noise. Where that is so or `top` is 0, there is
       no ink. Let limit = min(6 * noise, top // 2).
    4. *Box.* The smallest one that holds all pixels with d > limit. In it, ink is d where
       d > limit // 2, and 0 elsewhere.
    5. *Fit.* The longer side L of the box becomes 20 pixels and a side of n pixels
       m = max(1, (40 * n + L) // (2 * L)), by a separable Lanczos-3 filter, widened where it
       shrinks. With s = max(n, m), source pixel j has in target pixel i the weight LANCZOS[|t|],
       t = (((2j + 1) * m - (2i + 1) * n) * 64 + s) // (2 * s), 0 from |t| = 192 on; weighted sums
       are divided by the sum of the weights. The rows are filtered first, to units of 1/64, then
       the columns. Both divisions round to the nearest, halves away from 0.
    6. *Stretch.* Values are cut to 0 ... 64 * top. With `most` the greatest of them, v becomes
       (2 * 255 * v + most) // (2 * most), so that the strongest ink is 255. If `most` is 0 (lone
       specks in a large picture), there is no ink.
    7. *Place.* The center of mass, rounded half up, goes to row and column 14, or as near to it as
       the ink can be without leaving the image.

    Args:
        array: uint8 (H, W), or what NumPy makes one of; sides of 1 to 4,096 pixels.
        paper: the gray level of the paper, 0 to 255, where it is known; None to find it.

    Returns:
        uint8 (28, 28): paper 0, the strongest ink 255; all 0 where there is no ink.

    Raises:
        UsageError: `array` is no uint8 (H, W) of these sides, or `paper` is no gray level.
    """
    image = np.zeros((SIZE, SIZE), np.uint8)
    located = _locate(_as_gray(array), None if paper is None else _level(paper))
    if located is None:
        return image
    ink, _, top = located

    fitted = _fit(ink).clip(0, FRACTION * top)
    most = int(fitted.max())
    if most == 0:
        return image
    fitted = (2 * 255 * fitted + most) // (2 * most)

    image[_place(fitted.sum(axis=1)), _place(fitted.sum(axis=0))] = fitted
    return image


def ink_box(gray: np.ndarray, paper: int | None = None) -> tuple[int, int, int, int] | None:
    """Where `prepare` finds the ink: left, top, right, bottom, the latter two beyond it; or None.

    The arguments are those of `prepare`.
    """
    located = _locate(gray, paper)
    return None if located is None else located[1]


def _locate(
    gray: np.ndarray, paper: int | None
) -> tuple[np.ndarray, tuple[int, int, int, int], int] | None:
    """Steps 1 to 4 of `prepare`: the ink in its box, the box, and `top`; None without ink."""
    margin = _margin_histogram(gray)
    if paper is None:
        paper = _find_paper(margin)
    darker, lighter = paper - int(gray.min()), int(gray.max()) - paper
    sign = 1 if lighter > darker else -1
    top, other = max(lighter, darker), min(lighter, darker)
    distance = sign * (np.arange(256) - paper)
    noise = _noise(margin, distance, MARGIN_INK[0] * top // MARGIN_INK[1])
    if top == 0 or (top <= SEEN * noise and top <= ONE_SIDED * other):
        return None

    limit = min(NOISE_LIMIT * noise, top // 2)
    is_ink = (distance > limit)[gray]
    rows, columns = (np.flatnonzero(is_ink.any(axis=axis)) for axis in (1, 0))
    strength = np.where(distance > limit // 2, distance, 0).clip(0)
    upper, lower, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    ink = strength[gray[upper:lower, left:right]]
    return ink, (int(left), int(upper), int(right), int(lower)), top


def _as_gray(array: Any) -> np.ndarray:
    """The crop as an array, or UsageError."""
    advice = "Give a uint8 array of shape (H, W), black 0 and white 255"
    try:
        gray = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise UsageError(f"This is no picture: {reason(error)}. {advice}.") from error
    if gray.dtype != np.uint8:
        how = {
            "b": ": np.uint8(255) * array turns True into white",
            "f": ": (255 * array).round().astype(np.uint8), if it goes from 0 to 1",
        }
        raise UsageError(f"The picture is of {gray.dtype}. {advice}{how.get(gray.dtype.kind, '')}.")
    if gray.ndim != 2:
        raise UsageError(
            f"The picture has the shape {gray.shape}. {advice}, one picture, no colors."
        )
    if not all(1 <= side <= LONGEST for side in gray.shape):
        raise UsageError(
            f"The picture has the shape {gray.shape}: each side must be of 1 to {LONGEST} pixels."
        )
    return gray


def _level(paper: Any) -> int:
    """The gray level as a number, or UsageError."""
    if (
        isinstance(paper, (bool, np.bool_))
        or not isinstance(paper, (int, np.integer))
        or not 0 <= paper <= 255
    ):
        raise UsageError(
            f"The paper is {paper!r}: give its gray level, a whole number from 0 (black) "
            "to 255 (white), or None to find it."
        )
    return int(paper)


def _margin_histogram(gray: np.ndarray) -> np.ndarray:
    """int64 (256,): how many pixels of the margin have each gray level."""
    height, width = gray.shape
    y, x = height // MARGIN_PARTS + 1, width // MARGIN_PARTS + 1
    middle = gray[y : max(height - y, y), x : max(width - x, x)]
    return np.bincount(gray.ravel(), minlength=256) - np.bincount(middle.ravel(), minlength=256)


def _find_paper(margin: np.ndarray) -> int:
    """The lower median of the fullest WINDOW of the margin's histogram."""
    up_to = np.concatenate([[0], np.cumsum(margin)])
    in_window = up_to[WINDOW:] - up_to[:-WINDOW]
    darkest = int(in_window.argmax())
    half = up_to[darkest] + (in_window[darkest] + 1) // 2
    return int(np.searchsorted(up_to, half)) - 1


def _noise(margin: np.ndarray, distance: np.ndarray, furthest: int) -> int:
    """The third quartile of the distances from the paper in the margin, ink left aside."""
    order = np.argsort(distance)
    order = order[distance[order] <= furthest]
    up_to = np.cumsum(margin[order])
    quartile = distance[order[np.searchsorted(4 * up_to, 3 * up_to[-1])]]
    return max(0, int(quartile)) if up_to[-1] else 0


@lru_cache(maxsize=64)
def _weights(n: int, m: int) -> np.ndarray:
    """float64 (n, m), whole numbers: what each of n source pixels weighs in each of m targets."""
    source, target, longer = np.arange(n)[:, None], np.arange(m), max(n, m)
    offset = (2 * source + 1) * m - (2 * target + 1) * n
    argument = np.abs((offset * STEPS + longer) // (2 * longer))
    return np.append(LANCZOS, 0)[argument.clip(max=len(LANCZOS))].astype(np.float64)


def _filter(values: np.ndarray, longer: int) -> np.ndarray:
    """Bring the last axis to the length that it has where `longer` becomes 20."""
    n = values.shape[-1]
    weights = _weights(n, max(1, (2 * FITTED * n + longer) // (2 * longer)))
    total = weights.sum(axis=0).astype(np.int64)
    # Sums stay below 2^31, so matrix products of floats are exact, and quicker than of integers.
    sums = (values @ weights).astype(np.int64)
    return np.sign(sums) * ((np.abs(sums) + total // 2) // total)


def _fit(ink: np.ndarray) -> np.ndarray:
    """int64 (H, W) to (m, m') with the longer side FITTED, values in units of 1 / FRACTION."""
    longer = max(ink.shape)
    strips = np.array_split(ink, 1 + ink.size // 2**20)  # keeps floats of a large crop in bounds
    rows = np.concatenate([_filter(strip * float(FRACTION), longer) for strip in strips])
    return _filter(rows.T.astype(np.float64), longer).T


def _place(mass: np.ndarray) -> slice:
    """Where the ink goes along one axis, given how much there is at each place."""
    total = int(mass.sum())
    center = (2 * int(mass @ np.arange(len(mass))) + total) // (2 * total)
    start = min(max(MIDDLE - center, 0), SIZE - len(mass))
    return slice(start, start + len(mass))
