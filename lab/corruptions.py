"""What happens to digits on their way to a device: gray background, pale ink, noise and so on.

In the manner of MNIST-C (Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer
Vision"). Every corruption takes uint8 images (N, 28, 28), bright ink on dark paper, and how
strong it is, and returns new images of that form.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def gray_background(images: np.ndarray, share: float) -> np.ndarray:
    """Paper of that share of white, 0 to 1: a pixel x becomes 255 * share + (1 - share) * x."""
    return to_uint8(255 * share + (1 - share) * images.astype(np.float64))


def pale_ink(images: np.ndarray, share: float) -> np.ndarray:
    """That share of the ink taken away, 0 to 1: a pixel x becomes (1 - share) * x."""
    return to_uint8((1 - share) * images.astype(np.float64))


def noise(images: np.ndarray, share: float) -> np.ndarray:
    """Normal noise with a standard deviation of that share of white, always the same."""
    random = np.random.default_rng(0)
    return to_uint8(images + random.normal(0, 255 * share, images.shape))


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur with a standard deviation of so many pixels."""
    return to_uint8(ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma)))


def shift(images: np.ndarray, pixels: float) -> np.ndarray:
    """Each moved by so many pixels, in directions that go round from image to image."""
    directions = 2 * np.pi * np.arange(len(images)) / 16
    moved = pixels * np.stack([np.sin(directions), np.cos(directions)], axis=1)
    return warp(images, np.broadcast_to(np.eye(2), (len(images), 2, 2)), moved)


def rotation(images: np.ndarray, degrees: float) -> np.ndarray:
    """Turned by so many degrees about the center, in turn to the right and to the left."""
    angles = np.radians(degrees) * (-1.0) ** np.arange(len(images))
    cos, sin = np.cos(angles), np.sin(angles)
    return warp(images, np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2))


def scale(images: np.ndarray, factor: float) -> np.ndarray:
    """Made so many times as large, about the center."""
    return warp(images, np.broadcast_to(np.eye(2) / factor, (len(images), 2, 2)))


def thinner(images: np.ndarray, pixels: float) -> np.ndarray:
    """Strokes that lose so many pixels of their width; see `thicker`."""
    return 255 - thicker(255 - images, pixels)


def thicker(images: np.ndarray, pixels: float) -> np.ndarray:
    """Strokes that gain so many pixels of their width: the brightest of a disc's pixels.

    Each pixel is cut into 4x4, so that half pixels count.
    """
    fine = 4
    radius = round(fine * pixels / 2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x**2 + y**2 <= (radius + 0.5) ** 2)[None]
    grown = np.empty_like(images)
    for i in range(0, len(images), 500):  # not all at once: they take 16 times the memory
        large = images[i : i + 500].repeat(fine, axis=1).repeat(fine, axis=2)
        large = ndimage.grey_dilation(large, footprint=disc, mode="nearest")
        parts = large.reshape(-1, images.shape[1], fine, images.shape[2], fine)
        grown[i : i + 500] = to_uint8(parts.mean(axis=(2, 4)))
    return grown


def warp(images: np.ndarray, matrices: np.ndarray, moved: np.ndarray | None = None) -> np.ndarray:
    """Each image (28, 28) resampled bilinearly; what comes in from beyond the edge is paper.

    Args:
        images: uint8 (N, 28, 28).
        matrices: (N, 2, 2), from a place (row, column) in the result, counted from the center, to
            that in the image.
        moved: (N, 2), the pixels by which the result is then moved.
    """
    middle = (np.array(images.shape[1:]) - 1) / 2
    offsets = middle - matrices @ middle
    if moved is not None:
        offsets = offsets - np.einsum("nij,nj->ni", matrices, moved)
    warped = [
        ndimage.affine_transform(image.astype(np.float64), matrix, offset, order=1)
        for image, matrix, offset in zip(images, matrices, offsets, strict=True)
    ]
    return to_uint8(np.array(warped))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """The nearest of 0 to 255, uint8; halves go to the even one."""
    return np.rint(values).clip(0, 255).astype(np.uint8)
