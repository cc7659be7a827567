"""Pages composed from test digits, single digits of other hands, and what became of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lab.drawings import Generator, smooth_noise
from tinydigits.data.drawn import control_points, spline
from tinydigits.images.components import Box
from tinydigits.reader.recognize import Reading

KINDS = ("plain", "ruled", "squared")
"""The papers that pages are composed on; each in both polarities."""


class Page(NamedTuple):
    """A composed page, and what is on it."""

    picture: np.ndarray
    """uint8 (H, W) or (H, W, 3)."""
    boxes: list[Box]
    """Where the digits' ink is, in reading order."""
    labels: list[int]
    lines: list[int]
    kind: str


def compose_page(
    rng: Generator, images: np.ndarray, labels: np.ndarray, paper: str, inverted: bool
) -> Page:
    """A page of 4 to 40 digits in rows.

    24 to 120 pixels high, gaps from 0.15 of a height, light falling to half, blur up to a sigma of
    1.5 pixels, corners moved by up to 5 %.

    Args:
        rng: what all chances are drawn from.
        images: uint8 (N, 28, 28) to draw the digits from.
        labels: (N,), their classes.
        paper: one of `KINDS`.
        inverted: light ink on dark paper.
    """
    height = round(np.exp(rng.uniform(np.log(24), np.log(120))))
    count = int(rng.integers(4, 41))
    columns = int(rng.integers(max(1, count // 8), min(count, 10) + 1))
    rows = -(-count // columns)
    gap = rng.uniform(0.15, 0.8) * height
    pitch = height * rng.uniform(1.35, 2.2)
    margin = height * rng.uniform(0.5, 1.5)
    placed, width = [], 0.0
    for r in range(rows):
        x = margin
        for _ in range(min(columns, count - r * columns)):
            k = int(rng.integers(len(images)))
            digit = scaled(images[k], height * rng.uniform(0.9, 1.1))
            y = margin + r * pitch + rng.uniform(-0.05, 0.05) * height
            placed.append((k, digit, x, y, r))
            x += digit.shape[1] + gap * rng.uniform(1, 1.3)
        width = max(width, x)
    size = int(margin + rows * pitch), int(width + margin)
    ink = np.zeros(size, np.float32)
    owner = np.full(size, -1)
    for n, (_, digit, x, y, _) in enumerate(placed):
        top, left = int(y), int(x)
        part = ink[top : top + digit.shape[0], left : left + digit.shape[1]]
        np.maximum(part, digit[: part.shape[0], : part.shape[1]], out=part)
        own = owner[top : top + part.shape[0], left : left + part.shape[1]]
        own[part > 0.3] = n
    rulings = ruling(rng, size, paper, pitch, margin + height * 1.05, height)
    light = falling_light(rng, size)
    tone = rng.uniform(190, 250)
    ink_tone, ruling_tone = tone * rng.uniform(0.0, 0.45), tone * rng.uniform(0.55, 0.85)
    page = tone * (1 - rulings) + ruling_tone * rulings
    page = page * (1 - ink) + np.minimum(ink_tone, page) * ink
    if inverted:
        page = 255 - page
    warp = warped(rng, size)
    page = apply_warp(page, warp, tone if not inverted else 255 - tone)
    page = ndimage.gaussian_filter(page, rng.uniform(0, 1.5)) * light
    page = page + rng.normal(0, rng.uniform(0, 4), size)
    where = apply_warp(owner.astype(np.float32), warp, -1, order=0).astype(int)
    found = ndimage.find_objects(where + 1, len(placed))
    boxes = [
        (0, 0, 0, 0) if b is None else (b[1].start, b[0].start, b[1].stop, b[0].stop) for b in found
    ]
    return Page(
        np.clip(page, 0, 255).round().astype(np.uint8),
        boxes,
        [int(labels[k]) for k, *_ in placed],
        [r for *_, r in placed],
        f"{paper}, {'light on dark' if inverted else 'dark on light'}",
    )


def box_of(mask: np.ndarray) -> Box:
    """The smallest box around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scaled(image: np.ndarray, height: float) -> np.ndarray:
    """A digit's ink, cut out and brought to a height in pixels: float32 0 to 1."""
    left, top, right, bottom = box_of(image > 0)
    cut = Image.fromarray(image[top:bottom, left:right])
    factor = height / 20  # as the digit was in MNIST: its longer side 20 pixels
    size = max(1, round(cut.width * factor)), max(1, round(cut.height * factor))
    return np.asarray(cut.resize(size, Image.Resampling.BICUBIC), np.float32) / 255


def ruling(
    rng: Generator, size: tuple[int, int], paper: str, pitch: float, first: float, height: float
) -> np.ndarray:
    """Rulings under the rows, or a grid of them: float32 (H, W), 1 where one is."""
    rulings = np.zeros(size, np.float32)
    if paper == "plain":
        return rulings
    thick = max(1, round(height / rng.uniform(20, 45)))
    if paper == "ruled":
        for y in np.arange(first % pitch, size[0], pitch):
            rulings[int(y) : int(y) + thick] = 1
    else:
        step = height * rng.uniform(0.5, 1.4)
        for axis in (0, 1):
            for at in np.arange(rng.uniform(0, step), size[axis], step):
                np.moveaxis(rulings, axis, 0)[int(at) : int(at) + thick] = 1
    return rulings


def falling_light(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Light that falls across the page, at most to half: float32 (H, W)."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in size)
    along = np.cos(angle) * x + np.sin(angle) * y[:, None]
    along = (along - along.min()) / (along.max() - along.min())
    return 1 - rng.uniform(0, 0.5) * along ** rng.uniform(0.7, 2)


def warped(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """The perspective (3, 3) that moves the corners by up to 5 % of the sides: new to old."""
    height, width = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
    moved = corners + rng.uniform(-0.05, 0.05, (4, 2)) * (width, height)
    rows = []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return np.append(np.linalg.solve(np.array(rows), moved.ravel()), 1).reshape(3, 3)


def apply_warp(page: np.ndarray, warp: np.ndarray, paper: float, order: int = 1) -> np.ndarray:
    """The page seen through a perspective; what is beyond its edge is paper."""
    image = Image.fromarray(page.astype(np.float32))
    resampling = Image.Resampling.BILINEAR if order else Image.Resampling.NEAREST
    moved = image.transform(
        image.size, Image.Transform.PERSPECTIVE, warp.ravel()[:8].tolist(), resampling,
        fillcolor=paper,
    )  # fmt: skip
    return np.asarray(moved)


# ------------------------------------------------------------------------------ single digits


def hand_drawn(rng: Generator, form: str) -> np.ndarray:
    """A picture of a form: 24 to 160 pixels high, with a fine or a broad pen.

    Some pens are uneven, pale or skip. It is slanted, turned and in perspective, on paper
    of any tone under uneven light, blurred and noisy.

    Returns:
        uint8 (H, W).
    """
    height = np.exp(rng.uniform(np.log(24), np.log(160)))
    lines = [line + rng.normal(0, 2.5, line.shape) for line in control_points(form)]
    slant, turn, wide = rng.normal(0.08, 0.15), rng.normal(0, 0.07), np.exp(rng.normal(0, 0.15))
    shape = np.array([[wide, turn], [-slant - turn, 1]]) * height / 100
    curves = [spline(line, 24 * len(line)) @ line @ shape for line in lines]
    margin = height * rng.uniform(0.3, 1.0, 2)
    low = np.min([curve.min(axis=0) for curve in curves], axis=0) - margin
    high = np.max([curve.max(axis=0) for curve in curves], axis=0) + margin
    pen = max(1.6, height * np.exp(rng.uniform(np.log(0.04), np.log(0.16))))
    finer = 3  # drawn in finer pixels, and brought down
    size = int(finer * (high - low)[0]), int(finer * (high - low)[1])
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for curve in curves:
        points = [(float(x), float(y)) for x, y in (curve - low) * finer]
        draw.line(points, 255, round(pen * finer), joint="curve")
        for x, y in points:  # round ends and joints
            r = pen * finer / 2
            draw.ellipse((x - r, y - r, x + r, y + r), 255)
    lean = rng.normal(0, 0.1, 2) / np.array(size)
    image = image.transform(
        size, Image.Transform.PERSPECTIVE, (1, 0, 0, 0, 1, 0, *lean), Image.Resampling.BILINEAR
    )
    ink = np.asarray(image.reduce(finer), float) / 255
    if rng.random() < 0.3:
        noise = smooth_noise(rng, ink.shape, rng.uniform(6, 14))
        ink = ink * (1 - rng.uniform(0.3, 0.9) * (noise - rng.uniform(0, 1)).clip(0, 1))
    paper = rng.uniform(170, 250)
    page = paper - (paper - paper * rng.uniform(0.05, 0.6)) * ink
    page = ndimage.gaussian_filter(page, rng.uniform(0, 0.012) * height) * falling_light(
        rng, ink.shape
    )
    return (page + rng.normal(0, rng.uniform(0, 4), ink.shape)).clip(0, 255).astype(np.uint8)


class Score(NamedTuple):
    """What became of a page's digits."""

    right: int
    wrong: int
    rejected: int
    missed: int
    false: int
    """Boxes that were read as a digit and hold none."""
    in_order: bool
    """Whether the boxes were found and put in the order of the page."""


def score(page: Page, readings: list[Reading]) -> Score:
    """Compare readings with what is on the page.

    A reading belongs to the digit whose box holds its middle and overlaps it most.
    """
    right = wrong = rejected = false = 0
    found: list[int] = []
    for reading in readings:
        overlaps = [overlap(reading.box, box) for box in page.boxes]
        k = int(np.argmax(overlaps))
        if overlaps[k] < 0.25 or k in found:
            false += reading.digit is not None
            continue
        found.append(k)
        right += reading.digit == page.labels[k]
        rejected += reading.digit is None
        wrong += reading.digit is not None and reading.digit != page.labels[k]
    missed = len(page.boxes) - len(found)
    return Score(right, wrong, rejected, missed, false, found == sorted(found) and not missed)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / (sum(areas) - width * height)
