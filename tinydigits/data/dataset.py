"""What a network is trained and measured on: MNIST, or a data set of the user's own.

A data set is a folder with a subfolder of pictures for each class (`tinydigits.data.folders`), or
files in one of the forms that MNIST has (`tinydigits.data.formats`), which then need a name: a
damaged MNIST must not pass for something else.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinydigits.data.drawn import draw_digits
from tinydigits.data.folders import classes_in, load_pictures, parts_of
from tinydigits.data.formats import HOLDS, IDX_FILES, copies, parse_idx, plain_name, read
from tinydigits.data.mnist import Mnist, held_out, load_mnist
from tinydigits.data.split import (
    check_sizes,
    hold_out,
    split,
    warn_of_class_imbalance,
    warn_of_equal,
)
from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import expand
from tinydigits.network.architecture import DIGITS, MEAN, MOST_CLASSES, SIZE, STD
from tinydigits.terminal import is_printable_name

MNIST = "MNIST"
"""What MNIST is called, and no other data may be: so their name says whether data are MNIST."""


@dataclass(frozen=True)
class DataSource:
    """Where data are, and what to take of them. By default it is MNIST, wherever that is found."""

    root: Path | None = None
    """A folder or a file, and the only place to look; None: the cache or the net, for MNIST."""
    name: str = ""
    """What to call data of the user's own; needed where they come in a form that MNIST has.

    By default pictures are called after their folder.
    """
    as_is: bool = False
    """Whether pictures are 28x28, light ink on black, and not to be prepared."""
    validation: bool = False
    """Whether training images take the place of the test images: the last 10,000 of MNIST's, or a
    fifth of each class."""
    drawn: int = 0
    """How many digits drawn by rule join the training digits of MNIST."""


class Dataset(NamedTuple):
    """Labeled images in two parts, and what they are called."""

    train_images: np.ndarray
    """uint8 (N, 28, 28), ink bright."""
    train_labels: np.ndarray
    """int64 (N,): places in `class_names`."""
    test_images: np.ndarray
    """What is measured on; in a validation run what it holds out of its training images."""
    test_labels: np.ndarray
    name: str
    class_names: tuple[str, ...]
    mean: float
    """Of the training pixels, scaled to 0..1."""
    std: float
    """Their standard deviation."""
    fingerprint: str | None = None
    """The SHA-256 of images, labels and names; MNIST, which is always the same, has none."""

    @property
    def is_mnist(self) -> bool:
        """Whether it is MNIST, which the goals of this project are about."""
        return self.name == MNIST

    @property
    def things(self) -> str:
        """What its images show, in the plural."""
        return "digits" if self.is_mnist else "pictures"

    def describe(self, part: str) -> str:
        """What to call a part of it in a sentence: "test digits", "test pictures of symbols"."""
        return f"{part} {self.things}" + ("" if self.is_mnist else f" of {self.name}")


def load_dataset(source: DataSource = DataSource(), to_train: bool = True) -> Dataset:
    """The data set that a source names.

    Args:
        source: where it is, and what to take of it.
        to_train: whether there must be something to train on. Else a folder without the parts
            train and test is all for measuring, and a class may be as small as it likes.

    Raises:
        UsageError: there is no such folder, it is laid out otherwise, or a class has too few
            pictures.
        Failure: a file is damaged, is no picture or is not MNIST's, or MNIST cannot be fetched.
    """
    if is_own(source):
        if source.drawn:
            raise UsageError("Drawn digits join those of MNIST, not data of yours: drop --drawn.")
        return load_own(source, to_train)
    mnist = load_mnist(source.root)
    mnist = held_out(mnist) if source.validation else mnist
    if source.drawn and to_train:
        images, labels = draw_digits(source.drawn)
        # Mixed, so that the first thousands, which quantization looks at, are of both kinds.
        order = np.random.default_rng(0).permutation(len(mnist.train_labels) + len(labels))
        mnist = mnist._replace(
            train_images=np.concatenate([mnist.train_images, images])[order],
            train_labels=np.concatenate([mnist.train_labels, labels])[order],
        )
    return Dataset(*mnist, MNIST, DIGITS, MEAN, STD)


def is_own(source: DataSource) -> bool:
    """Whether a source names a data set of the user's own, rather than MNIST."""
    if source.name or source.root is None:
        return bool(source.name)
    root = expand(source.root)
    return root.is_dir() and not files_in(root)


