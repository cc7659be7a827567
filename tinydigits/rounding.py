"""Quantisation-aware training: the network computes with the rounded numbers of its integers.

Weights and activations are rounded on the way forward as `tinydigits.quantise` rounds them
(Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference"). Rounding has no slope, so on the way back it counts as if it
were not there (Bengio et al. 2013, "Estimating or propagating gradients through stochastic
neurons"). What changes little is left out: the sums inside a separable convolution and before the
classes are not rounded, nor is what BatchNorm does, to 16 bits; and a channel with a large bias
does not get coarser weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from tinydigits.layers import plan
from tinydigits.model import Network
from tinydigits.quantise import upper_end


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
            `tinydigits.quantise.measure_ranges`; what is missing is measured on these images, and
            filled in.
        activation_bits: 1 to 8.
        weight_bits: 2 to 8, of the sums over channels; depthwise weights always have 8.

    Returns:
        Log-probabilities (B, classes), with gradients for the weights as they are.
    """

    def rounding(stage: int) -> Callable[..., torch.Tensor]:
        def hook(_block: nn.Module, _inputs: object, values: torch.Tensor) -> torch.Tensor:
            if stage not in ranges:
                ranges[stage] = upper_end(values.detach())
            return round_activations(values, ranges[stage], activation_bits)

        return hook

    weights = rounded_weights(model, weight_bits)
    hooks = [
        block.register_forward_hook(rounding(i))
        for i, block in enumerate(model.features)
        if not isinstance(block, nn.MaxPool2d)  # the largest of rounded values is rounded
    ]
    hooks.append(keep_paper(model, weights))
    try:
        # A repeated convolution is one module under several names, so once is enough, and twice
        # (as by tie_weights) would leave the rounded weights in it.
        return functional_call(model, weights, (images,), tie_weights=False)
    finally:
        for hook in hooks:
            hook.remove()


def keep_paper(model: Network, weights: dict[str, torch.Tensor]) -> RemovableHandle:
    """See to it that the first convolution makes of black paper what it makes of it unrounded.

    A normalised pixel is its value less a constant. `tinydigits.quantise` keeps what that constant
    adds to each channel in a bias, and computes it from the unrounded weights.
    """
    stages = plan(model.layers)
    first = next(i for i, stage in enumerate(stages) if stage.kind != "pool")
    names = [name for name in weights if name.startswith(f"features.{first}.")]
    exact = response([model.get_parameter(name) for name in names])
    lost = (exact - response([weights[name] for name in names])).detach()
    added = lost.mul(-model.mean / model.std).view(-1, 1, 1)

    def hook(_convolution: nn.Module, _inputs: object, values: torch.Tensor) -> torch.Tensor:
        handle.remove()  # where the first convolution is used again, it doesn't see pixels
        return values + added

    handle = model.get_submodule(f"features.{first}.0").register_forward_hook(hook)
    return handle


def response(weights: list[torch.Tensor]) -> torch.Tensor:
    """What each channel of a first convolution makes of 1 everywhere; of its two halves, or one."""
    *taps, rows = (part.flatten(1) for part in weights)
    return rows @ taps[0].sum(1) if taps else rows.sum(1)


def round_activations(values: torch.Tensor, most: float, bits: int) -> torch.Tensor:
    """Values from 0 up to `most` in 2^bits - 1 equal steps; larger ones become `most`."""
    step = most / (2**bits - 1)
    values = values.clamp(max=most)
    return straight_through(values, (values / step).round() * step)


def rounded_weights(model: Network, bits: int) -> dict[str, torch.Tensor]:
    """The weights of all convolutions, rounded, by their names in the network."""
    weights = {}
    *stages, _, _ = plan(model.layers, len(model.class_names))
    for i, stage in enumerate(stages):
        name = f"features.{i}.0"
        if stage.kind == "pool" or stage.repeats is not None:
            continue
        if stage.kind == "separable":
            # Nothing stands between the two halves: the first one's scales go into the second.
            taps, rows = (model.get_parameter(f"{name}.{half}.weight") for half in (0, 1))
            weights[f"{name}.0.weight"], scale = round_rows(taps, 8)
            scale = scale.view(1, -1, 1, 1)
            weights[f"{name}.1.weight"] = round_rows(rows * scale, bits)[0] / scale
        else:
            rows = model.get_parameter(f"{name}.weight")
            most = 8 if stage.kind == "depthwise" else bits
            weights[f"{name}.weight"], _ = round_rows(rows, most)
    # The classes have one scale for all rows, since logits are compared with each other.
    rows = model.classes.weight
    weights["classes.weight"] = round_rows(rows[None], bits)[0][0]
    return weights


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
