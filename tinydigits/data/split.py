"""What of a data set is trained on and what is held out, and whether there is enough of both."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tinydigits.data.folders import some
from tinydigits.data.mnist import Mnist
from tinydigits.errors import Failure, UsageError
from tinydigits.terminal import say

LEAST = 10
"""Pictures of a class that are enough; a fifth of them is held out."""

IMBALANCE_RATIO = 10
"""How many times as many images as another a class may have without a warning."""


def hold_out_mask(images: np.ndarray, labels: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Which images to hold out, bool (N,): a share of each class, rounded down.

    Those whose pixels have the smallest SHA-256: a choice that no seed, no order and no file name
    changes, and that hardly changes when images are added. Equal images stay together: a class
    goes without those that would be more than its share, and what is in two classes is held out of
    both or of none.
    """
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    rank = {key: n for n, key in enumerate(sorted(set(hashes)))}
    keys = np.array([rank[key] for key in hashes])
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = labels == label
        left = int(own.sum() * share)
        for key, count in zip(*np.unique(keys[own], return_counts=True), strict=True):
            if left == 0:
                break
            if count <= left:
                out[own & (keys == key)] = True
                left -= int(count)
    return out & ~np.isin(keys, keys[~out])


def hold_out(
    images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], root: Path
) -> dict[str, np.ndarray]:
    """The four arrays of a `Dataset`, where a part of each class is held out.

    Raises:
        UsageError: nothing can be held out of a class, because too many of its images are equal.
        Failure: there is nothing to see in any.
    """
    if not images.any():
        raise Failure(f"All pictures in {root} are blank: there is nothing to learn.")
    out = hold_out_mask(images, labels)
    for label in np.unique(labels):
        if not out[labels == label].any():
            raise UsageError(
                f"Too many pictures of the class {names[label]} in {root} are equal for some of "
                "them to be held out: add others."
            )
    return split(images, labels, out)


def split(images: np.ndarray, labels: np.ndarray, out: np.ndarray) -> dict[str, np.ndarray]:
    """The four arrays of a `Dataset`, where the images of the mask `out` are measured on."""
    return Mnist(images[~out], labels[~out], images[out], labels[out])._asdict()


def warn_of_equal(hashes: dict[Path, bytes], labels: np.ndarray, tested: np.ndarray | None) -> None:
    """Name the pictures that are equal to others, up to ten of each kind.

    Args:
        hashes: of N pictures, by their files; equal ones have equal hashes.
        labels: int64 (N,).
        tested: bool (N,): which are measured on, where their owner has chosen that.
    """
    first: dict[bytes, int] = {}
    paths = [*hashes]
    found: dict[str, list[str]] = {"classes": [], "parts": [], "one class": []}
    for i, key in enumerate(hashes.values()):
        k = first.setdefault(key, i)
        if k == i:
            continue
        parted = tested is not None and tested[k] != tested[i]
        kind = "classes" if labels[k] != labels[i] else "parts" if parted else "one class"
        found[kind].append(f"{paths[i]} is {paths[k]}")
    for kind, what in (
        ("classes", "A picture is in two classes, and one of them is wrong"),
        ("parts", "A picture is trained on and tested, which makes the accuracy too high"),
        ("one class", "A picture is there twice, and counts twice"),
    ):
        if found[kind]:
            say(f"{what} ({len(found[kind])} in all): {some(found[kind])}.")


def check_sizes(train: dict[str, int], test: dict[str, int], root: Path) -> None:
    """Refuse a class with too few images, by name.

    Args:
        train: how many images of each class there are to train on.
        test: how many there are to measure on.
        root: where they are.

    Raises:
        UsageError: a class has too few.
    """
    for name in train | test:
        to_train, to_test = train.get(name, 0), test.get(name, 0)
        for n, least, what in (
            (to_train + to_test, LEAST, "in all"),
            (to_train, LEAST - LEAST // 5, "to train on"),
            (to_test, 1, "to test on"),
        ):
            if n < least:
                raise UsageError(
                    f"The class {name} in {root} has {n} picture{'s' * (n != 1)} {what}: at least "
                    f"{least} {'is' if least == 1 else 'are'} needed."
                )


def warn_of_class_imbalance(labels: np.ndarray, names: tuple[str, ...], root: Path) -> None:
    """Say so where one class has many more images to train on than another."""
    counts = np.bincount(labels)
    (least, n), (most, many) = (
        (names[pick(counts)], counts[pick(counts)]) for pick in (np.argmin, np.argmax)
    )
    if many > IMBALANCE_RATIO * n:
        say(
            f"The classes in {root} are of very different sizes: {many} pictures of {most} to "
            f"train on, and {n} of {least}, which will often be taken for something else."
        )
