"""The forms in which people have MNIST, and other data like it: IDX files, an .npz, CSV tables.

Whatever the form, what is read becomes IDX files, as LeCun, Cortes and Burges (1998) made them. A
file is only read as what its name says, and nothing in it is believed before it is checked.
"""

from __future__ import annotations

import codecs
import difflib
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.errors import Failure, UsageError, reason

TRAIN = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES: tuple[str, ...] = TRAIN + TEST
"""The four files of a data set, raw (not gzipped)."""

ARRAYS = dict(zip(("x_train", "y_train", "x_test", "y_test"), IDX_FILES, strict=True))
"""The arrays of Keras's mnist.npz."""

HOLDS = {
    **{name: (name,) for name in IDX_FILES},
    "mnist.npz": TRAIN + TEST,
    "mnist_train.csv": TRAIN,
    "train.csv": TRAIN,
    "mnist_test.csv": TEST,
    "test.csv": TEST,
}
"""Which of the four a file holds, by its plain name; what is quick to read comes first."""

FORMS = (
    "the four IDX files (train-images-idx3-ubyte and so on, with a hyphen or a dot before idx, as "
    ".gz or not), mnist.npz, or mnist_train.csv and mnist_test.csv (a label and its pixels in each "
    "line)"
)
"""The files in which a folder may hold MNIST, for the inside of a sentence."""

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
"""How the names of archives end, which are not looked into."""

LIMIT = 2**29
"""More bytes than MNIST takes in any form; a file that claims more is not read."""


def require_folder(root: Path) -> None:
    """See to it that data are in a folder, as far as one can tell.

    Raises:
        UsageError: it is an address, there is no such folder, or it is a file.
    """
    if address := re.search(r"(?:^|/)(\w\w+:/.*)", root.as_posix()):
        raise UsageError(
            f"The data folder {address[1]} is an address: download the data, unpack them, and name "
            "the folder on this computer."
        )
    if root.suffix.lower() in ARCHIVES and not root.is_dir():
        raise UsageError(
            f"The data folder {root} is not a folder but an archive: unpack it, and name the "
            "folder that comes out of it."
        )
    wanted = "name one that holds MNIST, or a subfolder of pictures for each class"
    if root.exists() and not root.is_dir():
        raise UsageError(f"The data folder {root} is not a folder but a file: {wanted}.")
    if not root.exists():
        beside = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, beside, 1)
        meant = f"did you mean {root.with_name(close[0])}?" if close else f"{wanted}."
        raise UsageError(f"There is no data folder {root}: {meant}")


def copies(*folders: Path) -> list[Path]:
    """The files in some folders that, by their names, hold MNIST; the quickest to read first.

    A folder need not exist.

    Raises:
        OSError: a folder cannot be read.
    """
    found = []
    for path in (
        path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())
    ):
        if plain_name(path) in HOLDS:
            # Kaggle unpacks each file into a folder of the same name.
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            found += [p for p in inside if plain_name(p) == plain_name(path) and p.is_file()]
    order = list(HOLDS)
    return sorted(found, key=lambda path: order.index(plain_name(path)))


def plain_name(path: Path) -> str:
    """A file's name as `HOLDS` spells it, if it is there at all."""
    return path.name.lower().removesuffix(".gz").replace(".idx", "-idx")


def read(path: Path) -> dict[str, bytes]:
    """The IDX files that a file holds, by name: those of `HOLDS`, not verified yet.

    Raises:
        Failure: it cannot be read as what its name says; the message has no full stop.
    """
    plain = plain_name(path)
    try:
        if plain.endswith(".npz"):
            return read_npz(path)
        if plain.endswith(".csv"):
            images, labels = read_csv(path)
            return dict(zip(HOLDS[plain], (to_idx(images), to_idx(labels)), strict=True))
        return {plain: read_plain(path)}
    except Failure:
        raise
    except OSError as error:
        raise Failure(f"{path} cannot be read ({reason(error)})") from error
    # zipfile and numpy raise errors of a dozen types for a damaged file.
    except Exception as error:
        raise Failure(f"{path} is damaged ({reason(error)})") from error


