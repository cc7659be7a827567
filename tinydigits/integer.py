"""A network in integers, from the uint8 pixel to the logits, and the NumPy engine that runs it.

The arithmetic is the C engine's (engine/tinydigits.c), bit for bit; docs/format.md describes both
it and the file. Activations are unsigned with zero point 0, weights signed, sums int32.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from tinydigits.files import Failure, Misuse, progress, reason, write_atomically
from tinydigits.layers import SIZE, Stage
from tinydigits.modelfile import Description, find_model

MAGIC = b"TDQ1"
HEADER = struct.Struct("<4sII4BI4f")
RECORD = struct.Struct("<4BII4BII")
KINDS = {"conv": 1, "depthwise": 2, "separable": 3, "classes": 4}
"""How the kinds of stages that have weights are written."""
MOST_INPUTS, MOST_SHIFT, MOST_POOLS = 65_535, 30, 4
INT16, INT32 = 2**15 - 1, 2**31 - 1
EXACT = 2**24
"""Sums of integers up to this are exact in float32, and so is whatever order they are added in."""


class Pass(NamedTuple):
    """The numbers of one convolution, or of one more use of it, or of the classes."""

    taps: np.ndarray
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


NO_TAPS, NO_WEIGHTS = np.zeros((0, 0, 0), np.int8), np.zeros((0, 0), np.int8)
NO_TABLE = np.zeros(0, np.int16)
"""What a `Pass` has where its stage needs nothing."""


def half(shift: int) -> int:
    """What is added before a shift to the right, so that it rounds to the nearest, half up."""
    return 1 << shift >> 1


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A classifier of 28x28 images in integers: what a .tdq file holds.

    Raises:
        Misuse: (a ValueError) the numbers don't fit the layers, or some image would make a sum
            leave 32 bits.
    """

    description: Description
    passes: tuple[Pass, ...]
    """One for each convolution in order, repeats included, and one for the classes."""
    logit_scale: float = 1.0
    """What a logit of 1 is worth, in nats, at temperature 1."""
    temperature: float = 1.0
    """What the logits are divided by, so that the probabilities are neither too sure nor too
    modest (Guo et al. 2017, "On calibration of modern neural networks")."""
    activation_bits: int = 8
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if not (1 <= self.activation_bits <= 8 and 2 <= self.weight_bits <= 8):
            raise Misuse("Activations have 1 to 8 bits, and weights 2 to 8.")
        for value in (self.logit_scale, self.temperature):
            if not (np.isfinite(value) and value > 0):
                raise Misuse("The scale of the logits and the temperature are above 0 and finite.")
        if any("\0" in name for name in self.class_names):
            raise Misuse("A class name holds no character of value 0.")
        stages = self.plan_with_weights()
        if len(stages) != len(self.passes):
            raise Misuse(f"The layers have {len(stages)} sets of numbers, not {len(self.passes)}.")
        largest = 255
        for stage, numbers in zip(stages, self.passes, strict=True):
            check_shapes(stage, numbers)
            bound(stage, numbers, largest, self.pixels)
            largest = self.largest
        for _, pools, _ in self.records():
            if pools > MOST_POOLS:
                raise Misuse(f"At most {MOST_POOLS} pools follow each other.")

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
        """The stages that have a `Pass`."""
        return [stage for stage in self.plan if stage.kind in KINDS]

    def records(self) -> list[tuple[Stage | None, int, int]]:
        """The stages as the file has them: (stage, pools that follow it, size of what comes in).

        The first entry, without a stage, is the image.
        """
        records: list[tuple[Stage | None, int, int]] = [(None, 0, SIZE)]
        for stage, before in zip(self.plan, (None, *self.plan), strict=False):
            if stage.kind == "pool":
                last, pools, size = records[-1]
                records[-1] = last, pools + 1, size
            elif stage.kind in KINDS:
                # The classes see the average, so that what comes in is what comes in to that.
                averaged = before and before.kind == "average"
                size = before.size_in if before and averaged else stage.size_in
                records.append((stage, 0, size))
        return records

    # -------------------------------------------------------------------------- the engine

    def logits(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The scores of images, uint8 (N, 28, 28): int32 (N, classes).

        `batch_size`, images at a time, changes memory and speed and nothing else.

        Raises:
            Misuse: the images are none of that kind.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIZE, SIZE):
            raise Misuse(
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
        passes = iter(self.passes)
        largest = 255
        for stage in self.plan:
            if stage.kind == "pool":
                x = pool(x, stage.size_out)
            elif stage.kind == "average":
                x = x.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
            else:
                numbers = next(passes)
                x = convolve(x, stage, numbers, bound(stage, numbers, largest, self.pixels))
                largest = self.largest
                if stage.kind != "classes":
                    x = requantise(x, numbers, largest)
        return x.reshape(len(x), -1).T.astype(np.int32)

    def log_probs(self, images: np.ndarray) -> np.ndarray:
        """The logarithms of the classes' probabilities: float32 (N, classes).

        `images` as for `logits`.

        Raises:
            Misuse: the images are none of that kind.
        """
        scores = self.logits(images) * (self.logit_scale / self.temperature)
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return scores.astype(np.float32)

    # ---------------------------------------------------------------------------- the file

    def save(self, path: str | Path) -> None:
        """Write the network to a .tdq file.

        Raises:
            Failure: the file cannot be written; what was there before stays.
        """
        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of a .tdq file, as docs/format.md describes it; what the C engine reads."""
        image, *records = self.records()
        start = HEADER.size + RECORD.size * len(records)
        sections: dict[bytes, int] = {}  # what is used again is there once

        def offset(section: bytes) -> int:
            nonlocal start
            if section not in sections:
                sections[section] = start
                start += len(section)
            return sections[section]

        rows = b""
        for (stage, pools, size), numbers in zip(records, self.passes, strict=True):
            assert stage is not None
            weights = aligned(offset_binary(numbers.taps).tobytes()) + interleave(numbers.weights)
            table = np.stack([numbers.bias, numbers.multiplier], axis=-1).astype("<i2").tobytes()
            rows += RECORD.pack(
                *(KINDS[stage.kind], stage.kernel_size, pools, size),
                *(stage.channels_in, stage.channels_out),
                *(numbers.shift_in, numbers.shift_sum, numbers.shift_out, 0),
                *(offset(weights), offset(table) if table else 0),
            )
        text = b"".join(
            name.encode() + b"\0" for name in (*self.class_names, " ".join(self.layers))
        )
        floats = (self.description.mean, self.description.std, self.logit_scale, self.temperature)
        body = rows + b"".join(sections) + aligned(text)
        header = HEADER.pack(
            *(MAGIC, HEADER.size + len(body), 0),
            *(len(records), image[1], self.activation_bits, self.weight_bits),
            *(start, *floats),
        )
        checksum = zlib.crc32(header[12:] + body)
        return header[:8] + struct.pack("<I", checksum) + header[12:] + body

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = "The model") -> IntegerNetwork:
        """Read the content of a .tdq file; `name` is what to call it in an error.

        Raises:
            Failure: it is no such file, or it is damaged.
        """
        if raw[:4] != MAGIC or len(raw) < HEADER.size:
            raise Failure(f"{name} is not a .tdq file of version 1.")
        _, size, checksum, *fields = HEADER.unpack_from(raw)
        if size != len(raw) or checksum != zlib.crc32(raw[12:]):
            raise Failure(f"{name} is damaged: its length or its checksum is not what it says.")
        try:
            return cls._parse(raw, *fields)
        except (ValueError, IndexError, struct.error) as error:
            raise Failure(f"{name} holds no network that can run: {reason(error)}") from error

    @classmethod
    def _parse(
        cls, raw: bytes, count: int, pools: int, activation_bits: int, weight_bits: int,
        text: int, mean: float, std: float, logit_scale: float, temperature: float,
    ) -> IntegerNetwork:  # fmt: skip
        records = [RECORD.unpack_from(raw, HEADER.size + RECORD.size * i) for i in range(count)]
        passes = tuple(read_pass(raw, record) for record in records)
        classes = records[-1][5]
        strings = raw[text:].split(b"\0", classes + 1)
        if len(strings) != classes + 2:
            raise Misuse("names are missing.")
        *class_names, words, _ = (string.decode() for string in strings)
        description = Description(tuple(words.split(" ")), tuple(class_names), mean, std)
        network = cls(description, passes, logit_scale, temperature, activation_bits, weight_bits)
        image, *expected = network.records()
        shapes = [
            (
                *(KINDS[stage.kind], stage.kernel_size, pools, size),
                *(stage.channels_in, stage.channels_out),
            )
            for stage, pools, size in expected
            if stage is not None
        ]
        if image[1] != pools or shapes != [record[:6] for record in records]:
            raise Misuse("its stages are not those of its layers.")
        return network


def load(name_or_path: str | Path) -> IntegerNetwork:
    """Load a network in integers; needs no PyTorch.

        network = tinydigits.load("tiny2k")
        digits = network.logits(images).argmax(axis=1)  # images uint8 (N, 28, 28), ink bright

    Args:
        name_or_path: a preset whose network comes with the package, a run folder that holds a
            model.tdq, or a .tdq file.

    Raises:
        Misuse: there is no such file or folder.
        Failure: the file cannot be read, or it is damaged.
    """
    path = find_model(name_or_path, ".tdq")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Failure(f"Cannot read {path}: {reason(error)}.") from error
    return IntegerNetwork.from_bytes(raw, str(path))


# -------------------------------------------------------------------------------- arithmetic


@cache
def thread_pools() -> ThreadpoolController:
    """The threads of NumPy's matrix products, among others; found once, since that takes time."""
    return ThreadpoolController()


def bound(stage: Stage, numbers: Pass, largest: int, pixels: int) -> int:
    """How large a sum of `stage` can become, with any inputs of 0 to `largest`.

    Sums over channels are meant, with the rounding that is added to them. `pixels` are those
    that the classes see the sum of.

    Raises:
        Misuse: a sum can leave its range, of 16 bits where it is an input or is multiplied, of
            32 bits elsewhere.
    """
    inputs = largest
    if stage.kind == "classes":
        inputs = largest * pixels
    elif stage.kind != "conv":
        inputs = largest * int(magnitudes(numbers.taps.reshape(len(numbers.taps), -1)).max())
    inputs = inputs + half(numbers.shift_in) >> numbers.shift_in
    if inputs > INT16:
        raise Misuse(f"The inputs of {stage.name} can leave 16 bits.")
    widths = np.ones(stage.channels_out, np.int64)
    if stage.kind != "depthwise":
        widths = magnitudes(numbers.weights)
    sums = widths * inputs + half(numbers.shift_sum)
    if sums.max() > INT32:
        raise Misuse(f"The sums of {stage.name} can leave 32 bits.")
    if stage.kind != "classes":
        shifted = sums >> numbers.shift_sum
        factors = abs(numbers.multiplier.astype(np.int64))
        products = (shifted + abs(numbers.bias.astype(np.int64))) * factors
        if shifted.max() > INT16 or products.max() + half(numbers.shift_out) > INT32:
            raise Misuse(f"The sums of {stage.name} can leave 32 bits when they are rescaled.")
    return int(sums.max())


def magnitudes(weights: np.ndarray) -> np.ndarray:
    """Sums of absolute values, int64, along the last axis."""
    return abs(weights.astype(np.int64)).sum(axis=-1)


def check_shapes(stage: Stage, numbers: Pass) -> None:
    """Make sure that a pass has what its stage needs.

    Raises:
        Misuse: it hasn't.
    """
    window, enter, leave = stage.kernel_size, stage.channels_in, stage.channels_out
    inputs = enter * window**2 if stage.kind == "conv" else enter
    table = 0 if stage.kind == "classes" else leave
    wanted = (
        (enter, window, window) if stage.kind in ("depthwise", "separable") else (0, 0, 0),
        (0, 0) if stage.kind == "depthwise" else (leave, inputs),
        (table,),
        (table,),
    )
    arrays = numbers[:4]
    types = (np.int8, np.int8, np.int16, np.int16)
    if tuple(array.shape for array in arrays) != wanted or any(
        array.dtype != dtype for array, dtype in zip(arrays, types, strict=True)
    ):
        raise Misuse(f"The numbers of {stage.name} don't have its shape.")
    if inputs + inputs % 2 > MOST_INPUTS:
        raise Misuse(f"{stage.name}: the engine adds up at most {MOST_INPUTS:,} inputs.")
    unused = {"conv": numbers[4:5], "classes": numbers[5:]}.get(stage.kind, ())
    if not all(0 <= shift <= MOST_SHIFT for shift in numbers[4:]) or any(unused):
        raise Misuse(f"The shifts of {stage.name} make no sense.")


def pool(x: np.ndarray, size: int) -> np.ndarray:
    """The largest of 2x2 pixels: (C, h, w, N) to (C, size, size, N)."""
    x = x[:, : 2 * size, : 2 * size]
    x = np.maximum(x[:, ::2], x[:, 1::2])
    return np.maximum(x[:, :, ::2], x[:, :, 1::2])


def convolve(x: np.ndarray, stage: Stage, numbers: Pass, largest: int) -> np.ndarray:
    """The sums of a stage, at most `largest` of either sign, as floats that are whole numbers.

    (C, h, w, N) to (C', h', w', N); `shift_sum` and what follows it are still to come.
    """
    size, window = stage.size_out, stage.kernel_size
    windows = [
        x[:, row : row + size, column : column + size]
        for row in range(window)
        for column in range(window)
    ]
    if stage.kind == "conv":
        x = np.concatenate(windows)  # (k * k * C, h', w', N)
    elif stage.kind == "classes":
        x = np.floor((x + half(numbers.shift_in)) * 2.0**-numbers.shift_in)
    else:
        # Sums of at most 49 x 128 x 255: exact in float32.
        taps = numbers.taps.reshape(stage.channels_in, -1).T.astype(np.float32)
        x = np.full(
            (stage.channels_in, size, size, x.shape[-1]), half(numbers.shift_in), np.float32
        )
        product = np.empty_like(x)
        for tap, part in zip(taps, windows, strict=True):
            x += np.multiply(part, tap[:, None, None, None], out=product)
        x *= np.float32(2.0**-numbers.shift_in)
        np.floor(x, out=x)
        if stage.kind == "depthwise":
            return x
    dtype = np.float32 if largest <= EXACT else np.float64
    sums = numbers.weights.astype(dtype) @ x.reshape(len(x), -1).astype(dtype, copy=False)
    return sums.reshape(len(sums), size, size, -1)


def requantise(sums: np.ndarray, numbers: Pass, largest: int) -> np.ndarray:
    """Sums (C, h, w, N) to activations: float32, whole numbers from 0 to `largest`."""
    bias, multiplier = (
        column.astype(np.int32)[:, None, None, None]
        for column in (numbers.bias, numbers.multiplier)
    )
    x = sums.astype(np.int32)
    x += half(numbers.shift_sum)
    x >>= numbers.shift_sum
    x += bias
    x *= multiplier
    x += half(numbers.shift_out)
    x >>= numbers.shift_out
    return np.clip(x, 0, largest, out=x).astype(np.float32)


# --------------------------------------------------------------------------- the file's parts


def aligned(section: bytes) -> bytes:
    """Fill up to a multiple of four bytes."""
    return section + bytes(-len(section) % 4)


def offset_binary(weights: np.ndarray) -> np.ndarray:
    """int8 to uint8 as w + 128, and back: the highest bit is the other way round."""
    return (weights.view(np.uint8) ^ 0x80).view(np.uint8 if weights.dtype == np.int8 else np.int8)


def interleave(weights: np.ndarray) -> bytes:
    """The weights of sums (outputs, inputs) in the order in which the C engine reads them.

    Four outputs at a time, and of those two inputs at a time: (outputs / 4, inputs / 2, 4, 2),
    filled up with zeros, as w + 128.
    """
    outputs, inputs = weights.shape
    padded = np.pad(weights, ((0, -outputs % 4), (0, inputs % 2)))
    groups = padded.reshape(-(-outputs // 4), 4, -(-inputs // 2), 2)
    return offset_binary(np.ascontiguousarray(np.moveaxis(groups, 2, 1))).tobytes()


def separate(raw: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Undo `interleave`: uint8 (bytes,) to int8 (outputs, inputs).

    Raises:
        Misuse: what fills up isn't zero.
    """
    groups = offset_binary(raw).reshape(-1, (inputs + 1) // 2, 4, 2)
    padded = np.moveaxis(groups, 1, 2).reshape(len(groups) * 4, -1)
    if padded[outputs:].any() or padded[:, inputs:].any():
        raise Misuse("there are weights where there is nothing to weigh.")
    return padded[:outputs, :inputs]


def read_pass(raw: bytes, record: tuple[int, ...]) -> Pass:
    """The numbers that a record of the file points at.

    Raises:
        ValueError, Misuse: they lie outside the file or make no sense.
    """
    kind, window, _, _, enter, leave, shift_in, shift_sum, shift_out, _, weights, table = record
    if kind not in KINDS.values() or not (1 <= window <= 7 and enter and leave):
        raise Misuse("a stage is of no known kind.")
    if weights % 4 or table % 4:
        raise Misuse("a part isn't aligned.")

    def section(offset: int, count: int, dtype: str) -> np.ndarray:
        return np.frombuffer(raw, dtype, count, offset)

    taps = NO_TAPS
    if kind in (KINDS["depthwise"], KINDS["separable"]):
        taps = section(weights, enter * window**2, "u1").reshape(enter, window, window)
        taps = offset_binary(taps)
        weights += len(aligned(taps.tobytes()))
    mixing = NO_WEIGHTS
    if kind != KINDS["depthwise"]:
        inputs = enter * window**2 if kind == KINDS["conv"] else enter
        count = (leave + 3) // 4 * 4 * ((inputs + 1) // 2 * 2)
        mixing = separate(section(weights, count, "u1"), leave, inputs)
    entries = np.zeros((0, 2), np.int16)
    if kind != KINDS["classes"]:
        entries = section(table, 2 * leave, "<i2").reshape(leave, 2).astype(np.int16)
    bias, multiplier = entries.T
    return Pass(taps, mixing, bias, multiplier, shift_in, shift_sum, shift_out)
