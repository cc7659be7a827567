"""What was read, told: as text, as JSON, drawn on the picture, and as what the network saw."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinydigits.errors import UsageError
from tinydigits.files import write_atomically
from tinydigits.images.decode import LARGEST, pixels_of
from tinydigits.network.architecture import SIZE
from tinydigits.reader.recognize import Reading

NUMBER_GAP = 0.9
"""The gap before a digit, in its heights, above which a new number begins."""

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
    """A picture with the boxes, the digits and their confidence drawn on it."""
    pixels = pixels_of(image, LARGEST).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    draw = ImageDraw.Draw(picture)
    for reading in readings:
        left, top, right, bottom = reading.box
        color = NONE if reading.digit is None else DOUBTFUL if reading.unsure else SURE
        width = max(1, (bottom - top) // 40)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=color, width=width)
        name = "none" if reading.digit is None else reading.digit
        font = ImageFont.load_default(max(9, (bottom - top) // 5))
        draw.text((left, top), f"{name} {100 * reading.confidence:.0f} %", color, font, "lb")
    return picture


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
