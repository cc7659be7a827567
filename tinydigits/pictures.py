"""Digits in pictures: photos, scans, screenshots. Opened here, cut by `ink.py`, seen and judged."""

from __future__ import annotations

import functools
import io
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import maximum_filter

from tinydigits.evaluation import as_array
from tinydigits.files import Failure, Misuse, expand, reason, write_atomically
from tinydigits.ink import Box, Mark, cut, find_ink, lines_of, thickness, trimmed
from tinydigits.integer import load
from tinydigits.layers import DIGITS, SIZE
from tinydigits.modelfile import SHIPPED
from tinydigits.preparation import prepare

LARGEST = 100_000_000
"""Pixels from which a picture is refused, before it is unpacked."""

HEIF = (".heic", ".heif", ".hif")
"""The suffixes of the pictures that telephones take, and Pillow reads only with pillow-heif."""

WORKING = 3_000_000
"""Pixels that a larger picture is reduced to; a digit is legible at 20 pixels."""

MOST = 3_000
"""Marks that a picture may hold; one with more is no page of digits but grain."""

MODEL = "tiny20k"
"""The network that reads pictures where nothing else is said."""

JUDGE = SHIPPED / "judge.tdq"
"""The network that says whether a mark is a digit at all."""

LINE = 0.511
"""The confidence below which a mark is no digit, as `tinydigits lab judge` measured it."""

UNSURE = 0.9
"""The confidence below which a digit is marked as unsure."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A mark in a picture, and what it was read as."""

    box: Box
    """Left, top, right, bottom in pixels of the upright picture; the latter two are beyond it."""
    digit: int | str | None
    """The digit; a name where the network's classes are no digits; None for what is no digit."""
    probabilities: np.ndarray
    """float64 (classes,): that the mark is this digit. What they lack to 1: that it is none."""
    line: int
    """The line of the picture that the mark is in, from 0 at the top."""
    image: np.ndarray = field(repr=False)
    """uint8 (28, 28): what the network saw."""

    @property
    def confidence(self) -> float:
        """The largest probability."""
        return float(self.probabilities.max())

    @property
    def unsure(self) -> bool:
        """Whether the digit is one that a person should look at."""
        return self.digit is not None and self.confidence < UNSURE


def read(
    picture: Any, model: str | Path | Any = MODEL, min_confidence: float | None = None
) -> list[Reading]:
    """Read the digits in a picture, in reading order: top to bottom, left to right.

        for reading in read("receipt.png"):
            print(reading.line, reading.digit, reading.confidence)

    Args:
        picture: a path, "-" for standard input, a PIL image, or an array (H, W), (H, W, 3) or
            (H, W, 4) of red, green, blue and opacity. Ink may be dark on light or light on dark.
        model: what `tinydigits.load` loads, or what it gave.
        min_confidence: the confidence, 0 to 1, below which a mark is no digit. By default it is
            where 1 % of digits that the network never saw are rejected.

    Raises:
        Failure: the picture cannot be read.
        Misuse: there is no such file or model, the array is none of that kind, or
            `min_confidence` is not from 0 to 1.
    """
    line = line_of(min_confidence)
    if isinstance(model, str | Path):
        model = load(model)
    image = open_picture(picture)
    pixels = pixels_of(image)
    marks = cut(find_ink(pixels))
    if len(marks) > MOST:
        raise Failure(
            f"The picture holds {len(marks):,} marks, more than the {MOST:,} that are read: cut "
            "out the part with the digits."
        )
    if not marks:
        return []
    marks, images, probabilities = judged(marks, model)
    lines = lines_of(np.array([mark.box for mark in marks]))
    order = sorted(range(len(marks)), key=lambda i: (lines[i], sum(marks[i].box[::2])))
    names = [int(name) if name in DIGITS else name for name in model.class_names]
    wide, high = image.width / pixels.shape[1], image.height / pixels.shape[0]
    readings = [
        Reading(
            in_original(marks[i].box, wide, high),
            names[int(p.argmax())] if (p := probabilities[i]).max() >= line else None,
            p,
            int(lines[i]),
            images[i],
        )
        for i in order
    ]
    readings = [reading for word in words_of(readings) for reading in only_digits(word, 3, 0.5)]
    return only_digits(readings, 30, 0.3)


