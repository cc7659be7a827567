"""A second reader of .tdq files, written from docs/format.md alone: slow, naive, in whole numbers.

It shares no code with the engines, so that what it agrees with is what the document says.
"""

import struct
import zlib
from typing import Any

import numpy as np


def read(raw: bytes) -> dict[str, Any]:
    assert raw[:4] == b"TDQ1"
    size, checksum = struct.unpack_from("<II", raw, 4)
    assert size == len(raw)
    assert size % 4 == 0
    assert checksum == zlib.crc32(raw[12:])
    count, pools, bits, _ = raw[12:16]
    (text,) = struct.unpack_from("<I", raw, 16)
    floats = struct.unpack_from("<4f", raw, 20)
    stages = [read_stage(raw, 36 + 24 * i) for i in range(count)]
    strings = raw[text:].split(b"\0")
    classes = stages[-1]["K"]
    threshold = strings[classes + 1].decode()
    return {
        "pools": pools,
        "largest": 2**bits - 1,
        "stages": stages,
        "names": [name.decode() for name in strings[:classes]],
        "layers": strings[classes].decode(),
        "threshold": float(threshold.split(" ")[1]) if threshold else None,
        **dict(zip(("mean", "std", "scale", "temperature"), floats, strict=True)),
    }


def read_stage(raw: bytes, start: int) -> dict[str, Any]:
    kind, k, pools, s, c, n, shift_in, shift_sum, shift_out, zero, weights, table = (
        struct.unpack_from("<4BII4BII", raw, start)
    )
    assert zero == 0
    stage: dict[str, Any] = {"kind": kind, "k": k, "pools": pools, "s": s, "C": c, "K": n}
    stage |= {"shift_in": shift_in, "shift_sum": shift_sum, "shift_out": shift_out}
    if kind in (2, 3):
        stage["depthwise"] = [
            [[raw[weights + (ch * k + y) * k + x] - 128 for x in range(k)] for y in range(k)]
            for ch in range(c)
        ]
        weights += (c * k * k + 3) // 4 * 4
    if kind != 2:
        inputs = c * k * k if kind == 1 else c
        per_group = 8 * ((inputs + 1) // 2)
        stage["weights"] = [
            [
                raw[weights + o // 4 * per_group + 8 * (i // 2) + 2 * (o % 4) + i % 2] - 128
                for i in range(inputs)
            ]
            for o in range(n)
        ]
    if kind != 4:
        entries = struct.unpack_from(f"<{2 * n}h", raw, table)
        stage["bias"], stage["multiplier"] = entries[::2], entries[1::2]
    return stage


def half(shift: int) -> int:
    return 2**shift // 2


def pool(image: np.ndarray) -> np.ndarray:
    height = len(image) // 2
    blocks = image[: 2 * height, : 2 * height].reshape(height, 2, height, 2, -1)
    return blocks.max(axis=(1, 3))


def classify(model: dict[str, Any], image: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """The logits of an image, uint8 (28, 28), and what came out of each stage but the last."""
    x = image[:, :, None].astype(object)  # Python's integers, which never wrap
    for _ in range(model["pools"]):
        x = pool(x)
    seen = []
    for stage in model["stages"]:
        assert x.shape == (stage["s"], stage["s"], stage["C"])
        if stage["kind"] == 4:
            inputs = [
                (int(total) + half(stage["shift_in"])) >> stage["shift_in"]
                for total in x.sum(axis=(0, 1))
            ]
            logits = [
                sum(w * i for w, i in zip(row, inputs, strict=True)) for row in stage["weights"]
            ]
            return logits, seen
        size = stage["s"] - stage["k"] + 1
        out = np.zeros((size, size, stage["K"]), object)
        for y in range(size):
            for column in range(size):
                window = x[y : y + stage["k"], column : column + stage["k"]]
                out[y, column] = convolve(stage, window, model["largest"])
        for _ in range(stage["pools"]):
            out = pool(out)
        seen.append(out.astype(np.uint8))
        x = out
    raise AssertionError("no classes")


def convolve(stage: dict[str, Any], window: np.ndarray, largest: int) -> list[int]:
    if stage["kind"] == 1:
        inputs = [int(value) for value in window.reshape(-1)]
    else:
        depthwise = np.array(stage["depthwise"], object)  # (C, k, k)
        sums = (window.transpose(2, 0, 1) * depthwise).sum(axis=(1, 2))
        inputs = [(int(s) + half(stage["shift_in"])) >> stage["shift_in"] for s in sums]
    if stage["kind"] == 2:
        sums = inputs
    else:
        weights = np.array(stage["weights"], object)
        sums = [int(total) for total in weights @ np.array(inputs, object)]
    out = []
    for total, bias, multiplier in zip(sums, stage["bias"], stage["multiplier"], strict=True):
        assert abs(total) + half(stage["shift_sum"]) < 2**31
        value = ((total + half(stage["shift_sum"])) >> stage["shift_sum"]) + bias
        product = value * multiplier + half(stage["shift_out"])
        assert -(2**31) <= product < 2**31
        out.append(min(max(product >> stage["shift_out"], 0), largest))
    return out
