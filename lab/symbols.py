"""Pictures of whole symbols, drawn by rules, and what light, color, borders and lines make of them.

The hand is that of examples/symbols/draw.py; here are symbols of several parts and symbols that
are frames, which a page would be cut at.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from lab.drawings import Generator
from tinydigits.images.decode import pixels_of
from tinydigits.images.preprocess import prepare
from tinydigits.images.symbol import see_symbol

Line = list[tuple[float, float]]

EXAMPLE = Path(__file__).parents[1] / "examples" / "symbols" / "draw.py"


def example() -> ModuleType:
    """The script that draws twelve symbols."""
    spec = importlib.util.spec_from_file_location("draw_symbols", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HAND = example()


def square(left: float, top: float, side: float) -> Line:
    """A square, its corner at (left, top)."""
    right, bottom = left + side, top + side
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def dot(x: float, y: float) -> Line:
    """A small circle."""
    return HAND.arc(x, y, 0.035, 0, 1)


LEVEL, UPRIGHT = [(0.1, 0.5), (0.9, 0.5)], [(0.75, 0.05), (0.75, 0.95)]

SEVERAL_PARTS: dict[str, list[Line]] = {
    "i": [[(0.5, 0.35), (0.5, 0.95)], dot(0.5, 0.1)],
    "j": [[(0.6, 0.35), (0.6, 0.85), (0.5, 0.95), (0.3, 0.9)], dot(0.6, 0.1)],
    "÷": [LEVEL, dot(0.5, 0.2), dot(0.5, 0.8)],
    "=": [[(0.1, 0.35), (0.9, 0.35)], [(0.1, 0.65), (0.9, 0.65)]],
    "≡": [[(0.1, y), (0.9, y)] for y in (0.25, 0.5, 0.75)],
    "ü": [
        [(0.2, 0.4), (0.25, 0.85), (0.5, 0.95), (0.75, 0.85), (0.8, 0.4)],
        *(dot(x, 0.15) for x in (0.35, 0.65)),
    ],
    "%": [
        [(0.85, 0.1), (0.15, 0.9)],
        *(HAND.arc(x, y, 0.14, 0, 1) for x, y in ((0.2, 0.25), (0.8, 0.75))),
    ],
    "가": [[(0.05, 0.15), (0.5, 0.15), (0.15, 0.85)], UPRIGHT, [(0.75, 0.5), (0.98, 0.5)]],
    "너": [[(0.1, 0.1), (0.1, 0.8), (0.55, 0.75)], UPRIGHT, [(0.5, 0.45), (0.75, 0.45)]],
    "이": [HAND.arc(0.28, 0.5, 0.23, 0.7, 1.71), UPRIGHT],
    "오": [
        HAND.arc(0.5, 0.28, 0.22, 0.7, 1.71),
        [(0.5, 0.62), (0.5, 0.9)],
        [(0.05, 0.92), (0.95, 0.92)],
    ],
    "로": [
        [(0.2, 0.05), (0.8, 0.05), (0.8, 0.28), (0.2, 0.28), (0.2, 0.52), (0.85, 0.52)],
        [(0.5, 0.65), (0.5, 0.9)],
        [(0.05, 0.92), (0.95, 0.92)],
    ],
}  # fmt: skip
"""Letters and signs that are no connected component."""

FRAMES: dict[str, list[Line]] = {
    "box": [square(0.05, 0.05, 0.9)],
    "dot in box": [square(0.05, 0.05, 0.9), dot(0.5, 0.5)],
    "cross in box": [
        square(0.05, 0.05, 0.9), [(0.3, 0.3), (0.7, 0.7)], [(0.7, 0.3), (0.3, 0.7)]
    ],
    "box in box": [square(0.05, 0.05, 0.9), square(0.33, 0.33, 0.34)],
    "one in box": [square(0.05, 0.05, 0.9), [(0.5, 0.25), (0.5, 0.75)]],
    "two in box": [
        square(0.05, 0.05, 0.9), *([(x, 0.25), (x, 0.75)] for x in (0.35, 0.65))
    ],
    "window": [square(0.05, 0.05, 0.9), [(0.5, 0.05), (0.5, 0.95)], [(0.05, 0.5), (0.95, 0.5)]],
    "dot in circle": [HAND.arc(0.5, 0.5, 0.45, 0.7, 1.71), dot(0.5, 0.5)],
    "plus in circle": [
        HAND.arc(0.5, 0.5, 0.45, 0.7, 1.71), [(0.5, 0.3), (0.5, 0.7)], [(0.3, 0.5), (0.7, 0.5)]
    ],
    "circle in circle": [HAND.arc(0.5, 0.5, 0.45, 0.7, 1.71), HAND.arc(0.5, 0.5, 0.2, 0.7, 1.71)],
}  # fmt: skip
"""Symbols that are frames, most of them around something."""

SETS: dict[str, dict[str, list[Line]]] = {
    "twelve symbols": HAND.SYMBOLS,
    "several parts": SEVERAL_PARTS,
    "frames": FRAMES,
}
"""The sets of symbols that are drawn."""

EDGE, RULED = 0.08, 5
"""The width of a border, at most, as a share of the picture's shorter side; rulings, at most."""


