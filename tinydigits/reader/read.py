"""Reading a picture, from the file to the digits, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinydigits.errors import Failure
from tinydigits.images.binarize import Ink, find_ink, normalize_page
from tinydigits.images.components import Box, Candidate, segment
from tinydigits.images.decode import open_picture, pixels_of
from tinydigits.images.page import clear_borders, clear_frames, find_sheets
from tinydigits.images.ruling import clear_rulings
from tinydigits.images.symbol import see_symbol
from tinydigits.network.architecture import DIGITS
from tinydigits.quant.tdq import load_quantized
from tinydigits.reader.merge_split import merge, split
from tinydigits.reader.recognize import (
    MODEL,
    Reading,
    Recognized,
    known_digits,
    recognize,
)
from tinydigits.reader.rejection import probabilities_of, rejection_threshold
from tinydigits.reader.text_lines import lines_of, reject_text

LEAST_BESIDE = 20
"""The pixels of ink beside a sheet, at least, for the whole picture to be read as well."""
MOST = 3_000
"""Candidates that a picture may hold; one with more is no page of digits but grain."""


def read(
    picture: Any,
    model: str | Path | Any = MODEL,
    min_confidence: float | None = None,
    segment: bool | None = None,
) -> list[Reading]:
    """Read the digits in a picture, in reading order: top to bottom, left to right.

        for reading in read("photo.jpg"):
            print(reading.line, reading.digit, reading.confidence)

    A network of the digits of MNIST segments a picture, which may hold many. One of classes of
    people's own takes it for one symbol, as in its training, and gives one reading, or none where
    there is no ink.

    Args:
        picture: a path, "-" for standard input, an open file, the bytes of one, a PIL image, or an
            array (H, W), (H, W, 3) or (H, W, 4) of red, green, blue and opacity. Ink may be dark on
            light or light on dark.
        model: what `tinydigits.load_quantized` loads, or what it gave.
        min_confidence: the confidence, 0 to 1, below which a candidate is no digit. By default it
            is the network's own, which 1 % of digits that it never saw fall below, and less for one
            that stands among digits of its height; a network that has none rejects nothing.
            A picture of one symbol is always answered by default.
        segment: whether to segment the picture, where that isn't left to the network.

    Raises:
        Failure: the picture cannot be read.
        UsageError: there is no such file or model, the array is none of that kind, or
            `min_confidence` is not from 0 to 1.
    """
    if isinstance(model, str | Path):
        model = load_quantized(model)
    threshold = rejection_threshold(model, min_confidence)
    image = open_picture(picture)
    if not (model.description.of_mnist if segment is None else segment):
        return read_symbol(image, model, min_confidence or 0.0)
    pixels = pixels_of(image)
    found = find_candidates(pixels)
    fewest = min(map(len, found))
    if fewest > MOST:
        raise Failure(
            f"The picture holds {fewest:,} candidates for digits, more than the {MOST:,} that are "
            "read: cut out the part with the digits."
        )
    ways = [recognize(candidates, model) for candidates in found if 0 < len(candidates) <= MOST]
    if not ways:
        return []
    recognized = max(ways, key=lambda way: digits_beyond(way, threshold))
    recognized = merge(recognized, model)
    recognized = split(recognized, model)
    boxes = [one.candidate.box for one in recognized]
    lines = lines_of(np.array(boxes))
    names = names_of(model)
    scale = image.width / pixels.shape[1], image.height / pixels.shape[0]
    known = known_digits(recognized, threshold, min_confidence is None)
    readings = []
    for i in sorted(range(len(boxes)), key=lambda i: (lines[i], boxes[i][0] + boxes[i][2])):
        _, seen, probabilities = recognized[i]
        digit = names[int(probabilities.argmax())] if known[i] else None
        box = in_original(boxes[i], *scale)
        readings.append(Reading(box, digit, probabilities, int(lines[i]), seen))
    return reject_text(readings)


def read_symbol(image: Image.Image, model: Any, threshold: float) -> list[Reading]:
    """The reading of a whole picture as one symbol; none where there is no ink."""
    seen, box = see_symbol(image)
    if box is None:
        return []
    probabilities = probabilities_of(seen[None], model)[0]
    known = probabilities.max() >= threshold
    name = names_of(model)[int(probabilities.argmax())] if known else None
    return [Reading(box, name, probabilities, 0, seen)]


def names_of(model: Any) -> list[int | str]:
    """What a network's classes are called in a reading: digits are numbers."""
    return [int(name) if name in DIGITS else name for name in model.class_names]


def find_candidates(pixels: np.ndarray) -> list[list[Candidate]]:
    """The candidates in a picture: those on the sheet in it that holds any, then all.

    What seems to be a sheet may be a shadow, with digits beside it. Without ink there, those on the
    sheet are all.

    Args:
        pixels: float32 (H, W, channels), 0 to 255.
    """
    gray, noise = normalize_page(pixels)
    ink = find_ink(gray, noise)
    found = []
    for sheet in find_sheets(gray, ink.mask):
        on_sheet = clear_page(find_ink(*normalize_page(sheet.cut_out(pixels))))
        if segment(on_sheet):
            found.append(segment(sheet.put_back(on_sheet, gray.shape)))
            beside = ink.mask.copy()
            beside[sheet.rows, sheet.columns] = False
            if beside.sum() < LEAST_BESIDE:
                return found
            break
    return [*found, segment(clear_page(ink))]


def digits_beyond(recognized: list[Recognized], threshold: float) -> int:
    """How many more candidates are digits than are none."""
    known = sum(one.confidence >= threshold for one in recognized)
    return 2 * known - len(recognized)


def clear_page(ink: Ink) -> Ink:
    """The ink without what is not written by hand: frames, rulings, what runs along the borders."""
    return clear_borders(clear_rulings(clear_frames(ink)))


def in_original(box: Box, across: float, down: float) -> Box:
    """A box in pixels of the picture that was reduced by these factors."""
    left, top, right, bottom = box
    return (
        int(left * across),
        int(top * down),
        int(-(-right * across // 1)),
        int(-(-bottom * down // 1)),
    )
