"""What was read, told: as text, as JSON, drawn on the picture, and as what the network saw."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinydigits.errors import UsageError
from tinydigits.files import expand, write_atomically
from tinydigits.images.components import Box
from tinydigits.images.decode import LARGEST, pixels_of
from tinydigits.images.fonts import font_path, lacking
from tinydigits.network.architecture import SIZE
from tinydigits.reader.recognize import Reading
from tinydigits.terminal import say

NUMBER_GAP = 0.9
"""The gap before a digit, in its heights, above which a new number begins."""

LABEL_SHARES = 0.35, 0.28, 0.22, 0.17, 0.13, 0
"""The size of labels, in usual heights of the boxes: the first that leaves room for all of them."""
LABEL_LEAST = 9
"""The size of labels in pixels, at least."""

SURE, DOUBTFUL, NONE = "#2ca02c", "#ff7f0e", "#d62728"
"""The colors of a box: a digit, one that is unsure, and what is no digit."""


def text_of(readings: Sequence[Reading]) -> str:
    """The numbers in a picture, a line for each of its lines; an unsure digit has a ? after it.

    A gap of a digit's height, or a candidate that is no digit, parts numbers. A single digit comes
    with its confidence: "7 (99.8 %)". Classes with longer names are parted everywhere.
    """
    digits = [reading for reading in readings if reading.digit is not None]
    if len(digits) == 1:
        return f"{spelled(digits[0])} ({100 * digits[0].confidence:.1f} %)"
    lines = []
    words = any(len(str(reading.digit)) > 1 for reading in digits)
    for number in sorted({reading.line for reading in digits}):
        text, before = "", None
        for reading in (r for r in readings if r.line == number):
            height = reading.box[3] - reading.box[1]
            if words or (before is not None and reading.box[0] - before > NUMBER_GAP * height):
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


def annotate(image: Image.Image, readings: Sequence[Reading]) -> Image.Image:
    """A picture with the boxes, the digits and their confidence drawn on it.

    All labels are of one size. None covers another one or a digit: where there is no room for
    them they get smaller, and one that has none even so is left out.
    """
    pixels = pixels_of(image, LARGEST).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    draw = ImageDraw.Draw(picture)
    names, path = drawn_names(readings)
    texts = [
        f"{name} {100 * reading.confidence:.0f} %"
        for name, reading in zip(names, readings, strict=True)
    ]
    size, places = LABEL_LEAST, []
    usual = usual_height(readings, picture.size)
    for share in LABEL_SHARES:
        size = max(LABEL_LEAST, round(share * usual))
        places = placed(texts, readings, picture.size, label_font(size, path))
        if None not in places or size == LABEL_LEAST:
            break
    font = label_font(size, path)
    width = max(1, usual // 40)
    for reading, text, place in zip(readings, texts, places, strict=True):
        left, top, right, bottom = reading.box
        color = NONE if reading.digit is None else DOUBTFUL if reading.unsure else SURE
        draw.rectangle((left, top, right - 1, bottom - 1), outline=color, width=width)
        if place is not None:
            draw.text(place[:2], text, color, font, "lt")
    return picture


def usual_height(readings: Sequence[Reading], size: tuple[int, int]) -> int:
    """The height that labels go by: the median of the boxes', but no more than a third picture's.

    Args:
        readings: what is labeled.
        size: the picture's width and height.
    """
    heights = [reading.box[3] - reading.box[1] for reading in readings] or [0]
    return int(min(np.median(heights), min(size) / 3))


def label_font(size: int, path: Path | None) -> Any:
    """The font of labels: Pillow's own, or the one in a file."""
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def drawn_names(readings: Sequence[Reading]) -> tuple[list[str], Path | None]:
    """What to write for each reading, and the file of the font to do it in, if it is not Pillow's.

    A name that no font here has is written as a number, and a message says which is which.
    """
    names = ["none" if reading.digit is None else str(reading.digit) for reading in readings]
    characters = "".join(sorted({*"".join(names)}))
    if not lacking(ImageFont.load_default(LABEL_LEAST), characters):
        return names, None
    if (path := font_path(characters + "0123456789 %none")) is not None:
        return names, path
    unknown = sorted({n for n in names if lacking(ImageFont.load_default(LABEL_LEAST), n)})
    legend = {name: f"({number})" for number, name in enumerate(unknown, 1)}
    say(
        "No font here has these names, so numbers stand for them in the picture: "
        + ", ".join(f"{number} {name}" for name, number in legend.items())
    )
    return [legend.get(name, name) for name in names], None


def placed(
    texts: Sequence[str], readings: Sequence[Reading], size: tuple[int, int], font: Any
) -> list[Box | None]:
    """Where labels go: beside their boxes, within the picture, on no other label and on no digit.

    Args:
        texts: a label for each reading.
        readings: what is labeled.
        size: the picture's width and height.
        font: of Pillow's.

    Returns:
        For each its box in pixels; None where there is no room.
    """
    taken = [reading.box for reading in readings if reading.digit is not None]
    places: list[Box | None] = []
    for text, reading in zip(texts, readings, strict=True):
        left, top, right, bottom = reading.box
        _, _, width, height = (int(-(-x // 1)) for x in font.getbbox(text, anchor="lt"))
        free = None
        for x, y in (
            *((left, top - height - 1), (right - width, top - height - 1)),
            *((left, bottom + 1), (right - width, bottom + 1)),
            *((right + 2, top), (left - width - 2, top)),
            *((right + 2, bottom - height), (left - width - 2, bottom - height)),
        ):
            box = (x, y, x + width, y + height)
            inside = x >= 0 and y >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if inside and not any(overlap(box, other) for other in taken):
                free = box
                taken.append(box)
                break
        places.append(free)
    return places


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have a pixel in common."""
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(
        one[1], other[1]
    )


def montage(readings: Sequence[Reading], scale: int = 4) -> Image.Image:
    """What the network saw of each candidate, a row for each line of the picture, enlarged."""
    rows = [[r.image for r in readings if r.line == n] for n in sorted({r.line for r in readings})]
    step = SIZE + 2
    page = np.full((step * max(1, len(rows)), step * max([1, *map(len, rows)])), 96, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * step + 1, x * step + 1
            page[top : top + SIZE, left : left + SIZE] = image
    return Image.fromarray(page.repeat(scale, 0).repeat(scale, 1))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture in the format that the file's name ends in, whole or not at all.

    Raises:
        UsageError: Pillow writes no such format.
        Failure: the file cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format_of(path))
    write_atomically(path, content.getvalue())


def format_of(path: Path) -> str:
    """Pillow's name of the format that a file's name ends in.

    Raises:
        UsageError: it writes no such format.
    """
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise UsageError(f"Pictures are not written to {path}: let its name end in .png or .jpg.")
    return kind


def refuse_overwriting(option: str, path: Path, picture: str) -> None:
    """See to it that what is drawn does not take the place of the picture that is read.

    Raises:
        UsageError: it would, by this name or another of the same file.
    """
    written, original = expand(path), expand(picture)
    if written.exists() and original.exists() and written.samefile(original):
        raise UsageError(f"{option} {path} would overwrite the picture itself: name another file.")
