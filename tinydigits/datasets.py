"""What a network is trained and measured on: MNIST, or a data set of the user's own.

A data set is a folder with a subfolder of pictures for each class, or files in one of the forms
that MNIST has (`tinydigits.data`), which then need a name: a damaged MNIST must not pass for
something else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinydigits import data
from tinydigits.config import Config, is_title, read_config
from tinydigits.data import MEAN, SHA256, STD, Mnist, held_out, load_mnist, parse_idx
from tinydigits.files import Failure, Misuse, expand, progress, read_json, reason, say
from tinydigits.layers import DIGITS, MOST_CLASSES, SIZE
from tinydigits.modelfile import Description
from tinydigits.preparation import LONGEST, prepare

LEAST = 10
"""Pictures of a class that are enough; a fifth of them is held out."""

LOPSIDED = 10
"""How many times as many images a class may have as another without a word."""

PARTS = ("train", "test")
"""The folders of a data set whose maker has chosen what is held out."""

JUNK = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems leave in folders, beside names that begin with a dot."""

Pictures = dict[str, list[Path]]
"""The files of each class, by its name."""


class Dataset(NamedTuple):
    """Labelled images in two parts, and what they are called."""

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
    fingerprint: str | None
    """The SHA-256 of images, labels and names; None for MNIST, which is always the same."""

    @property
    def is_mnist(self) -> bool:
        """Whether it is MNIST, which the goals of this project are about."""
        return self.fingerprint is None

    @property
    def things(self) -> str:
        """What its images show, in the plural."""
        return "digits" if self.is_mnist else "pictures"

    def describe(self, part: str) -> str:
        """What to call a part of it in a sentence: "test digits", "test pictures of symbols"."""
        return f"{part} {self.things}" + ("" if self.is_mnist else f" of {self.name}")


def is_own(config: Config) -> bool:
    """Whether a configuration names a data set of the user's own, rather than MNIST."""
    if config.dataset or config.data is None:
        return bool(config.dataset)
    root = expand(config.data)
    return root.is_dir() and not files_in(root)


def load_dataset(config: Config) -> Dataset:
    """The data set that the fields `data`, `dataset`, `as_is` and `validation` name.

    Raises:
        Misuse: there is no such folder, it is laid out otherwise, or a class has too few pictures.
        Failure: a file is damaged, is no picture or is not MNIST's, or MNIST cannot be fetched.
    """
    if is_own(config):
        return load_own(config)
    mnist = load_mnist(config.data)
    mnist = held_out(mnist) if config.validation else mnist
    return Dataset(*mnist, "MNIST", DIGITS, MEAN, STD, None)


def load_for(
    model: Path,
    description: Description,
    root: Path | None = None,
    name: str = "",
    as_is: bool = False,
) -> Dataset:
    """The data set to measure a trained network on: that of its run, or another.

    Args:
        model: the network's file; in a run folder config.json is beside it.
        description: which network it is.
        root: where another data set is. A folder of pictures without `test` is measured on as a
            whole.
        name: what to call it, as in `Config.dataset`.
        as_is: as in `Config.as_is`.

    Returns:
        The data set, its labels counted as the network counts its classes.

    Raises:
        Misuse: the network tells other classes apart, or nobody knows what it was trained on.
        Failure: the data of the run are not what they were; else as `load_dataset`.
    """
    config = dataclasses.replace(config_of(model, description), validation=False)
    if root is not None and not is_same(root, config.data):
        config = dataclasses.replace(
            config, data=root, dataset=name or config.dataset, as_is=as_is or config.as_is
        )
        loaded = load_own(config, to_train=False) if is_own(config) else load_dataset(config)
        return relabelled(loaded, description)
    if root is None and (name or as_is):
        raise Misuse("--dataset and --as-is are about the folder of a data set: name it by --data.")
    if config.data is not None and not config.data.exists():
        if not description.of_mnist:
            raise Misuse(
                f"{config.data}, which {model.parent} was trained on, is gone: bring it back, or "
                "name other data of its classes by --data."
            )
        config = dataclasses.replace(config, data=None)  # MNIST is the same wherever it is
    if not is_own(config) and not description.of_mnist:
        raise Misuse(
            f"{model} was not trained on MNIST: name the folder of its run, or one with pictures "
            "of its classes by --data."
        )
    loaded = load_dataset(config)
    if not loaded.is_mnist and model.with_name("summary.json").exists():
        summary = read_json(model.with_name("summary.json"))
        check_fingerprint(loaded, summary.get("data_sha256"), model.parent, config)
    return relabelled(loaded, description)


