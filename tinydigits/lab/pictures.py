"""How well pictures are read: composed pages, moved digits, letters and scribbles, one photo.

Everything is drawn here from MNIST's digits, fonts and strokes, with fixed seeds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFont, ImageOps
from scipy import ndimage
from tqdm import tqdm

from tinydigits.config import PRESETS
from tinydigits.data.mnist import load_mnist
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json, write_json
from tinydigits.ink import Box
from tinydigits.integer import load
from tinydigits.lab.judge import (
    LETTERS,
    UNLIKE,
    Generator,
    fonts,
    glyph,
    held_out_fonts,
    one_of,
    scribble,
    stroked,
)
from tinydigits.machine import count_cores, processor_name
from tinydigits.pictures import LINE, MODEL, Reading, probabilities_of, read
from tinydigits.preparation import prepare

SEED = 2024
"""What all that is drawn here starts from."""

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
    lines = ruling(rng, size, paper, pitch, margin + height * 1.05, height)
    light = falling_light(rng, size)
    tone = rng.uniform(190, 250)
    ink_tone, line_tone = tone * rng.uniform(0.0, 0.45), tone * rng.uniform(0.55, 0.85)
    page = tone * (1 - lines) + line_tone * lines
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
    """Ruled lines under the rows, or a grid: float32 (H, W), 1 where a line is."""
    lines = np.zeros(size, np.float32)
    if paper == "plain":
        return lines
    thick = max(1, round(height / rng.uniform(20, 45)))
    if paper == "ruled":
        for y in np.arange(first % pitch, size[0], pitch):
            lines[int(y) : int(y) + thick] = 1
    else:
        step = height * rng.uniform(0.5, 1.4)
        for axis in (0, 1):
            for at in np.arange(rng.uniform(0, step), size[axis], step):
                np.moveaxis(lines, axis, 0)[int(at) : int(at) + thick] = 1
    return lines


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
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return wide * high / (sum(areas) - wide * high)


# --------------------------------------------------------------------------------- measure


PARTS = ("pages", "moved", "rejected", "prepared", "photo")
"""What `measure` consists of."""


def measure(
    path: Path, parts: Sequence[str], pages: int, digits: int, jobs: int = 0
) -> dict[str, Any]:
    """What docs/use.md says about the reading of pictures, with fixed seeds.

    Args:
        path: the file for it, which is written after each part; other parts stay as they are.
        parts: which of `PARTS`.
        pages: how many pages are composed.
        digits: how many test digits are moved.
        jobs: processes that work side by side, 0 for one per core.

    Returns:
        What the file holds.
    """
    from joblib import Parallel, cpu_count, delayed

    workers = Parallel(n_jobs=jobs or cpu_count(), return_as="generator")

    def side_by_side(name: str, work: Callable[[range], Any], count: int, step: int) -> list[Any]:
        parts = [range(k, min(k + step, count)) for k in range(0, count, step)]
        done: Any = workers(delayed(work)(part) for part in parts)
        return list(tqdm(done, name, len(parts)))

    def all_pages() -> dict[str, Any]:
        scores: dict[str, list[Score]] = defaultdict(list)
        for part in side_by_side("pages", read_pages, pages, 10):
            for kind, page_score in part:
                scores[kind].append(page_score)
        return {
            "pages": {kind: summed(scores[kind]) for kind in sorted(scores)},
            "all_pages": summed([s for part in scores.values() for s in part]),
        }

    def all_moved() -> dict[str, Any]:
        kept = np.sum(side_by_side("moved digits", read_moved, digits, 250), axis=0)
        return {
            "moved": {"digits": digits, "same_guess": int(kept[0]), "same_answer": int(kept[1])}
        }

    work: dict[str, Callable[[], dict[str, Any]]] = {
        "pages": all_pages,
        "moved": all_moved,
        "rejected": lambda: {"rejected": rejections(), "rejected_digits": rejected_digits()},
        "prepared": lambda: {"prepared": prepared()},
        "photo": photo,
    }
    measured = read_json(path) if path.exists() else {}
    for part in parts:
        measured |= {"model": MODEL, "line": LINE} | work[part]()
        write_json(path, measured)
    return measured


def read_pages(part: range) -> list[tuple[str, Score]]:
    """Compose and read pages of test digits."""
    mnist, network = load_mnist(), load(MODEL)
    result = []
    for k in part:
        page = compose_page(
            np.random.default_rng((SEED, k)), mnist.test_images, mnist.test_labels,
            KINDS[k % 3], bool(k // 3 % 2),
        )  # fmt: skip
        result.append((page.kind, score(page, read(page.picture, network))))
    return result


def summed(scores: list[Score]) -> dict[str, int]:
    """The scores of several pages as one."""
    total = np.array(scores, int).sum(axis=0).tolist()
    names = ("right", "wrong", "rejected", "missed", "false", "in_order")
    counts = dict(zip(names, total, strict=True))
    return {"pages": len(scores), "digits": sum(total[:4]), **counts}


def read_moved(part: range) -> tuple[int, int]:
    """How many moved test digits keep the network's guess, and the answer of `read`."""
    images, network = load_mnist().test_images, load(MODEL)
    same_guess = same_answer = 0
    for k in part:
        picture = moved(np.random.default_rng((SEED, k)), images[k])
        guess = int(network.log_probs(images[k][None]).argmax())
        before = [reading.digit for reading in read(images[k], network)]
        readings = read(picture, network)
        same_answer += [reading.digit for reading in readings] == before
        guesses = [int(reading.probabilities.argmax()) for reading in readings]
        same_guess += guesses == [guess]
    return same_guess, same_answer


