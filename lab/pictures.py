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
from tqdm import tqdm

from lab.drawings import (
    HELD_OUT_HANDWRITING,
    LETTER_FORMS,
    UNLIKE,
    Generator,
    debian_fonts,
    glyph,
    held_out_fonts,
    one_of,
    scribble,
    stroked,
)
from lab.forms import HELD_OUT_DIGITS, HELD_OUT_LETTERS
from lab.pages import KINDS, Score, compose_page, hand_drawn, score
from tinydigits.data.drawn import print_fonts
from tinydigits.data.mnist import load_mnist
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json, write_json
from tinydigits.images.preprocess import prepare
from tinydigits.quant.tdq import load_quantized
from tinydigits.reader.read import read
from tinydigits.reader.recognize import MODEL
from tinydigits.reader.rejection import probabilities_of
from tinydigits.training.hardware import count_cores, processor_name
from tinydigits.training.presets import PRESETS

SEED = 2024
"""What all that is drawn here starts from."""

LEAST_REJECTED = {"scribbles": 93}
"""How many of what is no digit must be rejected, in %, where it is not 80."""

HANDS = 3_000
"""Digits of held-out hands that are drawn."""


# --------------------------------------------------------------------------------- measure


PARTS = ("pages", "moved", "hands", "rejected", "prepared", "photo")
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
    from joblib import Parallel, delayed

    workers = Parallel(n_jobs=jobs or count_cores(), return_as="generator")

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
            "moved": {
                "digits": digits,
                "same_prediction": int(kept[0]),
                "same_answer": int(kept[1]),
            }
        }

    def all_hands() -> dict[str, Any]:
        found = np.sum(side_by_side("drawn digits", read_hands, HANDS, 100), axis=0)
        return {"hands": {"digits": HANDS, "right": int(found[0]), "rejected": int(found[1])}}

    work: dict[str, Callable[[], dict[str, Any]]] = {
        "pages": all_pages,
        "moved": all_moved,
        "hands": all_hands,
        "rejected": lambda: {"rejected": rejections(), "rejected_digits": rejected_digits()},
        "prepared": lambda: {"prepared": prepared()},
        "photo": photo,
    }
    measured = read_json(path) if path.exists() else {}
    for part in parts:
        threshold = load_quantized(MODEL).rejection_threshold
        measured |= {"model": MODEL, "rejection_threshold": threshold} | work[part]()
        write_json(path, measured)
    return measured


def read_pages(part: range) -> list[tuple[str, Score]]:
    """Compose and read pages of test digits."""
    mnist, network = load_mnist(), load_quantized(MODEL)
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
    """How many moved test digits keep the network's prediction, and the answer of `read`."""
    images, network = load_mnist().test_images, load_quantized(MODEL)
    same_prediction = same_answer = 0
    for k in part:
        picture = moved(np.random.default_rng((SEED, k)), images[k])
        prediction = int(network.log_probs(images[k][None]).argmax())
        before = [reading.digit for reading in read(images[k], network)]
        readings = read(picture, network)
        same_answer += [reading.digit for reading in readings] == before
        predictions = [int(reading.probabilities.argmax()) for reading in readings]
        same_prediction += predictions == [prediction]
    return same_prediction, same_answer


def moved(rng: Generator, image: np.ndarray) -> np.ndarray:
    """A digit scaled by 0.5 to 8, padded by up to its size on each side, in any two colors.

    Returns:
        uint8 (H, W, 3).
    """
    size = round(28 * np.exp(rng.uniform(np.log(0.5), np.log(8))))
    ink = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    top, bottom, left, right = rng.integers(0, size + 1, 4)
    strokes = np.pad(np.asarray(ink, float) / 255, ((top, bottom), (left, right)))
    paper, color = rng.uniform(0, 255, (2, 3))
    while abs(paper.mean() - color.mean()) < 80:
        paper, color = rng.uniform(0, 255, (2, 3))
    return (paper + (color - paper) * strokes[:, :, None]).round().astype(np.uint8)


def read_hands(part: range) -> tuple[int, int]:
    """How many drawn digits of held-out hands are read right, and how many are rejected."""
    network = load_quantized(MODEL)
    right = rejected = 0
    for k in part:
        picture = hand_drawn(np.random.default_rng((SEED, k)), one_of_form(k))
        digits = [r.digit for r in read(picture, network) if r.digit is not None]
        right += digits == [k % 10]
        rejected += not digits
    return right, rejected


