"""Ink on paper: found in a picture, cut into marks, the marks put into lines. Arrays in and out.

Paper is what remains when whatever is narrower than a window is taken away: a morphological
closing for dark ink, an opening for light ink (the top-hat transforms of Meyer 1979; see Serra
1982, "Image Analysis and Mathematical Morphology"). It follows shadows, and the edge of a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

FAINT = 8
"""Contrast, in grey levels of 256, below which nothing counts as ink."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are beyond the last pixel."""


class Ink(NamedTuple):
    """The ink of a picture."""

    strength: np.ndarray
    """float32 (H, W): 0 on paper, about 255 for the darkest ink that the picture could hold."""
    level: float
    """The strength above which a pixel belongs to a mark; infinite where there is no ink."""


@dataclass(frozen=True)
class Mark:
    """A piece of ink that may be a digit: one connected part, or several that belong together."""

    box: Box
    ink: np.ndarray
    """uint8 (bottom - top, right - left): the mark's own ink, 0 for paper, 255 for its darkest."""
    strength: float
    """How strong its darkest ink is, as in `Ink.strength`."""


# ------------------------------------------------------------------------------------ find


def find_ink(pixels: np.ndarray, deeper: bool = True) -> Ink:
    """Take the paper, its light and its ruling away.

    Args:
        pixels: float32 (H, W, channels), 0 to 255.
        deeper: whether what looks like a sheet of paper is looked at alone.
    """
    grey = brightness(pixels)
    noise = noise_of(grey)
    if noise > 5:  # a dithered picture, or little light
        sigma = float(np.clip(noise / 8, 0.8, max(0.8, min(grey.shape) / 150)))
        grey, noise = ndimage.gaussian_filter(grey, sigma), noise / (2 * sigma)
    grey = flattened(grey)
    if paper_is_dark(grey):
        grey = -grey
    floor = max(FAINT, 5 * noise)
    # How wide strokes are, and with them the window, is seen well enough on a reduced picture.
    side = min(grey.shape)
    step = max(1, side // 600)
    rough = above_paper(block_mean(grey, step), max(3, side // 2 // step), noise / step)
    thick = step * thickness(rough > threshold(rough, floor))
    window = int(max(6 * thick, side / 10, 9))
    strength = above_paper(grey, window if window < 0.3 * side else max(3, side // 2), noise)
    level = threshold(strength, floor)
    if deeper and (found := on_sheet(pixels, grey, strength > level)):
        return found
    strength = without_frames(strength, max(floor, 0.5 * threshold(strength, floor)))
    strength = without_lines(strength, floor, threshold(strength, floor))
    strength = without_borders(strength, threshold(strength, floor))
    return Ink(strength, threshold(strength, floor))


def brightness(pixels: np.ndarray) -> np.ndarray:
    """The channels, weighted so that ink and paper differ most: float32 (H, W).

    The weights are the first principal component of what varies within a few pixels, so that
    yellow ink on white paper is seen, and a coloured table beside it does not matter.
    """
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    step = max(1, min(pixels.shape[:2]) // 200)
    coarse = pixels[::step, ::step]
    size = max(3, min(coarse.shape[:2]) // 2)
    varying = (coarse - ndimage.uniform_filter(coarse, size, axes=(0, 1))).reshape(-1, 3)
    _, directions = np.linalg.eigh(varying.T @ varying)
    weights = directions[:, -1]
    weights = weights / np.abs(weights).sum() * (1 if weights.sum() >= 0 else -1)
    return pixels @ weights.astype(np.float32)


def noise_of(grey: np.ndarray) -> float:
    """The standard deviation of the paper's grain, from the median step between neighbours.

    It is taken tile by tile, for a part of the picture may be without any grain.
    """
    if min(grey.shape) < 40:  # a stroke is everywhere
        return 0.0
    steps = np.abs(np.diff(grey, axis=1))
    tiles = [
        np.median(tile)
        for band in np.array_split(steps, min(6, steps.shape[0]))
        for tile in np.array_split(band, min(6, steps.shape[1]), axis=1)
    ]
    return float(np.quantile(tiles, 0.6)) / 0.6745 / 2**0.5


def flattened(grey: np.ndarray) -> np.ndarray:
    """A picture without light that falls smoothly across it, or as it is if there is none.

    The light is a surface of the third degree, fitted with less weight where ink is (Cauchy's).
    """
    coarse = block_mean(grey, max(1, min(grey.shape) // 100))
    y, x = (np.linspace(-1, 1, n) for n in coarse.shape)
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    terms = np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], axis=1)
    values = coarse.ravel().astype(np.float64)
    weights, factors = np.ones(len(values)), np.zeros(len(powers))
    left = values
    for _ in range(8):
        weighted = terms * weights[:, None]
        factors = np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=None)[0]
        left = values - terms @ factors
        weights = 1 / (1 + (left / (2 * np.median(np.abs(left)) + 0.1)) ** 2)
    if np.median(np.abs(left)) > 0.35 * np.median(np.abs(values - np.median(values))):
        return grey
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in grey.shape)
    light = np.zeros_like(grey)
    for (i, j), factor in zip(powers, factors.astype(np.float32), strict=True):
        light += np.outer(factor * y**i, x**j)
    return grey - light + np.float32(np.median(values))


def close(grey: np.ndarray, size: int) -> np.ndarray:
    """What is left when dark things narrower than `size` are filled up."""
    for extreme in (ndimage.maximum_filter1d, ndimage.minimum_filter1d):
        for axis in (0, 1):
            grey = extreme(grey, size, axis=axis, mode="nearest")
    return grey


def paper_is_dark(grey: np.ndarray) -> bool:
    """Whether the ink is lighter than the paper: around marks, paper is the larger part.

    A place has its say as far as there are sharp edges around it, and lies between ink and paper
    where they lie. So neither a strip along the border, nor the table under a card, nor a lamp's
    reflection decides.
    """
    coarse = block_mean(grey, max(1, min(grey.shape) // 150))
    around = {"size": 2 * max(3, min(coarse.shape) // 2) + 1, "mode": "constant"}
    edges = ndimage.gaussian_gradient_magnitude(coarse, 1) ** 2
    edges = np.maximum(edges - 4 * np.median(edges), 0)
    weight = ndimage.uniform_filter(edges, **around)
    middle = ndimage.uniform_filter(edges * ndimage.gaussian_filter(coarse, 1), **around)
    brighter = np.sign(coarse * weight - middle)
    return float((weight * brighter).sum()) < 0


def block_mean(grey: np.ndarray, step: int) -> np.ndarray:
    """The mean of each block of `step` x `step` pixels; an incomplete last block is left out."""
    height, width = (n // step * step for n in grey.shape)
    blocks = grey[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3))


def above_paper(grey: np.ndarray, window: int, noise: float) -> np.ndarray:
    """How much darker each pixel is than the paper around it, as far as that isn't grain."""
    smooth = ndimage.uniform_filter(grey, 3) if noise > 1 else grey
    difference = close(smooth, window) - grey
    grain = float(np.median(difference)) + 3 * noise if noise > 0 else 0.0
    return np.maximum(difference - grain, 0)


def threshold(strength: np.ndarray, floor: float) -> float:
    """The level that parts ink from what is fainter, or infinity without any ink."""
    values = strength[strength > floor]
    if len(values) == 0:
        return float("inf")
    # Half of what the stronger part has in the middle is where a stroke's edge is.
    stronger = values[values > otsu(values)]
    ink = float(np.median(stronger)) if len(stronger) else float(values.max())
    return max(floor, 0.45 * ink)


def otsu(values: np.ndarray) -> float:
    """The level that parts values into two classes that vary least in themselves (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, 128, (low, max(high, low + 1)))
    middle = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = int(np.nanargmax(between)) if np.isfinite(between).any() else 0
    return float(edges[best + 1])


def thickness(mask: np.ndarray) -> float:
    """The width that strokes of `mask` have at most, in pixels, a few blots aside."""
    if not mask.any():
        return 0.0
    step = max(1, min(mask.shape) // 700)
    # With paper all around, or a mark that fills its box would be infinitely wide.
    depth = np.asarray(ndimage.distance_transform_cdt(np.pad(mask[::step, ::step], 1)))
    ridge = depth[(depth > 0) & (depth == ndimage.maximum_filter(depth, 3))]
    return 2.0 * step * float(np.quantile(ridge, 0.95))


def without_borders(strength: np.ndarray, level: float) -> np.ndarray:
    """Clear strips, tables and frames: what runs along much of a border, or around everything.

    Nothing is cleared if nothing else is there, for a digit may touch the borders too.
    """
    labels, count = label(strength > level)
    if count < 2:
        return strength
    height, width = strength.shape
    boxes = ndimage.find_objects(labels)
    beside = np.zeros(count + 1, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching = np.bincount(line, minlength=count + 1)
        beside |= touching > 0.4 * len(line)
    for k, (rows, columns) in enumerate(boxes, 1):
        if rows.stop - rows.start >= 0.9 * height and columns.stop - columns.start >= 0.9 * width:
            inside = [b for b in boxes if b[0].stop - b[0].start > 0.15 * height]
            beside[k] |= len(inside) > 1 and not is_solid(labels[rows, columns] == k)
    beside[0] = False
    rest = [boxes[k - 1] for k in range(1, count + 1) if not beside[k]]
    if not any(b[0].stop - b[0].start > max(5, 0.04 * height) for b in rest):
        return strength
    gone = beside[labels]
    if gone.any():
        gone = dilated(gone, 2) & ((labels == 0) | gone)
        strength = np.where(gone, 0, strength)
    return strength


def on_sheet(pixels: np.ndarray, grey: np.ndarray, dark: np.ndarray) -> Ink | None:
    """The ink on a card or a screen that lies on something else, if there is one.

    Args:
        pixels: float32 (H, W, channels).
        grey: float32 (H, W), the same as one channel.
        dark: bool (H, W), what was taken for ink; a card may be among it.
    """
    step = max(1, min(grey.shape) // 300)
    coarse = ndimage.median_filter(block_mean(grey, step), 5)
    parted = coarse > otsu(coarse)
    nearby = coarse > ndimage.uniform_filter(coarse, min(coarse.shape) // 2)
    taken = block_mean(dark.astype(np.float32), step) > 0.5
    for mask in (taken, parted, ~parted, nearby, ~nearby):
        sheet = sheet_of(mask, coarse)
        if sheet is None:
            continue
        whole = np.zeros(grey.shape, bool)
        fine = sheet.repeat(step, axis=0).repeat(step, axis=1)
        whole[: fine.shape[0], : fine.shape[1]] = fine
        (rows, columns), *_ = ndimage.find_objects(whole.astype(np.int8))
        inner = eroded(np.pad(whole[rows, columns], 1), 2 + step)[1:-1, 1:-1]
        if not inner.any():
            continue
        # Around it, what is at its edge goes on, so that nothing there looks like ink.
        nearest = ndimage.distance_transform_edt(
            ~inner, return_distances=False, return_indices=True
        )
        ink = find_ink(pixels[rows, columns][tuple(np.asarray(nearest))], deeper=False)
        if cut(ink):
            strength = np.zeros(grey.shape, np.float32)
            strength[rows, columns] = ink.strength
            return Ink(strength, ink.level)
    return None


def sheet_of(mask: np.ndarray, grey: np.ndarray) -> np.ndarray | None:
    """The one part of a mask that has the shape of a sheet of paper, filled, or None."""
    labels, _ = label(mask)
    side = min(mask.shape)
    found = []
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if min(high, wide) < max(20, side / 5) or max(high, wide) > 4 * min(high, wide):
            continue
        across = columns.start == 0 and columns.stop == mask.shape[1]
        if across or (rows.start == 0 and rows.stop == mask.shape[0]):
            continue
        own = labels[rows, columns] == k
        filled = fill_holes(own)
        if own.sum() < 0.5 * filled.sum():
            continue
        if filled.sum() < 0.9 * upright_area(np.pad(filled, 1)):
            continue
        whole = np.zeros(mask.shape, bool)
        whole[rows, columns] = filled
        # Light that falls has no edge, and behind a ruled line the same paper goes on.
        inside = whole & ~eroded(whole, 5)
        near, far = dilated(whole, 5), dilated(whole, 10)
        around = far & ~near
        edge = np.median(grey[inside]) - np.median(grey[around]) if around.any() else 0
        if abs(edge) > max(12, 0.4 * float(grey[whole].std() + grey[~whole].std())):
            found.append(whole)
    found.sort(key=np.count_nonzero, reverse=True)
    if not found or (len(found) > 1 and 2 * found[1].sum() > found[0].sum()):
        return None
    return found[0]


def without_frames(strength: np.ndarray, level: float) -> np.ndarray:
    """Clear the outlines of boxes, and leave what is in them, even where it touches."""
    labels, count = label(strength > level)
    if not 0 < count < 20_000:
        return strength
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        if min(rows.stop - rows.start, columns.stop - columns.start) < 20:
            continue
        own = labels[rows, columns] == k
        if own.mean() > 0.5:
            continue
        filled = np.pad(fill_holes(own), 1)
        if filled.sum() < 3 * own.sum() or filled.sum() < 0.92 * upright_area(filled):
            continue
        # The outline is as wide as most rows begin with.
        first = own.argmax(axis=1)
        width = [int((~row[f:]).argmax()) for row, f in zip(own, first, strict=True)]
        wide = int(np.median(width)) + 2
        ring = filled & ~eroded(filled, wide)
        ring = dilated(np.pad(ring, wide), wide)
        strength = strength.copy()
        top, left = max(0, rows.start - wide - 1), max(0, columns.start - wide - 1)
        around = strength[top : rows.stop + wide + 1, left : columns.stop + wide + 1]
        ring = ring[top - rows.start + wide + 1 :, left - columns.start + wide + 1 :]
        around[ring[: around.shape[0], : around.shape[1]]] = 0
    return strength


def upright_area(mask: np.ndarray) -> float:
    """The area of the smallest box around a mask, which may be turned by up to 15 degrees."""
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    x, y = np.concatenate([left, right]), np.concatenate([rows, rows])
    angles = np.deg2rad(np.arange(-15, 16))[:, None]
    wide = np.ptp(x * np.cos(angles) - y * np.sin(angles), axis=1)
    high = np.ptp(x * np.sin(angles) + y * np.cos(angles), axis=1) + 1
    return float((wide * high).min())


def is_solid(part: np.ndarray) -> bool:
    """Whether a part fills much of its box, as a digit does and a frame doesn't."""
    return float(part.mean()) > 0.2


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected parts; pixels that touch at a corner are connected."""
    return ndimage.label(mask, np.ones((3, 3), bool))  # pyright: ignore[reportReturnType]


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mask with whatever it encloses."""
    return np.asarray(ndimage.binary_fill_holes(mask))


def eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask that has lost so many pixels at each of its edges, the picture's border aside."""
    return np.asarray(ndimage.binary_erosion(mask, iterations=steps, border_value=1), bool)


def dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask that has won so many pixels at each of its edges."""
    return np.asarray(ndimage.binary_dilation(mask, iterations=steps), bool)


def without_lines(strength: np.ndarray, floor: float, level: float) -> np.ndarray:
    """Clear ruled lines and grids, and leave the strokes that cross them."""
    if min(strength.shape) < 64 or not np.isfinite(level):
        return strength
    strength = without_lines_across(strength, floor, level)
    # Paper may end within the picture: where ink is, the lines may run all the way.
    rows, columns = np.nonzero(strength > level)
    if len(rows) == 0:
        return strength
    top, bottom = np.quantile(rows, (0.002, 0.998)).astype(int)
    left, right = np.quantile(columns, (0.002, 0.998)).astype(int)
    written = slice(top, bottom + 1), slice(left, right + 1)
    if min(bottom - top, right - left) > 80:
        strength[written] = without_lines_across(strength[written], floor, level, 3)
    return strength


def without_lines_across(
    strength: np.ndarray, floor: float, level: float, least: int = 1
) -> np.ndarray:
    """Clear the lines that run through a picture, if a direction has at least so many of them.

    Of these, all but one must run nearly all the way.
    """
    ruled = on_lines(strength, floor, level, least) | on_lines(strength.T, floor, level, least).T
    return np.where(ruled, 0, strength)


def on_lines(strength: np.ndarray, floor: float, level: float, least: int = 1) -> np.ndarray:
    """Which pixels belong to a line that runs from left to right or nearly so, and to no stroke."""
    height, width = strength.shape
    ruled = np.zeros(strength.shape, bool)
    tracks = find_lines(strength, max(floor, 0.12 * level))
    columns = np.arange(width)
    found = []
    for track, share in tracks:
        at = np.clip(np.round(track).astype(int), 0, height - 1)
        here = (track >= 0) & (track < height)
        if here.mean() < 0.4:
            continue
        around = np.stack([strength[np.clip(at + d, 0, height - 1), columns] for d in range(-8, 9)])
        around[:, ~here] = 0
        peak = around[6:11].max(axis=0)
        usual = ndimage.median_filter(peak, max(15, width // 3), mode="nearest")
        # A stroke along the line must not count as the line, which is about as dark everywhere.
        usual = np.minimum(usual, 1.3 * np.median(peak[here]))
        thick = float(np.median((around > 0.4 * usual).sum(axis=0)[here]))
        if thick > max(4, 0.05 * min(strength.shape)):
            continue
        tone = float(np.median(peak[here & (peak > floor)])) if share > 0.85 else np.inf
        found.append((at, here, usual, thick, tone))
    if len(found) < least or sum(np.isfinite(line[-1]) for line in found) < least - 1:
        return ruled
    if len(found) < 3:
        # One or two lines could be the bars of a single digit, unless they are paler or thinner.
        near = np.zeros(strength.shape, bool)
        for at, here, *_ in found:
            for d in range(-4, 5):
                near[np.clip(at + d, 0, height - 1)[here], columns[here]] = True
        rest = (strength > level) & ~near
        if rest.sum() < 20:
            return ruled
        ink, wide = float(np.median(strength[rest])), thickness(rest)
        found = [
            line for line in found
            if line[4] < 0.7 * ink or (line[4] < np.inf and line[3] < 0.5 * wide)
        ]  # fmt: skip
    solid = strength > 0.6 * level
    crossings: dict[int, np.ndarray] = {}
    for at, here, usual, thick, _ in found:
        # What is much darker than its line, or goes on across it, is a stroke.
        across = int(2 * round(thick) + 3)
        reach = int(np.ceil(thick / 2)) + 1
        if across not in crossings:
            eroded = ndimage.minimum_filter1d(solid, across, axis=0)
            crossings[across] = ndimage.maximum_filter1d(eroded, across, axis=0)
        for d in range(-reach, reach + 1):
            row = at + d
            fine = here & (row >= 0) & (row < height)
            r, c = row[fine], columns[fine]
            stroke = (strength[r, c] > 1.5 * usual[fine]) | crossings[across][r, c]
            ruled[r, c] |= ~stroke
    return ruled


def find_lines(strength: np.ndarray, floor: float) -> list[tuple[np.ndarray, float]]:
    """Ruled lines from left to right: the height of each at each column, and how much is there.

    Straight lines are voted for as in a Hough transform (Duda and Hart 1972), by strips of the
    picture in which something runs all the way; then each follows its own strips, for paper bends.
    """
    height, width = strength.shape
    strips = int(np.clip(width // 10, 8, 64))
    edges = np.linspace(0, width, strips + 1).astype(int)
    # A steep line still runs all the way through a strip, because it is fattened across first.
    fat = ndimage.maximum_filter1d(strength, 5 if min(strength.shape) > 200 else 3, axis=0)
    runs = np.minimum.reduceat(fat, edges[:-1], axis=1).T  # (strips, height)
    there = ndimage.maximum_filter1d(runs > floor, 3, axis=1)
    drift = max(2, int(0.11 * max(width, height)))
    step = 2
    margin = drift
    padded = np.zeros((strips, height + 4 * margin), np.int16)
    padded[:, 2 * margin : 2 * margin + height] = there
    inside = np.zeros(height + 4 * margin, np.int16)
    inside[2 * margin : 2 * margin + height] = 1
    place = (np.arange(strips) + 0.5) / strips
    candidates = []
    for d in range(-drift, drift + 1, step):
        offsets = np.round(d * (place - 0.5)).astype(int) + margin
        length = height + 2 * margin
        votes = sum(padded[k, o : o + length] for k, o in enumerate(offsets))
        possible = sum(inside[o : o + length] for o in offsets)
        share = votes / np.maximum(possible, 1)
        best = share == ndimage.maximum_filter1d(share, 5)
        good = np.flatnonzero(best & (share > 0.55) & (votes > 0.5 * strips))
        candidates += [(-float(share[y]), abs(d), d, int(y) - margin) for y in good]
    candidates.sort()
    claimed = np.zeros((strips, height + 4 * margin), bool)
    middles = (edges[:-1] + edges[1:]) / 2
    tracks = []
    for share, _, d, y in candidates[:20_000]:
        rows = y + np.round(d * (place - 0.5)).astype(int)
        k = np.arange(strips)
        at = rows + 2 * margin
        if (padded[k, at] * ~claimed[k, at]).sum() < 0.5 * strips * 0.55:
            continue
        for e in range(-4, 5):
            claimed[k, at + e] = True
        track = followed(runs, rows)
        at = np.round(track).astype(int)
        own = runs[k, np.clip(at, 0, height - 1)]
        outside = [
            share_of(runs > 0.5 * own[:, None], at + e)
            for e in (-reach_of(height), reach_of(height))
        ]
        if max(outside) > 0.6:  # a broad stroke, or the edge of something dark
            continue
        line = np.interp(np.arange(width), middles, track)
        tracks.append((line, -share))
        # Beyond the middle of the outermost strips the line goes on as it was.
        slope = (track[-1] - track[0]) / (middles[-1] - middles[0])
        left, right = int(middles[0]), int(middles[-1])
        line[:left] = track[0] + slope * (np.arange(left) - middles[0])
        line[right:] = track[-1] + slope * (np.arange(right, width) - middles[-1])
    return tracks


def reach_of(height: int) -> int:
    """How far beside a line, in pixels, there must be paper: lines are thinner than that."""
    return int(max(5, height / 40))


def share_of(there: np.ndarray, rows: np.ndarray) -> float:
    """The share of strips in which something runs at the given rows."""
    fine = (rows >= 0) & (rows < there.shape[1])
    return float(there[np.flatnonzero(fine), rows[fine]].mean()) if fine.any() else 0.0


def followed(runs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A straight line's rows (strips,), moved by up to 3 pixels to where the strips have it."""
    strips, height = runs.shape
    offsets = np.arange(-3, 4)
    at = np.clip(rows[:, None] + offsets, 0, height - 1)
    values = runs[np.arange(strips)[:, None], at] - 1e-3 * np.abs(offsets)
    total = np.maximum(values, 0).sum(axis=1)
    shift = (np.maximum(values, 0) * offsets).sum(axis=1) / np.maximum(total, 1e-6)
    return rows + ndimage.median_filter(shift, 7, mode="nearest")


# ------------------------------------------------------------------------------------- cut


def cut(ink: Ink) -> list[Mark]:
    """Cut the ink into marks: connected parts, joined where a stroke is broken, without specks."""
    labels, count = label(ink.strength > ink.level)
    if count == 0:
        return []
    slices = ndimage.find_objects(labels)
    boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in slices])
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    if count > 20_000:  # grain: only what is large can be a digit
        keep = np.argsort(-sizes, kind="stable")[:20_000]
        boxes, sizes = boxes[keep], sizes[keep]
        names = keep + 1
    else:
        names = np.arange(1, count + 1)
    boxes, names = boxes[sizes >= 3], names[sizes >= 3]
    if len(boxes) == 0:
        return []
    groups = joined(boxes, labels, names)
    marks = []
    for group in groups:
        members = boxes[group]
        left, top = members[:, :2].min(axis=0)
        right, bottom = members[:, 2:].max(axis=0)
        marks.append(mark(ink, labels, names[group], (left, top, right, bottom)))
    return of_one_pen(marks)


def of_one_pen(marks: list[Mark]) -> list[Mark]:
    """The marks without those that are much thinner or paler than most.

    Such are the rests of ruled lines, and print that shows through the paper.
    """
    if len(marks) < 2:
        return marks
    areas = np.array([mark.ink.size for mark in marks])
    most = areas >= 0.3 * np.median(areas)
    thin = np.array([thickness(mark.ink > 127) for mark in marks])
    pale = np.array([mark.strength for mark in marks])
    keep = thin > 0.4 * np.median(thin[most])
    keep &= pale > 0.45 * np.median(pale[most])
    return [mark for mark, good in zip(marks, keep, strict=True) if good]


def mark(ink: Ink, labels: np.ndarray, names: np.ndarray, box: Box) -> Mark:
    """The mark of the connected parts `names`, with the soft edge of their strokes."""
    left, top, right, bottom = map(int, box)
    soft = 2 + (bottom - top) // 40
    left, top = max(0, left - soft), max(0, top - soft)
    bottom, right = min(labels.shape[0], bottom + soft), min(labels.shape[1], right + soft)
    there = labels[top:bottom, left:right]
    own = np.isin(there, names)
    reach = ndimage.binary_dilation(own, np.ones((3, 3), bool), iterations=soft)
    strength = ink.strength[top:bottom, left:right]
    full = float(np.quantile(strength[own], 0.9))
    own_ink = np.where(reach & (own | (there == 0)), strength, 0)
    own_ink = np.minimum(own_ink * (255 / full), 255).round().astype(np.uint8)
    return trimmed(own_ink, left, top, full)


def trimmed(ink: np.ndarray, left: int, top: int, strength: float) -> Mark:
    """A mark whose box is as small as its ink, `ink` lying with its corner at (left, top)."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)
    box = (left + first[1], top + first[0], left + last[1], top + last[0])
    return Mark(box, ink[first[0] : last[0], first[1] : last[1]], strength)


def joined(boxes: np.ndarray, labels: np.ndarray, names: np.ndarray) -> list[np.ndarray]:
    """Which parts belong together: groups of indices, specks and frames left out.

    From the largest part down: a part is a digit of its own unless a larger one is near, of which
    it then is a broken-off piece (joined) or beside which it is a speck (dropped).
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sizes = np.maximum(width, height)
    order = np.argsort(-sizes, kind="stable")
    frame = np.zeros(len(boxes), bool)
    for i in order[: np.searchsorted(-sizes[order], -20)]:
        left, top, right, bottom = boxes[i]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (middle[:, 0] > left) & (middle[:, 0] < right)
        inside &= (middle[:, 1] > top) & (middle[:, 1] < bottom)
        inside &= (sizes >= 0.3 * sizes[i]) & (height >= 0.25 * height[i])
        inside[i] = False
        if inside.any():
            own = labels[top:bottom, left:right] == names[i]
            filled = fill_holes(own)
            frame[i] = own.mean() < 0.35 and filled.mean() > 0.7
    area = np.bincount(labels.ravel())[names]
    weights = np.cumsum(area[order])
    usual = float(sizes[order][np.searchsorted(weights, weights[-1] / 2)])
    frame |= (width > 5 * height) & (width > 1.5 * usual)
    frame |= (height > 8 * width) & (height > 2.5 * usual)
    groups: list[list[int]] = []
    extent: list[np.ndarray] = []
    for i in order:
        if frame[i]:
            continue
        if extent:
            known = np.array(extent)
            across = np.maximum(known[:, 0], boxes[i, 0]) - np.minimum(known[:, 2], boxes[i, 2])
            down = np.maximum(known[:, 1], boxes[i, 1]) - np.minimum(known[:, 3], boxes[i, 3])
            tall = np.maximum(known[:, 3] - known[:, 1], 0.7 * (known[:, 2] - known[:, 0]))
            ratio = sizes[i] / tall
            away = np.hypot(np.maximum(across, 0), np.maximum(down, 0)) / tall
            lap = -across / np.minimum(known[:, 2] - known[:, 0], width[i])
            high = np.maximum(known[:, 3], boxes[i, 3]) - np.minimum(known[:, 1], boxes[i, 1])
            grown = high / tall
            piece = (away < 0.22) & (ratio < 0.75) & (lap > 0.4) & (grown < 1.45)
            piece |= (away < 0.22) & (lap > 0.5) & (high < 1.15 * usual)
            wide = np.maximum(known[:, 2], boxes[i, 2]) - np.minimum(known[:, 0], boxes[i, 0])
            flat = (
                (height[i] < 0.45 * tall) & (grown < 1.25) & (wide < 1.4 * np.maximum(tall, usual))
            )
            piece |= (away < 0.16) & flat
            short = np.minimum(known[:, 3] - known[:, 1], height[i]) < 0.75 * usual
            piece |= (away < 0.1) & short & (high < 1.15 * usual) & (wide < 1.15 * usual)
            piece &= (ratio > 0.18) | (away < 0.06)
            # A shadow's corner comes in from the border; a digit's piece only with its digit.
            piece &= at_border(known, labels.shape) | ~at_border(boxes[i : i + 1], labels.shape)
            speck = (ratio < 0.35) & (away < 2.5)
            if piece.any():
                k = int(np.argmin(np.where(piece, away, np.inf)))
                groups[k].append(i)
                extent[k] = np.concatenate(
                    [
                        np.minimum(extent[k][:2], boxes[i, :2]),
                        np.maximum(extent[k][2:], boxes[i, 2:]),
                    ]
                )
                continue
            if speck.any():
                continue
        groups.append([int(i)])
        extent.append(boxes[i])
    if not groups:
        return []
    tall = np.array([max(e[3] - e[1], 0.5 * (e[2] - e[0])) for e in extent])
    least = max(5, 0.12 * float(tall.max()))
    return [np.array(g) for g, t in zip(groups, tall, strict=True) if t >= least]


def at_border(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which boxes touch the border of a picture (height, width)."""
    far = boxes[:, 2:] >= (shape[1], shape[0])
    return np.asarray((boxes[:, :2] <= 0).any(axis=1) | far.any(axis=1))


# ------------------------------------------------------------------------------------ lines


def lines_of(boxes: np.ndarray) -> np.ndarray:
    """Which line each box is in, int (N,), counted from the top; lines may slant.

    Neighbours that overlap in height are chained; chains that lie on one another's straight
    continuation are one line.
    """
    n = len(boxes)
    left, top, right, bottom = boxes.astype(float).T
    middle, centre, tall = (left + right) / 2, (top + bottom) / 2, bottom - top
    chain = np.arange(n)
    for i in np.argsort(middle, kind="stable"):
        lap = np.minimum(bottom[i], bottom) - np.maximum(top[i], top)
        near = (lap > 0.4 * np.minimum(tall[i], tall)) & (middle > middle[i])
        near &= np.maximum(tall[i], tall) < 3 * np.minimum(tall[i], tall)
        near &= left - right[i] < 4 * max(tall[i], 1)
        if near.any():
            j = int(np.argmin(np.where(near, middle, np.inf)))
            chain[chain == chain[j]] = chain[i]
    chains = [np.flatnonzero(chain == k) for k in np.unique(chain)]
    slopes = [np.polyfit(middle[c], centre[c], 1)[0] for c in chains if len(c) > 2]
    slope = float(np.clip(np.median(slopes), -0.5, 0.5)) if slopes else 0.0
    level = centre - slope * middle  # where each would be on an upright page
    chains.sort(key=lambda c: float(np.median(level[c])))
    line = np.empty(n, int)
    rows: list[np.ndarray] = []
    for c in chains:
        for r, row in enumerate(rows):
            apart = left[c].min() > right[row].max() or left[row].min() > right[c].max()
            height = min(np.median(tall[c]), np.median(tall[row]))
            if apart and abs(gap_between(row, c, middle, centre, slope)) < 0.5 * height:
                rows[r] = np.concatenate([row, c])
                break
        else:
            rows.append(c)
    rows.sort(key=lambda row: float(np.median(level[row])))
    for r, row in enumerate(rows):
        line[row] = r
    return line


def gap_between(
    one: np.ndarray, other: np.ndarray, middle: np.ndarray, centre: np.ndarray, slope: float
) -> float:
    """How far apart the nearest ends of two chains lie, across the line that they slant along."""
    first, second = (one, other) if middle[one].max() < middle[other].min() else (other, one)
    end, start = first[np.argmax(middle[first])], second[np.argmin(middle[second])]
    return float(centre[start] - centre[end] - slope * (middle[start] - middle[end]))
