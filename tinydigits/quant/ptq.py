"""From a trained network in PyTorch to one in integers: quantization after training.

BatchNorm and the normalization of the input are folded in exactly, since no convolution pads.
What is rounded: weights, symmetrically per output channel (Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference"), and activations,
whose ranges are measured on images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from tinydigits.errors import UsageError
from tinydigits.network.architecture import SIZE, Stage
from tinydigits.network.checkpoint import Description
from tinydigits.network.model import Block, Network, normalize
from tinydigits.quant.integer import (
    INT16,
    INT32,
    MOST_SHIFT,
    NO_DEPTHWISE,
    NO_TABLE,
    NO_WEIGHTS,
    IntegerNetwork,
    QuantizedLayer,
    bound,
    half,
    magnitudes,
)
from tinydigits.terminal import progress

CALIBRATION = 10_000
"""Images that are enough for `quantize`: what more of them tell is lost in the rounding."""

CLIPPING_PERCENTILE = 99.99
"""A stage's range ends at this percentile of its activations; what lies above is clipped."""

CLIPPED = round(1 - CLIPPING_PERCENTILE / 100, 6)
"""The share of the activations that is clipped."""


def quantize(
    model: Network,
    images: np.ndarray,
    temperature: float = 1.0,
    activation_bits: int = 8,
    weight_bits: int = 8,
) -> IntegerNetwork:
    """Turn a trained network into integers.

    Args:
        model: the network; it is not changed.
        images: uint8 (N, 28, 28), on which the ranges of the activations are measured; a thousand
            training images are enough.
        temperature: what the logits are to be divided by, see `fit_temperature`.
        activation_bits: 1 to 8.
        weight_bits: 2 to 8, of the sums over channels; depthwise weights always have 8.

    Raises:
        UsageError: the images are none of that kind, or the network's sums don't fit 32 bits.
    """
    ranges = measure_ranges(model, images)
    return round_network(model, ranges, temperature, activation_bits, weight_bits)


def round_network(
    model: Network,
    ranges: list[float],
    temperature: float = 1.0,
    activation_bits: int = 8,
    weight_bits: int = 8,
) -> IntegerNetwork:
    """`quantize` for a network whose ranges are known.

    Args:
        model: the network; it is not changed.
        ranges: as `measure_ranges` gives them.
        temperature: as the rest, that of `quantize`.
        activation_bits: 1 to 8.
        weight_bits: 2 to 8.

    Raises:
        UsageError: the network's sums don't fit 32 bits.
    """
    mean, std = float(np.float32(model.mean)), float(np.float32(model.std))
    description = Description(model.layers, model.class_names, mean, std)
    *stages, average, classes = description.plan()
    most = 2**activation_bits - 1
    uses: dict[int, list[Use]] = {}  # of each convolution, by the stage that it belongs to
    step, zero, largest = 1 / (255 * std), -mean / std, 255  # a pixel's value: q * step + zero
    for i, (stage, block, ceiling) in enumerate(zip(stages, model.features, ranges, strict=True)):
        if isinstance(block, Block):
            owner = i if stage.shares_weights_with is None else stage.shares_weights_with
            norm = fold(block.norm)
            uses.setdefault(owner, []).append(Use(i, step, zero, ceiling / most, largest, *norm))
            step, zero, largest = ceiling / most, 0.0, most
    layers: dict[int, QuantizedLayer] = {}
    for owner, its_uses in uses.items():
        kernels = model.features[owner].kernels
        layers |= round_convolution(stages[owner], kernels, its_uses, weight_bits)  # pyright: ignore

    # One scale for all rows, since logits are compared with each other.
    weights = model.classes.weight.detach().cpu().double().numpy()[:, :, 0, 0]
    rounded, scale = round_rows(weights.reshape(1, -1), weight_bits)
    layer = QuantizedLayer(NO_DEPTHWISE, rounded.reshape(weights.shape), NO_TABLE, NO_TABLE)
    pixels = average.size_in**2
    layer = layer._replace(shift_in=choose_shifts(classes, layer, largest * pixels)[0])
    return IntegerNetwork(
        description,
        (*(layers[i] for i in sorted(layers)), layer),
        float(np.float32(scale[0] * step * 2**layer.shift_in / pixels)),
        float(np.float32(temperature)),
        activation_bits,
        weight_bits,
    )