def moved(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A digit scaled by 0.5 to 8, padded by up to its size on each side, in any two colours.

    Returns:
        uint8 (H, W, 3).
    """
    size = round(28 * np.exp(rng.uniform(np.log(0.5), np.log(8))))
    ink = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    top, bottom, left, right = rng.integers(0, size + 1, 4)
    strokes = np.pad(np.asarray(ink, float) / 255, ((top, bottom), (left, right)))
    paper, colour = rng.uniform(0, 255, (2, 3))
    while abs(paper.mean() - colour.mean()) < 80:
        paper, colour = rng.uniform(0, 255, (2, 3))
    return (paper + (colour - paper) * strokes[:, :, None]).round().astype(np.uint8)


def rejections(count: int = 1000) -> dict[str, float]:
    """The share, in %, of what is no digit that is read as none."""
    rng, network = np.random.default_rng(SEED), load(MODEL)
    seen_fonts = [ImageFont.truetype(str(path), 60) for path in fonts()]
    unseen: list[Any] = [ImageFont.truetype(str(path), 60) for path in held_out_fonts()]
    unseen.append(ImageFont.load_default(60))
    letters = list(UNLIKE)
    draw = {
        "letters of fonts that the judge saw": lambda: glyph(
            rng.choice(letters), one_of(rng, seen_fonts)
        ),
        "letters of other fonts": lambda: glyph(rng.choice(letters), one_of(rng, unseen)),
        "letters of pen strokes": lambda: stroked(rng, rng.choice(list(LETTERS))),
        "scribbles": lambda: scribble(rng),
    }
    result = {}
    for name, drawn in draw.items():
        pictures = [255 - drawn() for _ in tqdm(range(count), name)]
        none = sum(all(r.digit is None for r in read(picture, network)) for picture in pictures)
        result[name] = 100 * none / count
    return result


def rejected_digits() -> float:
    """The share, in %, of the test digits that are read as none."""
    images, network = load_mnist().test_images, load(MODEL)
    confidence = probabilities_of(images, network).max(axis=1)
    return 100 * float((confidence < LINE).mean())


def prepared() -> dict[str, dict[str, float]]:
    """The accuracy of every preset, in %, on test digits that went through `prepare`.

    As they are, on grey paper, with pale ink, inverted: each up to half of the range.
    """
    mnist = load_mnist()
    images = mnist.test_images.astype(float)
    changed = {
        "as they are": images,
        "grey paper": 128 + images * (127 / 255),
        "pale ink": images / 2,
        "inverted": 255 - images,
        "inverted, grey paper": 127 - images * (127 / 255),
        "inverted, pale ink": 255 - images / 2,
    }
    seen_images = {
        name: np.stack([prepare(image.round().astype(np.uint8)) for image in tqdm(values, name)])
        for name, values in changed.items()
    }
    result: dict[str, dict[str, float]] = {}
    for name in tqdm(PRESETS, "presets"):
        network = load(name)
        accuracies: dict[bytes, float] = {}  # several changes leave the same images
        for values in seen_images.values():
            if (key := values.tobytes()) not in accuracies:
                accuracies[key] = evaluate(network, values, mnist.test_labels).accuracy
        result[name] = {how: accuracies[v.tobytes()] for how, v in seen_images.items()}
    return result


def photo() -> dict[str, Any]:
    """Seconds, the median of three, to read one photo of 12 megapixels, cold start included."""
    mnist = load_mnist()
    rng = np.random.default_rng(SEED)
    page = np.zeros((1, 1))
    while min(page.shape) < 1000:  # so that digits have the size that a photo shows them in
        page = compose_page(rng, mnist.test_images, mnist.test_labels, "squared", False).picture
    image = Image.new("RGB", (4000, 3000), (200, 200, 200))
    image.paste(ImageOps.contain(Image.fromarray(page).convert("RGB"), image.size))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        image.save(path, quality=92)
        for _ in range(3):
            began = time.perf_counter()
            command = [sys.executable, "-m", "tinydigits", "predict", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
    return {
        "photo_seconds": sorted(times)[1],
        "cores": count_cores(),
        "processor": processor_name(),
    }


class Verdict(NamedTuple):
    """A figure, and what is asked of it."""

    what: str
    required: float
    goal: float
    measured: float
    unit: str = "%"
    least: bool = True
    """Whether the figure must be at least, or at most, what is required."""

    def reaches(self, bound: float) -> bool:
        """Whether the figure is as good as a bound."""
        return self.measured >= bound if self.least else self.measured <= bound


def verdicts(measured: dict[str, Any]) -> list[Verdict]:
    """What is required, what is aimed at, and what was measured."""
    pages, moved_digits = measured["all_pages"], measured["moved"]
    lost = max(
        accuracies["as they are"] - min(accuracies.values())
        for accuracies in measured["prepared"].values()
    )
    return [
        Verdict(
            "test digits moved, scaled, inverted, padded, recoloured that keep the network's guess",
            99.5, 99.8, 100 * moved_digits["same_guess"] / moved_digits["digits"],
        ),
        Verdict("digits of composed pages read right", 95, 99,
                100 * pages["right"] / pages["digits"]),
        Verdict("boxes that hold no digit and are read as one, per 100 digits", 1, 0.1,
                100 * pages["false"] / pages["digits"], "", False),
        *(
            Verdict(f"{name} rejected", 80, 95, share)
            for name, share in measured["rejected"].items()
        ),
        Verdict("one photo of 12 megapixels, cold start included", 3, 1.5,
                measured["photo_seconds"], "s", False),
        Verdict("lost by grey paper, pale ink or inversion, the worst preset", 0.3, 0.3, lost,
                "points", False),
    ]  # fmt: skip


def table(measured: dict[str, Any]) -> str:
    """What is asked and what was measured, as a Markdown table."""
    lines = ["| what | required | goal | measured |", "|---|--:|--:|--:|"]
    for row in verdicts(measured):
        bounds = (f"{bound:g} {row.unit}".strip() for bound in (row.required, row.goal))
        value = f"{row.measured:.2f} {row.unit}".strip()
        lines.append(f"| {row.what} | {' | '.join(bounds)} | {value} |")
    pages, moved_digits = measured["all_pages"], measured["moved"]
    lines.append(
        f"\n`{measured['model']}`; {pages['pages']} pages with {pages['digits']:,} digits; "
        f"{moved_digits['digits']:,} moved digits, of which "
        f"{100 * moved_digits['same_answer'] / moved_digits['digits']:.2f} % keep what `read` says "
        f"of them, none included. The line stands at {measured['line']} and rejects "
        f"{measured['rejected_digits']:.2f} % of the test digits. The photo: "
        f"{measured['cores']} cores, {measured['processor']}."
    )
    return "\n".join(lines)


def kinds_table(measured: dict[str, Any]) -> str:
    """What became of the digits of each kind of page, as a Markdown table."""
    lines = [
        "| paper, ink | pages | digits | right % | wrong | rejected | missed | false boxes "
        "| pages in order |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, row in [*measured["pages"].items(), ("all", measured["all_pages"])]:
        lines.append(
            f"| {kind} | {row['pages']} | {row['digits']:,} "
            f"| {100 * row['right'] / row['digits']:.2f} | {row['wrong']} | {row['rejected']} "
            f"| {row['missed']} | {row['false']} | {row['in_order']} |"
        )
    return "\n".join(lines)
