"""A data set as a folder with a subfolder of pictures for each class, in parts or not."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.data.formats import FORMS, require_folder
from tinydigits.errors import Failure, UsageError
from tinydigits.network.architecture import SIZE
from tinydigits.terminal import progress, say

PARTS = ("train", "test")
"""The folders of a data set whose maker has chosen what is held out."""

LIKE_PARTS = ("training", "testing", "tests", "val", "valid", "validation")
"""What others call such folders."""

JUNK = ("thumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir")
"""What systems leave in folders, beside names that begin with a dot."""

NAMED = 10
"""How many files a sentence names at most."""

Pictures = dict[str, list[Path]]
"""The files of each class, by its name."""


def parts_of(root: Path, to_train: bool) -> dict[str, Path]:
    """The folders with the classes: those of `PARTS`, or the root alone, as train.

    Raises:
        UsageError: there is something else, or nothing.
    """
    require_folder(root)
    entries = visible(root)
    if not entries:
        raise UsageError(
            f"The data folder {root} is empty: put there a subfolder of pictures for each class, "
            f"or {FORMS}."
        )
    holding = [
        entry for entry in entries if entry.is_dir() and any(map(Path.is_dir, visible(entry)))
    ]
    parts = {entry.name.lower(): entry for entry in holding if entry.name.lower() in PARTS}
    like = [entry.name for entry in holding if entry.name.lower() in LIKE_PARTS]
    if like:
        raise UsageError(
            f"{root} holds the folder {like[0]}: call the one that is trained on train, and the "
            "one that is measured on test; there is no third one."
        )
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
) -> tuple[np.ndarray, np.ndarray, dict[Path, bytes]]:
    """Pictures as images, uint8 (N, 28, 28), and their labels, int64 (N,).

    Their files come with them, in the same order, and the SHA-256 of their pixels, which tells
    equal pictures.

    Raises:
        Failure: a file is no picture or, where they are taken as they are, none of 28x28. All such
            files are counted, and the first ten named.
    """
    from tinydigits.images.decode import frames_of, open_picture, pixels_of
    from tinydigits.images.symbol import see_symbol

    def image_of(path: Path, picture: Any) -> np.ndarray:
        if not as_is:
            return see_symbol(picture).image
        gray = pixels_of(picture).mean(axis=2)
        if gray.shape != (SIZE, SIZE):
            height, width = gray.shape
            raise Failure(
                f"{path} is of {width}x{height} pixels, not {SIZE}x{SIZE}: leave out --as-is to "
                "have the pictures brought there."
            )
        return gray.clip(0, 255).round().astype(np.uint8)

    paths = [path for name in names for path in classes.get(name, ())]
    labels = [place for place, name in enumerate(names) for _ in classes.get(name, ())]
    images = np.zeros((len(paths), SIZE, SIZE), np.uint8)
    hashes: dict[Path, bytes] = {}
    bad, moving = [], []
    for i, path in enumerate(progress(paths, "reading pictures")):
        try:
            if not path.is_file():
                raise Failure(f"{path} is no file: the folder of a class holds pictures only.")
            picture = open_picture(path)
            images[i] = image_of(path, picture)
        except Failure as failure:
            bad.append(failure)
            continue
        size = f"{picture.mode} {picture.size} ".encode()
        hashes[path] = hashlib.sha256(size + picture.tobytes()).digest()
        if frames_of(picture) > 1:
            moving.append(path)
    if len(bad) == 1:
        raise bad[0]
    if bad:
        told = "; ".join(str(failure).removesuffix(".") for failure in bad[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise Failure(f"{len(bad)} of {len(paths)} pictures cannot be taken: {told}{more}.")
    if moving:
        say(f"Of {some(moving)}, which hold several frames, the first is taken.")
    blank = [path for path, image in zip(paths, images, strict=True) if not image.any()]
    if blank:
        say(f"No ink is seen in {len(blank)} of {len(paths)} pictures: {some(blank)}.")
    return images, np.array(labels, np.int64), hashes


def some(names: Sequence[object]) -> str:
    """The first ten of some files, for the inside of a sentence."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more
