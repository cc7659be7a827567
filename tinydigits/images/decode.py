"""Decoding: from a file, an image or an array to an upright picture, and to its pixels."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from tinydigits.errors import Failure, UsageError, reason
from tinydigits.evaluation import as_array
from tinydigits.files import expand

LARGEST = 100_000_000
"""Pixels from which a picture is refused, before it is decoded."""

HEIF = (".heic", ".heif", ".hif")
"""The suffixes of the pictures that telephones take, and Pillow reads only with pillow-heif."""

WORKING = 3_000_000
"""Pixels that a larger picture is reduced to; a digit is legible at 20 pixels."""

OPAQUE = 0.5
"""The opacity, 0 to 1, above which a pixel counts for the color to put under a picture."""
CARD_SHARE = 0.6
"""The share of such pixels above which a transparent picture may be a card with its own ground."""
CARD_CONTRAST = 64
"""The distance of some pixel's channel from the median, in gray levels, above which it is one."""
DARK = 128
"""The brightness, in gray levels, below which transparent ink is put on white, not on black."""


def open_picture(picture: Any) -> Image.Image:
    """The first frame of a picture, upright, not reduced; nothing is read from the file later.

    Args:
        picture: a path, "-" for standard input, a PIL image, or an array (H, W), (H, W, 3) or
            (H, W, 4) of red, green, blue and opacity.

    Raises:
        Failure: it is no picture, it is damaged, or it is too large to be decoded.
        UsageError: there is no such file, or `picture` is neither file, image nor array.
    """
    if isinstance(picture, Image.Image):
        return load_upright(picture, "The image")
    if not isinstance(picture, str | Path):
        return from_array(as_array(picture, "picture"))
    if str(picture) == "-":
        return decode(io.BytesIO(sys.stdin.buffer.read()), "Standard input")
    path = expand(picture)
    if path.is_dir():
        raise UsageError(f"{picture} is a folder: name the pictures in it.")
    if not path.exists():
        raise UsageError(f"There is no picture {picture}.")
    try:
        with path.open("rb") as file:
            return decode(file, str(picture))
    except OSError as error:
        raise Failure(f"{picture} cannot be read: {reason(error)}.") from error


def decode(file: IO[bytes], name: str) -> Image.Image:
    """The picture in an open file, which messages call `name`.

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
            upright = load_upright(image, name)
            return upright.copy() if upright is image else upright


def register_heif() -> None:
    """Teach Pillow the pictures of telephones, where the extra `heif` is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    register_heif_opener()


def load_upright(image: Image.Image, name: str) -> Image.Image:
    """Decode an image that Pillow has opened, and turn it upright.

    Raises:
        Failure: as `open_picture`.
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


def from_array(array: np.ndarray) -> Image.Image:
    """A picture from an array (H, W), (H, W, 3) or (H, W, 4) of any numbers.

    Raises:
        UsageError: it is none of that kind.
        Failure: it has no pixels, or too many.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UsageError(f"A picture is (H, W), (H, W, 3) or (H, W, 4), not {array.shape}.")
    if array.dtype.kind not in "buif":
        raise UsageError(f"A picture holds numbers, not {array.dtype}.")
    if array.size == 0:
        raise Failure("The array has no pixels.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError("A picture's numbers are finite; these are not all.")
    if array.dtype != np.uint8:
        top = {"b": 1, "f": 1 if array.max() <= 1 else 255}.get(array.dtype.kind, 0)
        top = top or (255 if array.max() <= 255 else 65535)
        array = np.clip(array.astype(np.float32) * np.float32(255 / top), 0, 255)
        # Colors of 8 bits are enough; gray keeps what finer steps it has.
        array = array if array.ndim == 2 else array.round().astype(np.uint8)
    return load_upright(Image.fromarray(array), "The array")


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
        return np.asarray(reduce_size(Image.fromarray(values.astype(np.float32)), most))[:, :, None]
    if image.mode in ("1", "L"):
        return np.asarray(reduce_size(image.convert("L"), most), np.float32)[:, :, None]
    if not image.has_transparency_data:
        return np.asarray(reduce_size(image.convert("RGB"), most), np.float32)
    pixels = np.asarray(reduce_size(image.convert("RGBA"), most), np.float32)
    colors, opacity = pixels[:, :, :3], pixels[:, :, 3:] / 255
    return colors * opacity + color_under(colors, opacity[:, :, 0]) * (1 - opacity)


def color_under(colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The color (3,) to put under a transparent picture, so that its ink stands out.

    A card with transparent corners lies on its own color, ink without paper on black or white.
    """
    solid = colors[opacity > OPAQUE]
    if len(solid) == 0:
        return np.full(3, 255, np.float32)
    usual = np.median(solid, axis=0)
    is_card = len(solid) > CARD_SHARE * opacity.size
    if is_card and np.abs(solid - usual).max() > CARD_CONTRAST:
        return usual
    return np.full(3, 255 if usual.mean() < DARK else 0, np.float32)


def reduce_size(image: Image.Image, most: int) -> Image.Image:
    """A picture of at most so many pixels, by the mean over blocks."""
    factor = 1
    while (image.width // factor) * (image.height // factor) > most:
        factor += 1
    return image.reduce(factor) if factor > 1 else image
