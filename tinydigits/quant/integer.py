"""A network in integers, from the uint8 pixel to the logits, and the NumPy engine that runs it.

The arithmetic is the C engine's (engine/tinydigits.c), bit for bit; docs/format.md describes both
it and the file. Activations are unsigned with zero point 0, weights signed, sums int32.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from tinydigits.errors import UsageError
from tinydigits.network.architecture import SIZE, Stage
from tinydigits.network.checkpoint import Description
from tinydigits.terminal import progress

KINDS = {"conv": 1, "depthwise": 2, "separable": 3, "classes": 4}
"""How the kinds of stages that have weights are written."""
MOST_INPUTS, MOST_SHIFT, MOST_POOLS = 65_535, 30, 4
INT16, INT32 = 2**15 - 1, 2**31 - 1
EXACT = 2**24
"""Sums of integers up to this are exact in float32, and so is whatever order they are added in."""


class QuantizedLayer(NamedTuple):
    """The numbers of one convolution, or of one more use of it, or of the classes."""

    depthwise: np.ndarray
    """int8 (channels in, k, k): the depthwise convolution's weights; none where there is none."""
    weights: np.ndarray
    """int8 (channels out, inputs): of the sums over channels; the inputs of a k x k window are in
    the order (row, column, channel). None for depthwise."""
    bias: np.ndarray
    """int16 (channels out,), added after `shift_sum`; none for the classes."""
    multiplier: np.ndarray
    """int16 (channels out,); none for the classes."""
    shift_in: int = 0
    """What brings the depthwise sums, or for the classes the sums over all pixels, to 16 bits."""
    shift_sum: int = 0
    """What brings the sums over channels to 16 bits."""
    shift_out: int = 0
    """What brings the product with the multiplier to an activation."""


NO_DEPTHWISE, NO_WEIGHTS = np.zeros((0, 0, 0), np.int8), np.zeros((0, 0), np.int8)
NO_TABLE = np.zeros(0, np.int16)
"""What a `QuantizedLayer` has where its stage needs nothing."""


