"""Drawings to train the rejector on: letters, signs, scribbles and cut digits, and digits altered.

Everything is drawn by rules from fonts, strokes and MNIST's digits, by a given generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from tqdm import tqdm

from tinydigits.images.preprocess import prepare

Generator = np.random.Generator

UNLIKE = "ACEFGHJKLMNPQRTUVWXYacdefhkmnprtuvwxy"
"""Letters that do not look like a digit."""

SIGNS = "+\u00d7÷=%&#@?*<>~^$€§£¥-ΔΣΩΨπλ∞√≈≠±{}[]"
"""Signs that do not look like a digit."""

CANVAS = 96
"""Height and width, in pixels, of what things are drawn on before they are brought to 28x28."""


def fonts() -> list[Path]:
    """The files of the text fonts that matplotlib brings along."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVu", "cmr10", "cmb10", "cmss10", "cmtt10")
    return sorted(
        p for p in folder.glob("*.ttf") if p.stem.startswith(names) and "Disp" not in p.stem
    )


def held_out_fonts() -> list[Path]:
    """The fonts whose letters the rejector never saw."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")]


def glyph(text: str, font: Any) -> np.ndarray:
    """Text in a font, as ink: uint8 (CANVAS, CANVAS)."""
    image = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), text, 255, font, anchor="mm")
    return np.asarray(image)


def scribble(rng: Generator) -> np.ndarray:
    """A stroke that goes nowhere: smooth or jagged, with at least one change of mind."""
    points = int(rng.integers(5, 16))
    corners = rng.uniform(18, CANVAS - 18, (points, 2))
    if rng.random() < 0.4:  # to and fro, as one crosses something out
        corners[:, 0] = np.linspace(18, CANVAS - 18, points)
        corners[:, 1] = CANVAS / 2 + rng.uniform(10, 30, points) * (-1) ** np.arange(points)
    return stroke(rng, [corners], smooth=rng.random() < 0.75)


def stroke(rng: Generator, lines: Sequence[np.ndarray], smooth: bool = True) -> np.ndarray:
    """Pen strokes through the given points (x, y): uint8 (CANVAS, CANVAS)."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    width = int(rng.integers(3, 12))
    for points in lines:
        if smooth and len(points) > 2:
            along = np.linspace(0, len(points) - 1, 12 * len(points))
            points = np.stack([
                ndimage.map_coordinates(axis, [along], order=3, mode="nearest")
                for axis in points.T
            ], axis=1)  # fmt: skip
        path = [(float(x), float(y)) for x, y in points]
        draw.line(path, 255, width, joint="curve")
        for x, y in (path[0], path[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 255)
    return np.asarray(image)


def shape(rng: Generator) -> np.ndarray:
    """A box, a bar, a cross, a blot, a corner, a few dots: what forms and paper bring along."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    left, top = rng.uniform(10, 35, 2)
    right, bottom = rng.uniform(55, 86, 2)
    width = int(rng.integers(2, 9))
    middle = (left + right) / 2
    match rng.integers(0, 7):
        case 0:
            draw.rectangle((left, top, right, bottom), outline=255, width=width)
        case 1:
            draw.rectangle((left, 44, right, 44 + width), fill=255)
        case 2:
            draw.line((left, 48, right, 48), 255, width)
            draw.line((middle, top, middle, bottom), 255, width)
        case 3:
            draw.ellipse((left, top, right, bottom), fill=255)
        case 4:
            draw.line((left, top, left, bottom, right, bottom), 255, width)
        case 5:
            for x, y in rng.uniform(15, 80, (int(rng.integers(2, 6)), 2)):
                draw.ellipse((x - width, y - width, x + width, y + width), fill=255)
        case _:
            draw.line((left, 40, right, 40), 255, width)
            draw.line((left, 40 + 3 * width, right, 40 + 3 * width), 255, width)
    ink = np.asarray(image)
    while box_is_narrow(ink := np.rot90(ink)) or rng.random() < 0.6:
        pass
    return ink


def box_is_narrow(ink: np.ndarray) -> bool:
    """Whether ink is so much higher than wide that it could be a 1."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return bool(len(rows) and np.ptp(columns) < 0.5 * np.ptp(rows))


def debris(rng: Generator, digits: np.ndarray) -> np.ndarray:
    """What a wrong cut leaves: a part of a digit, or two that run together."""
    one, other = digits[rng.integers(len(digits), size=2)]
    if rng.random() < 0.5:
        both = np.zeros((28, 48), np.uint8)
        both[:, :28] = one
        step = int(rng.integers(13, 20))
        both[:, step : step + 28] = np.maximum(both[:, step : step + 28], other)
        return both
    rows, columns = (np.flatnonzero(one.any(axis=1 - axis)) for axis in (0, 1))
    middle = int(np.median(rows if (upright := rng.random() < 0.6) else columns))
    middle += int(rng.integers(-3, 4))
    part = one.copy()
    half = slice(middle, None) if rng.random() < 0.5 else slice(None, middle)
    part[(half, slice(None)) if upright else (slice(None), half)] = 0
    return np.zeros_like(part) if box_is_narrow(part) else part


def by_hand(rng: Generator, ink: np.ndarray, wobble: float = 2.5) -> np.ndarray:
    """Ink as an unsteady hand would have it: turned, sheared, stretched, bent, thicker or thinner.

    Elastic bending after Simard et al. 2003, "Best Practices for Convolutional Neural Networks".
    """
    height, width = ink.shape
    radius = int(rng.integers(-2, 3)) if height > 60 else 0
    if radius > 0:
        ink = ndimage.grey_dilation(ink, (1 + radius, 1 + radius))
    elif radius < 0:
        thinner = ndimage.grey_erosion(ink, (1 - radius, 1 - radius))
        ink = thinner if thinner.sum() > 0.4 * ink.sum() else ink
    angle, shear = rng.normal(0, 0.12), rng.normal(0, 0.2)
    stretch_x, stretch_y = rng.uniform(0.8, 1.25, 2)
    matrix = np.array(
        [[np.cos(angle) / stretch_y, np.sin(angle)], [shear - np.sin(angle), 1 / stretch_x]]
    )
    middle = (np.array(ink.shape) - 1) / 2
    y, x = np.mgrid[0:height, 0:width]
    at = np.tensordot(matrix, np.stack([y - middle[0], x - middle[1]]), 1)
    sigma = height / rng.uniform(6, 14)
    for axis in (0, 1):
        bend = ndimage.gaussian_filter(rng.normal(size=(height, width)), sigma, truncate=2.5)
        at[axis] += middle[axis] + bend / bend.std() * rng.uniform(0, wobble) * height / CANVAS
    return ndimage.map_coordinates(ink, at, order=1)


def photographed(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Ink as it comes out of a picture: small, blurred, its palest edge lost. uint8."""
    size = rng.uniform(18, 70) / max(ink.shape)
    image = Image.fromarray(ink).resize(
        [max(8, round(n * size * 1.2)) for n in ink.shape[::-1]], Image.Resampling.BICUBIC
    )
    soft = ndimage.gaussian_filter(np.asarray(image, float), rng.uniform(0, 1.5))
    soft += rng.normal(0, rng.uniform(0, 6), soft.shape) * (soft > 20)
    lost, full = rng.uniform(0, 0.2) * soft.max(), rng.uniform(0.8, 1) * soft.max()
    return ((soft - lost) / max(full - lost, 1) * 255).clip(0, 255).astype(np.uint8)


def draw_none(rng: Generator, digits: np.ndarray, typefaces: list[Any]) -> np.ndarray:
    """Something that is no digit, as the network would see it: uint8 (28, 28)."""
    while True:
        kind = rng.random()
        if kind < 0.55:
            text = rng.choice(list(UNLIKE))
            ink = by_hand(rng, glyph(text, one_of(rng, typefaces)))
        elif kind < 0.62:
            ink = by_hand(rng, stroked(rng, rng.choice(list(LETTERS))), 1.5)
        elif kind < 0.69:
            text = rng.choice(list(SIGNS))
            ink = by_hand(rng, glyph(text, one_of(rng, typefaces)))
        elif kind < 0.81:
            ink = scribble(rng)
        elif kind < 0.88:
            ink = by_hand(rng, shape(rng), 1.0)
        else:
            ink = debris(rng, digits)
        image = prepare(photographed(rng, ink) if rng.random() < 0.4 else ink, paper=0)
        if image.any():
            return image


def draw_digit(rng: Generator, digits: np.ndarray, typefaces: list[Any]) -> np.ndarray:
    """A digit of MNIST or, now and then, of a font, as it comes out of a picture."""
    kind = rng.random()
    if kind < 0.2:
        ink = by_hand(rng, glyph(str(rng.integers(10)), one_of(rng, typefaces)))
    else:
        ink = digits[rng.integers(len(digits))]
    if 0.2 <= kind < 0.45:
        large = Image.fromarray(ink).resize((84, 84), Image.Resampling.BICUBIC)
        ink = by_hand(rng, np.asarray(large))
    return prepare(photographed(rng, ink) if kind > 0.1 else ink, paper=0)


def one_of(rng: Generator, things: Sequence[Any]) -> Any:
    """One of several, at random."""
    return things[int(rng.integers(len(things)))]


LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.62), (0.8, 0.62)]],
    "C": [[(0.9, 0.15), (0.5, 0), (0.1, 0.3), (0.1, 0.7), (0.5, 1), (0.9, 0.85)]],
    "E": [[(0.8, 0), (0, 0), (0, 1), (0.8, 1)], [(0, 0.5), (0.65, 0.5)]],
    "F": [[(0.8, 0), (0, 0), (0, 1)], [(0, 0.48), (0.6, 0.48)]],
    "H": [[(0, 0), (0, 1)], [(0.8, 0), (0.8, 1)], [(0, 0.5), (0.8, 0.5)]],
    "K": [[(0, 0), (0, 1)], [(0.7, 0), (0, 0.55), (0.75, 1)]],
    "L": [[(0, 0), (0, 1), (0.7, 1)]],
    "M": [[(0, 1), (0.1, 0), (0.5, 0.6), (0.9, 0), (1, 1)]],
    "N": [[(0, 1), (0, 0), (0.8, 1), (0.8, 0)]],
    "P": [[(0, 1), (0, 0), (0.5, 0.02), (0.7, 0.25), (0.5, 0.5), (0, 0.52)]],
    "R": [[(0, 1), (0, 0), (0.5, 0.02), (0.7, 0.25), (0.5, 0.48), (0, 0.5)],
          [(0.3, 0.5), (0.75, 1)]],
    "T": [[(0, 0), (0.9, 0)], [(0.45, 0), (0.45, 1)]],
    "U": [[(0, 0), (0.02, 0.7), (0.4, 1), (0.75, 0.7), (0.8, 0)]],
    "V": [[(0, 0), (0.4, 1), (0.8, 0)]],
    "W": [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "X": [[(0, 0), (0.8, 1)], [(0.8, 0), (0, 1)]],
    "Y": [[(0, 0), (0.4, 0.5)], [(0.8, 0), (0.4, 0.5), (0.4, 1)]],
    "d": [[(0.65, 0.55), (0.3, 0.4), (0, 0.7), (0.3, 1), (0.65, 0.8)], [(0.67, 0), (0.67, 1)]],
    "h": [[(0, 0), (0, 1)], [(0, 0.6), (0.3, 0.42), (0.55, 0.6), (0.57, 1)]],
    "k": [[(0, 0), (0, 1)], [(0.5, 0.4), (0, 0.72), (0.55, 1)]],
    "m": [[(0, 0.4), (0, 1)], [(0, 0.6), (0.25, 0.4), (0.5, 0.6), (0.5, 1)],
          [(0.5, 0.6), (0.75, 0.4), (1, 0.6), (1, 1)]],
    "n": [[(0, 0.4), (0, 1)], [(0, 0.6), (0.3, 0.4), (0.6, 0.6), (0.6, 1)]],
    "p": [[(0, 0.3), (0, 1)], [(0, 0.4), (0.4, 0.3), (0.55, 0.5), (0.35, 0.7), (0, 0.65)]],
    "r": [[(0, 0.4), (0, 1)], [(0, 0.65), (0.2, 0.42), (0.5, 0.42)]],
    "t": [[(0.3, 0), (0.3, 0.85), (0.5, 1), (0.65, 0.9)], [(0, 0.33), (0.65, 0.33)]],
    "u": [[(0, 0.4), (0.03, 0.85), (0.3, 1), (0.6, 0.8)], [(0.6, 0.4), (0.62, 1)]],
    "w": [[(0, 0.4), (0.2, 1), (0.45, 0.5), (0.7, 1), (0.9, 0.4)]],
    "x": [[(0, 0.4), (0.6, 1)], [(0.6, 0.4), (0, 1)]],
    "÷": [[(0, 0.5), (0.9, 0.5)], [(0.45, 0.15), (0.46, 0.16)], [(0.45, 0.84), (0.46, 0.85)]],
}  # fmt: skip
"""Letters, and one sign, as pen strokes through points (x, y), y downwards."""

CURVED = "CPRUdhmnprtu"


def stroked(rng: Generator, letter: str) -> np.ndarray:
    """A letter of `LETTERS`, drawn by an unsteady pen: uint8 (CANVAS, CANVAS)."""
    lines = [
        (np.array(line) + rng.normal(0, 0.03, (len(line), 2))) * 56 + 20 for line in LETTERS[letter]
    ]
    return stroke(rng, lines, smooth=letter in CURVED)


def draw(seed: int, digits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) to train the rejector on, and labels: 0 for a digit, 1 for none.

    All `digits`, `count` that were altered, and twice as many things that are none.
    """
    rng = np.random.default_rng(seed)
    typefaces = [ImageFont.truetype(str(path), 60) for path in fonts()]
    altered = [draw_digit(rng, digits, typefaces) for _ in tqdm(range(count), "digits")]
    none = [draw_none(rng, digits, typefaces) for _ in tqdm(range(2 * count), "no digits")]
    images = np.concatenate([digits, np.stack(altered), np.stack(none)])
    return images, (np.arange(len(images)) >= len(images) - len(none)).astype(np.int64)
