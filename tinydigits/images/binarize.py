"""Ink and paper: how much darker each pixel is than the paper around it, and from where it is ink.

Paper is what remains when whatever is narrower than a window is taken away: a morphological closing
(the top-hat transform of Meyer 1979). It follows shadows, and the edge of a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from tinydigits.images.morphology import block_mean, close_dark, stroke_width

# All thresholds on brightness, contrast and noise are in gray levels, of which there are 256. A
# side is the shorter side of the picture in pixels.

COLOR_SIDE = 200
"""The side to which a picture is thinned out, about, to find how its channels are weighted."""

NOISE_SIDE = 40
"""The side below which noise is not estimated, because strokes are everywhere."""
NOISE_TILES = 6
"""Tiles along each side in which noise is estimated."""
NOISE_QUANTILE = 0.6
"""Which of the tiles counts, from the calmest (0) to the noisiest (1)."""
MEDIAN_OF_NORMAL = 0.6745
"""The median distance from the mean, in standard deviations, of a normal distribution."""

GRAINY = 5
"""The noise above which a picture is smoothed: it is dithered, or there was little light."""
NOISE_PER_SIGMA = 8
"""The noise that is smoothed with a Gaussian filter of a sigma of one pixel."""
LEAST_SIGMA = 0.8
"""The sigma of that filter in pixels, at least."""
SIDE_PER_SIGMA = 150
"""The side of a picture for which sigma may be one pixel; larger ones allow more."""

LIGHT_SIDE = 100
"""The side, about, of the reduced picture to which a surface of light is fitted."""
LIGHT_DEGREE = 3
"""The degree of that surface."""
LIGHT_ROUNDS = 8
"""How often it is fitted, each time with less weight on what lies off it."""
LIGHT_SCALE, LIGHT_OFFSET = 2, 0.1
"""The distance at which a pixel weighs half: so many times the median one, and so much more."""
LIGHT_LEFT = 0.35
"""The largest share of the picture's variation that may be left beside the surface, if there is
one: by the medians of the distances from the surface, and from the median brightness."""

POLARITY_SIDE = 150
"""The side, about, of the reduced picture in which ink and paper are told apart."""
FLAT_GRADIENT = 4
"""How many times the median squared gradient an edge must exceed."""

FAINT = 8
"""The contrast below which nothing counts as ink."""
NOISE_FLOOR = 5
"""The contrast below which nothing counts as ink, in standard deviations of the noise."""
ROUGH_SIDE = 600
"""The side, about, of the reduced picture in which the width of the strokes is measured."""
NEIGHBORHOOD = 2
"""The part of the shorter side that counts as the neighborhood of a place: the half of it."""
LEAST_WINDOW = 3
"""The window of a filter or a closing in pixels, at least."""
WIDEST_WINDOW = 0.5
"""The window that takes away strokes of any width, as a share of the side."""
WINDOW_STROKES, WINDOW_PARTS, WINDOW_PIXELS = 6, 10, 9
"""The window that takes strokes away is so many times as wide as they are, at least that part of
the side (a tenth), and at least so many pixels."""
WIDE_WINDOW = 0.3
"""The share of the side from which such a window is too wide to follow shadows; the widest is taken
then."""
SMOOTH_NOISE = 1
"""The noise above which paper is looked for in a smoothed picture."""
GRAIN = 3
"""How far the grain of paper reaches beyond its median contrast, in standard deviations."""

INK_SHARE = 0.45
"""From which share of the median strength of the stronger pixels on a pixel is ink: about where the
edge of a stroke is."""
OTSU_BINS = 128
"""Bins of the histogram in which a threshold is looked for."""


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture."""

    strength: np.ndarray
    """float32 (H, W): 0 on paper, about 255 for the darkest ink that the picture could hold."""
    floor: float
    """The strength below which nothing counts as ink, however little else there is."""

    @cached_property
    def level(self) -> float:
        """The strength above which a pixel is ink; infinite where there is no ink."""
        return threshold(self.strength, self.floor)

    @property
    def mask(self) -> np.ndarray:
        """Bool (H, W): which pixels are ink."""
        return self.strength > self.level