def half(shift: int) -> int:
    """What is added before a shift to the right, so that it rounds to the nearest, half up."""
    return 1 << shift >> 1


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A classifier of 28x28 images in integers: what a .tdq file holds.

    Raises:
        UsageError: (a ValueError) the numbers don't fit the layers, or some image would make a sum
            leave 32 bits.
    """

    description: Description
    quantized_layers: tuple[QuantizedLayer, ...]
    """One for each use of a convolution, in order, and one for the classes."""
    logit_scale: float = 1.0
    """The size of a logit of 1, in nats, at temperature 1."""
    temperature: float = 1.0
    """What the logits are divided by, so that the probabilities are neither too sure nor too
    modest (Guo et al. 2017, "On calibration of modern neural networks")."""
    activation_bits: int = 8
    weight_bits: int = 8
    rejection_threshold: float | None = None
    """The confidence, 0 to 1 with at most six decimals, below which a candidate on a page is no
    digit; None where nobody has measured it."""

    def __post_init__(self) -> None:
        if not (1 <= self.activation_bits <= 8 and 2 <= self.weight_bits <= 8):
            raise UsageError("Activations have 1 to 8 bits, and weights 2 to 8.")
        for value in (self.logit_scale, self.temperature):
            if not (np.isfinite(value) and value > 0):
                raise UsageError(
                    "The scale of the logits and the temperature are above 0 and finite."
                )
        threshold = self.rejection_threshold
        if threshold is not None and not (0 <= threshold <= 1 and threshold == round(threshold, 6)):
            raise UsageError("A rejection threshold is 0 to 1, with at most six decimals.")
        if any("\0" in name for name in self.class_names):
            raise UsageError("A class name holds no character of value 0.")
        stages = self.plan_with_weights()
        if len(stages) != len(self.quantized_layers):
            raise UsageError(
                f"The layers have {len(stages)} sets of numbers, not {len(self.quantized_layers)}."
            )
        largest = 255
        for stage, layer in zip(stages, self.quantized_layers, strict=True):
            check_shapes(stage, layer)
            bound(stage, layer, largest, self.pixels)
            largest = self.largest
        for kind, stages_of_kind in itertools.groupby(self.plan, lambda stage: stage.kind):
            if kind == "pool" and len(list(stages_of_kind)) > MOST_POOLS:
                raise UsageError(f"At most {MOST_POOLS} pools follow each other.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the logits stand for."""
        return self.description.class_names

    @property
    def layers(self) -> tuple[str, ...]:
        """The network's words, as in `Config.layers`."""
        return self.description.layers

    @cached_property
    def plan(self) -> tuple[Stage, ...]:
        """The network's stages."""
        return self.description.plan()

    @property
    def largest(self) -> int:
        """The largest activation."""
        return 2**self.activation_bits - 1

    @property
    def pixels(self) -> int:
        """How many pixels the average is taken over."""
        return self.plan[-2].size_in ** 2

    def plan_with_weights(self) -> list[Stage]:
        """The stages that have a `QuantizedLayer`."""
        return [stage for stage in self.plan if stage.kind in KINDS]

    # -------------------------------------------------------------------------- the engine

    def logits(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The scores of images, uint8 (N, 28, 28): int32 (N, classes).

        `batch_size`, images at a time, changes memory and speed and nothing else.

        Raises:
            UsageError: the images are none of that kind.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIZE, SIZE):
            raise UsageError(
                f"The network reads uint8 (N, {SIZE}, {SIZE}), not {images.dtype} {images.shape}."
            )
        starts = progress(range(0, len(images), batch_size), "reading")
        # The products are so small that threads wait for each other longer than they compute.
        with thread_pools().limit(limits=1, user_api="blas"):
            parts = [self._logits(images[i : i + batch_size]) for i in starts]
        empty = np.zeros((0, len(self.class_names)), np.int32)
        return np.concatenate([empty, *parts])

    def _logits(self, images: np.ndarray) -> np.ndarray:
        # (C, h, w, N): whatever happens to a channel happens to long rows of numbers at once.
        x = images.transpose(1, 2, 0)[None].astype(np.float32, order="C")
        layers = iter(self.quantized_layers)
        largest = 255
        for stage in self.plan:
            if stage.kind == "pool":
                x = pool(x, stage.size_out)
            elif stage.kind == "average":
                x = x.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
            else:
                layer = next(layers)
                x = convolve(x, stage, layer, bound(stage, layer, largest, self.pixels))
                largest = self.largest
                if stage.kind != "classes":
                    x = requantize(x, layer, largest)
        return x.reshape(len(x), -1).T.astype(np.int32)

    def log_probs(self, images: np.ndarray) -> np.ndarray:
        """The logarithms of the classes' probabilities: float32 (N, classes).

        `images` as for `logits`.

        Raises:
            UsageError: the images are none of that kind.
        """
        scores = self.logits(images) * (self.logit_scale / self.temperature)
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return scores.astype(np.float32)


# -------------------------------------------------------------------------------- arithmetic


@cache
def thread_pools() -> ThreadpoolController:
    """The threads of NumPy's matrix products, among others; found once, since that takes time."""
    return ThreadpoolController()


def bound(stage: Stage, layer: QuantizedLayer, largest: int, pixels: int) -> int:
    """How large a sum of `stage` can become, with any inputs of 0 to `largest`.

    Sums over channels are meant, with the rounding that is added to them. `pixels` are those
    that the classes see the sum of.

    Raises:
        UsageError: a sum can leave its range, of 16 bits where it is an input or is multiplied, of
            32 bits elsewhere.
    """
    inputs = largest
    if stage.kind == "classes":
        inputs = largest * pixels
    elif stage.kind != "conv":
        inputs = largest * int(magnitudes(layer.depthwise.reshape(len(layer.depthwise), -1)).max())
    inputs = inputs + half(layer.shift_in) >> layer.shift_in
    if inputs > INT16:
        raise UsageError(f"The inputs of {stage.name} can leave 16 bits.")
    widths = np.ones(stage.channels_out, np.int64)
    if stage.kind != "depthwise":
        widths = magnitudes(layer.weights)
    sums = widths * inputs + half(layer.shift_sum)
    if sums.max() > INT32:
        raise UsageError(f"The sums of {stage.name} can leave 32 bits.")
    if stage.kind != "classes":
        shifted = sums >> layer.shift_sum
        factors = abs(layer.multiplier.astype(np.int64))
        products = (shifted + abs(layer.bias.astype(np.int64))) * factors
        if shifted.max() > INT16 or products.max() + half(layer.shift_out) > INT32:
            raise UsageError(f"The sums of {stage.name} can leave 32 bits when they are rescaled.")
    return int(sums.max())


