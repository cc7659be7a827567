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

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tinydigits.config import Config
from tinydigits.data import MEAN, STD
from tinydigits.files import Failure, Misuse, write_atomically
from tinydigits.layers import DIGITS, SIZE, plan
from tinydigits.modelfile import Description, find_model, read_model_file, to_bytes


def normalise(images: torch.Tensor, mean: float = MEAN, std: float = STD) -> torch.Tensor:
    """Raw pixels, uint8 (B, 28, 28), to float32 (B, 1, 28, 28) of mean 0 and sd 1 over MNIST."""
    return images.unsqueeze(1).float().div_(255).sub_(mean).div_(std)


@torch.fx.wrap
def as_input(images: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """What the first convolution reads: raw pixels are normalised, floats are as they should be."""
    if images.dtype == torch.uint8:
        return normalise(images if images.dim() == 3 else images.squeeze(1), mean, std)
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
            mean: of the pixels, scaled to 0..1, that it is trained on; with `std` it normalises
                raw pixels.
            std: their standard deviation.

        Raises:
            Misuse: `layers` does not describe a network.
        """
        super().__init__()
        self.layers, self.class_names = layers, class_names
        self.mean, self.std = mean, std
        *stages, _, classes = plan(layers, len(class_names))
        blocks: list[nn.Module] = []
        for stage in stages:
            if stage.kind == "pool":
                blocks.append(nn.MaxPool2d(stage.window, stage.window))
            elif stage.repeats is not None:
                convolution = blocks[stage.repeats][0]  # pyright: ignore[reportIndexIssue]
                blocks.append(again(convolution, stage.channels_out, dropout))
            else:
                blocks.append(
                    conv_block(
                        stage.kind, stage.channels_in, stage.channels_out, stage.window, dropout
                    )
                )
        self.features = nn.Sequential(*blocks)
        self.gap = nn.AdaptiveAvgPool2d((1, 1))
        self.classes = nn.Conv2d(
            classes.channels_in, classes.channels_out, kernel_size=1, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to log-probabilities (B, classes).

        Raw pixels, uint8 (B, 28, 28) or (B, 1, 28, 28), are normalised here. Floats
        (B, 1, 28, 28) must be normalised already, as `normalise` does it.
        """
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self.refuse_symbolic(x)
        x = as_input(x, self.mean, self.std)  # (B, 1, 28, 28)
        x = self.features(x)  # (B, C, h, w)
        x = self.gap(x)  # (B, C, 1, 1)
        x = self.classes(x).flatten(1)  # (B, classes)
        return F.log_softmax(x, dim=-1)

    def refuse_symbolic(self, x: Any) -> None:
        """Keep torch.fx from networks with repeats: its tools fold every BatchNorm into a weight.

        The weights of a repeated convolution would be folded into twice, and the network would
        give wrong answers without a word.

        Raises:
            Misuse: `x` stands for a value while torch.fx follows the network.
        """
        if isinstance(x, torch.fx.Proxy) and "again" in self.layers:
            raise Misuse(
                "torch.fx, and PyTorch's quantiser with it, folds BatchNorm wrongly where a "
                "convolution is used again: use torch.export, or tinydigits.quantize for integers."
            )

    @torch.no_grad()
    def log_probs(self, images: np.ndarray, batch_size: int = 1000) -> np.ndarray:
        """Read raw images, uint8 (N, 28, 28), in eval mode: float32 (N, classes).

        The mode that the network was in is restored. `batch_size`, images at a time, changes
        memory and speed, and the result by rounding only.

        Raises:
            Misuse: the images are none of that kind.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE):
            raise Misuse(
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


def conv_block(
    kind: str, channels_in: int, channels_out: int, window: int, dropout: float
) -> nn.Sequential:
    """Convolution without bias or padding, BatchNorm, ReLU and dropout, in that order.

    `kind` is conv, depthwise (which needs as many channels out as in) or separable, as in
    `tinydigits.layers.Stage`. Activations (B, channels_in, h, w) become
    (B, channels_out, h - window + 1, w - window + 1).
    """
    if kind == "conv":
        convolution = nn.Conv2d(channels_in, channels_out, window, bias=False)
    else:
        convolution = nn.Conv2d(channels_in, channels_in, window, groups=channels_in, bias=False)
    if kind == "separable":
        pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        convolution = nn.Sequential(convolution, pointwise)
    scale = kind != "separable"
    return nn.Sequential(convolution, *after_convolution(channels_out, dropout, scale))


def after_convolution(channels: int, dropout: float, scale: bool) -> list[nn.Module]:
    """BatchNorm, ReLU and dropout.

    Without `scale`, BatchNorm learns to shift but not to scale the channels. That saves small
    networks a parameter per channel, and mostly the convolution that follows can scale them as
    well, for ReLU lets a positive factor through.
    """
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(scale)
    # A dropout of 0 would draw its masks all the same, for nothing.
    return [norm, nn.ReLU(), *([nn.Dropout(dropout)] if dropout > 0 else [])]


def again(convolution: nn.Module, channels: int, dropout: float) -> nn.Sequential:
    """The `convolution` of an earlier block with the same weights, and what follows it.

    BatchNorm is its own, since the activations of a second pass have other statistics. The
    convolution is a child like any other, so that PyTorch's tools see it, but its weights are saved
    and loaded once, by the block that they belong to.
    """
    after = {str(i): module for i, module in enumerate(after_convolution(channels, dropout, False))}
    block = nn.Sequential(OrderedDict({"repeated": convolution, **after}))
    block.register_state_dict_post_hook(leave_out_repeated)
    block.register_load_state_dict_pre_hook(fill_in_repeated)
    return block


def leave_out_repeated(block: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take the repeated convolution out of a state dictionary: another block has saved it."""
    for name in [name for name in state if name.startswith(f"{prefix}repeated.")]:
        del state[name]


def fill_in_repeated(block: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the repeated convolution, as it is, where PyTorch would miss it: it is loaded already."""
    for name, tensor in block.get_submodule("repeated").state_dict().items():
        state[f"{prefix}repeated.{name}"] = tensor


def build_model(config: Config) -> Network:
    """The network that `config` describes, with weights drawn from torch's generator."""
    return Network(config.layers, config.dropout)


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
    return to_bytes(description, weights)


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

    A network normalises raw pixels itself. Floats must be normalised by `normalise`; floats from
    0 to 1 give wrong answers.

    Args:
        name_or_path: a preset whose weights come with the package (those of its certified seed
            0), a run folder, or a .safetensors file that tinydigits wrote.

    Returns:
        A module from images to log-probabilities (B, classes).

    Raises:
        Misuse: there is no such file or folder.
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
