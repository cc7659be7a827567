"""Decoding: from a file, an image or an array to an upright picture, and to its pixels."""

from __future__ import annotations

import io
import re
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

HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
"""What the pictures of telephones are by their beginning, which Pillow reads with pillow-heif."""

PNG = b"\x89PNG\r\n\x1a\n"
"""How a PNG begins."""
NOTES = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
"""The parts of a PNG that hold its color profile and texts."""

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


def open_picture(picture: Any, frame: int = 1) -> Image.Image:
    """A frame of a picture, upright, not reduced; nothing is read from the file later.

    Args:
        picture: a path, "-" for standard input, an open file, the bytes of one, a PIL image, or an
            array (H, W), (H, W, 3) or (H, W, 4) of red, green, blue and opacity.
        frame: which frame of a file that holds several, such as an animation; the first is 1.

    Raises:
        Failure: it is no picture, it is damaged, or it is too large to be decoded.
        UsageError: there is no such file or frame, or `picture` is none of those.
    """
    if isinstance(picture, Image.Image):
        return load_upright(picture, "The image")
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(io.BytesIO(picture), "The picture", frame)
    if hasattr(picture, "read"):
        name = getattr(picture, "name", "")
        name = name if isinstance(name, str) and name else "The file"
        try:
            content = picture.read()
        except (OSError, ValueError) as error:
            raise Failure(f"{name} cannot be read: {reason(error)}.") from error
        if not isinstance(content, bytes):
            raise UsageError(f"{name} is open as text: open it in binary, by open(..., 'rb').")
        return decode(io.BytesIO(content), name, frame)
    if not isinstance(picture, str | Path):
        return from_array(as_array(picture, "picture"))
    if str(picture) == "-":
        return decode(io.BytesIO(sys.stdin.buffer.read()), "Standard input", frame)
    if re.match(r"\w\w+:/", str(picture)):
        raise UsageError(f"{picture} is an address: download the picture, and name the file.")
    path = expand(picture)
    if path.is_dir():
        raise UsageError(f"{picture} is a folder: name the pictures in it.")
    if not path.exists():
        raise UsageError(f"There is no picture {picture}.")
    try:
        with path.open("rb") as file:
            return decode(file, str(picture), frame)
    except OSError as error:
        raise Failure(f"{picture} cannot be read: {reason(error)}.") from error


def decode(file: IO[bytes], name: str, frame: int = 1) -> Image.Image:
    """The picture in an open file, which messages call `name`.

    Raises:
        Failure, UsageError: as `open_picture`.
    """
    knows_heif = register_heif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        try:
            image = Image.open(file)
        except Image.DecompressionBombError as error:
            raise Failure(f"{name} has more than {LARGEST:,} pixels: make it smaller.") from error
        except Image.UnidentifiedImageError as error:
            raise Failure(unidentified(beginning(file), name, knows_heif)) from error
        except Exception as error:  # damaged files make Pillow raise almost anything
            return decode_without_notes(file, name, frame, error)
        with image:
            check_size(image, name)
            frames = frames_of(image)
            if not 1 <= frame <= frames:
                raise UsageError(f"{name} has no frame {frame}: it holds {frames}, from 1 on.")
            try:
                image.seek(frame - 1)
                image.load()
            except Exception as error:
                return decode_without_notes(file, name, frame, error)
            upright = load_upright(image, name)
            upright = upright.copy() if upright is image else upright
            upright.info["frames"] = frames
            return upright


def beginning(file: IO[bytes]) -> bytes:
    """The first bytes of an open file; none where it can't be read again."""
    try:
        file.seek(0)
        return file.read(len(PNG) + 4)
    except (OSError, ValueError):
        return b""


def unidentified(begin: bytes, name: str, knows_heif: bool) -> str:
    """What to say of a file that begins so, and that Pillow takes for no picture."""
    if begin[4:8] != b"ftyp" or begin[8:12] not in HEIF:
        return f"{name} is no picture of a kind that is known here: save it as PNG or JPEG."
    if knows_heif:
        return f"{name} is damaged: it begins as a HEIC and cannot be decoded."
    return (
        f"{name} is a HEIC, which needs the extra heif; in a clone of the project: pip install "
        "-c constraints.txt '.[heif]'"
    )


def decode_without_notes(
    file: IO[bytes], name: str, frame: int, error: BaseException
) -> Image.Image:
    """A PNG that Pillow gave up, without its texts and color profile, which it may find too large.

    Raises:
        Failure: it is none, or it is damaged all the same.
    """
    if beginning(file).startswith(PNG):
        file.seek(0)
        content = file.read()
        if (plain := without_notes(content)) != content:
            return decode(io.BytesIO(plain), name, frame)
    raise Failure(f"{name} is damaged: {reason(error)}.") from error


def without_notes(content: bytes) -> bytes:
    """The content of a PNG without its texts and its color profile."""
    kept, at = [PNG], len(PNG)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if content[at + 4 : at + 8] not in NOTES:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def frames_of(image: Image.Image) -> int:
    """How many frames a picture holds, of which `open_picture` gives one.

    The small copies that cameras put into a file of theirs (MPO) are none.
    """
    if "frames" in image.info:
        return int(image.info["frames"])
    try:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # later ones are damaged
        return 1


def register_heif() -> bool:
    """Teach Pillow the pictures of telephones, where the extra `heif` is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def load_upright(image: Image.Image, name: str) -> Image.Image:
    """Decode an image that Pillow has opened, and turn it upright.

    Raises:
        Failure: as `open_picture`.
    """
    check_size(image, name)
    try:
        image.load()
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise Failure(f"{name} is damaged: {reason(error)}.") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged note on the orientation says nothing
        return image


def check_size(image: Image.Image, name: str) -> None:
    """Refuse an image before it is decoded, if it is too large or a program.

    Raises:
        Failure: it is.
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