def magnitudes(weights: np.ndarray) -> np.ndarray:
    """Sums of absolute values, int64, along the last axis."""
    return abs(weights.astype(np.int64)).sum(axis=-1)


def check_shapes(stage: Stage, layer: QuantizedLayer) -> None:
    """Make sure that a layer has what its stage needs.

    Raises:
        UsageError: it hasn't.
    """
    kernel_size, enter, leave = stage.kernel_size, stage.channels_in, stage.channels_out
    inputs = enter * kernel_size**2 if stage.kind == "conv" else enter
    table = 0 if stage.kind == "classes" else leave
    wanted = (
        (enter, kernel_size, kernel_size)
        if stage.kind in ("depthwise", "separable")
        else (0, 0, 0),
        (0, 0) if stage.kind == "depthwise" else (leave, inputs),
        (table,),
        (table,),
    )
    arrays = layer[:4]
    types = (np.int8, np.int8, np.int16, np.int16)
    if tuple(array.shape for array in arrays) != wanted or any(
        array.dtype != dtype for array, dtype in zip(arrays, types, strict=True)
    ):
        raise UsageError(f"The numbers of {stage.name} don't have its shape.")
    if inputs + inputs % 2 > MOST_INPUTS:
        raise UsageError(f"{stage.name}: the engine adds up at most {MOST_INPUTS:,} inputs.")
    unused = {"conv": layer[4:5], "classes": layer[5:]}.get(stage.kind, ())
    if not all(0 <= shift <= MOST_SHIFT for shift in layer[4:]) or any(unused):
        raise UsageError(f"The shifts of {stage.name} make no sense.")


def pool(x: np.ndarray, size: int) -> np.ndarray:
    """The largest of 2x2 pixels: (C, h, w, N) to (C, size, size, N)."""
    x = x[:, : 2 * size, : 2 * size]
    x = np.maximum(x[:, ::2], x[:, 1::2])
    return np.maximum(x[:, :, ::2], x[:, :, 1::2])


def convolve(x: np.ndarray, stage: Stage, layer: QuantizedLayer, largest: int) -> np.ndarray:
    """The sums of a stage, at most `largest` of either sign, as floats that are whole numbers.

    (C, h, w, N) to (C', h', w', N); `shift_sum` and what follows it are still to come.
    """
    size, kernel_size = stage.size_out, stage.kernel_size
    windows = [
        x[:, row : row + size, column : column + size]
        for row in range(kernel_size)
        for column in range(kernel_size)
    ]
    if stage.kind == "conv":
        x = np.concatenate(windows)  # (k * k * C, h', w', N)
    elif stage.kind == "classes":
        x = np.floor((x + half(layer.shift_in)) * 2.0**-layer.shift_in)
    else:
        # Sums of at most 49 x 128 x 255: exact in float32.
        depthwise = layer.depthwise.reshape(stage.channels_in, -1).T.astype(np.float32)
        x = np.full((stage.channels_in, size, size, x.shape[-1]), half(layer.shift_in), np.float32)
        product = np.empty_like(x)
        for weight, part in zip(depthwise, windows, strict=True):
            x += np.multiply(part, weight[:, None, None, None], out=product)
        x *= np.float32(2.0**-layer.shift_in)
        np.floor(x, out=x)
        if stage.kind == "depthwise":
            return x
    dtype = np.float32 if largest <= EXACT else np.float64
    sums = layer.weights.astype(dtype) @ x.reshape(len(x), -1).astype(dtype, copy=False)
    return sums.reshape(len(sums), size, size, -1)


def requantize(sums: np.ndarray, layer: QuantizedLayer, largest: int) -> np.ndarray:
    """Sums (C, h, w, N) to activations: float32, whole numbers from 0 to `largest`."""
    bias, multiplier = (
        column.astype(np.int32)[:, None, None, None] for column in (layer.bias, layer.multiplier)
    )
    x = sums.astype(np.int32)
    x += half(layer.shift_sum)
    x >>= layer.shift_sum
    x += bias
    x *= multiplier
    x += half(layer.shift_out)
    x >>= layer.shift_out
    return np.clip(x, 0, largest, out=x).astype(np.float32)