def words_of(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings in reading order, parted where a line ends or a gap is wide."""
    words: list[list[Reading]] = []
    for reading in readings:
        left, top, _, bottom = reading.box
        before = words[-1][-1] if words else reading
        gap = left - before.box[2] if before.line == reading.line else np.inf
        if not words or gap > 0.35 * max(bottom - top, before.box[3] - before.box[1]):
            words.append([])
        words[-1].append(reading)
    return words


def only_digits(together: list[Reading], least: int, share: float) -> list[Reading]:
    """Readings, all of them none if they are at least so many and too few of them digits.

    In "golden" the o is no 0, and a page with few digits among many letters is one of text.
    """
    digits = sum(reading.digit is not None for reading in together)
    if len(together) < least or digits >= share * len(together):
        return together
    return [replace(reading, digit=None) for reading in together]


def line_of(min_confidence: float | None) -> float:
    """The confidence below which a mark is no digit.

    Raises:
        Misuse: `min_confidence` is not from 0 to 1.
    """
    if min_confidence is None:
        return LINE
    if not 0 <= min_confidence <= 1:
        raise Misuse(f"min_confidence must be from 0 to 1, not {min_confidence}.")
    return min_confidence


def in_original(box: Box, wide: float, high: float) -> Box:
    """A box in pixels of the picture that was reduced."""
    left, top, right, bottom = box
    return (
        int(left * wide),
        int(top * high),
        int(-(-right * wide // 1)),
        int(-(-bottom * high // 1)),
    )


# ------------------------------------------------------------------------------------ open


def open_picture(picture: Any) -> Image.Image:
    """The first frame of a picture, upright, not reduced; its pixels may still be in the file.

    Raises:
        Failure: it is no picture, it is damaged, or it is too large to be unpacked.
        Misuse: there is no such file, or `picture` is neither file, image nor array.
    """
    if isinstance(picture, Image.Image):
        return decoded(picture, "The image")
    if not isinstance(picture, str | Path):
        return image_of(as_array(picture, "picture"))
    if str(picture) == "-":
        return unpacked(io.BytesIO(sys.stdin.buffer.read()), "Standard input")
    path = expand(picture)
    if path.is_dir():
        raise Misuse(f"{picture} is a folder: name the pictures in it.")
    if not path.exists():
        raise Misuse(f"There is no picture {picture}.")
    try:
        with path.open("rb") as file:
            return unpacked(file, str(picture))
    except OSError as error:
        raise Failure(f"{picture} cannot be read: {reason(error)}.") from error


def unpacked(file: IO[bytes], name: str) -> Image.Image:
    """The picture in an open file; nothing is read from it later.

    Raises:
        Failure: as `open_picture`.
    """
    register_heif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        try:
            image = Image.open(file)
        except Image.DecompressionBombError as error:
            raise Failure(f"{name} has more than {LARGEST:,} pixels: make it smaller.") from error
        except Image.UnidentifiedImageError as error:
            how = (
                "HEIC needs the extra heif"
                if name.lower().endswith(HEIF)
                else "save it as PNG or JPEG"
            )
            raise Failure(f"{name} is no picture of a kind that is known here: {how}.") from error
        except Exception as error:  # damaged files make Pillow raise almost anything
            raise Failure(f"{name} is damaged: {reason(error)}.") from error
        with image:
            upright = decoded(image, name)
            return upright.copy() if upright is image else upright


def register_heif() -> None:
    """Teach Pillow the pictures of telephones, where the extra `heif` is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    register_heif_opener()


def decoded(image: Image.Image, name: str) -> Image.Image:
    """Unpack a picture and turn it upright.

    Raises: as `open_picture`.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise Failure(f"{name} has no pixels.")
    if width * height >= LARGEST:
        raise Failure(
            f"{name} has {width:,} x {height:,} pixels, and {LARGEST:,} or more are refused: "
            "make it smaller."
        )
    if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
        raise Failure(f"{name} is PostScript: save it as PNG.")
    try:
        image.load()
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise Failure(f"{name} is damaged: {reason(error)}.") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged note on the orientation says nothing
        return image


def image_of(array: np.ndarray) -> Image.Image:
    """A picture from an array (H, W), (H, W, 3) or (H, W, 4) of any numbers.

    Raises:
        Misuse: it is none of that kind.
        Failure: as `decoded`.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise Misuse(f"A picture is (H, W), (H, W, 3) or (H, W, 4), not {array.shape}.")
    if array.dtype.kind not in "buif":
        raise Misuse(f"A picture holds numbers, not {array.dtype}.")
    if array.size == 0:
        raise Failure("The array has no pixels.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Misuse("A picture's numbers are finite; these are not all.")
    if array.dtype != np.uint8:
        top = {"b": 1, "f": 1 if array.max() <= 1 else 255}.get(array.dtype.kind, 0)
        top = top or (255 if array.max() <= 255 else 65535)
        array = np.clip(array.astype(np.float32) * np.float32(255 / top), 0, 255)
        # Colours of 8 bits are enough; grey keeps what finer steps it has.
        array = array if array.ndim == 2 else array.round().astype(np.uint8)
    return decoded(Image.fromarray(array), "The array")


def pixels_of(image: Image.Image, most: int = WORKING) -> np.ndarray:
    """A picture's pixels in numbers, on paper where it is transparent, reduced to `most` of them.

    Returns:
        float32 (H, W, 1 or 3), 0 to 255.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        # 16 bits that hold a photo use a part of their range; Pillow's way to 8 would flatten it.
        values = (values - low) * (255 / (high - low) if high > low else 0)
        return np.asarray(reduced(Image.fromarray(values.astype(np.float32)), most))[:, :, None]
    if image.mode in ("1", "L"):
        return np.asarray(reduced(image.convert("L"), most), np.float32)[:, :, None]
    if not image.has_transparency_data:
        return np.asarray(reduced(image.convert("RGB"), most), np.float32)
    pixels = np.asarray(reduced(image.convert("RGBA"), most), np.float32)
    colours, opacity = pixels[:, :, :3], pixels[:, :, 3:] / 255
    return colours * opacity + paper_under(colours, opacity[:, :, 0]) * (1 - opacity)


def paper_under(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The colour (3,) to put under a transparent picture, so that its ink stands out.

    A card with transparent corners lies on its own colour, ink without paper on black or white.
    """
    solid = colours[opacity > 0.5]
    if len(solid) == 0:
        return np.full(3, 255, np.float32)
    usual = np.median(solid, axis=0)
    if len(solid) > 0.6 * opacity.size and np.abs(solid - usual).max() > 64:
        return usual
    return np.full(3, 255 if usual.mean() < 128 else 0, np.float32)


def reduced(image: Image.Image, most: int) -> Image.Image:
    """A picture of at most so many pixels, by the mean over blocks."""
    factor = 1
    while (image.width // factor) * (image.height // factor) > most:
        factor += 1
    return image.reduce(factor) if factor > 1 else image


# --------------------------------------------------------------------------- see and judge


def judged(marks: list[Mark], model: Any) -> tuple[list[Mark], list[np.ndarray], np.ndarray]:
    """Read marks, and cut those apart that are digits which touch, where that reads better.

    Returns:
        The marks, what the network saw of each, and the probabilities (N, classes).
    """
    marks, images, probabilities = together(marks, *seen(marks, model), model)
    result: list[tuple[Mark, np.ndarray, np.ndarray]] = []
    usual = float(np.median([mark.ink.shape[0] for mark in marks]))
    for mark, image, p in zip(marks, images, probabilities, strict=True):
        whole = [(mark, image, p)]
        tall = mark.ink.shape[0] > 0.6 * usual
        result.extend((tall and apart(mark, model, float(p.max()))) or whole)
    marks, images = [r[0] for r in result], [r[1] for r in result]
    return marks, images, np.array([r[2] for r in result])


def together(
    marks: list[Mark], images: list[np.ndarray], probabilities: np.ndarray, model: Any
) -> tuple[list[Mark], list[np.ndarray], np.ndarray]:
    """Join marks that lie close and read better as one: a digit that was broken."""
    left, top, right, bottom = np.array([mark.box for mark in marks]).T
    groups: list[tuple[int, ...]] = [tuple(range(len(marks)))] if 2 < len(marks) < 6 else []
    for i in range(len(marks)):
        tall = np.maximum(bottom - top, bottom[i] - top[i])
        across = np.maximum(left, left[i]) - np.minimum(right, right[i])
        down = np.maximum(top, top[i]) - np.minimum(bottom, bottom[i])
        near = (across < 0.1 * tall) & (down < 0.15 * tall)
        groups += [(i, int(j)) for j in np.flatnonzero(near) if j > i]
    if not groups:
        return marks, images, probabilities
    joint = [united([marks[i] for i in group]) for group in groups]
    joint_images, joint_probabilities = seen(joint, model)
    best = probabilities.max(axis=1)
    gone: set[int] = set()
    added = []
    for n in np.argsort(-joint_probabilities.max(axis=1)):
        group = groups[n]
        better = joint_probabilities[n].max() > max(0.7, best[list(group)].min() + 0.05)
        if better and not gone.intersection(group):
            gone.update(group)
            added.append(n)
    rest = [i for i in range(len(marks)) if i not in gone]
    return (
        [marks[i] for i in rest] + [joint[n] for n in added],
        [images[i] for i in rest] + [joint_images[n] for n in added],
        np.concatenate([probabilities[rest], joint_probabilities[added]]),
    )


def united(marks: list[Mark]) -> Mark:
    """Several marks as one."""
    boxes = np.array([mark.box for mark in marks])
    left, top, right, bottom = map(int, (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))
    ink = np.zeros((bottom - top, right - left), np.uint8)
    for mark in marks:
        height, width = mark.ink.shape
        y, x = mark.box[1] - top, mark.box[0] - left
        part = ink[y : y + height, x : x + width]
        np.maximum(part, mark.ink, out=part)
    return Mark((left, top, right, bottom), ink, max(mark.strength for mark in marks))


def seen(marks: Sequence[Mark], model: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """What the network sees of each mark, and its probabilities (N, classes).

    The network says which digit it is if it is one, the judge whether it is one: the product. A
    network that was trained on something else than MNIST answers alone.
    """
    images = [prepare(not_too_thin(mark.ink), paper=0) for mark in marks]
    return images, probabilities_of(np.stack(images), model)


def not_too_thin(ink: np.ndarray) -> np.ndarray:
    """Ink of a fine pen as if it were of a pen as wide, for its height, as in MNIST."""
    high = max(ink.shape)
    missing = round(0.07 * high - (wide := thickness(ink > 127)))
    if wide > 0.05 * high or missing < 1:
        return ink
    return maximum_filter(np.pad(ink, missing // 2 + 1), missing + 1)


def probabilities_of(images: np.ndarray, model: Any) -> np.ndarray:
    """Images uint8 (N, 28, 28) to the probabilities, float64 (N, classes), of being each digit."""
    log_probs = model.log_probs(images).astype(np.float64)
    if model.description.of_mnist:
        log_probs += judge().log_probs(images)[:, :1]
    return np.exp(log_probs)


@functools.cache
def judge() -> Any:
    """The network that tells digits from what is none; `tinydigits lab judge` trained it."""
    return load(JUDGE)


def apart(mark: Mark, model: Any, whole: float) -> list[tuple[Mark, np.ndarray, np.ndarray]] | None:
    """The digits that a wide mark is made of, or None if it reads better as a whole.

    Cuts are tried where little ink stands in a column; of all ways to choose among them, the one
    whose worst part is read with the most confidence counts.
    """
    left, top, *_ = mark.box
    height, width = mark.ink.shape
    if height < 8 or not 1.1 * height < width < 12 * height or whole > 0.95:
        return None
    profile = mark.ink.astype(float).sum(axis=0) / 255
    step = max(2, height // 5)
    cuts = [0]
    for x in range(step, width - step + 1):
        near = profile[max(0, x - step // 2) : x + step // 2 + 1]
        if profile[x] == near.min() and profile[x] < 0.45 * height and x - cuts[-1] >= step:
            cuts.append(x)
    cuts.append(width)
    spans = [
        (i, j)
        for i in range(len(cuts))
        for j in range(i + 1, len(cuts))
        if 0.15 * height < cuts[j] - cuts[i] < 1.4 * height
    ]
    parts = []
    for i, j in spans:
        ink = mark.ink[:, cuts[i] : cuts[j]]
        parts.append(trimmed(ink, left + cuts[i], top, mark.strength) if ink.any() else None)
    there = [k for k, part in enumerate(parts) if part is not None]
    if not there:
        return None
    images, probabilities = seen([parts[k] for k in there], model)
    best: dict[int, tuple[float, list[int]]] = {0: (1.0, [])}
    for n, k in enumerate(there):
        i, j = spans[k]
        tall = (parts[k].box[3] - parts[k].box[1]) / height
        if i in best and tall > 0.5:
            worst = min(best[i][0], float(probabilities[n].max()))
            if worst > best.get(j, (0.0, []))[0]:
                best[j] = (worst, [*best[i][1], n])
    worst, chosen = best.get(len(cuts) - 1, (0.0, []))
    ones = sum(model.class_names[int(probabilities[n].argmax())] == "1" for n in chosen)
    # A letter with upright strokes, such as W, would come out as a row of ones.
    if len(chosen) < 2 or worst <= max(whole, 0.8) or 2 * ones > len(chosen):
        return None
    return [(parts[there[n]], images[n], probabilities[n]) for n in chosen]


# ------------------------------------------------------------------------------------ tell


def text_of(readings: Sequence[Reading]) -> str:
    """The numbers in a picture, a line for each of its lines; an unsure digit has a ? after it.

    A gap of a digit's height, or a mark that is no digit, parts numbers. A single digit comes with
    its confidence: "7 (99.8 %)". Classes with longer names are parted everywhere.
    """
    digits = [reading for reading in readings if reading.digit is not None]
    if len(digits) == 1:
        return f"{spelled(digits[0])} ({100 * digits[0].confidence:.1f} %)"
    lines = []
    words = any(len(str(reading.digit)) > 1 for reading in digits)
    for number in sorted({reading.line for reading in digits}):
        text, before = "", None
        for reading in (r for r in readings if r.line == number):
            high = reading.box[3] - reading.box[1]
            if words or (before is not None and reading.box[0] - before > 0.9 * high):
                text += " "
            text += " " if reading.digit is None else spelled(reading)
            before = reading.box[2]
        lines.append(" ".join(text.split()))
    return "\n".join(lines)


def spelled(reading: Reading) -> str:
    """A digit or a name, with a ? where it is unsure."""
    return f"{reading.digit}{'?' if reading.unsure else ''}"


def json_of(picture: str, readings: Sequence[Reading]) -> str:
    """One JSON object for a picture, on one line."""
    return json.dumps(
        {
            "picture": picture,
            "readings": [
                {
                    "digit": reading.digit,
                    "confidence": round(reading.confidence, 6),
                    "box": reading.box,
                    "line": reading.line,
                    "probabilities": [round(p, 6) for p in reading.probabilities.tolist()],
                }
                for reading in readings
            ],
        }
    )


def annotated(image: Image.Image, readings: Sequence[Reading]) -> Image.Image:
    """A picture with the boxes, the digits and their confidence drawn on it."""
    pixels = pixels_of(image, LARGEST).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    draw = ImageDraw.Draw(picture)
    for reading in readings:
        left, top, right, bottom = reading.box
        colour = "#d62728" if reading.digit is None else "#ff7f0e" if reading.unsure else "#2ca02c"
        width = max(1, (bottom - top) // 40)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)
        guess = "none" if reading.digit is None else reading.digit
        font = ImageFont.load_default(max(9, (bottom - top) // 5))
        draw.text((left, top), f"{guess} {100 * reading.confidence:.0f} %", colour, font, "lb")
    return picture


def sheet(readings: Sequence[Reading], scale: int = 4) -> Image.Image:
    """What the network saw of each mark, a row for each line of the picture, enlarged."""
    rows = [[r.image for r in readings if r.line == n] for n in sorted({r.line for r in readings})]
    step = SIZE + 2
    page = np.full((step * max(1, len(rows)), step * max([1, *map(len, rows)])), 96, np.uint8)
    for y, row in enumerate(rows):
        for x, seen_image in enumerate(row):
            top, left = y * step + 1, x * step + 1
            page[top : top + SIZE, left : left + SIZE] = seen_image
    return Image.fromarray(page.repeat(scale, 0).repeat(scale, 1))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture in the format that the file's name ends in, whole or not at all.

    Raises:
        Misuse: Pillow writes no such format.
        Failure: the file cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format_of(path))
    write_atomically(path, content.getvalue())


def format_of(path: Path) -> str:
    """Pillow's name of the format that a file's name ends in.

    Raises:
        Misuse: it writes no such format.
    """
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise Misuse(f"Pictures are not written to {path}: let its name end in .png or .jpg.")
    return kind