class Use(NamedTuple):
    """One use of a convolution: an integer q that comes in stands for q * step + zero."""

    stage: int
    step: float
    zero: float
    step_out: float
    largest: int
    """The largest q."""
    scale: np.ndarray
    """What BatchNorm multiplies the channels by, float64 (channels out,)."""
    shift: np.ndarray
    """What it then adds."""


@torch.no_grad()
def measure_ranges(model: Network, images: np.ndarray) -> list[float]:
    """The upper end of each stage's activations: all but the share CLIPPED lie below.

    Args:
        model: the network; it is not changed.
        images: uint8 (N, 28, 28).

    Returns:
        A number above 0 for each stage but the last two, the average and the classes.

    Raises:
        UsageError: the images are none of that kind.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIZE, SIZE):
        raise UsageError(
            f"Calibrate on uint8 (N, {SIZE}, {SIZE}), not {images.dtype} {images.shape}."
        )
    if not len(images):
        raise UsageError("Calibrate on one image at least.")
    device = model.classes.weight.device
    was_training = model.training
    model.eval()
    largest = [torch.empty(0)] * len(model.features)
    try:
        for part in progress(torch.from_numpy(images).split(500), "measuring ranges"):
            normalized = normalize(part.to(device), model.mean, model.std)
            for i, x in enumerate(model.activations(normalized)):
                keep = int(x[0].numel() * len(images) * CLIPPED) + 1
                found = torch.cat([largest[i].to(device), x.flatten()])
                largest[i] = found.topk(min(keep, len(found)))[0]
    finally:
        model.train(was_training)
    # A stage that is always 0 may have any range.
    return [float(values[-1]) or 1.0 for values in largest]


def upper_end(values: torch.Tensor) -> float:
    """The same of a single batch: the upper end of one stage's activations, above 0."""
    largest = values.flatten().topk(int(values.numel() * CLIPPED) + 1)[0]
    return float(largest[-1]) or 1.0


