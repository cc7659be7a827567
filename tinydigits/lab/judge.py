"""The judge: a small network that tells digits from what is none, and the line that it draws.

A network for digits answers everything. The judge is a network of the same kind with two classes.
It is trained on the first 50,000 training digits against what is drawn here: letters and signs of
fonts, scribbles, bars and boxes, and digits that were cut in two or run together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from tqdm import tqdm

from tinydigits.data.mnist import held_out, load_mnist
from tinydigits.evaluation import evaluate
from tinydigits.files import write_atomically, write_json
from tinydigits.integer import load
from tinydigits.layers import MEAN, STD
from tinydigits.pictures import JUDGE, MODEL
from tinydigits.preparation import prepare

Generator = np.random.Generator

UNLIKE = "ACEFGHJKLMNPQRTUVWXYacdefhkmnprtuvwxy"
"""Letters that do not look like a digit."""

SIGNS = "+\u00d7÷=%&#@?*<>~^$€§£¥-ΔΣΩΨπλ∞√≈≠±{}[]"
"""Signs that do not look like a digit."""

CANVAS = 96
"""Height and width, in pixels, of what things are drawn on before they are brought to 28x28."""

LAYERS = "conv3:8 pool separable3:40 separable3:40 again again"
"""The judge's network, in the words of `tinydigits.layers`."""


def fonts() -> list[Path]:
    """The files of the text fonts that matplotlib brings along."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVu", "cmr10", "cmb10", "cmss10", "cmtt10")
    return sorted(
        p for p in folder.glob("*.ttf") if p.stem.startswith(names) and "Disp" not in p.stem
    )


def held_out_fonts() -> list[Path]:
    """The fonts whose letters the judge never saw."""
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
    wide, high = rng.uniform(0.8, 1.25, 2)
    matrix = np.array([[np.cos(angle) / high, np.sin(angle)], [shear - np.sin(angle), 1 / wide]])
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


REJECTED = 0.01
"""The share of unseen digits that the line rejects."""

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
    """Images uint8 (N, 28, 28) to train the judge on, and labels: 0 for a digit, 1 for none.

    All `digits`, `count` that were altered, and twice as many things that are none.
    """
    rng = np.random.default_rng(seed)
    typefaces = [ImageFont.truetype(str(path), 60) for path in fonts()]
    altered = [draw_digit(rng, digits, typefaces) for _ in tqdm(range(count), "digits")]
    none = [draw_none(rng, digits, typefaces) for _ in tqdm(range(2 * count), "no digits")]
    images = np.concatenate([digits, np.stack(altered), np.stack(none)])
    return images, (np.arange(len(images)) >= len(images) - len(none)).astype(np.int64)


def draw_unseen(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the judge of that seed never saw, as `draw` gives it: of 5,000 held-out digits."""
    return draw(seed + 1, held_out(load_mnist()).test_images[:5000], 2_500)


def train_judge(
    seed: int = 0, count: int = 25_000, epochs: int = 5
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Train the judge's network; nothing is written.

    Returns:
        The network, and images and labels as `draw` gives them, of digits that it never saw.
    """
    from tinydigits import training
    from tinydigits.config import preset
    from tinydigits.data.dataset import Dataset

    mnist = held_out(load_mnist())
    config = dataclasses.replace(
        preset("tiny4k"),
        name="judge",
        seed=seed,
        layers=tuple(LAYERS.split()),
        epochs=epochs,
        batch_size=128,
        channels_last=False,
        device="cpu",
        paper=0.0,  # what it judges was prepared, so its paper is 0
        fading=0.0,
    )
    unseen, truth = draw_unseen(seed)
    parts = *draw(seed, mnist.train_images, count), unseen, truth
    run = training.new_run(config, Dataset(*parts, "marks", ("digit", "none"), MEAN, STD))
    for row in training.epochs(run):
        print(
            f"epoch {row['epoch']}: {row['test_accuracy']:.2f} % of what it never saw", flush=True
        )
    return run.network, unseen, truth


def make_judge(twins: Path, results: Path, seed: int, line_only: bool = False) -> dict[str, Any]:
    """Train the judge that comes with the package, and draw the line.

    The line is the confidence below which 1 % of the last 10,000 training digits lie, as read by a
    twin that never saw them; the judge never saw them either.

    Args:
        twins: the folder of the twins' runs, as for `make_integers`.
        results: the folder for judge.json, with what was measured.
        seed: what the drawing and the training start from.
        line_only: keep the judge that is there, which was trained from that seed.

    Returns:
        What judge.json holds.

    Raises: as `tinydigits.train` and `tinydigits.quantize`.
    """
    from tinydigits.quantise import fit_temperature, quantize

    if line_only:
        judge, (images, labels) = load(JUDGE), draw_unseen(seed)
    else:
        network, images, labels = train_judge(seed)
        judge = quantize(network, images[::5])
        judge = dataclasses.replace(judge, temperature=fit_temperature(judge, images, labels))
        write_atomically(JUDGE, judge.to_bytes())
    study = measure_judge(judge, twins, images, labels) | {"seed": seed, "layers": LAYERS}
    write_json(results / "judge.json", study)
    return study


def measure_judge(
    judge: Any, twins: Path, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Draw the line by each of three scores, and say how much of what is no digit it rejects.

    Args:
        judge: the judge's network.
        twins: as in `make_judge`.
        images: uint8 (N, 28, 28), digits and what is none, that the judge never saw.
        labels: (N,), 0 for a digit, 1 for none.
    """
    from tinydigits.lab.integers import trained_twin
    from tinydigits.quantise import CALIBRATION, fit_temperature, quantize

    mnist = held_out(load_mnist())
    reader = quantize(trained_twin(MODEL, twins / MODEL), mnist.train_images[:CALIBRATION])
    temperature = fit_temperature(reader, mnist.test_images, mnist.test_labels)
    reader = dataclasses.replace(reader, temperature=temperature)

    def scores(digits: np.ndarray) -> dict[str, np.ndarray]:
        confidence = np.exp(reader.log_probs(digits).max(axis=1))
        verdict = np.exp(judge.log_probs(digits)[:, 0])
        return {
            "the confidence alone": confidence,
            "the judge alone": verdict,
            "their product": confidence * verdict,
        }

    lines = {
        name: float(np.quantile(score, REJECTED))
        for name, score in scores(mnist.test_images).items()
    }
    none = scores(images[labels == 1])
    return {
        "accuracy": round(evaluate(judge, images, labels).accuracy, 3),
        "rejected": REJECTED,
        "line": round(lines["their product"], 3),
        "lines": lines,
        "none_rejected": {
            name: 100 * float((score < lines[name]).mean()) for name, score in none.items()
        },
    }


def table(study: dict[str, Any]) -> str:
    """What each score is worth, as a Markdown table."""
    rows = ["| what decides | its line | rejected of what is no digit, % |", "|---|--:|--:|"]
    for name, share in study["none_rejected"].items():
        rows.append(f"| {name} | {study['lines'][name]:.3f} | {share:.1f} |")
    return "\n".join(rows)
