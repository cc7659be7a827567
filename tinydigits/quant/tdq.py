"""The file of a network in integers, .tdq: written and read as docs/format.md describes it."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np

from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import write_atomically
from tinydigits.network.architecture import SIZE, Stage
from tinydigits.network.checkpoint import Description, find_model
from tinydigits.quant.integer import KINDS, NO_DEPTHWISE, NO_WEIGHTS, IntegerNetwork, QuantizedLayer

MAGIC = b"TDQ1"
HEADER = struct.Struct("<4sII4BI4f")
RECORD = struct.Struct("<4BII4BII")
THRESHOLD = "rejection_threshold "
"""What the string begins with that holds the threshold."""


def load_quantized(name_or_path: str | Path) -> IntegerNetwork:
    """Load a network in integers; needs no PyTorch.

        network = tinydigits.load_quantized("tiny2k")
        digits = network.logits(images).argmax(axis=1)  # images uint8 (N, 28, 28), ink bright

    Args:
        name_or_path: a preset whose network comes with the package, a run folder that holds a
            model.tdq, or a .tdq file.

    Raises:
        UsageError: there is no such file or folder.
        Failure: the file cannot be read, or it is damaged.
    """
    path = find_model(name_or_path, ".tdq")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Failure(f"Cannot read {path}: {reason(error)}.") from error
    return from_bytes(raw, str(path))


def save(network: IntegerNetwork, path: str | Path) -> None:
    """Write a network to a .tdq file.

    Raises:
        Failure: the file cannot be written; what was there before stays.
    """
    write_atomically(Path(path), to_bytes(network))


def to_bytes(network: IntegerNetwork) -> bytes:
    """The content of a .tdq file, as docs/format.md describes it; what the C engine reads."""
    image, *stages = records(network)
    start = HEADER.size + RECORD.size * len(stages)
    sections: dict[bytes, int] = {}  # what is used again is there once

    def offset(section: bytes) -> int:
        nonlocal start
        if section not in sections:
            sections[section] = start
            start += len(section)
        return sections[section]

    rows = b""
    for (stage, pools, size), layer in zip(stages, network.quantized_layers, strict=True):
        assert stage is not None
        weights = aligned(offset_binary(layer.depthwise).tobytes()) + interleave(layer.weights)
        table = np.stack([layer.bias, layer.multiplier], axis=-1).astype("<i2").tobytes()
        rows += RECORD.pack(
            *(KINDS[stage.kind], stage.kernel_size, pools, size),
            *(stage.channels_in, stage.channels_out),
            *(layer.shift_in, layer.shift_sum, layer.shift_out, 0),
            *(offset(weights), offset(table) if table else 0),
        )
    strings = [*network.class_names, " ".join(network.layers)]
    if network.rejection_threshold is not None:
        strings.append(f"{THRESHOLD}{decimals(network.rejection_threshold)}")
    text = b"".join(string.encode() + b"\0" for string in strings)
    floats = (
        network.description.mean,
        network.description.std,
        network.logit_scale,
        network.temperature,
    )
    body = rows + b"".join(sections) + aligned(text)
    header = HEADER.pack(
        *(MAGIC, HEADER.size + len(body), 0),
        *(len(stages), image[1], network.activation_bits, network.weight_bits),
        *(start, *floats),
    )
    checksum = zlib.crc32(header[12:] + body)
    return header[:8] + struct.pack("<I", checksum) + header[12:] + body


def records(network: IntegerNetwork) -> list[tuple[Stage | None, int, int]]:
    """The stages as the file has them: (stage, pools that follow it, size of what comes in).

    The first entry, without a stage, is the image.
    """
    rows: list[tuple[Stage | None, int, int]] = [(None, 0, SIZE)]
    for stage, before in zip(network.plan, (None, *network.plan), strict=False):
        if stage.kind == "pool":
            last, pools, size = rows[-1]
            rows[-1] = last, pools + 1, size
        elif stage.kind in KINDS:
            # The classes see the average, so that what comes in is what comes in to that.
            averaged = before and before.kind == "average"
            size = before.size_in if before and averaged else stage.size_in
            rows.append((stage, 0, size))
    return rows


# ---------------------------------------------------------------------------------- reading


def from_bytes(raw: bytes, name: str = "The model") -> IntegerNetwork:
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
        return parse(raw, *fields)
    except (ValueError, IndexError, struct.error) as error:
        raise Failure(f"{name} holds no network that can run: {reason(error)}") from error


def parse(
    raw: bytes, count: int, pools: int, activation_bits: int, weight_bits: int,
    text: int, mean: float, std: float, logit_scale: float, temperature: float,
) -> IntegerNetwork:  # fmt: skip
    """The network of a file whose length and checksum are right; the numbers are its header's."""
    rows = [RECORD.unpack_from(raw, HEADER.size + RECORD.size * i) for i in range(count)]
    quantized_layers = tuple(read_layer(raw, record) for record in rows)
    classes = rows[-1][5]
    strings = raw[text:].split(b"\0", classes + 1)
    if len(strings) != classes + 2:
        raise UsageError("names are missing.")
    *class_names, words, rest = (string.decode() for string in strings)
    description = Description(tuple(words.split(" ")), tuple(class_names), mean, std)
    network = IntegerNetwork(
        *(description, quantized_layers, logit_scale, temperature, activation_bits, weight_bits),
        rejection_threshold=read_threshold(rest),
    )
    image, *expected = records(network)
    shapes = [
        (KINDS[stage.kind], stage.kernel_size, pools, size, stage.channels_in, stage.channels_out)
        for stage, pools, size in expected
        if stage is not None
    ]
    if image[1] != pools or shapes != [record[:6] for record in rows]:
        raise UsageError("its stages are not those of its layers.")
    return network


