"""The network: convolution blocks, global average pooling, and a 1x1 convolution to the classes.

The shapes of `classic`, for a batch of B digits:

    stage                    output shape       parameters
    input                    (B,  1, 28, 28)
    conv3:16                 (B, 16, 26, 26)           176   144 weights + 2 x 16 of BatchNorm
    conv3:32                 (B, 32, 24, 24)         4,672
    pool                     (B, 32, 12, 12)
    conv1:16                 (B, 16, 12, 12)           544   the bottleneck
    conv3:32                 (B, 32, 10, 10)         4,672
    conv3:32                 (B, 32,  8,  8)         9,280
    global average pooling   (B, 32,  1,  1)
    classes                  (B, 10)                   320   = 19,664 in all
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tinydigits.errors import Failure, UsageError
from tinydigits.files import write_atomically
from tinydigits.network.architecture import DIGITS, MEAN, SIZE, STD, Stage, plan
from tinydigits.network.checkpoint import Description, file_bytes, find_model, read_model_file


def normalize(images: torch.Tensor, mean: float = MEAN, std: float = STD) -> torch.Tensor:
    """Raw pixels, uint8 (B, 28, 28), to float32 (B, 1, 28, 28) of mean 0 and sd 1 over MNIST."""
    return images.unsqueeze(1).float().div_(255).sub_(mean).div_(std)


@torch.fx.wrap
def as_input(images: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """What the first convolution reads: raw pixels are normalized, floats are as they should be."""
    if images.dtype == torch.uint8:
        return normalize(images if images.dim() == 3 else images.squeeze(1), mean, std)
    return images


class Network(nn.Module):
    """A convolutional classifier of 28x28 images, from the description of its layers."""

    def __init__(
        self,
        layers: tuple[str, ...],
        dropout: float = 0.0,
        class_names: tuple[str, ...] = DIGITS,
        mean: float = MEAN,
        std: float = STD,
    ):
        """Build the network with freshly drawn weights (PyTorch's defaults).

        Args:
            layers: the convolution blocks and pools in order, as in `Config.layers`.
            dropout: the share of activations that each block drops in training.
            class_names: what it tells apart.
            mean: of the pixels, scaled to 0..1, that it is trained on; with `std` it normalizes
                raw pixels.
            std: their standard deviation.

        Raises:
            UsageError: `layers` does not describe a network.
        """
        super().__init__()
        self.layers, self.class_names = layers, class_names
        self.mean, self.std = mean, std
        self.plan = plan(layers, len(class_names))
        *stages, _, classes = self.plan
        self.features = nn.ModuleList(
            nn.MaxPool2d(stage.kernel_size) if stage.kind == "pool" else conv_block(stage, dropout)
            for stage in stages
        )
        self.gap = nn.AdaptiveAvgPool2d((1, 1))
        self.classes = nn.Conv2d(
            classes.channels_in, classes.channels_out, kernel_size=1, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to log-probabilities (B, classes).

        Raw pixels, uint8 (B, 28, 28) or (B, 1, 28, 28), are normalized here. Floats
        (B, 1, 28, 28) must be normalized already, as `normalize` does it.
        """
        self.refuse_symbolic(x)
        x = as_input(x, self.mean, self.std)  # (B, 1, 28, 28)
        for activations in self.activations(x):
            x = activations  # those of the last stage in the end, (B, C, h, w)
        x = self.gap(x)  # (B, C, 1, 1)
        x = self.classes(x).flatten(1)  # (B, classes)
        return F.log_softmax(x, dim=-1)

    def activations(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Follow the plan: what each stage of `layers` makes of what the one before it gave.

        Args:
            x: normalized images, (B, 1, 28, 28).

        Yields:
            (B, channels, height, width), as in `Stage.shape`.
        """
        for stage, block in zip(self.plan[:-2], self.features, strict=True):
            if stage.shares_weights_with is not None:
                owner = self.features[stage.shares_weights_with]
                x = owner.convolution(x)  # pyright: ignore[reportCallIssue]
            x = block(x)
            yield x

    def refuse_symbolic(self, x: Any) -> None:
        """Keep torch.fx from shared weights: its tools fold every BatchNorm into a convolution.

        Several would be folded into a convolution that is used again, and the network would give
        wrong answers without a word.

        Raises:
            UsageError: `x` stands for a value while torch.fx follows the network.
        """
        if isinstance(x, torch.fx.Proxy) and "again" in self.layers:
            raise UsageError(
                "torch.fx, and PyTorch's quantizer with it, folds BatchNorm wrongly where a "
                "convolution is used again: use torch.export, or tinydigits.quantize for integers."
            )

    @torch.no_grad()
    def log_probs(self, images: np.ndarray, batch_size: int = 1000) -> np.ndarray:
        """Read raw images, uint8 (N, 28, 28), in eval mode: float32 (N, classes).

        The mode that the network was in is restored. `batch_size`, images at a time, changes
        memory and speed, and the result by rounding only.

        Raises:
            UsageError: the images are none of that kind.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE):
            raise UsageError(
                f"The network reads uint8 (N, {SIZE}, {SIZE}), not {images.dtype} {images.shape}."
            )
        device = self.classes.weight.device
        # PyTorch takes no array that is flipped or read-only.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        was_training = self.training
        self.eval()
        try:
            parts = [self(part.to(device)).float().cpu() for part in pixels.split(batch_size)]
        finally:
            self.train(was_training)
        return torch.cat(parts).numpy()


class Block(nn.Sequential):
    """Convolution without bias or padding, BatchNorm, ReLU and dropout, in that order.

    Activations (B, channels_in, h, w) become (B, channels_out, h', w'), as its stage says.

    A weight-tied block keeps no convolution: the network calls it with what the one of an earlier
    block gave. Its BatchNorm is its own, since the activations of a second use have other
    statistics. Model files name the tensors by the places of their layers in the block.
    """

    @property
    def convolution(self) -> nn.Module:
        """The convolution; a weight-tied block has none."""
        return self[0]

    @property
    def kernels(self) -> list[torch.Tensor]:
        """The convolution's weights; of a separable one, the depthwise and the 1x1 kernels."""
        return [part.weight for part in self.convolution.modules() if isinstance(part, nn.Conv2d)]

    @property
    def activation(self) -> nn.Sequential:
        """What follows the convolution: BatchNorm, ReLU and dropout."""
        return self if isinstance(self[0], nn.BatchNorm2d) else self[1:]  # pyright: ignore

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The BatchNorm."""
        return self.activation[0]  # pyright: ignore[reportReturnType]


def conv_block(stage: Stage, dropout: float) -> Block:
    """The block of a stage, with freshly drawn weights unless it shares those of another stage.

    After a separable or shared convolution, BatchNorm learns to shift but not to scale the
    channels. That saves small networks a parameter per channel, and mostly the convolution that
    follows can scale them as well, for ReLU lets a positive factor through.
    """
    tied = stage.shares_weights_with is not None
    norm = nn.BatchNorm2d(stage.channels_out)
    norm.weight.requires_grad_(not tied and stage.kind != "separable")
    # A dropout of 0 would draw its masks all the same, for nothing.
    activation = [norm, nn.ReLU(), *([nn.Dropout(dropout)] if dropout > 0 else [])]
    return Block(*activation) if tied else Block(draw_convolution(stage), *activation)


def draw_convolution(stage: Stage) -> nn.Module:
    """The convolution of a stage of kind conv, depthwise or separable."""
    enter, leave = stage.channels_in, stage.channels_out
    if stage.kind == "conv":
        return nn.Conv2d(enter, leave, stage.kernel_size, bias=False)
    depthwise = nn.Conv2d(enter, enter, stage.kernel_size, groups=enter, bias=False)
    if stage.kind == "depthwise":
        return depthwise
    return nn.Sequential(depthwise, nn.Conv2d(enter, leave, kernel_size=1, bias=False))


def count_parameters(module: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------ model files


def model_bytes(model: Network, name: str = "") -> bytes:
    """A model file's content: the weights as float32, and in the header what they belong to.

    `name` is what the training was called. Equal weights give equal bytes.
    """
    weights = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().numpy()
        for key, tensor in model.state_dict().items()
    }
    description = Description(model.layers, model.class_names, model.mean, model.std, name)
    return file_bytes(description, weights)


def save_model(path: Path, model: Network, name: str = "") -> None:
    """Write `model_bytes` to a file.

    Raises:
        Failure: the file cannot be written; what was there before stays.
    """
    write_atomically(path, model_bytes(model, name))


def load_model(name_or_path: str | Path) -> Network:
    """Load a trained network, in eval mode, on the CPU.

        model = load_model("classic")
        log_probs = model(torch.from_numpy(images))  # images uint8 (B, 28, 28), ink bright

    A network normalizes raw pixels itself. Floats must be normalized by `normalize`; floats from
    0 to 1 give wrong answers.

    Args:
        name_or_path: a preset whose weights come with the package (those of its certified seed
            0), a run folder, or a .safetensors file that tinydigits wrote.

    Returns:
        A module from images to log-probabilities (B, classes).

    Raises:
        UsageError: there is no such file or folder.
        Failure: the file is not a model of this kind.
    """
    path = find_model(name_or_path)
    description, weights = read_model_file(path)
    model = Network(
        description.layers,
        class_names=description.class_names,
        mean=description.mean,
        std=description.std,
    )
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    except (RuntimeError, TypeError) as error:
        raise Failure(
            f"The weights in {path} do not fit the network that its header names "
            f"({' '.join(description.layers)}): the file is damaged."
        ) from error
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise Failure(f"The weights in {path} are not all finite: the file is damaged.")
    return model.eval()
