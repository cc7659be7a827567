"""Digits drawn by rule: pen strokes in many hands and of many pens, and printed ones of free fonts.

MNIST knows American hands of the 1990s. These know a 1 with a flag or a foot, a 7 with a bar, an
open 4, a 0 with a slash, straight and curled tails, and pens that are thick, thin, pale or skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.images.preprocess import FITTED, MIDDLE, prepare
from tinydigits.network.architecture import SIZE

FORMS: tuple[tuple[str, ...], ...] = (
    (  # 0: closed, begun at the right, open, pointed, slashed
        "30,0 8,12 0,48 8,88 30,100 52,88 60,50 52,12 30,0",
        "46,8 20,2 2,35 6,80 30,100 55,80 58,35 42,5 20,12",
        "36,3 10,12 0,50 10,90 32,100 55,85 60,45 50,14",
        "40,0 15,25 0,65 15,97 40,90 56,60 50,25 38,0",
        "30,0 8,12 0,48 8,88 30,100 52,88 60,50 52,12 30,0 / 55,6 6,95",
        "30,0 8,12 0,48 8,88 30,100 52,88 60,50 52,12 30,0 / 44,26 16,74",
    ),
    (  # 1: a stem; with a flag, short, long or bent; on a foot
        "5,0 4,50 5,100",
        "0,18 18,0 18,0 18,100",
        "0,40 30,0 30,0 30,100",
        "0,30 18,18 28,0 28,0 27,50 28,100",
        "0,22 20,0 20,0 20,100 / 2,100 42,100",
        "0,38 26,0 26,0 26,100 / 6,99 50,100",
        "20,0 20,100 / 0,100 40,100",
    ),
    (  # 2: with a corner, with a loop, with a wavy base, like a Z, like a swan
        "3,22 15,3 35,0 55,12 55,35 35,62 0,100 0,100 60,100",
        "5,20 20,2 42,2 56,20 48,45 25,75 5,95 2,82 14,76 32,90 60,98",
        "4,20 25,0 52,10 50,40 20,75 2,98 2,98 20,92 40,99 60,92",
        "0,8 50,2 50,2 0,98 0,98 58,96",
        "8,30 10,8 32,0 52,15 46,45 0,100 0,100 30,97 60,100",
        "2,14 30,0 54,18 44,48 16,82 6,98 0,88 12,80 36,94 62,88",
    ),
    (  # 3: with a cusp, a flat top, a round waist, a loop, a hook
        "3,12 25,0 50,8 52,28 22,46 22,46 52,56 58,78 38,99 0,90",
        "3,0 55,0 55,0 22,40 22,40 52,52 56,80 32,100 0,90",
        "5,8 35,0 52,20 38,42 25,48 48,56 57,78 35,99 2,92",
        "4,10 30,0 52,15 42,40 22,48 18,42 28,42 52,58 54,85 28,100 0,88",
        "8,14 30,0 50,18 30,44 30,44 54,60 50,90 22,100 4,86",
    ),
    (  # 4: open with a short or a long stem, closed, of one stroke, round
        "8,0 2,58 2,58 60,55 / 44,28 44,100",
        "15,0 0,60 0,60 65,60 / 50,0 45,100",
        "45,0 0,65 0,65 62,65 / 45,0 45,100",
        "48,100 48,0 48,0 0,66 0,66 65,66",
        "5,0 3,35 15,52 48,46 / 52,0 48,100",
        "30,0 0,70 0,70 60,70 / 38,45 36,100",
    ),
    (  # 5: of two strokes, of one, like an S, with a bar apart, with corners
        "12,3 8,42 8,42 32,36 56,58 48,90 22,100 0,90 / 12,3 56,0",
        "55,0 12,3 12,3 6,44 6,44 35,38 57,62 42,95 0,93",
        "54,4 25,2 8,20 20,42 45,55 52,80 30,100 2,90",
        "14,15 10,48 10,48 40,42 56,68 38,98 2,92 / 20,4 58,2",
        "52,0 5,0 5,0 5,48 5,48 40,48 58,70 40,100 0,96",
    ),
    (  # 6: curved, straight, with a large bowl, upright, begun with a hook
        "48,3 22,15 4,50 4,82 25,100 48,90 52,68 34,52 10,65",
        "42,0 8,55 2,80 20,100 45,92 50,68 28,56 4,76",
        "45,4 14,20 0,60 10,95 38,98 56,75 45,48 20,46 2,66",
        "10,0 2,40 2,80 18,100 40,96 48,72 30,56 4,68",
        "52,10 30,0 8,25 0,65 18,98 44,92 50,68 30,54 6,72",
    ),
    (  # 7: straight, bent, with a bar, with a serif, with both, with a wave
        "0,2 58,2 58,2 22,100",
        "0,5 56,2 56,2 32,45 24,100",
        "0,2 58,2 58,2 22,100 / 12,52 54,48",
        "2,20 4,2 58,2 58,2 20,100",
        "2,20 4,2 58,2 58,2 20,100 / 12,54 54,50",
        "0,12 18,0 40,8 58,0 58,0 25,55 20,100",
    ),
    (  # 8: of one stroke, of two rings, open, begun at the waist
        "48,12 25,0 6,18 20,40 46,60 52,85 28,100 4,84 12,60 40,38 50,18 40,4",
        "28,0 8,12 10,36 28,46 48,36 50,12 28,0 / 28,46 4,60 4,88 28,100 54,88 54,60 28,46",
        "52,8 28,2 8,20 24,42 48,62 48,90 24,100 6,84 18,60 44,36 56,14",
        "28,46 8,30 10,6 32,0 50,14 44,36 12,62 6,88 30,100 54,86 48,60 28,46",
    ),
    (  # 9: with a straight tail, a curled one, a hook, a slope; open; a ring and a stick
        "52,20 32,2 8,14 6,40 28,50 50,34 54,10 54,10 50,100",
        "50,18 28,0 6,16 8,44 32,50 50,30 52,12 50,60 38,92 10,98",
        "50,14 26,0 6,18 10,44 34,48 52,24 52,60 46,92 22,100 4,90",
        "50,22 30,0 8,16 8,42 32,48 52,22 52,22 28,100",
        "50,6 25,4 5,25 14,48 40,46 54,15 54,15 52,100",
        "50,5 22,2 4,26 22,52 50,42 / 52,0 52,100",
    ),
)
"""How each digit may be written: strokes, parted by /, through points x,y in hundredths of the
height, y downwards. A curve is smooth but for a corner where a point stands twice."""

PRINTED = 0.15
"""The share of the digits that are printed."""

POINTS = 96
"""How many points a digit's strokes are drawn with."""