def decimals(value: float) -> str:
    """A number from 0 to 1 with as many decimals as it needs, at most six."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def read_threshold(rest: str) -> float | None:
    """The rejection threshold in what follows the words; None where there is none.

    Raises:
        UsageError: it is none, or something else follows.
    """
    string, *filler = rest.split("\0")
    match = re.fullmatch(rf"{THRESHOLD}(0(\.[0-9]{{1,6}})?|1(\.0{{1,6}})?)", string)
    if (string and (not match or not filler)) or any(filler):
        raise UsageError("after its layers comes something that is no rejection threshold.")
    return float(match[1]) if match else None


def read_layer(raw: bytes, record: tuple[int, ...]) -> QuantizedLayer:
    """The numbers that a record of the file points at.

    Raises:
        ValueError, UsageError: they lie outside the file or make no sense.
    """
    kind, kernel_size, _, _, enter, leave, shift_in, shift_sum, shift_out, _, weights, table = (
        record
    )
    if kind not in KINDS.values() or not (1 <= kernel_size <= 7 and enter and leave):
        raise UsageError("a stage is of no known kind.")
    if weights % 4 or table % 4:
        raise UsageError("a part isn't aligned.")

    def section(offset: int, count: int, dtype: str) -> np.ndarray:
        return np.frombuffer(raw, dtype, count, offset)

    depthwise = NO_DEPTHWISE
    if kind in (KINDS["depthwise"], KINDS["separable"]):
        depthwise = section(weights, enter * kernel_size**2, "u1").reshape(
            enter, kernel_size, kernel_size
        )
        depthwise = offset_binary(depthwise)
        weights += len(aligned(depthwise.tobytes()))
    matrix = NO_WEIGHTS
    if kind != KINDS["depthwise"]:
        inputs = enter * kernel_size**2 if kind == KINDS["conv"] else enter
        count = (leave + 3) // 4 * 4 * ((inputs + 1) // 2 * 2)
        matrix = separate(section(weights, count, "u1"), leave, inputs)
    entries = np.zeros((0, 2), np.int16)
    if kind != KINDS["classes"]:
        entries = section(table, 2 * leave, "<i2").reshape(leave, 2).astype(np.int16)
    bias, multiplier = entries.T
    return QuantizedLayer(depthwise, matrix, bias, multiplier, shift_in, shift_sum, shift_out)


# ------------------------------------------------------------------------- weights in bytes


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
        UsageError: what fills up isn't zero.
    """
    groups = offset_binary(raw).reshape(-1, (inputs + 1) // 2, 4, 2)
    padded = np.moveaxis(groups, 1, 2).reshape(len(groups) * 4, -1)
    if padded[outputs:].any() or padded[:, inputs:].any():
        raise UsageError("there are weights where there is nothing to weigh.")
    return padded[:outputs, :inputs]