def normalize_page(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Bring a picture to dark ink on paper that is evenly lit.

    Args:
        pixels: float32 (H, W, channels), 0 to 255.

    Returns:
        float32 (H, W), darker where there is more ink, up to a constant in gray levels; and the
        standard deviation of its noise in gray levels.
    """
    gray = principal_brightness(pixels)
    noise = estimate_noise(gray)
    if noise > GRAINY:
        most = max(LEAST_SIGMA, min(gray.shape) / SIDE_PER_SIGMA)
        sigma = float(np.clip(noise / NOISE_PER_SIGMA, LEAST_SIGMA, most))
        # The mean over so many pixels leaves about that part of the noise.
        gray, noise = ndimage.gaussian_filter(gray, sigma), noise / (2 * sigma)
    gray = correct_illumination(gray)
    return (-gray if paper_is_dark(gray) else gray), noise


def find_ink(gray: np.ndarray, noise: float) -> Ink:
    """Tell ink from paper.

    Args:
        gray: float32 (H, W), ink dark, as `normalize_page` gives it.
        noise: its noise.
    """
    floor = max(FAINT, NOISE_FLOOR * noise)
    side = min(gray.shape)
    widest = int(WIDEST_WINDOW * side)
    # How wide strokes are, and with them the window, is seen well enough on a reduced picture.
    step = max(1, side // ROUGH_SIDE)
    rough = above_paper(block_mean(gray, step), max(LEAST_WINDOW, widest // step), noise / step)
    width = step * stroke_width(rough > threshold(rough, floor))
    window = int(max(WINDOW_STROKES * width, side / WINDOW_PARTS, WINDOW_PIXELS))
    if window >= WIDE_WINDOW * side:
        window = max(LEAST_WINDOW, widest)
    return Ink(above_paper(gray, window, noise), floor)


def principal_brightness(pixels: np.ndarray) -> np.ndarray:
    """The channels, weighted so that ink and paper differ most: float32 (H, W).

    The weights are the first principal component of what varies within a few pixels, so that
    yellow ink on white paper is seen, and a colored table beside it does not matter.
    """
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    step = max(1, min(pixels.shape[:2]) // COLOR_SIDE)
    coarse = pixels[::step, ::step]
    size = max(LEAST_WINDOW, min(coarse.shape[:2]) // NEIGHBORHOOD)
    varying = (coarse - ndimage.uniform_filter(coarse, size, axes=(0, 1))).reshape(-1, 3)
    _, directions = np.linalg.eigh(varying.T @ varying)
    weights = directions[:, -1]
    weights = weights / np.abs(weights).sum() * (1 if weights.sum() >= 0 else -1)
    return pixels @ weights.astype(np.float32)


def estimate_noise(gray: np.ndarray) -> float:
    """The standard deviation of the paper's grain, from the median step between neighbors.

    It is taken tile by tile, for a part of the picture may be without any grain.
    """
    if min(gray.shape) < NOISE_SIDE:
        return 0.0
    steps = np.abs(np.diff(gray, axis=1))
    tiles = [
        np.median(tile)
        for band in np.array_split(steps, min(NOISE_TILES, steps.shape[0]))
        for tile in np.array_split(band, min(NOISE_TILES, steps.shape[1]), axis=1)
    ]
    return float(np.quantile(tiles, NOISE_QUANTILE)) / MEDIAN_OF_NORMAL / 2**0.5


def correct_illumination(gray: np.ndarray) -> np.ndarray:
    """A picture without light that falls smoothly across it, or as it is if there is none.

    The light is a polynomial surface, fitted with less weight where ink is (Cauchy's weights).
    """
    coarse = block_mean(gray, max(1, min(gray.shape) // LIGHT_SIDE))
    y, x = (np.linspace(-1, 1, n) for n in coarse.shape)
    powers = [(i, j) for i in range(LIGHT_DEGREE + 1) for j in range(LIGHT_DEGREE + 1 - i)]
    terms = np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], axis=1)
    values = coarse.ravel().astype(np.float64)
    weights, factors = np.ones(len(values)), np.zeros(len(powers))
    left = values
    for _ in range(LIGHT_ROUNDS):
        weighted = terms * weights[:, None]
        factors = np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=None)[0]
        left = values - terms @ factors
        scale = LIGHT_SCALE * np.median(np.abs(left)) + LIGHT_OFFSET
        weights = 1 / (1 + (left / scale) ** 2)
    if np.median(np.abs(left)) > LIGHT_LEFT * np.median(np.abs(values - np.median(values))):
        return gray
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in gray.shape)
    light = np.zeros_like(gray)
    for (i, j), factor in zip(powers, factors.astype(np.float32), strict=True):
        light += np.outer(factor * y**i, x**j)
    return gray - light + np.float32(np.median(values))


def paper_is_dark(gray: np.ndarray) -> bool:
    """Whether the ink is lighter than the paper: around strokes, paper is the larger part.

    A place has its say as far as there are sharp edges around it, and lies between ink and paper
    where they lie. So neither a strip along the border, nor the table under a card, nor a lamp's
    reflection decides.
    """
    coarse = block_mean(gray, max(1, min(gray.shape) // POLARITY_SIDE))
    around = {
        "size": 2 * max(LEAST_WINDOW, min(coarse.shape) // NEIGHBORHOOD) + 1,
        "mode": "constant",
    }
    edges = ndimage.gaussian_gradient_magnitude(coarse, 1) ** 2
    edges = np.maximum(edges - FLAT_GRADIENT * np.median(edges), 0)
    weight = ndimage.uniform_filter(edges, **around)
    middle = ndimage.uniform_filter(edges * ndimage.gaussian_filter(coarse, 1), **around)
    brighter = np.sign(coarse * weight - middle)
    return float((weight * brighter).sum()) < 0


def above_paper(gray: np.ndarray, window: int, noise: float) -> np.ndarray:
    """How much darker each pixel is than the paper around it, as far as that isn't grain."""
    smooth = ndimage.uniform_filter(gray, 3) if noise > SMOOTH_NOISE else gray
    difference = close_dark(smooth, window) - gray
    grain = float(np.median(difference)) + GRAIN * noise if noise > 0 else 0.0
    return np.maximum(difference - grain, 0)


def threshold(strength: np.ndarray, floor: float) -> float:
    """The level that parts ink from what is fainter, or infinity without any ink."""
    values = strength[strength > floor]
    if len(values) == 0:
        return float("inf")
    stronger = values[values > otsu(values)]
    ink = float(np.median(stronger)) if len(stronger) else float(values.max())
    return max(floor, INK_SHARE * ink)


def otsu(values: np.ndarray) -> float:
    """The level that parts values into two classes that vary least in themselves (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, OTSU_BINS, (low, max(high, low + 1)))
    middle = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = int(np.nanargmax(between)) if np.isfinite(between).any() else 0
    return float(edges[best + 1])