CHUNK = 500
"""Digits drawn at a time, which bounds the memory."""

PRINT_SIZE = 64
"""Pixels of the type that printed digits are set in."""


def draw_digits(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Digits drawn by rule, in the form of MNIST.

    Args:
        count: how many; as many of each digit, give or take one.
        seed: what all chances are drawn from.

    Returns:
        uint8 (count, 28, 28), ink bright, and int64 (count,), the digits; both in random order.
    """
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    is_printed = rng.random(count) < PRINTED
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    bar = tqdm(total=count, desc="drawing digits", leave=False, disable=None)
    typefaces = load_fonts(print_fonts())
    for n in np.flatnonzero(is_printed):
        images[n] = print_text(rng, str(labels[n]), typefaces[rng.integers(len(typefaces))])
        bar.update()
    for digit, forms in enumerate(FORMS):
        written = np.flatnonzero((labels == digit) & ~is_printed)
        form_of = rng.integers(len(forms), size=len(written))
        for k, form in enumerate(forms):
            for part in chunks(written[form_of == k]):
                images[part] = write(rng, form, len(part))
                bar.update(len(part))
    bar.close()
    return images, labels.astype(np.int64)


def chunks(places: np.ndarray) -> Iterator[np.ndarray]:
    """Places, at most CHUNK at a time."""
    for start in range(0, len(places), CHUNK):
        yield places[start : start + CHUNK]


# ------------------------------------------------------------------------------------ written


def write(rng: np.random.Generator, form: str, count: int) -> np.ndarray:
    """A form written by `count` hands, each with a pen of its own: uint8 (count, 28, 28)."""
    points = by_hands(rng, strokes(rng, form, count))
    radius = np.exp(rng.uniform(np.log(0.6), np.log(2.4), (count, 1)))
    points = fit(points, radius)
    return soften(rng, pen(points, radius * pressure(rng, count), flow(rng, count)))


def strokes(rng: np.random.Generator, form: str, count: int, wobble: float = 3.5) -> np.ndarray:
    """Points along a form's strokes, float32 (count, POINTS, 2), each control point off by a bit.

    The curves are Catmull-Rom splines, which go through their control points.
    """
    lines = control_points(form)
    lengths = [np.hypot(*np.diff(line, axis=0).T).sum() for line in lines]
    shares = np.maximum(6, np.round(POINTS * np.array(lengths) / sum(lengths))).astype(int)
    shares[np.argmax(shares)] += POINTS - shares.sum()
    parts = []
    for line, share in zip(lines, shares, strict=True):
        corner = np.append(False, (np.diff(line, axis=0) == 0).all(axis=1))
        off = rng.normal(0, wobble, (count, len(line), 2))
        off[:, corner] = off[:, np.flatnonzero(corner) - 1]  # a corner stays one point
        parts.append(spline(line, share) @ (line + off))
    return np.concatenate(parts, axis=1).astype(np.float32)


def control_points(form: str) -> list[np.ndarray]:
    """The points of each stroke of a form, float64 (N, 2): x and y in hundredths."""
    return [np.array([p.split(",") for p in line.split()], float) for line in form.split("/")]


def spline(line: np.ndarray, count: int) -> np.ndarray:
    """What each control point of a stroke weighs in `count` points of its curve: (count, N)."""
    controls = len(line)
    length = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    along = np.interp(np.linspace(0, length[-1], count), length, np.arange(controls))
    at = np.minimum(along.astype(int), controls - 2)
    t = (along - at)[:, None]
    # Catmull and Rom 1974, "A Class of Local Interpolating Splines".
    cubic = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    weights = np.concatenate([t**0, t, t**2, t**3], axis=1) @ cubic
    matrix = np.zeros((count, controls))
    for k in range(4):
        np.add.at(matrix, (np.arange(count), (at + k - 1).clip(0, controls - 1)), weights[:, k])
    return matrix


def by_hands(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Points (N, P, 2) as each hand has them: wide or narrow, slanted, turned, in perspective."""
    x, y = (points / 100 - (0.3, 0.5)).astype(np.float32).transpose(2, 0, 1)
    column = (len(points), 1)
    y = y + rng.uniform(-0.08, 0.08, column) * np.cos(np.pi * y)  # a high or a low waist
    x = x * np.exp(rng.normal(0, 0.22, column)) * (1 + rng.normal(0, 0.12, column) * y)
    x = x - rng.normal(0.1, 0.2, column) * y + rng.normal(0, 0.06, column) * np.cos(np.pi * y)
    angle = rng.normal(0, 0.08, column)
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    depth = 1 + rng.normal(0, 0.1, column) * x + rng.normal(0, 0.1, column) * y
    return np.stack([x / depth, y / depth], axis=-1)


def fit(points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Points (N, P, 2) where MNIST would have them: the ink's longer side 20 of 28 pixels.

    Its center of mass goes to the middle, as far as the ink stays inside.
    """
    low, high = points.min(axis=1), points.max(axis=1)
    longer = (high - low).max(axis=1, keepdims=True)
    scale = (FITTED - 2 * radius) / longer
    points = points * scale[:, None]
    low, high = low * scale + (MIDDLE - SIZE / 2), high * scale
    move = SIZE / 2 - points.mean(axis=1)
    move = move.clip(radius - points.min(axis=1), SIZE - radius - points.max(axis=1))
    return (points + move[:, None]).astype(np.float32)


def pressure(rng: np.random.Generator, count: int) -> np.ndarray:
    """How wide the pen is along the stroke, about 1: (count, POINTS)."""
    return 1 + rng.uniform(0, 0.25, (count, 1)) * waves(rng, count)


def flow(rng: np.random.Generator, count: int) -> np.ndarray:
    """How much ink comes out along the stroke, 0 to 1: (count, POINTS).

    A third of the pens are uneven, and some of these skip.
    """
    uneven = (rng.random((count, 1)) < 0.35) * rng.uniform(0.1, 0.7, (count, 1))
    ink = 1 - uneven * (0.5 + 0.5 * waves(rng, count))
    skips = waves(rng, count, 7) > rng.uniform(0.6, 0.9, (count, 1))
    skips &= rng.random((count, 1)) < 0.12
    return np.where(skips, rng.uniform(0, 0.3, (count, 1)), ink)


def waves(rng: np.random.Generator, count: int, most: int = 4) -> np.ndarray:
    """Smooth noise along a stroke, from -1 to 1: (count, POINTS)."""
    t = np.linspace(0, 2 * np.pi, POINTS)
    turns = rng.uniform(0.3, most, (2, count, 1))
    start = rng.uniform(0, 2 * np.pi, (2, count, 1))
    return np.sin(turns * t + start).mean(axis=0)


def pen(points: np.ndarray, radius: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Ink where a round pen went, 0 to 1: float32 (N, 28, 28).

    Args:
        points: (N, P, 2), x and y in pixels.
        radius: (N, P), of the pen in pixels.
        ink: (N, P), how much of it comes out.
    """
    centers = np.arange(SIZE, dtype=np.float32) + 0.5
    dx = (centers - points[..., 0:1]) ** 2  # (N, P, 28)
    dy = (centers - points[..., 1:2]) ** 2
    image = np.zeros((len(points), SIZE, SIZE), np.float32)
    radius, ink = (a.astype(np.float32)[..., None, None] for a in (radius, ink))
    for p in range(points.shape[1]):
        distance = np.sqrt(dy[:, p, :, None] + dx[:, p, None, :])
        np.maximum(image, ink[:, p] * (radius[:, p] + 0.5 - distance).clip(0, 1), out=image)
    return image


def soften(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Ink (N, 28, 28) as a picture has it: blurred, its palest edge lost or gained. uint8."""
    from scipy.ndimage import gaussian_filter1d

    blurred = ink
    for axis in (1, 2):
        blurred = gaussian_filter1d(blurred, 0.9, axis)
    share = rng.uniform(0, 1, (len(ink), 1, 1)) ** 1.5
    ink = ink + share * (blurred - ink)
    most = ink.max(axis=(1, 2), keepdims=True)
    lost = rng.uniform(0, 0.25, most.shape) * most
    full = rng.uniform(0.75, 1, most.shape) * most
    return (255 * ((ink - lost) / (full - lost)).clip(0, 1)).round().astype(np.uint8)


# ------------------------------------------------------------------------------------ printed


def print_fonts() -> list[Path]:
    """The files of the text fonts that matplotlib brings along, but for the held-out STIX."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVu", "cmr10", "cmb10", "cmss10", "cmtt10")
    return sorted(
        p for p in folder.glob("*.ttf") if p.stem.startswith(names) and "Disp" not in p.stem
    )


def load_fonts(paths: list[Path]) -> list[Any]:
    """Fonts of files, in the size in which digits are printed."""
    from PIL import ImageFont

    return [ImageFont.truetype(str(path), PRINT_SIZE) for path in paths]


def print_text(rng: np.random.Generator, text: str, font: Any) -> np.ndarray:
    """A printed character as a picture has it: slanted, bolder or thinner, uint8 (28, 28)."""
    from PIL import Image, ImageDraw, ImageFilter

    side = 2 * PRINT_SIZE
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((side / 2, side / 2), text, 255, font, anchor="mm")
    if (weight := int(rng.integers(-1, 3))) > 0:
        image = image.filter(ImageFilter.MaxFilter(2 * weight + 1))
    elif weight < 0:
        thinner = image.filter(ImageFilter.MinFilter(3))
        image = thinner if thinner.getbbox() else image
    stretch, shear, turn = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.12), rng.normal(0, 0.06)
    lean = rng.normal(0, 0.0004, 2)
    matrix = np.array([[1 / stretch, shear - turn], [turn, 1]])
    move = side / 2 - matrix @ (side / 2, side / 2)
    image = image.transform(
        (side, side), Image.Transform.PERSPECTIVE,
        (*matrix[0], move[0], *matrix[1], move[1], *lean), Image.Resampling.BILINEAR,
    )  # fmt: skip
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 3))))
    return prepare(np.asarray(image), paper=0)
