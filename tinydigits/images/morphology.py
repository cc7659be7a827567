"""Operations on masks and gray pictures that the steps share: closing, holes, components, strokes.

Serra 1982, "Image Analysis and Mathematical Morphology".
"""

import numpy as np
from scipy import ndimage

MOST_COMPONENTS = 20_000
"""Components beyond which a picture is grain: it has no frames, and only the largest may be ink."""

WIDEST_STROKES = 0.95
"""The quantile of the widths along the strokes that counts as their width: a few blots aside."""

HALF_INK = 127
"""Above that, of 255, a pixel of a candidate's ink belongs to a stroke."""

STROKE_SIDE = 700
"""Pixels of the shorter side at which strokes are measured; larger pictures are thinned out."""


def block_mean(gray: np.ndarray, step: int) -> np.ndarray:
    """The mean of each block of `step` x `step` pixels; an incomplete last block is left out."""
    height, width = (n // step * step for n in gray.shape)
    blocks = gray[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3))


def close_dark(gray: np.ndarray, size: int) -> np.ndarray:
    """What is left when dark things narrower than `size` pixels are filled up (a closing)."""
    for extreme in (ndimage.maximum_filter1d, ndimage.minimum_filter1d):
        for axis in (0, 1):
            gray = extreme(gray, size, axis=axis, mode="nearest")
    return gray


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected components; pixels that touch at a corner are connected.

    Returns:
        int (H, W), 0 outside the mask and 1, 2, ... in it, and how many components there are.
    """
    return ndimage.label(mask, np.ones((3, 3), bool))  # pyright: ignore[reportReturnType]


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mask with whatever it encloses."""
    return np.asarray(ndimage.binary_fill_holes(mask))


def erode(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask that has lost so many pixels at each of its edges, the picture's border aside."""
    return np.asarray(ndimage.binary_erosion(mask, iterations=steps, border_value=1), bool)


def dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask that has won so many pixels at each of its edges."""
    return np.asarray(ndimage.binary_dilation(mask, iterations=steps), bool)


def open_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask without what is narrower than `size` pixels (an opening)."""
    size = max(1, min(size, *mask.shape))
    opened = mask.astype(np.uint8)
    for extreme, origin in ((ndimage.minimum_filter1d, 0), (ndimage.maximum_filter1d, -1)):
        for axis in (0, 1):
            shift = origin if size % 2 == 0 else 0
            opened = extreme(opened, size, axis=axis, mode="constant", origin=shift)
    return opened.astype(bool)


def stroke_width(mask: np.ndarray) -> float:
    """The width that strokes of `mask` have at most, in pixels, a few blots aside."""
    if not mask.any():
        return 0.0
    step = max(1, min(mask.shape) // STROKE_SIDE)
    # With paper all around, or a component that fills its box would be infinitely wide.
    depth = np.asarray(ndimage.distance_transform_cdt(np.pad(mask[::step, ::step], 1)))
    ridge = depth[(depth > 0) & (depth == ndimage.maximum_filter(depth, 3))]
    return 2.0 * step * float(np.quantile(ridge, WIDEST_STROKES))