def fold(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """BatchNorm in eval mode as a scale and a shift for each channel, float64."""
    mean, var, weight, bias = (
        getattr(norm, name).detach().cpu().double().numpy()
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = weight / np.sqrt(var + norm.eps)
    return scale, bias - mean * scale


def round_rows(
    weights: np.ndarray, bits: int, coarser: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Round each row of (N, n) to signed integers of `bits`, its largest to the largest there is.

    Returns:
        int8 (N, n), and the scale of each row, float64 (N,), at least `coarser`.
    """
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(abs(weights).max(axis=1) / most, coarser)
    scale = np.where(scale > 0, scale, 1.0)
    return np.rint(weights / scale[:, None]).astype(np.int8), scale


def round_convolution(
    stage: Stage, kernels: list[torch.Tensor], uses: list[Use], weight_bits: int
) -> dict[int, QuantizedLayer]:
    """The numbers of a convolution, whose weights are `kernels`, in all its uses, by stage."""
    floats = [kernel.detach().cpu().double().numpy() for kernel in kernels]
    # (outputs, row, column, channel): the order in which the engine meets a window.
    rows = floats[-1].transpose(0, 2, 3, 1).reshape(stage.channels_out, -1)
    response = rows.sum(axis=1)
    rounded = QuantizedLayer(NO_DEPTHWISE, NO_WEIGHTS, NO_TABLE, NO_TABLE)
    square = -1, stage.kernel_size, stage.kernel_size
    if stage.kind == "separable":
        # Nothing stands between the two halves: the first one's scales go into the second.
        depthwise = floats[0].reshape(stage.channels_in, -1)  # (C, k * k)
        response = rows @ depthwise.sum(axis=1)
        weights, scale = round_rows(depthwise, 8)
        rounded = rounded._replace(depthwise=weights.reshape(square))
        rows = rows * scale

    def round_all(coarser: np.ndarray | float) -> tuple[QuantizedLayer, np.ndarray]:
        if stage.kind == "depthwise":
            weights, scale = round_rows(rows, 8, coarser)
            return rounded._replace(depthwise=weights.reshape(square)), scale
        weights, scale = round_rows(rows, weight_bits, coarser)
        return rounded._replace(weights=weights), scale

    # A channel whose bias is much larger than its sums needs coarser weights, or the bias would
    # not fit its 16 bits.
    layer, scale = round_all(0.0)
    coarser = np.zeros(stage.channels_out)
    shifts, shift = [], []
    for use in uses:
        shifts.append(choose_shifts(stage, layer, use.largest))
        shift.append(use.shift + use.scale * response * use.zero)
        unit = use.step * 2.0 ** sum(shifts[-1]) * np.maximum(abs(use.scale), 1e-30)
        coarser = np.maximum(coarser, abs(shift[-1]) / (unit * INT16))
    layer, scale = round_all(coarser)
    layers = {}
    for use, (shift_in, shift_sum), added in zip(uses, shifts, shift, strict=True):
        sign = np.where(use.scale < 0, -1.0, 1.0)
        factor = sign * np.maximum(abs(use.scale), 1e-30)
        scale_out = factor * scale * use.step * 2.0 ** (shift_in + shift_sum) / use.step_out
        layers[use.stage] = choose_table(
            stage,
            layer._replace(shift_in=shift_in, shift_sum=shift_sum),
            use.largest,
            scale_out,
            added / use.step_out,
        )
    return layers


def choose_shifts(stage: Stage, layer: QuantizedLayer, largest: int) -> tuple[int, int]:
    """The smallest `shift_in` and `shift_sum` with which inputs and sums fit 16 bits.

    Raises:
        UsageError: there are none.
    """
    inputs = largest
    if len(layer.depthwise):
        inputs *= int(magnitudes(layer.depthwise.reshape(len(layer.depthwise), -1)).max())
    weight = int(magnitudes(layer.weights).max()) if layer.weights.size else 1
    for shift_in in range(1 if stage.kind == "conv" else MOST_SHIFT):
        shifted = inputs + half(shift_in) >> shift_in
        if shifted > INT16:
            continue
        for shift_sum in range(1 if stage.kind == "classes" else MOST_SHIFT):
            sums = weight * shifted + half(shift_sum)
            if sums <= INT32 and (stage.kind == "classes" or sums >> shift_sum <= INT16):
                return shift_in, shift_sum
    raise UsageError(f"The sums of {stage.name} can leave 32 bits: the network is too wide.")


def choose_table(
    stage: Stage, layer: QuantizedLayer, largest: int, scale_out: np.ndarray, added: np.ndarray
) -> QuantizedLayer:
    """Fill in bias and multiplier.

    Args:
        stage: the stage.
        layer: its weights, `shift_in` and `shift_sum`.
        largest: the largest value that comes in.
        scale_out: what 1 in a shifted sum stands for, in steps of what goes out; float64
            (channels out,).
        added: to it, in the same unit.
    """
    bias = np.clip(np.rint(added / scale_out), -INT16, INT16)
    for shift_out in range(MOST_SHIFT, -1, -1):
        multiplier = np.rint(scale_out * 2.0**shift_out)
        if abs(multiplier).max() > INT16:
            continue
        filled = layer._replace(
            bias=bias.astype(np.int16), multiplier=multiplier.astype(np.int16), shift_out=shift_out
        )
        if fits(stage, filled, largest):
            return filled
    raise UsageError(
        f"The activations of {stage.name} are too small for 16 bits to tell them apart."
    )


def fits(stage: Stage, layer: QuantizedLayer, largest: int) -> bool:
    """Whether no sum can leave its range."""
    try:
        bound(stage, layer, largest, 1)
    except UsageError:
        return False
    return True


def fit_temperature(network: IntegerNetwork, images: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with which a network's probabilities are the most likely.

    It minimizes the negative log-likelihood, which is convex in 1/T: where its derivative, the
    mean score under the network's probabilities less the true class's, changes sign.

    Args:
        network: the network, of any temperature.
        images: uint8 (N, 28, 28), which it was not trained on.
        labels: int64 (N,), their classes.

    Returns:
        The temperature, within 1/100 to 100.
    """
    scores = network.logits(images) * float(network.logit_scale)
    scores -= scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(labels)), labels].mean()
    low, high = 0.01, 100.0  # of 1/T
    for _ in range(60):
        middle = (low * high) ** 0.5
        weights = np.exp(middle * scores)
        mean = ((weights * scores).sum(axis=1) / weights.sum(axis=1)).mean()
        low, high = (middle, high) if mean < true else (low, middle)
    return 1 / (low * high) ** 0.5