def read_plain(path: Path) -> bytes:
    """The bytes of a file, unzipped where they are gzipped, whatever its name says.

    Raises:
        ValueError, zlib.error: there is too much of it, or the zipped bytes are damaged.
    """
    if path.stat().st_size > LIMIT:
        raise ValueError("it is larger than MNIST")
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    unzip = zlib.decompressobj(wbits=31)
    raw = unzip.decompress(raw, LIMIT)
    if not unzip.eof:
        raise ValueError("it ends too early" if len(raw) < LIMIT else "it is larger than MNIST")
    return raw


def read_npz(path: Path) -> dict[str, bytes]:
    """The IDX files of the arrays in Keras's mnist.npz, of any type of whole numbers.

    numpy.load would believe a header and make room for whatever it claims, so the header is
    compared with the bytes that are there.
    """
    held = {}
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.getinfo(f"{key}.npy") for key, name in ARRAYS.items()}
        if sum(member.file_size for member in members.values()) > LIMIT:
            raise ValueError("it is larger than MNIST")
        for name, member in members.items():
            file = io.BytesIO(archive.read(member))
            if np.lib.format.read_magic(file) == (1, 0):
                shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
            rest = file.read()
            if dtype.kind not in "iu" or math.prod(shape) * dtype.itemsize != len(rest):
                raise ValueError(f"{member.filename} is no array of whole numbers")
            values = np.frombuffer(rest, dtype).reshape(shape, order="F" if by_columns else "C")
            held[name] = to_idx(values)
    return held


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (N, side, side), and the labels, uint8 (N,), of a table of digits.

    A line of titles is passed over. The 110 MB of the training digits take some seconds on a slow
    machine, so a bar appears after two.
    """
    from tqdm import tqdm

    raw = read_plain(path).removeprefix(codecs.BOM_UTF8)
    file = io.BytesIO(raw)
    first = file.readline()
    columns = first.count(b",") + 1
    side = math.isqrt(columns - 1)
    if math.isqrt(columns) ** 2 == columns > 1:
        raise Failure(
            f"{path} has no labels (Kaggle's Digit Recognizer keeps those of its test digits to "
            "itself), so no accuracy can be measured with it"
        )
    if side**2 != columns - 1:
        raise ValueError(f"it has {columns} columns, not a label and the pixels of a square")
    if first[:1].isdigit():
        file.seek(0)
    if not re.compile(rb"\d").search(raw, file.tell()):
        raise ValueError("it holds no digits")

    def lines() -> Iterator[str]:
        for line in file:
            bar.update(len(line))
            # Older versions of numpy would cut 0.7 down to 0.
            if line.translate(None, b"0123456789,\r\n"):
                raise ValueError("it holds something else than whole numbers and commas")
            yield line.decode()

    progress: Any = {"desc": path.name, "unit": "B", "unit_scale": True, "delay": 2}
    with tqdm(total=len(raw), initial=file.tell(), disable=None, **progress) as bar:
        table = np.loadtxt(lines(), np.uint8, delimiter=",", comments=None, ndmin=2)
    return table[:, 1:].reshape(-1, side, side), table[:, 0]


def parse_idx(raw: bytes, name: str = "the file") -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    The format is two zero bytes, the type (8: unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit integer, then the values in row-major order.

    Args:
        raw: the whole file.
        name: what to call it in an error.

    Returns:
        int64 (N,) for one dimension (labels); uint8 of the file's shape otherwise (images).

    Raises:
        Failure: `raw` is not such a file, or its length is not what its header says.
    """
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or raw[3] == 0:
        raise Failure(f"{name} is not an IDX file of unsigned bytes.")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise Failure(f"{name} ends inside its header.")
    shape = [int(n) for n in np.frombuffer(raw, ">u4", raw[3], 4)]
    # Python's integers, because a damaged header's product can exceed 64 bits.
    if math.prod(shape) != len(raw) - start:
        raise Failure(f"{name} holds {len(raw) - start} values where its header says {shape}.")
    values = np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
    return values.astype(np.int64) if len(shape) == 1 else values.copy()


def to_idx(values: np.ndarray) -> bytes:
    """The IDX file of an array of whole numbers; the inverse of `parse_idx`.

    Raises:
        ValueError: a value is below 0 or above 255.
    """
    narrow = values.astype(np.uint8)
    if not np.array_equal(narrow, values):
        raise ValueError("it holds a value that is not between 0 and 255")
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + narrow.tobytes()