def config_of(model: Path, description: Description) -> Config:
    """The configuration of the run that a model file lies in; of a file alone, the layers.

    Raises:
        Failure: it is damaged, and needed to know what the network was trained on.
    """
    try:
        if model.with_name("config.json").exists():
            return read_config(model.parent)
    except Failure:
        if not description.of_mnist:
            raise
    return Config(description.layers)


def is_same(root: Path, other: Path | None) -> bool:
    """Whether two paths lead to the same place."""
    return other is not None and expand(root).resolve() == expand(other).resolve()


def relabelled(dataset: Dataset, description: Description) -> Dataset:
    """A data set with the network's order of classes.

    Raises:
        Misuse: it has a class that the network does not know.
    """
    names = description.class_names
    if dataset.is_mnist and len(names) == len(DIGITS):  # whatever it calls them
        return dataset._replace(class_names=names)
    if unknown := [name for name in dataset.class_names if name not in names]:
        raise Misuse(
            f"{dataset.name} has the class {unknown[0]}, and this network only knows "
            f"{listed(names)}."
        )
    place = np.array([names.index(name) for name in dataset.class_names], np.int64)
    return dataset._replace(
        train_labels=place[dataset.train_labels],
        test_labels=place[dataset.test_labels],
        class_names=names,
    )


def check_fingerprint(dataset: Dataset, before: str | None, folder: Path, config: Config) -> None:
    """See to it that the data are those that the run in `folder` was trained on.

    Raises:
        Failure: they are not.
    """
    if dataset.fingerprint != before:
        raise Failure(
            f"The data in {config.data or 'the cache'} are not those that {folder} was trained on: "
            "bring them back as they were, or train a new run."
        )


