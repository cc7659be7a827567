"""A picture of one symbol, whole: its ink, and the 28x28 pixels that a network sees of it.

This is the way in for pictures of people's own, in training, in `evaluate` and in `predict`.
Nothing is cut, and what may be the symbol stays. On even paper `prepare` finds the ink, as it does
in C. What `prepare` can't do is done before: colors are weighted, borders cut off, rulings cleared,
and uneven light is taken away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from tinydigits.images.binarize import (
    FAINT,
    GRAIN,
    LEAST_WINDOW,
    NOISE_FLOOR,
    Ink,
    correct_illumination,
    estimate_noise,
    find_ink,
    normalize_page,
    paper_is_dark,
    principal_brightness,
)
from tinydigits.images.components import Box, candidate_of, touches_border
from tinydigits.images.decode import pixels_of
from tinydigits.images.morphology import block_mean, close_dark, label_components, stroke_width
from tinydigits.images.preprocess import LONGEST, MARGIN_PARTS, ink_box, prepare
from tinydigits.images.ruling import clear_rulings

# A side is the shorter side of the picture in pixels.

LEAST_LIT = 40
"""The side below which neither shadows nor borders are looked for, because strokes are
everywhere."""
LIT_SIDE = 100
"""The side, about, of the reduced picture in which they are."""
WINDOW_PARTS = 2
"""Strokes are taken away by a window of that part of the side (the half)."""
EVEN = 0.1
"""How far even paper varies along the borders at most, as a share of the ink's contrast."""
EVEN_QUANTILES = 0.02, 0.98
"""Between which quantiles of its brightness that is measured."""

BORDER_FULL = 0.97
"""The share of a row or a column that a strip along the border fills, at least."""
PAPER_BEYOND = 0.5
"""The share of a row or a column behind its soft edge that may be filled, less than that."""
BORDER_WIDEST = 0.15
"""Its width, at most, as a share of the side."""
BORDER_LEVEL = 0.4
"""How strong it is there, at least, as a share of what is strongest in the picture."""
BORDER_EDGE = 2
"""How far its soft edge goes, in pixels."""
LEAST_REST = 0.1
"""The longer side of what is left beside strips or rulings, at least, as a share of the side."""
PALER, THINNER, BOLDER = 0.75, 0.7, 1.4
"""What is paler or darker, thinner or wider than the rest by these shares is of another pen."""

RULING_REACH = 0.05
"""How near a ruling comes to both borders, as a share of the distance between them."""
HAZE = 0.1
"""What is paler than that share of the darkest ink, beside a stroke, is paper."""
SPECK = 0.5
"""What is shorter than that share of the width of the strokes is a speck."""


class Symbol(NamedTuple):
    """What is seen of a picture of one symbol."""

    image: np.ndarray
    """uint8 (28, 28): what the network sees; all 0 where there is no ink."""
    box: Box | None
    """Where the ink is in the upright picture: left, top, right, bottom; None without any."""


