"""Augmentation: digits distorted as handwriting is anyway, on any background."""

import math

import torch
import torch.nn.functional as F

from tinydigits.network.architecture import MEAN, SIZE, STD
from tinydigits.training.config import Config


def augment(
    images: torch.Tensor,
    config: Config,
    mean: float = MEAN,
    std: float = STD,
    undistorted: bool = False,
) -> torch.Tensor:
    """What training does to a batch before the network sees it, as far as `config` asks for it.

    Args:
        images: normalized, float32 (B, 1, 28, 28).
        config: as for `distort` and `shade`.
        mean: with which they were normalized; with `std` it says what paper is.
        std: the same.
        undistorted: leave the shapes alone. Background and ink still vary, as on devices.

    Returns:
        float32 (B, 1, 28, 28); `images` itself where nothing is asked for.
    """
    if (config.rotation or config.scale or config.shear or config.shift) and not undistorted:
        images = distort(images, config, mean, std)
    if config.background or config.ink_fade:
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
        images: normalized, float32 (B, 1, 28, 28).
        config: rotation (degrees), scale and shear (shares), shift (pixels).
        mean: with which they were normalized; with `std` it says what paper is.
        std: the same.

    Returns:
        float32 (B, 1, 28, 28), new memory.
    """
    reach = (math.radians(config.rotation), config.scale, config.scale, config.shear)
    # The sampling grid runs from -1 to 1.
    reach += (2 * config.shift / SIZE, 2 * config.shift / SIZE)
    amounts = torch.rand(6, len(images), device=images.device).mul_(2).sub_(1)
    angle, stretch_x, stretch_y, shear, x, y = (
        amounts * torch.tensor(reach, device=images.device)[:, None]
    )
    cos, sin = angle.cos(), angle.sin()
    rows = (
        cos * (1 + stretch_x),
        shear - sin * (1 + stretch_y),
        x,
        sin * (1 + stretch_x),
        cos * (1 + stretch_y),
        y,
    )
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), False)
    paper = -mean / std
    return F.grid_sample(images - paper, grid, align_corners=False).add_(paper)


def shade(
    images: torch.Tensor, config: Config, mean: float = MEAN, std: float = STD
) -> torch.Tensor:
    """Lay half of the images, drawn by lot, on gray paper, and take some of their ink away.

    Where MNIST has paper of 0 and ink of up to 1, theirs are p and up to p + (1 - p) * i: p is
    uniform between 0 and the background in `config`, i between 1 and 1 less its ink_fade.

    Args:
        images: normalized, float32 (B, 1, 28, 28).
        config: background and ink_fade (shares).
        mean: with which they were normalized.
        std: the same.

    Returns:
        float32 (B, 1, 28, 28), new memory.
    """
    lot, background, fade = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    chosen = lot < 0.5
    background = chosen * background * config.background
    ink = 1 - chosen * fade * config.ink_fade
    contrast = (1 - background) * ink
    # A pixel of x, in 0..1, becomes background + contrast * x; what is here is (x - mean) / std.
    return torch.addcmul((background + (contrast - 1) * mean) / std, images, contrast)