def clean(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """The picture as the hand drew it."""
    return gray


def even_shadow(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Light that falls across the picture to a third."""
    return gray * (1 - 0.65 * along(rng, gray.shape))


def cast_shadow(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """A shadow with an edge over a part of the picture."""
    side, share = along(rng, gray.shape), rng.uniform(0.3, 0.7)
    dark = ndimage.gaussian_filter((side < share).astype(float), 1.5)
    return gray * (1 - rng.uniform(0.3, 0.5) * dark)


def along(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """How far across the picture a pixel is, in some direction: float (H, W), 0 to 1."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-1, 1, n) for n in shape)
    distance = np.cos(angle) * x + np.sin(angle) * y[:, None]
    return (distance - distance.min()) / np.ptp(distance)


def vignette(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Corners with a third of the light."""
    y, x = (np.linspace(-1, 1, n) for n in gray.shape)
    return gray * (1 - 0.33 * (x**2 + y[:, None] ** 2))


def red_on_blue(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Red ink on blue paper whose channels have the same mean."""
    ink = coverage(gray)[:, :, None]
    return np.array((200.0, 40.0, 60.0)) * ink + np.array((40.0, 60.0, 200.0)) * (1 - ink)


def dark_border(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Something dark along all borders, or some, as a scanner leaves it."""
    edge = rng.integers(2, max(3, round(EDGE * min(gray.shape))) + 1, 4)
    edge *= rng.random(4) < rng.choice([0.5, 1])
    top, bottom, left, right = map(int, edge)
    return np.pad(gray, ((top, bottom), (left, right)), constant_values=rng.uniform(0, 60))


def ruled(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Rulings, paler than the ink."""
    page, paper = gray.copy(), float(np.median(gray))
    step = len(gray) / rng.integers(2, RULED + 1)
    width = max(1, len(gray) // 60)
    for y in np.arange(rng.uniform(0.2, 0.8) * step, len(gray) - width, step).astype(int):
        page[y : y + width] = np.minimum(page[y : y + width], 0.8 * paper)
    return page


def tight(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Cut out at its ink."""
    rows, columns = (np.flatnonzero((coverage(gray) > 0.5).any(axis=axis)) for axis in (1, 0))
    return gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def on_nothing(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Ink of some color on transparency: RGBA."""
    color = rng.choice([(0, 0, 0), (255, 255, 255), (200, 30, 30), (240, 220, 80)])
    ink = coverage(gray)
    return np.stack([*(np.full(gray.shape, float(c)) for c in color), 255 * ink], axis=2)


def inverted(rng: Generator, gray: np.ndarray) -> np.ndarray:
    """Light ink on dark paper."""
    return 255 - gray


def coverage(gray: np.ndarray) -> np.ndarray:
    """How much of each pixel is ink, 0 to 1, without the paper's grain."""
    paper = float(np.median(gray))
    share = (paper - gray) / (paper - gray.min())
    return np.clip((share - 0.15) / 0.8, 0, 1)


KINDS: dict[str, Callable[[Generator, np.ndarray], np.ndarray]] = {
    function.__name__.replace("_", " "): function
    for function in (
        *(clean, even_shadow, cast_shadow, vignette, red_on_blue, dark_border, ruled, tight),
        *(on_nothing, inverted),
    )
}
"""What is done to a picture, float (H, W) of 0 to 255, by its name."""


def picture(symbols: str, place: int, kind: str, seed: int, number: int) -> Image.Image:
    """One picture of the symbol at a place of a set; equal arguments give equal pictures."""
    rng = np.random.default_rng((seed, place, number))
    gray = np.asarray(HAND.picture([*SETS[symbols].values()][place], rng), float)
    return Image.fromarray(KINDS[kind](rng, gray).clip(0, 255).round().astype(np.uint8))


def draw(folder: Path, symbols: str, kind: str, each: int, seed: int) -> None:
    """Write `each` pictures of every symbol of a set into a folder of its own under `folder`."""
    for place, name in enumerate(SETS[symbols]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            path = folder / name / f"{number:03}.png"
            picture(symbols, place, kind, seed, number).save(path)


# -------------------------------------------------------------------------------- measured


def measure(symbols: str, each: int, trained_on: int = 30) -> list[dict[str, Any]]:
    """Train tiny20k on clean pictures of a set, and measure it on new ones of every kind.

    Args:
        symbols: the set.
        each: pictures of each symbol and kind to measure on.
        trained_on: pictures of each symbol to train on.

    Returns:
        For each kind the accuracies in percent: with all that is done to find a symbol, and with
        `prepare` alone, as the program in C has it.
    """
    from tinydigits.data.dataset import Dataset
    from tinydigits.evaluation import evaluate
    from tinydigits.quant.ptq import CALIBRATION, quantize
    from tinydigits.training.loop import epochs, new_run
    from tinydigits.training.presets import preset

    names = tuple(SETS[symbols])

    def drawn(kind: str, seed: int, n: int) -> list[Image.Image]:
        places = [(place, number) for place in range(len(names)) for number in range(n)]
        return [picture(symbols, place, kind, seed, number) for place, number in places]

    def accuracy(pictures: list[Image.Image], see: Callable[[Image.Image], np.ndarray]) -> float:
        return evaluate(network, np.stack([see(p) for p in pictures]), labels[1]).accuracy

    train, test = (
        np.stack([whole(p) for p in drawn("clean", *which)]) for which in ((1, trained_on), (2, 1))
    )
    labels = [np.repeat(np.arange(len(names)), n) for n in (trained_on, each)]
    mean, std = float(train.mean() / 255), float(train.std() / 255)
    data = Dataset(train, labels[0], test, np.arange(len(names)), symbols, names, mean, std)
    run = new_run(dataclasses.replace(preset("tiny20k"), init="tiny20k", threads=1), data)
    for _ in epochs(run):
        pass
    network = quantize(run.network, train[:CALIBRATION])
    rows = []
    for kind in tqdm(KINDS, symbols, leave=False, disable=None):
        pictures = drawn(kind, 2, each)
        rows.append(
            {
                "symbols": symbols,
                "kind": kind,
                "pictures": len(pictures),
                "accuracy": accuracy(pictures, whole),
                "accuracy_of_prepare": accuracy(pictures, as_in_c),
            }
        )
    return rows


def whole(image: Image.Image) -> np.ndarray:
    """What Python sees of a picture, uint8 (28, 28)."""
    return see_symbol(image).image


def as_in_c(image: Image.Image) -> np.ndarray:
    """What the program in C sees of a picture that was made a PGM, uint8 (28, 28)."""
    pixels = pixels_of(image).mean(axis=2)
    return prepare(pixels.clip(0, 255).round().astype(np.uint8))


def table(measured: dict[str, Any]) -> str:
    """The accuracies of all sets, a row for each kind."""
    rows = measured["rows"]
    sets = [name for name in SETS if any(row["symbols"] == name for row in rows)]
    lines = [
        "| what is done to the pictures | " + " | ".join(f"{s}, % | in C" for s in sets) + " |",
        "|---|" + "--:|--:|" * len(sets),
    ]
    for kind in KINDS:
        found = [r for s in sets for r in rows if (r["symbols"], r["kind"]) == (s, kind)]
        cells = [f"{r['accuracy']:.1f} | {r['accuracy_of_prepare']:.1f}" for r in found]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    count = ", ".join(str(next(r["pictures"] for r in rows if r["symbols"] == s)) for s in sets)
    lines += ["", f"`tiny20k`, trained on clean pictures; {count} new pictures of each kind."]
    return "\n".join(lines)
