"""Batches of digits: shuffled, normalised, distorted as handwriting is anyway, on any paper."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tinydigits.config import Config
from tinydigits.layers import MEAN, SIZE, STD
from tinydigits.model import normalise


class Digits:
    """Labelled digits that live on one device and are indexed a whole batch at a time."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        device: torch.device | str,
        mean: float = MEAN,
        std: float = STD,
    ):
        """Put uint8 images (N, 28, 28) and int64 labels (N,) on `device`.

        `mean` and `std` are of their pixels, scaled to 0..1.
        """
        self.mean, self.std = mean, std
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images (B, 1, 28, 28) and labels (B,)."""
        return normalise(self.images[indices], self.mean, self.std), self.labels[indices]


def shuffled_batches(digits: Digits, batch_size: int, seed: int, epoch: int) -> DataLoader:
    """One epoch of batches, in an order that depends on `seed` and `epoch` alone.

    The bytes are already where they are needed and a batch is one indexing, so there is nothing
    for worker processes or pinned memory to do. The last batch holds what is left over, but for a
    single digit: BatchNorm needs two.
    """
    # Mixed by numpy, because torch's generators start alike from seeds that are close together.
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]) >> 1)
    order = RandomSampler(digits, generator=generator)  # pyright: ignore[reportArgumentType]
    return DataLoader(
        digits,  # pyright: ignore[reportArgumentType]
        sampler=BatchSampler(order, batch_size, drop_last=len(digits) % batch_size == 1),
        batch_size=None,
        generator=generator,
    )


def augment(
    images: torch.Tensor,
    config: Config,
    mean: float = MEAN,
    std: float = STD,
    plain: bool = False,
) -> torch.Tensor:
    """What training does to a batch before the network sees it, as far as `config` asks for it.

    Args:
        images: normalised, float32 (B, 1, 28, 28).
        config: as for `distort` and `shade`.
        mean: with which they were normalised; with `std` it says what paper is.
        std: the same.
        plain: leave the shapes alone. Paper and ink still vary, for they do so on devices too.

    Returns:
        float32 (B, 1, 28, 28); `images` itself where nothing is asked for.
    """
    if (config.rotation or config.scale or config.shear or config.shift) and not plain:
        images = distort(images, config, mean, std)
    if config.paper or config.fading:
        images = shade(images, config, mean, std)
    return images


def distort(
    images: torch.Tensor, config: Config, mean: float = MEAN, std: float = STD
) -> torch.Tensor:
    """Rotate, stretch, shear and shift each image by amounts of its own.

    Each amount is uniform between plus and minus the value in `config`. One bilinear resampling
    does it all (Jaderberg et al. 2015, "Spatial Transformer Networks"); what comes in from beyond
    the edge is paper.

    Args:
        images: normalised, float32 (B, 1, 28, 28).
        config: rotation (degrees), scale and shear (shares), shift (pixels).
        mean: with which they were normalised; with `std` it says what paper is.
        std: the same.

    Returns:
        float32 (B, 1, 28, 28), new memory.
    """
    reach = (math.radians(config.rotation), config.scale, config.scale, config.shear)
    # The sampling grid runs from -1 to 1.
    reach += (2 * config.shift / SIZE, 2 * config.shift / SIZE)
    amounts = torch.rand(6, len(images), device=images.device).mul_(2).sub_(1)
    angle, wide, high, shear, x, y = amounts * torch.tensor(reach, device=images.device)[:, None]
    cos, sin = angle.cos(), angle.sin()
    rows = (cos * (1 + wide), shear - sin * (1 + high), x, sin * (1 + wide), cos * (1 + high), y)
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), False)
    paper = -mean / std
    return F.grid_sample(images - paper, grid, align_corners=False).add_(paper)


def shade(
    images: torch.Tensor, config: Config, mean: float = MEAN, std: float = STD
) -> torch.Tensor:
    """Lay half of the images, drawn by lot, on grey paper, and take some of their ink away.

    Where MNIST has paper of 0 and ink of up to 1, theirs are p and up to p + (1 - p) * i: p is
    uniform between 0 and the paper in `config`, i between 1 and 1 less its fading.

    Args:
        images: normalised, float32 (B, 1, 28, 28).
        config: paper and fading (shares).
        mean: with which they were normalised.
        std: the same.

    Returns:
        float32 (B, 1, 28, 28), new memory.
    """
    lot, paper, fading = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    chosen = lot < 0.5
    paper, ink = chosen * paper * config.paper, 1 - chosen * fading * config.fading
    contrast = (1 - paper) * ink
    # A pixel of x, in 0..1, becomes paper + contrast * x; what is here is (x - mean) / std.
    return torch.addcmul((paper + (contrast - 1) * mean) / std, images, contrast)
