"""Random affine distortions of whole batches: what handwriting does anyway, only more of it."""

import math

import torch
import torch.nn.functional as F

from tinydigits.config import Config
from tinydigits.data import MEAN, STD


def distort(images: torch.Tensor, config: Config) -> torch.Tensor:
    """Rotate, stretch, shear and shift each image by amounts of its own.

    Each amount is uniform between plus and minus the value in `config`. One bilinear resampling
    does it all (Jaderberg et al. 2015, "Spatial Transformer Networks"); what comes in from beyond
    the edge is paper.

    Args:
        images: normalised, float32 (B, 1, 28, 28).
        config: rotation (degrees), scale and shear (shares), shift (pixels).

    Returns:
        float32 (B, 1, 28, 28), new memory.
    """
    reach = (math.radians(config.rotation), config.scale, config.scale, config.shear)
    reach += (config.shift / 14, config.shift / 14)  # the sampling grid runs from -1 to 1
    amounts = torch.rand(6, len(images), device=images.device).mul_(2).sub_(1)
    angle, wide, high, shear, x, y = amounts * torch.tensor(reach, device=images.device)[:, None]
    cos, sin = angle.cos(), angle.sin()
    rows = (cos * (1 + wide), shear - sin * (1 + high), x, sin * (1 + wide), cos * (1 + high), y)
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), False)
    paper = -MEAN / STD
    return F.grid_sample(images - paper, grid, align_corners=False).add_(paper)
