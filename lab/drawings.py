"""Drawings to train the rejector on: letters, signs, scribbles and cut digits, and digits altered.

Everything is drawn by rules from fonts, strokes and MNIST's digits, by a given generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from tqdm import tqdm

from lab.forms import LETTERS
from tinydigits.data.drawn import FORMS, chunks, control_points, print_fonts, spline, write
from tinydigits.errors import Failure
from tinydigits.images.preprocess import prepare

Generator = np.random.Generator

UNLIKE = "ACEFGHJKLMNPQRTUVWXYacdefhkmnprtuvwxy"
"""Letters that do not look like a digit."""

SIGNS = "+\u00d7÷=%&#@?*<>~^$€§£¥-ΔΣΩΨπλ∞√≈≠±{}[]()"
"""Signs that do not look like a digit."""

HANDWRITING = {
    "comic-neue": "ComicNeue*",
    "dkg-handwriting": "dkg*",
    "bwht": "BecauseWe[BCLM]*",
    "dancingscript": "DancingScript*",
    "humor-sans": "Humor-Sans*",
    "jura": "Jura*",
    "kaushanscript": "KaushanScript*",
    "kiloji": "kiloji*",
    "klaudia-berenika": "[BK]*a*",
    "klee": "KleeOne*",
    "seto": "setofont.ttf",
}
"""Debian's free fonts that look like handwriting: the package, fonts-..., and the files in it."""

HELD_OUT_HANDWRITING = {
    "breip": "Breip.ttf",
    "bwht": "BecauseWeOrganize*",
    "kristi": "Kristi*",
    "leckerli-one": "LeckerliOne*",
    "rufscript": "Rufscript*",
}
"""Those whose letters the rejector never saw."""

FONT_FILES = (".otf", ".ttf")

PART = 250
"""How many things one process draws before it takes the next ones."""

CANVAS = 96
"""Height and width, in pixels, of what things are drawn on before they are brought to 28x28."""


def fonts() -> list[Path]:
    """The files of the fonts that the rejector learns from: printed ones, then handwriting."""
    return print_fonts() + debian_fonts(HANDWRITING)


def held_out_fonts() -> list[Path]:
    """Printed fonts whose letters the rejector never saw."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")]


def debian_fonts(packages: dict[str, str]) -> list[Path]:
    """The files of fonts that Debian has packages of.

    Raises:
        Failure: a package is not installed.
    """
    files: list[Path] = []
    for package, pattern in packages.items():
        listed = Path(f"/var/lib/dpkg/info/fonts-{package}.list")
        paths = listed.read_text().split("\n") if listed.exists() else []
        found = sorted(Path(p) for p in paths if Path(p).match(pattern) and p[-4:] in FONT_FILES)
        if not found:
            names = " ".join(f"fonts-{name}" for name in packages)
            raise Failure(f"The fonts of {package} are missing: apt-get install {names}.")
        files += found
    return files


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
    parts = rng.uniform(3, 7)
    for axis in (0, 1):
        bend = smooth_noise(rng, ink.shape, parts)
        at[axis] += middle[axis] + bend * rng.uniform(0, wobble) * height / CANVAS
    return ndimage.map_coordinates(ink, at, order=1)


def smooth_noise(rng: Generator, shape: tuple[int, ...], parts: float) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 that is smooth over a `parts`th of each side."""
    rows, columns = (
        np.exp(-((np.linspace(0, parts, n)[:, None] - np.arange(-1, parts + 2)) ** 2))
        for n in shape
    )
    noise = rows @ rng.normal(size=(rows.shape[1], columns.shape[1])) @ columns.T
    return (noise - noise.mean()) / noise.std()


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