def one_of_form(k: int) -> str:
    """The form of the kth drawn digit: each digit in turn, and of each its held-out forms."""
    forms = HELD_OUT_DIGITS[k % 10]
    return forms[k // 10 % len(forms)]


def rejections(count: int = 1000) -> dict[str, float]:
    """The share, in %, of what is no digit that is read as none."""
    rng, network = np.random.default_rng(SEED), load_quantized(MODEL)
    printed, other, handwriting = (
        [ImageFont.truetype(str(path), 60) for path in paths]
        for paths in (print_fonts(), held_out_fonts(), debian_fonts(HELD_OUT_HANDWRITING))
    )
    other: list[Any] = [*other, ImageFont.load_default(60)]
    letters = list(UNLIKE)
    written = [form for forms in HELD_OUT_LETTERS.values() for form in forms]
    draw = {
        "letters of fonts that the rejector saw": lambda: glyph(
            rng.choice(letters), one_of(rng, printed)
        ),
        "letters of other fonts": lambda: glyph(rng.choice(letters), one_of(rng, other)),
        "letters of pen strokes": lambda: stroked(rng, one_of(rng, LETTER_FORMS)),
        "scribbles": lambda: scribble(rng),
        "letters of other handwriting fonts": lambda: glyph(
            rng.choice(letters), one_of(rng, handwriting)
        ),
        "letters and brackets of other hands": lambda: 255 - hand_drawn(rng, one_of(rng, written)),
    }
    result = {}
    for name, drawn in draw.items():
        pictures = [255 - drawn() for _ in tqdm(range(count), name)]
        none = sum(all(r.digit is None for r in read(picture, network)) for picture in pictures)
        result[name] = 100 * none / count
    return result


def rejected_digits() -> float:
    """The share, in %, of the test digits that are read as none."""
    images, network = load_mnist().test_images, load_quantized(MODEL)
    confidence = probabilities_of(images, network).max(axis=1)
    return 100 * float((confidence < (network.rejection_threshold or 0)).mean())


def prepared() -> dict[str, dict[str, float]]:
    """The accuracy of every preset, in %, on test digits that went through `prepare`.

    As they are, on a gray background, with pale ink, inverted: each up to half of the range.
    """
    mnist = load_mnist()
    images = mnist.test_images.astype(float)
    changed = {
        "as they are": images,
        "gray background": 128 + images * (127 / 255),
        "pale ink": images / 2,
        "inverted": 255 - images,
        "inverted, gray background": 127 - images * (127 / 255),
        "inverted, pale ink": 255 - images / 2,
    }
    seen_images = {
        name: np.stack([prepare(image.round().astype(np.uint8)) for image in tqdm(values, name)])
        for name, values in changed.items()
    }
    result: dict[str, dict[str, float]] = {}
    for name in tqdm(PRESETS, "presets"):
        network = load_quantized(name)
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
    pages, moved_digits, hands = (measured[key] for key in ("all_pages", "moved", "hands"))
    lost = max(
        accuracies["as they are"] - min(accuracies.values())
        for accuracies in measured["prepared"].values()
    )
    return [
        Verdict(
            "test digits moved, scaled, inverted, padded, recolored with the same prediction",
            99.7, 99.8, 100 * moved_digits["same_prediction"] / moved_digits["digits"],
        ),
        Verdict("digits of composed pages read right", 98.5, 99.3,
                100 * pages["right"] / pages["digits"]),
        Verdict("drawn digits of hands that were held out read right", 97, 99,
                100 * hands["right"] / hands["digits"]),
        Verdict("drawn digits of hands that were held out rejected", 1, 0.5,
                100 * hands["rejected"] / hands["digits"], "%", False),
        Verdict("boxes that hold no digit and are read as one, per 100 digits", 1, 0.1,
                100 * pages["false"] / pages["digits"], "", False),
        *(
            Verdict(f"{name} rejected", LEAST_REJECTED.get(name, 80), 95, share)
            for name, share in measured["rejected"].items()
        ),
        Verdict("one photo of 12 megapixels, cold start included", 3, 1.5,
                measured["photo_seconds"], "s", False),
        Verdict("lost by gray background, pale ink or inversion, the worst preset", 0.3, 0.3, lost,
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
        f"of them, none included. The rejection threshold, {measured['rejection_threshold']}, "
        f"rejects {measured['rejected_digits']:.2f} % of the test digits. The photo: "
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