def see_symbol(picture: Image.Image) -> Symbol:
    """Find the ink of a picture of one symbol, and bring it to 28x28 pixels.

    Args:
        picture: upright, as `tinydigits.images.decode.open_picture` gives it.
    """
    pixels = pixels_of(picture)
    step = -(-max(pixels.shape) // LONGEST)
    pixels = pixels[::step, ::step]
    gray = principal_brightness(pixels)
    top, left, bottom, right = border_strips(gray)
    gray = gray[top : len(gray) - bottom, left : gray.shape[1] - right]
    levels, paper = on_even_paper(gray)
    image = prepare(levels, paper)
    box = ink_box(levels, paper) if image.any() else None
    if box is not None:
        across, down = picture.width / pixels.shape[1], picture.height / pixels.shape[0]
        box = (
            int((box[0] + left) * across),
            int((box[1] + top) * down),
            int(-(-(box[2] + left) * across // 1)),
            int(-(-(box[3] + top) * down // 1)),
        )
    return Symbol(image, box)


def on_even_paper(gray: np.ndarray) -> tuple[np.ndarray, int | None]:
    """A picture, or its ink alone, such that `prepare` finds the ink in it.

    Args:
        gray: float32 (H, W), 0 to 255, without strips along its borders.

    Returns:
        uint8 (H, W), and the paper's gray level, or None where `prepare` finds that.
    """
    if min(gray.shape) < LEAST_LIT:
        return as_levels(gray), None
    evened = correct_illumination(gray)
    sign = -1 if paper_is_dark(evened) else 1
    if is_even(sign * gray) and ink_box(as_levels(gray)) is not None:
        ink = ink_on(sign * gray)
        cleared = without_rulings(ink)
        return (as_levels(gray), None) if cleared is ink else (ink_alone(cleared), 0)
    if is_even(sign * evened):
        return ink_alone(without_rulings(ink_on(sign * evened))), 0
    ink = find_ink(*normalize_page(gray[:, :, None]))
    return ink_alone(without_rulings(ink), shadows=True), 0


def as_levels(gray: np.ndarray) -> np.ndarray:
    """Gray levels in whole numbers."""
    return gray.clip(0, 255).round().astype(np.uint8)


def reduced(gray: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A small copy of a picture, its scale, and the window that takes strokes away in it."""
    step = max(1, min(gray.shape) // LIT_SIDE)
    coarse = block_mean(gray, step)
    return coarse, step, max(LEAST_WINDOW, min(coarse.shape) // WINDOW_PARTS)


def is_even(gray: np.ndarray) -> bool:
    """Whether the paper is of one brightness along the borders, strokes, which are dark, aside."""
    coarse, _, window = reduced(gray)
    height, width = coarse.shape
    y, x = height // MARGIN_PARTS + 1, width // MARGIN_PARTS + 1
    margin = np.ones(coarse.shape, bool)
    margin[y : height - y, x : width - x] = False
    paper = close_dark(coarse, window)
    low, high = np.quantile(paper[margin], EVEN_QUANTILES)
    return bool(high - low <= EVEN * (paper - coarse).max())


def ink_on(gray: np.ndarray) -> Ink:
    """The ink, which is dark, on even paper."""
    window = max(LEAST_WINDOW, min(gray.shape) // WINDOW_PARTS)
    paper = float(np.median(close_dark(gray, window)))
    noise = estimate_noise(gray)
    strength = np.maximum(paper - gray - GRAIN * noise, 0).astype(np.float32)
    return Ink(strength, max(FAINT, NOISE_FLOOR * noise))


def ink_alone(ink: Ink, shadows: bool = False) -> np.ndarray:
    """Ink without specks and paper's grain.

    Args:
        ink: of the picture.
        shadows: whether there are any, whose corners come in from the borders.

    Returns:
        uint8 (H, W): 0 for paper, 255 for the darkest ink.
    """
    alone = np.zeros(ink.strength.shape, np.uint8)
    labels, _ = label_components(ink.mask)
    boxes = ndimage.find_objects(labels)
    if not boxes:
        return alone
    boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in boxes])
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    kept = sizes >= SPECK * stroke_width(ink.mask)
    if shadows:
        inside = kept & ~touches_border(boxes, alone.shape)
        if sizes[inside].max(initial=0) >= LEAST_REST * min(alone.shape):
            kept = inside
    whole = np.array([0, 0, *alone.shape[::-1]])
    candidate = candidate_of(ink, labels, np.flatnonzero(kept) + 1, whole)
    left, top, right, bottom = candidate.box
    alone[top:bottom, left:right] = np.where(candidate.ink > HAZE * 255, candidate.ink, 0)
    return alone


# -------------------------------------------------------------------------- borders and rulings


def border_strips(gray: np.ndarray) -> tuple[int, int, int, int]:
    """How many pixels to cut off at the top, the left, the bottom and the right.

    A strip that fills a border is no part of the symbol if it is of another pen than what it
    leaves; or if it stands apart from that, and either goes all around or is in a picture that has
    paper along another border, so that it wasn't cut out at its ink.
    """
    if min(gray.shape) < LEAST_LIT:
        return 0, 0, 0, 0
    coarse, step, window = reduced(gray)
    for sign in (1, -1):  # strips darker than paper, or lighter
        strength = close_dark(sign * coarse, window) - sign * coarse
        mask = strength > max(FAINT, BORDER_LEVEL * strength.max())
        top, left, bottom, right = widths = tuple(strip_width(np.rot90(mask, -k)) for k in range(4))
        height, width = mask.shape
        if not any(widths) or max(widths) > BORDER_WIDEST * min(mask.shape):
            continue
        top, left, bottom, right = (w + 1 if w else 0 for w in widths)  # with their soft edge
        inside = slice(top, height - bottom), slice(left, width - right)
        strips = mask.copy()
        strips[inside] = False
        if min(mask[inside].shape) < 2:
            continue
        rest, rest_strength = ink_of_rest(coarse[inside])
        if rest.all() or max(extent(rest)) < LEAST_REST * min(mask.shape):
            continue
        paper = float(np.median(coarse[inside][~rest]))
        if abs(float(np.median(coarse[strips])) - paper) < BORDER_LEVEL * strength.max():
            continue  # paper beside a frame
        reached = [bool(np.rot90(rest, -k)[:2].any()) for k in range(4)]
        bare = [k for k in range(4) if not widths[k]]
        across = [k for k in bare if widths[(k + 2) % 4]] or bare
        free = not all(reached[k] for k in across)
        apart = max(extent(beyond_strips(mask, strips, inside))) < LEAST_REST * min(mask.shape)
        pens = [w / stroke_width(rest) for w in widths if w]
        tone = float(np.median(strength[strips])) / rest_strength
        other = min(pens) > BOLDER or max(pens) < THINNER or not PALER < tone < 1 / PALER
        if other or (apart and (all(widths) or free)):
            beyond = 0, 0, gray.shape[0] % step, gray.shape[1] % step  # what was left out
            top, left, bottom, right = (
                step * w + more + BORDER_EDGE if w else 0
                for w, more in zip(widths, beyond, strict=True)
            )
            return top, left, bottom, right
    return 0, 0, 0, 0


def strip_width(mask: np.ndarray) -> int:
    """How many rows at the top are filled, one after another, up to where paper begins."""
    share = mask.mean(axis=1)
    width = int((share < BORDER_FULL).argmax())
    return width if share[width : width + BORDER_EDGE + 1].min() < PAPER_BEYOND else 0


def ink_of_rest(gray: np.ndarray) -> tuple[np.ndarray, float]:
    """The ink of a reduced picture, bool (H, W), and how strong it is in the median."""
    sign = -1 if paper_is_dark(gray) else 1
    window = max(LEAST_WINDOW, min(gray.shape) // WINDOW_PARTS)
    strength = close_dark(sign * gray, window) - sign * gray
    mask = strength > max(FAINT, BORDER_LEVEL * strength.max())
    return mask, float(np.median(strength[mask])) if mask.any() else 1.0


def beyond_strips(mask: np.ndarray, strips: np.ndarray, inside: tuple[slice, slice]) -> np.ndarray:
    """What is connected with strips and lies beyond them, bool (H, W)."""
    labels, _ = label_components(mask)
    touching = np.isin(labels, np.unique(labels[strips])) & mask
    return touching[inside]


def extent(mask: np.ndarray) -> tuple[int, int]:
    """The height and the width of the box around a mask; 0, 0 where it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) if len(rows) else (0, 0)


def without_rulings(ink: Ink) -> Ink:
    """The ink without rulings from border to border that are of another pen; else `ink` itself."""
    cleared = clear_rulings(ink)
    gone = cleared.strength < ink.strength
    rest = cleared.strength > ink.level
    if not gone.any() or max(extent(rest)) < LEAST_REST * min(rest.shape):
        return ink
    reaches = any(
        side[: int(RULING_REACH * len(side)) + 1].any()
        and side[-int(RULING_REACH * len(side)) - 1 :].any()
        for side in (gone, gone.T)
    )
    tone = float(np.median(ink.strength[gone]) / np.median(ink.strength[rest]))
    other = tone < PALER or stroke_width(gone) < THINNER * stroke_width(rest)
    return cleared if reaches and other else ink