def listed(names: tuple[str, ...], most: int = 12) -> str:
    """Some names for the inside of a sentence."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


# ------------------------------------------------------------------------------ data of one's own


def load_own(config: Config, to_train: bool = True) -> Dataset:
    """`load_dataset` where the data are the user's own.

    Args:
        config: what names them.
        to_train: whether there must be something to train on. Else a folder without parts is all
            for measuring, and a class may be as small as it likes.
    """
    if config.data is None:
        raise Misuse("--dataset is the name of the data in a folder: name the folder by --data.")
    root = expand(config.data)
    name = config.dataset or root.resolve().name
    try:
        if files := files_in(root):
            dataset = from_files(files, root, name)
        else:
            dataset = from_pictures(root, name, config.as_is, to_train)
    except OSError as error:
        raise Failure(f"{error.filename or root} cannot be read: {reason(error)}.") from error
    if to_train:
        tell_lopsided(dataset, root)
    if to_train and config.validation:
        images, labels = dataset.train_images, dataset.train_labels
        dataset = dataset._replace(**halves(images, labels, fifth(images, labels)))
    return dataset


def described(
    parts: Mnist, name: str, class_names: tuple[str, ...], root: Path, to_train: bool
) -> Dataset:
    """A data set with its normalisation and its fingerprint.

    Raises:
        Misuse: its name or that of a class cannot be, or there are too few or too many classes.
        Failure: there is nothing to see in it.
    """
    if not is_title(name) or name.casefold() == "mnist":
        raise Misuse(
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
        if not is_title(name):
            raise Misuse(
                f"The class {name!r} in {root} cannot be called that: a name has 1 to 100 "
                "characters, none of them a control character."
            )
    if not least <= len(names) <= MOST_CLASSES:
        found = f"only the class {names[0]}" if len(names) == 1 else f"{len(names)} classes"
        raise Misuse(f"{root} holds {found}: a network tells {least} to {MOST_CLASSES} apart.")


def fifth(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images to hold out, bool (N,): a fifth of each class, rounded down.

    Those whose pixels have the smallest SHA-256: a choice that no seed, no order and no file name
    changes, and that hardly changes when images are added.
    """
    keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        its = sorted(np.flatnonzero(labels == label), key=keys.__getitem__)
        out[its[: len(its) // 5]] = True
    return out


def halves(images: np.ndarray, labels: np.ndarray, out: np.ndarray) -> dict[str, np.ndarray]:
    """The four arrays of a `Dataset`, where the images of the mask `out` are measured on."""
    return Mnist(images[~out], labels[~out], images[out], labels[out])._asdict()


def check_sizes(train: dict[str, int], test: dict[str, int], root: Path) -> None:
    """Refuse a class with too few images, by name.

    Args:
        train: how many images of each class there are to train on.
        test: how many there are to measure on.
        root: where they are.

    Raises:
        Misuse: a class has too few.
    """
    for name in train | test:
        to_train, to_test = train.get(name, 0), test.get(name, 0)
        for n, least, what in (
            (to_train + to_test, LEAST, "in all"),
            (to_train, LEAST - LEAST // 5, "to train on"),
            (to_test, 1, "to test on"),
        ):
            if n < least:
                raise Misuse(
                    f"The class {name} in {root} has {n} picture{'s' * (n != 1)} {what}: at least "
                    f"{least} {'is' if least == 1 else 'are'} needed."
                )


def tell_lopsided(dataset: Dataset, root: Path) -> None:
    """Say so where one class has many more images than another."""
    counts = np.bincount(dataset.train_labels)
    (least, n), (most, many) = (
        (dataset.class_names[pick(counts)], counts[pick(counts)]) for pick in (np.argmin, np.argmax)
    )
    if many > LOPSIDED * n:
        say(
            f"{root} is lopsided: {many} pictures of {most} to train on, and {n} of {least}, which "
            "will often be taken for something else."
        )


# -------------------------------------------------------------------------- in the forms of MNIST


def files_in(root: Path) -> list[Path]:
    """The files in which a folder, or a file itself, holds images as MNIST's files do; or none."""
    if root.is_file():
        return [root]
    try:
        if found := data.copies(root, root / "MNIST" / "raw", root / "raw"):
            return found
        archives = sorted(root.glob("*.npz")) if root.is_dir() else []
    except OSError as error:
        raise Failure(f"{error.filename} cannot be read: {reason(error)}.") from error
    return archives if len(archives) == 1 else []


def from_files(paths: list[Path], root: Path, name: str) -> Dataset:
    """A data set of IDX files, an .npz in Keras's form, or CSV tables; numbers name its classes.

    Raises:
        Misuse: a part is missing.
        Failure: a file is damaged, or holds something else than images of 28x28 and their labels.
    """
    found: dict[str, np.ndarray] = {}
    for path in paths:
        if path.suffix != ".npz" and data.plain_name(path) not in data.HOLDS:
            raise Misuse(f"{path} is no .npz: name one, or the folder of the data set.")
        try:
            held = data.read(path)
        except Failure as failure:
            raise Failure(f"{failure}.") from failure
        for key, raw in held.items():
            found.setdefault(key, parse_idx(raw, f"{path} ({key})" if len(held) > 1 else str(path)))
    if lacking := [key for key in SHA256 if key not in found]:
        raise Misuse(f"The data folder {root} lacks {', '.join(lacking)}.")
    parts = [found[key] for key in SHA256]
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
        Misuse: it is laid out otherwise, or a class has too few pictures.
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
    nothing = np.zeros((0, SIZE, SIZE), np.uint8), np.zeros(0, np.int64)
    loaded = {part: load_pictures(its, names, as_is) for part, its in parts.items()}
    if "test" in loaded:
        arrays = Mnist(*loaded.get("train", nothing), *loaded["test"])
    else:
        images, labels = loaded["train"]
        out = fifth(images, labels) if to_train else np.ones(len(labels), bool)
        arrays = Mnist(**halves(images, labels, out))
    return described(arrays, name, names, root, to_train)


def parts_of(root: Path, to_train: bool) -> dict[str, Path]:
    """The folders with the classes: those of `PARTS`, or the root alone, as train.

    Raises:
        Misuse: there is something else, or nothing.
    """
    if not root.is_dir():
        raise Misuse(
            f"The data folder {root} is not a folder: name one that holds MNIST, or a subfolder of "
            "pictures for each class."
        )
    entries = visible(root)
    if not entries:
        raise Misuse(
            f"The data folder {root} is empty: put there a subfolder of pictures for each class, "
            f"or {data.FORMS}."
        )
    parts = {
        entry.name.lower(): entry
        for entry in entries
        if entry.name.lower() in PARTS and entry.is_dir() and any(map(Path.is_dir, visible(entry)))
    }
    if not parts:
        return {"train": root}
    if others := [entry for entry in entries if entry not in parts.values()]:
        raise Misuse(
            f"{root} holds {others[0].name} beside {' and '.join(parts)}: move it away, for train "
            "holds what is trained on, and test what is measured on."
        )
    if to_train and len(parts) == 1:
        raise Misuse(
            f"{root} holds {' and '.join(parts)} alone: add the other one of train and test, or "
            "name the folder that holds the classes."
        )
    return parts


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in the order of its names, but for what systems leave there."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in JUNK
    )


def classes_in(folder: Path) -> Pictures:
    """The classes of a folder: a subfolder each, with nothing but files in it.

    Raises:
        Misuse: there is something else.
    """
    classes: Pictures = {}
    for entry in visible(folder):
        if not entry.is_dir():
            raise Misuse(
                f"{folder} holds {entry.name} beside the folders of its classes: each picture must "
                "be in the folder of its class."
            )
        name = unicodedata.normalize("NFC", entry.name)  # as Linux and Windows write it
        if name in classes:
            raise Misuse(f"{folder} holds two folders called {name}: merge or rename them.")
        classes[name] = visible(entry)
        if not classes[name]:
            raise Misuse(
                f"The class folder {entry} is empty: put its pictures there, or remove it."
            )
        for path in classes[name]:
            if path.is_dir():
                raise Misuse(
                    f"The class folder {entry} holds the folder {path.name}: the pictures of a "
                    "class are directly in its folder."
                )
    return classes


def load_pictures(
    classes: Pictures, names: tuple[str, ...], as_is: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as images, uint8 (N, 28, 28), and their labels, int64 (N,).

    Raises:
        Failure: a file is no picture or, where they are taken as they are, none of 28x28.
    """
    paths = [path for name in names for path in classes.get(name, ())]
    labels = [place for place, name in enumerate(names) for _ in classes.get(name, ())]
    images = np.zeros((len(paths), SIZE, SIZE), np.uint8)
    blank = []
    for i, path in enumerate(progress(paths, "reading pictures")):
        grey = grey_of(path)
        if as_is and grey.shape != (SIZE, SIZE):
            height, width = grey.shape
            raise Failure(
                f"{path} is of {width}x{height} pixels, not {SIZE}x{SIZE}: leave out --as-is to "
                "have the pictures brought there."
            )
        images[i] = grey if as_is else prepare(grey)
        if not images[i].any():
            blank.append(path)
    if blank:
        say(f"No ink is seen in {len(blank)} of {len(paths)} pictures, such as {blank[0]}.")
    return images, np.array(labels, np.int64)


def grey_of(path: Path) -> np.ndarray:
    """A picture's grey levels, uint8 (H, W), black 0 and white 255, as `tinydigits.read` opens it.

    Raises:
        Failure: it is no picture, it is damaged, or it is too large to be unpacked.
    """
    from tinydigits.pictures import open_picture, pixels_of

    if not path.is_file():
        raise Failure(f"{path} is no file: the folder of a class holds pictures only.")
    pixels = pixels_of(open_picture(path))
    step = -(-max(pixels.shape) // LONGEST)
    grey = pixels[::step, ::step].mean(axis=2)
    return grey.clip(0, 255).round().astype(np.uint8)
