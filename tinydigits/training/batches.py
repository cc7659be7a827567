"""Labeled digits on one device, and shuffled batches of them."""

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tinydigits.network.architecture import MEAN, STD
from tinydigits.network.model import normalize


class Digits:
    """Labeled digits that live on one device and are indexed a whole batch at a time."""

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
        """Normalized images (B, 1, 28, 28) and labels (B,)."""
        return normalize(self.images[indices], self.mean, self.std), self.labels[indices]


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
