"""The network: convolution blocks, global average pooling, and a 1x1 convolution to ten classes.

The shapes of the described network, for a batch of B digits:

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

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tinydigits.config import PRESETS, Config, parse_layers
from tinydigits.files import Failure, Misuse, reason, write_atomically

CLASSES = 10
SHIPPED = Path(__file__).parent / "weights"
"""The networks that come with the package, one file per preset."""


class Network(nn.Module):
    """A convolutional classifier of 28x28 digits, from the description of its layers."""

    def __init__(self, layers: tuple[str, ...], dropout: float = 0.0):
        """Build the network with freshly drawn weights (PyTorch's defaults).

        Args:
            layers: the convolution blocks and pools in order, as in `Config.layers`.
            dropout: the share of activations that each block drops in training.

        Raises:
            Misuse: `layers` does not describe a network.
        """
        super().__init__()
        channels = 1
        stages: list[nn.Module] = []
        block: nn.Sequential = nn.Sequential()
        for kind, window, width in parse_layers(layers):
            if kind == "pool":
                stages.append(nn.MaxPool2d(2, 2))
                continue
            if kind == "again":
                block = Again(block, channels, dropout)
            else:
                block = conv_block(kind, channels, width or channels, window, dropout)
            stages.append(block)
            channels = width or channels
        self.features = nn.Sequential(*stages)
        self.gap = nn.AdaptiveAvgPool2d((1, 1))
        self.classes = nn.Conv2d(channels, CLASSES, kernel_size=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 1, 28, 28) to log-probabilities (B, 10)."""
        x = self.features(x)  # (B, C, h, w)
        x = self.gap(x)  # (B, C, 1, 1)
        x = self.classes(x).flatten(1)  # (B, 10)
        return F.log_softmax(x, dim=-1)


def conv_block(
    kind: str, channels_in: int, channels_out: int, window: int, dropout: float
) -> nn.Sequential:
    """Convolution without bias or padding, BatchNorm, ReLU and dropout, in that order.

    `kind` is conv, depthwise (which needs as many channels out as in) or separable, as in
    `parse_layers`. Activations (B, channels_in, h, w) become
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


class Again(nn.Sequential):
    """The convolution of an earlier block with the same weights, and what follows it.

    BatchNorm is its own, since the activations of a second pass have other statistics.
    """

    def __init__(self, block: nn.Sequential, channels: int, dropout: float):
        """Repeat `block`, a `conv_block` or another `Again`, which keeps the number of channels."""
        super().__init__(*after_convolution(channels, dropout, scale=False))
        # In a tuple, where PyTorch neither counts nor saves the weights a second time.
        self.repeated = block.repeated if isinstance(block, Again) else (block[0],)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Activations (B, C, h, w) to (B, C, h - window + 1, w - window + 1)."""
        return super().forward(self.repeated[0](input))


def build_model(config: Config) -> Network:
    """The network that `config` describes, with weights drawn from torch's generator."""
    return Network(config.layers, config.dropout)


class Stage(NamedTuple):
    """One row of `summarise`: `shape` is (channels, height, width), `macs` are for one digit."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def summarise(config: Config) -> list[Stage]:
    """Output shape, trainable parameters and multiply-accumulates, stage by stage.

    Only the multiplications of convolutions count, as is usual: BatchNorm folds into them when a
    network is used.
    """
    model = build_model(config).eval()
    rows: list[Stage] = []
    macs = 0

    def count(convolution: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += convolution.weight[0].numel() * output[0].numel()  # pyright: ignore

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    x = torch.zeros(1, 1, 28, 28)
    named = [*zip(config.layers, model.features, strict=True)]
    named += [("global average pooling", model.gap), ("classes", model.classes)]
    with torch.no_grad():
        for name, stage in named:
            macs = 0
            x = stage(x)
            rows.append(Stage(name, tuple(x.shape[1:]), count_parameters(stage), macs))
    return rows


def total(stages: list[Stage]) -> tuple[int, int]:
    """Parameters and multiply-accumulates of all stages together."""
    return sum(stage.parameters for stage in stages), sum(stage.macs for stage in stages)


def count_parameters(module: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------ model files


def save_model(path: Path, model: Network, config: Config) -> None:
    """Write the weights as float32 safetensors; the header says which network they belong to.

    Raises:
        Failure: the file cannot be written; what was there before stays.
    """
    from safetensors.torch import save

    weights = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    # One entry only: safetensors writes several in random order, and the same run would give
    # different bytes.
    write_atomically(path, save(weights, {"tinydigits": " ".join(config.layers)}))


def load_model(name_or_path: str | Path) -> Network:
    """Load a trained network, in eval mode, on the CPU.

    Args:
        name_or_path: a preset whose weights come with the package (those of its certified seed
            0), a run folder, or a .safetensors file that tinydigits wrote.

    Returns:
        A module from normalised images (B, 1, 28, 28) to log-probabilities (B, 10).

    Raises:
        Misuse: there is no such file or folder.
        Failure: the file is not a model of this kind.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(name_or_path).expanduser()
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    if str(name_or_path) in PRESETS and not path.exists() and shipped.exists():
        path = shipped
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise Misuse(
                f"{path.parent} holds no model.safetensors: name a finished run, or finish "
                f"this one with: tinydigits train --resume {path.parent}"
            )
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
        raise Misuse(
            f"There is no model {path}: name a run folder, a .safetensors file, or one of the "
            f"networks that come with the package ({known})."
        )
    try:
        with safe_open(path, framework="pt") as file:
            layers = (file.metadata() or {}).get("tinydigits")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Failure(f"{path} is not a readable safetensors file: {reason(error)}.") from error
    if layers is None:
        raise Failure(f"{path} is a safetensors file, but not one that tinydigits wrote.")
    try:
        model = Network(tuple(layers.split()))
        model.load_state_dict(weights)
    except (Misuse, RuntimeError) as error:
        raise Failure(
            f"The weights in {path} do not fit the network that its header names "
            f"({layers}): the file is damaged."
        ) from error
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise Failure(f"The weights in {path} are not all finite: the file is damaged.")
    return model.eval()