def uneven(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Ink of a dry or skipping pen: paler in places, by up to all of it."""
    noise = smooth_noise(rng, ink.shape, rng.uniform(4, 10))
    return ink * (1 - rng.uniform(0.3, 1) * (noise - rng.uniform(-0.5, 1)).clip(0, 1))


def draw_none(rng: Generator, digits: np.ndarray, typefaces: list[Any]) -> np.ndarray:
    """Something that is no digit, as the network would see it: uint8 (28, 28)."""
    while True:
        kind = rng.random()
        if kind < 0.5:
            text = rng.choice(list(UNLIKE))
            ink = by_hand(rng, glyph(text, one_of(rng, typefaces)))
        elif kind < 0.56:
            ink = by_hand(rng, stroked(rng, one_of(rng, LETTER_FORMS)), 1.5)
        elif kind < 0.62:
            text = rng.choice(list(SIGNS))
            ink = by_hand(rng, glyph(text, one_of(rng, typefaces)))
        elif kind < 0.81:
            ink = scribble(rng)
        elif kind < 0.88:
            ink = by_hand(rng, shape(rng), 1.0)
        else:
            ink = debris(rng, digits)
        image = pictured(rng, ink)
        if image.any():
            return image


def draw_digit(rng: Generator, digits: np.ndarray, typefaces: list[Any]) -> np.ndarray:
    """A digit of a font or, mostly, of MNIST, as another hand and pen would have it."""
    if rng.random() < 0.3:
        ink = by_hand(rng, glyph(str(rng.integers(10)), one_of(rng, typefaces)))
        return pictured(rng, ink)
    return restyled(rng, digits[rng.integers(len(digits))])


def restyled(rng: Generator, digit: np.ndarray) -> np.ndarray:
    """A digit of MNIST as another hand and pen would have it: uint8 (28, 28).

    Slanted, bent, thinner, thicker, paler, smaller, blurred, or as it was but for the picture.
    """
    if rng.random() < 0.6:
        digit = by_hand(rng, enlarged(digit))
    return pictured(rng, digit)


def restyle(digits: np.ndarray, seed: int = 0) -> np.ndarray:
    """These digits, uint8 (N, 28, 28), as other hands and cameras would have them.

    Three in ten are by another hand, half are photographed; the rest stay. This is milder than what
    the rejector learns from, since no clear digit may be lost.
    """
    rng = np.random.default_rng(seed)
    images = []
    for digit in tqdm(digits, "restyling", leave=False):
        ink = by_hand(rng, enlarged(digit), 1.5) if rng.random() < 0.3 else digit
        ink = ink.clip(0, 255).astype(np.uint8)
        images.append(prepare(photographed(rng, ink) if rng.random() < 0.5 else ink, paper=0))
    return np.stack(images)


def enlarged(digit: np.ndarray) -> np.ndarray:
    """A digit of 28x28 pixels in three times as many along each side."""
    return np.asarray(Image.fromarray(digit).resize((84, 84), Image.Resampling.BICUBIC))


def pictured(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Ink as the network would see it, at times of an uneven pen or a bad picture."""
    if rng.random() < 0.25:
        ink = uneven(rng, ink)
    if rng.random() < 0.5:
        ink = photographed(rng, ink.clip(0, 255).astype(np.uint8))
    return prepare(ink.clip(0, 255).astype(np.uint8), paper=0)


def one_of(rng: Generator, things: Sequence[Any]) -> Any:
    """One of several, at random."""
    return things[int(rng.integers(len(things)))]


LETTER_FORMS = [form for forms in LETTERS.values() for form in forms]


def stroked(rng: Generator, form: str) -> np.ndarray:
    """A form, drawn by an unsteady pen: uint8 (CANVAS, CANVAS)."""
    lines = [(line + rng.normal(0, 3, line.shape)) * 0.56 + 20 for line in control_points(form)]
    return stroke(rng, [spline(line, 12 * len(line)) @ line for line in lines])


def draw(seed: int, digits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) to train the rejector on, and labels: 0 for a digit, 1 for none.

    All `digits`; `count` that were altered and as many that were drawn by rule; and twice as many
    things that are none, with as many letters beside them that the same hands and pens drew.
    """
    typefaces = fonts()
    altered = drawn_in_parts(draw_digit, (seed, 0), digits, typefaces, count)
    none = drawn_in_parts(draw_none, (seed, 1), digits, typefaces, 2 * count)
    rng = np.random.default_rng((seed, 2))
    written = [write_all(rng, [f for forms in FORMS for f in forms], count)]
    letters = write_all(rng, LETTER_FORMS, 2 * count)
    images = np.concatenate([digits, *altered, *written, *none, letters])
    none_from = len(images) - 4 * count
    return images, (np.arange(len(images)) >= none_from).astype(np.int64)


def drawn_in_parts(
    one: Any, seed: tuple[int, int], digits: np.ndarray, paths: list[Path], count: int
) -> list[np.ndarray]:
    """What `one` draws, `count` times, on all cores: arrays uint8 (N, 28, 28)."""

    def part(k: int) -> np.ndarray:
        rng = np.random.default_rng((*seed, k))
        typefaces = [ImageFont.truetype(str(path), 60) for path in paths]
        n = min(PART, count - k * PART)
        return np.stack([one(rng, digits, typefaces) for _ in range(n)])

    parts = range(-(-count // PART))
    work: Any = Parallel(n_jobs=-1, return_as="generator")(delayed(part)(k) for k in parts)
    return list(tqdm(work, one.__name__.replace("_", " "), len(parts)))


def write_all(rng: Generator, forms: Sequence[str], count: int) -> np.ndarray:
    """`count` images, uint8 (N, 28, 28), of forms that hands wrote, each about as often."""
    each = np.bincount(rng.integers(len(forms), size=count), minlength=len(forms))
    images = [
        write(rng, form, len(part))
        for form, n in zip(forms, each, strict=True)
        for part in chunks(np.arange(n))
    ]
    return np.concatenate(images)