def relabeled(dataset: Dataset, class_names: tuple[str, ...]) -> Dataset:
    """A data set with the classes of a network, in their order.

    Raises:
        UsageError: it has a class that the network does not know.
    """
    if dataset.is_mnist and len(class_names) == len(DIGITS):  # whatever it calls them
        return dataset._replace(class_names=class_names)
    if unknown := [name for name in dataset.class_names if name not in class_names]:
        raise UsageError(
            f"{dataset.name} has the class {unknown[0]}, and this network only knows "
            f"{listed(class_names)}."
        )
    place = np.array([class_names.index(name) for name in dataset.class_names], np.int64)
    return dataset._replace(
        train_labels=place[dataset.train_labels],
        test_labels=place[dataset.test_labels],
        class_names=class_names,
    )


def check_fingerprint(
    dataset: Dataset, before: str | None, folder: Path, source: DataSource
) -> None:
    """See to it that the data are those that the run in `folder` was trained on.

    Args:
        dataset: the data as they are now.
        before: their fingerprint when the run began.
        folder: the run's.
        source: where the data are.

    Raises:
        Failure: they are others.
    """
    if dataset.fingerprint != before:
        raise Failure(
            f"The data in {source.root or 'the cache'} are not those that {folder} was trained on: "
            "bring them back as they were, or train a new run."
        )


def listed(names: tuple[str, ...], most: int = 12) -> str:
    """Some names for the inside of a sentence."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


# ------------------------------------------------------------------------------ data of one's own


def load_own(source: DataSource, to_train: bool) -> Dataset:
    """`load_dataset` where the data are the user's own."""
    if source.root is None:
        raise UsageError(
            "--dataset is the name of the data in a folder: name the folder by --data."
        )
    root = expand(source.root)
    name = source.name or root.resolve().name
    try:
        if files := files_in(root):
            dataset = from_files(files, root, name)
        else:
            dataset = from_pictures(root, name, source.as_is, to_train)
    except OSError as error:
        raise Failure(f"{error.filename or root} cannot be read: {reason(error)}.") from error
    if to_train:
        warn_of_class_imbalance(dataset.train_labels, dataset.class_names, root)
    if to_train and source.validation:
        images, labels = dataset.train_images, dataset.train_labels
        dataset = dataset._replace(**hold_out(images, labels, dataset.class_names, root))
    return dataset


def described(
    parts: Mnist, name: str, class_names: tuple[str, ...], root: Path, to_train: bool
) -> Dataset:
    """A data set with its normalization and its fingerprint.

    Raises:
        UsageError: its name or that of a class cannot be, or there are too few or too many classes.
        Failure: there is nothing to see in it.
    """
    if not is_printable_name(name) or name.casefold() == MNIST.casefold():
        raise UsageError(
            f"The data in {root} cannot be called {name!r}: give them a name of 1 to 100 "
            "characters other than MNIST by --dataset."
        )
    check_classes(class_names, root, 2 if to_train else 1)
    mean, std = MEAN, STD
    if to_train:
        count = np.bincount(parts.train_images.ravel(), minlength=256)
        # In whole numbers, so that every machine gets the same floats.
        n, total, squares = (int(count @ np.arange(256) ** power) for power in (0, 1, 2))
        mean, std = total / n / 255, math.sqrt(n * squares - total**2) / n / 255
        if std == 0:
            raise Failure(f"All pictures in {root} are blank: there is nothing to learn.")
    sha = hashlib.sha256(json.dumps([name, class_names]).encode())
    for part in parts:
        sha.update(f"{part.dtype}{part.shape}".encode())
        sha.update(part.tobytes())
    return Dataset(*parts, name, class_names, mean, std, sha.hexdigest())


def check_classes(names: tuple[str, ...], root: Path, least: int) -> None:
    """Refuse names that cannot be, and numbers of classes that no network tells apart."""
    for name in names:
        if not is_printable_name(name):
            raise UsageError(
                f"The class {name!r} in {root} cannot be called that: a name has 1 to 100 "
                "characters, none of them a control character."
            )
    if not least <= len(names) <= MOST_CLASSES:
        found = f"only the class {names[0]}" if len(names) == 1 else f"{len(names)} classes"
        raise UsageError(f"{root} holds {found}: a network tells {least} to {MOST_CLASSES} apart.")


