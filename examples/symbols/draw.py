"""Draws pictures of twelve symbols by an unsteady hand: a folder for each, to train on.

    python examples/symbols/draw.py symbols --each 30 --seed 1

No two pictures are alike: slant, proportions, pen, ink, paper and size differ, and the hand shakes.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Line = list[tuple[float, float]]


def arc(x: float, y: float, radius: float, start: float, end: float, n: int = 24) -> Line:
    """Part of a circle, `start` and `end` in turns, clockwise from the right."""
    angles = (math.tau * (start + (end - start) * i / n) for i in range(n + 1))
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def spiral() -> Line:
    """Two and a half turns outwards."""
    turns = [2.5 * i / 50 for i in range(51)]
    return [
        (0.5 + 0.17 * t * math.cos(math.tau * t), 0.5 + 0.17 * t * math.sin(math.tau * t))
        for t in turns
    ]


STAR = [
    (0.5 + 0.45 * math.sin(math.tau * 2 * i / 5), 0.5 - 0.45 * math.cos(math.tau * 2 * i / 5))
    for i in range(6)
]

SYMBOLS: dict[str, list[Line]] = {
    "arrow": [[(0.05, 0.5), (0.95, 0.5)], [(0.65, 0.2), (0.95, 0.5), (0.65, 0.8)]],
    "check": [[(0.1, 0.55), (0.35, 0.85), (0.9, 0.15)]],
    "circle": [arc(0.5, 0.5, 0.42, 0.7, 1.72)],
    "cross": [[(0.1, 0.1), (0.9, 0.9)], [(0.9, 0.1), (0.1, 0.9)]],
    "heart": [
        [*arc(0.3, 0.32, 0.2, 0.97, 0.4), (0.5, 0.92), *arc(0.7, 0.32, 0.2, 1.1, 0.53)],
    ],
    "house": [
        [(0.15, 0.45), (0.15, 0.95), (0.85, 0.95), (0.85, 0.45)],
        [(0.05, 0.5), (0.5, 0.05), (0.95, 0.5)],
    ],
    "moon": [[*arc(0.45, 0.5, 0.42, 0.87, 0.13), *arc(0.72, 0.5, 0.34, 0.27, 0.73)]],
    "plus": [[(0.5, 0.08), (0.5, 0.92)], [(0.08, 0.5), (0.92, 0.5)]],
    "spiral": [spiral()],
    "square": [[(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9), (0.1, 0.1)]],
    "star": [STAR],
    "triangle": [[(0.5, 0.08), (0.95, 0.9), (0.05, 0.9), (0.5, 0.08)]],
}


def picture(strokes: list[Line], random: np.random.Generator) -> Image.Image:
    """One symbol on a paper of its own, gray."""
    size = int(random.integers(48, 160))
    scale = 4  # drawn larger, then reduced, so that edges are smooth
    turn = math.radians(random.normal(0, 6))
    width, height = random.uniform(0.75, 1.1, 2) * size * scale * random.uniform(0.5, 0.8)
    slant = random.normal(0, 0.12)
    middle = size * scale / 2 + random.normal(0, size * scale * 0.03, 2)
    pen = size * scale * random.uniform(0.025, 0.07)
    paper = random.uniform(170, 255)
    ink = paper * random.uniform(0, 0.5)
    image = Image.new("L", (size * scale, size * scale), round(paper))
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        corners = np.array(stroke) + random.normal(0, 0.02, (len(stroke), 2))
        dots = np.concatenate([np.linspace(a, b, 12) for a, b in itertools.pairwise(corners)])
        dots += np.cumsum(random.normal(0, 0.004, dots.shape), axis=0)  # the hand shakes
        x, y = (dots - 0.5).T
        x, y = (x + slant * y) * width, y * height
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        for px, py in zip(x + middle[0], y + middle[1], strict=True):
            r = pen / 2
            draw.ellipse((px - r, py - r, px + r, py + r), fill=round(ink))
        line = [*zip((x + middle[0]).tolist(), (y + middle[1]).tolist(), strict=True)]
        draw.line(line, fill=round(ink), width=round(pen), joint="curve")
    grain = random.normal(0, 3, (size, size))
    pixels = np.asarray(image.reduce(scale), np.float64) + grain
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def draw(folder: Path, each: int, seed: int, symbols: int) -> None:
    """Write `each` pictures of the first `symbols` symbols; the same seed draws the same ones."""
    random = np.random.default_rng(seed)
    for name, strokes in list(SYMBOLS.items())[:symbols]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            picture(strokes, random).save(folder / name / f"{i:03}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw twelve symbols by an unsteady hand.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=30, help="pictures of each symbol")
    parser.add_argument("--symbols", type=int, default=len(SYMBOLS), help="how many of the twelve")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw(options.folder, options.each, options.seed, options.symbols)
