"""Quantization-aware training: the network computes with the rounded numbers of its integers.

Weights and activations are rounded on the way forward as `tinydigits.quantize` rounds them
(Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference"). Rounding has no slope, so on the way back it counts as if it
were not there (Bengio et al. 2013, "Estimating or propagating gradients through stochastic
neurons"). What changes little is left out: the sums inside a separable convolution and before the
classes are not rounded, nor is what BatchNorm does, to 16 bits; and a channel with a large bias
does not get coarser weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tinydigits.network.model import Block, Network, as_input
from tinydigits.quant.ptq import upper_end


def forward_rounded(
    model: Network,
    images: torch.Tensor,
    ranges: dict[int, float],
    activation_bits: int,
    weight_bits: int,
) -> torch.Tensor:
    """What `model(images)` gives, computed with rounded weights and activations.

    Args:
        model: the network; BatchNorm counts the batch, if it is in train mode.
        images: as the network takes them, (B, 1, 28, 28).
        ranges: the upper end of each stage's activations, as in
            `tinydigits.quant.ptq.measure_ranges`; what is missing is measured on these images, and
            filled in.
        activation_bits: 1 to 8.
        weight_bits: 2 to 8, of the sums over channels; depthwise weights always have 8.

    Returns:
        Log-probabilities (B, classes), with gradients for the weights as they are.
    """
    kernels = rounded_kernels(model, weight_bits)
    first = next(i for i, block in enumerate(model.features) if isinstance(block, Block))
    x = as_input(images, model.mean, model.std)
    for i, block in enumerate(model.features):
        if not isinstance(block, Block):  # a pool: the largest of rounded values is rounded
            x = block(x)
            continue
        x = convolve(x, kernels[i])
        if i == first:
            x = x + lost_paper(model, block.kernels, kernels[i])
        x = block.activation(x)
        if i not in ranges:
            ranges[i] = upper_end(x.detach())
        x = round_activations(x, ranges[i], activation_bits)
    # The classes have one scale for all rows, since logits are compared with each other.
    rows = round_rows(model.classes.weight[None], weight_bits)[0][0]
    return F.log_softmax(F.conv2d(model.gap(x), rows).flatten(1), dim=-1)


def convolve(x: torch.Tensor, kernels: list[torch.Tensor]) -> torch.Tensor:
    """What a convolution with these kernels makes of activations, (B, C, h, w) to (B, C', h', w').

    A depthwise kernel, (C, 1, k, k), looks at one channel and not at all C.
    """
    for kernel in kernels:
        x = F.conv2d(x, kernel, groups=x.shape[1] // kernel.shape[1])
    return x


def lost_paper(
    model: Network, exact: list[torch.Tensor], rounded: list[torch.Tensor]
) -> torch.Tensor:
    """What the first convolution, rounded, makes too little of black paper: (channels, 1, 1).

    A normalized pixel is its value less a constant. `tinydigits.quantize` keeps what that constant
    adds to each channel in a bias, and computes it from the unrounded weights.
    """
    lost = (response(exact) - response(rounded)).detach()
    return lost.mul(-model.mean / model.std).view(-1, 1, 1)


def response(weights: list[torch.Tensor]) -> torch.Tensor:
    """What each channel of a first convolution makes of 1 everywhere; of its two halves, or one."""
    *depthwise, rows = (part.flatten(1) for part in weights)
    return rows @ depthwise[0].sum(1) if depthwise else rows.sum(1)


def round_activations(values: torch.Tensor, most: float, bits: int) -> torch.Tensor:
    """Values from 0 up to `most` in 2^bits - 1 equal steps; larger ones become `most`."""
    step = most / (2**bits - 1)
    values = values.clamp(max=most)
    return straight_through(values, (values / step).round() * step)


def rounded_kernels(model: Network, bits: int) -> list[list[torch.Tensor]]:
    """Each stage's kernels, rounded: two of a separable convolution, none of a pool.

    Stages that share weights share the rounded ones.
    """
    kernels: list[list[torch.Tensor]] = []
    for stage, block in zip(model.plan[:-2], model.features, strict=True):
        if not isinstance(block, Block):
            kernels.append([])
        elif stage.shares_weights_with is not None:
            kernels.append(kernels[stage.shares_weights_with])
        elif stage.kind == "separable":
            # Nothing stands between the two halves: the first one's scales go into the second.
            depthwise, rows = block.kernels
            depthwise, scale = round_rows(depthwise, 8)
            scale = scale.view(1, -1, 1, 1)
            kernels.append([depthwise, round_rows(rows * scale, bits)[0] / scale])
        else:
            (rows,) = block.kernels
            kernels.append([round_rows(rows, 8 if stage.kind == "depthwise" else bits)[0]])
    return kernels


def round_rows(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's weights as multiples of a scale of its own, the largest 2^(bits - 1) - 1 of them.

    Args:
        weights: the first of its axes counts the rows.
        bits: 2 to 8.

    Returns:
        The rounded weights, and the scales (rows, 1, ...), without gradients.
    """
    largest = weights.detach().abs().amax(tuple(range(1, weights.ndim)), keepdim=True)
    scale = largest.div(2 ** (bits - 1) - 1)
    scale = torch.where(scale > 0, scale, 1.0)
    return straight_through(weights, (weights / scale).round() * scale), scale


def straight_through(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded values, with the gradient of those that were not."""
    return values + (rounded - values).detach()
