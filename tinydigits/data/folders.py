"""A data set as a folder with a subfolder of pictures for each class, in parts or not."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from tinydigits.data.formats import FORMS
from tinydigits.errors import Failure, UsageError
from tinydigits.images.preprocess import gray_of, prepare
from tinydigits.network.architecture import SIZE
from tinydigits.terminal import progress, say

PARTS = ("train", "test")
"""The folders of a data set whose maker has chosen what is held out."""

JUNK = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems leave in folders, beside names that begin with a dot."""

Pictures = dict[str, list[Path]]
"""The files of each class, by its name."""


def parts_of(root: Path, to_train: bool) -> dict[str, Path]:
    """The folders with the classes: those of `PARTS`, or the root alone, as train.

    Raises:
        UsageError: there is something else, or nothing.
    """
    if not root.is_dir():
        raise UsageError(
            f"The data folder {root} is not a folder: name one that holds MNIST, or a subfolder of "
            "pictures for each class."
        )
    entries = visible(root)
    if not entries:
        raise UsageError(
            f"The data folder {root} is empty: put there a subfolder of pictures for each class, "
            f"or {FORMS}."
        )
    parts = {
        entry.name.lower(): entry
        for entry in entries
        if entry.name.lower() in PARTS and entry.is_dir() and any(map(Path.is_dir, visible(entry)))
    }
    if not parts:
        return {"train": root}
    if others := [entry for entry in entries if entry not in parts.values()]:
        raise UsageError(
            f"{root} holds {others[0].name} beside {' and '.join(parts)}: move it away, for train "
            "holds what is trained on, and test what is measured on."
        )
    if to_train and len(parts) == 1:
        raise UsageError(
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
        UsageError: there is something else.
    """
    classes: Pictures = {}
    for entry in visible(folder):
        if not entry.is_dir():
            raise UsageError(
                f"{folder} holds {entry.name} beside the folders of its classes: each picture must "
                "be in the folder of its class."
            )
        name = unicodedata.normalize("NFC", entry.name)  # as Linux and Windows write it
        if name in classes:
            raise UsageError(f"{folder} holds two folders called {name}: merge or rename them.")
        classes[name] = visible(entry)
        if not classes[name]:
            raise UsageError(
                f"The class folder {entry} is empty: put its pictures there, or remove it."
            )
        for path in classes[name]:
            if path.is_dir():
                raise UsageError(
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
        if not path.is_file():
            raise Failure(f"{path} is no file: the folder of a class holds pictures only.")
        gray = gray_of(path)
        if as_is and gray.shape != (SIZE, SIZE):
            height, width = gray.shape
            raise Failure(
                f"{path} is of {width}x{height} pixels, not {SIZE}x{SIZE}: leave out --as-is to "
                "have the pictures brought there."
            )
        images[i] = gray if as_is else prepare(gray)
        if not images[i].any():
            blank.append(path)
    if blank:
        say(f"No ink is seen in {len(blank)} of {len(paths)} pictures, such as {blank[0]}.")
    return images, np.array(labels, np.int64)