# -------------------------------------------------------------------------- in the forms of MNIST


def files_in(root: Path) -> list[Path]:
    """The files in which a folder, or a file itself, holds images as MNIST's files do; or none."""
    if root.is_file():
        return [root]
    try:
        if found := copies(root, root / "MNIST" / "raw", root / "raw"):
            return found
        archives = sorted(root.glob("*.npz")) if root.is_dir() else []
    except OSError as error:
        raise Failure(f"{error.filename} cannot be read: {reason(error)}.") from error
    return archives if len(archives) == 1 else []


def from_files(paths: list[Path], root: Path, name: str) -> Dataset:
    """A data set of IDX files, an .npz in Keras's form, or CSV tables; numbers name its classes.

    Raises:
        UsageError: a part is missing.
        Failure: a file is damaged, or holds something else than images of 28x28 and their labels.
    """
    found: dict[str, np.ndarray] = {}
    for path in paths:
        if path.suffix != ".npz" and plain_name(path) not in HOLDS:
            raise UsageError(f"{path} is no .npz: name one, or the folder of the data set.")
        try:
            held = read(path)
        except Failure as failure:
            raise Failure(f"{failure}.") from failure
        for key, raw in held.items():
            found.setdefault(key, parse_idx(raw, f"{path} ({key})" if len(held) > 1 else str(path)))
    if lacking := [key for key in IDX_FILES if key not in found]:
        raise UsageError(f"The data folder {root} lacks {', '.join(lacking)}.")
    parts = [found[key] for key in IDX_FILES]
    for images, labels in (parts[:2], parts[2:]):
        if images.ndim != 3 or images.shape[1:] != (SIZE, SIZE) or not len(images):
            raise Failure(
                f"The images in {root} are {images.shape}, not (N, {SIZE}, {SIZE}): save them as "
                "pictures, in a folder for each class, to have them brought there."
            )
        if labels.shape != (len(images),):
            raise Failure(f"{root} holds {len(images)} images with {labels.shape} labels.")
    numbers = np.union1d(parts[1], parts[3])
    names = tuple(str(number) for number in numbers)
    check_classes(names, root, 2)
    train, test = (
        {str(number): int((labels == number).sum()) for number in numbers}
        for labels in (parts[1], parts[3])
    )
    check_sizes(train, test, root)
    parts[1], parts[3] = (np.searchsorted(numbers, labels) for labels in (parts[1], parts[3]))
    return described(Mnist(*parts), name, names, root, to_train=True)


# ---------------------------------------------------------------------------- folders of pictures


def from_pictures(root: Path, name: str, as_is: bool, to_train: bool) -> Dataset:
    """A data set from a folder with a subfolder of pictures for each class.

    Raises:
        UsageError: it is laid out otherwise, or a class has too few
            pictures.
        Failure: a file is no picture.
    """
    parts = {part: classes_in(folder) for part, folder in parts_of(root, to_train).items()}
    every = set().union(*parts.values())
    numbered = all(map(str.isdecimal, every))
    names = tuple(sorted(every, key=lambda name: (int(name) if numbered else 0, name)))
    check_classes(names, root, 2 if to_train else 1)
    if to_train:
        sizes = {part: {key: len(its) for key, its in parts[part].items()} for part in parts}
        if "test" not in sizes:
            sizes["test"] = {key: n // 5 for key, n in sizes["train"].items()}
            sizes["train"] = {key: n - sizes["test"][key] for key, n in sizes["train"].items()}
        check_sizes(sizes["train"], sizes["test"], root)
    nothing = np.zeros((0, SIZE, SIZE), np.uint8), np.zeros(0, np.int64), {}
    train, test = (
        load_pictures(parts[part], names, as_is) if part in parts else nothing
        for part in ("train", "test")
    )
    images = np.concatenate([train[0], test[0]])
    labels = np.concatenate([train[1], test[1]])
    tested = np.arange(len(labels)) >= len(train[1])
    warn_of_equal(train[2] | test[2], labels, tested if "test" in parts else None)
    if "test" in parts:
        arrays = split(images, labels, tested)
    elif to_train:
        arrays = hold_out(images, labels, names, root)
    else:
        arrays = split(images, labels, np.ones(len(labels), bool))
    return described(Mnist(**arrays), name, names, root, to_train)
