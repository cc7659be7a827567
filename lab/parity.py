"""The same bits everywhere: NumPy, C on this machine, in Node, on an emulated Cortex-M0 and M4."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lab.engines import (
    BOARDS,
    COMPILERS,
    SMALL,
    build_engine,
    build_native,
    open_native,
    run_board,
    run_native,
    run_wasm,
    scratch_of,
)
from tinydigits.data.mnist import load_mnist
from tinydigits.errors import Failure, UsageError
from tinydigits.files import write_json
from tinydigits.network.architecture import Stage
from tinydigits.network.checkpoint import Description
from tinydigits.quant.integer import (
    KINDS,
    NO_DEPTHWISE,
    NO_TABLE,
    NO_WEIGHTS,
    IntegerNetwork,
    QuantizedLayer,
)
from tinydigits.quant.ptq import choose_shifts, fits
from tinydigits.quant.tdq import load_quantized, to_bytes
from tinydigits.terminal import say
from tinydigits.training.presets import PRESETS

# --------------------------------------------------------------------------- random networks


def random_network(seed: int, widest: int = 40) -> IntegerNetwork:
    """A network of random layers whose numbers are as bad as the format allows.

    Weights reach -128 and 127, multipliers and biases 16 bits, products 31 bits; activations
    saturate at either end. Every tenth network is so wide that the sums themselves come within
    0.2 % of 2^31.
    """
    random = np.random.default_rng(seed)
    bits = int(random.integers(4, 9)) if seed % 3 else 8
    names = tuple(f"class {k}" for k in range(int(random.integers(2, 13))))
    while True:
        if seed % 10 == 9:
            layers = ("pool", "pool", "conv1:513", f"separable3:{random.integers(1, 9)}")
            bits = 8
        else:
            layers = random_layers(random, widest)
        try:
            description = Description(layers, names, 0.5, 0.25)
            break
        except UsageError:  # nothing was left of the image
            continue
    stages = description.plan()
    quantized_layers: list[QuantizedLayer] = []
    own: dict[int, QuantizedLayer] = {}
    largest = 255
    for i, stage in enumerate(stages):
        if stage.kind not in KINDS:
            continue
        source = i if stage.shares_weights_with is None else stage.shares_weights_with
        if source not in own:
            own[source] = random_weights(random, stage, seed % 10 == 9)
        pixels = stages[-2].size_in ** 2
        quantized_layers.append(
            random_table(random, stage, own[source], largest, pixels, seed % 10 == 9)
        )
        largest = 2**bits - 1
    return IntegerNetwork(description, tuple(quantized_layers), 0.01, 1.0, bits)


def random_layers(random: np.random.Generator, widest: int) -> tuple[str, ...]:
    """One to seven words; a third of the networks begins with a pool, few have none."""
    words = ["pool"] * int(random.integers(0, 3) == 0)
    for _ in range(int(random.integers(1, 7))):
        kernel_size, width = random.choice([1, 3, 3, 5, 7]), random.integers(1, widest + 1)
        kind = random.choice(["conv", "conv", "separable", "separable", "depthwise", "pool",
                              "again", "again"])  # fmt: skip
        match kind:
            case "conv":
                words.append(f"conv{kernel_size}:{width}")
            case "separable":
                words.append(f"separable{max(3, kernel_size)}:{width}")
                if random.integers(2):  # so that it can be repeated
                    words.append(f"separable{max(3, kernel_size)}:{width}")
            case "depthwise":
                words.append(f"depthwise{max(3, kernel_size)}")
            case _:
                words.append(str(kind))
    return tuple(words)


def random_weights(random: np.random.Generator, stage: Stage, wide: bool) -> QuantizedLayer:
    """Weights of any sort: extreme ones, even ones, mostly zero."""

    def draw(*shape: int) -> np.ndarray:
        style = random.integers(3)
        if style == 0:
            return random.choice(np.array([-128, 127], np.int8), shape)
        drawn = random.integers(-128, 128, shape, np.int8)
        return drawn if style == 1 else drawn * (random.random(shape) < 0.2).astype(np.int8)

    depthwise, weights = NO_DEPTHWISE, NO_WEIGHTS
    if stage.kind in ("depthwise", "separable"):
        depthwise = draw(stage.channels_in, stage.kernel_size, stage.kernel_size)
    if stage.kind != "depthwise":
        area = stage.kernel_size**2 if stage.kind == "conv" else 1
        weights = draw(stage.channels_out, area * stage.channels_in)
    if wide and stage.kind == "separable":
        depthwise = np.zeros_like(depthwise)
        depthwise[:, 1, 1] = -128
        weights = np.full_like(weights, -128)
        weights[1::2] = 127
    if wide and stage.kind == "conv":
        weights = np.full_like(weights, 127)
    return QuantizedLayer(depthwise, weights, NO_TABLE, NO_TABLE)


def random_table(
    random: np.random.Generator,
    stage: Stage,
    layer: QuantizedLayer,
    largest: int,
    pixels: int,
    wide: bool,
) -> QuantizedLayer:
    """Biases, multipliers and shifts for weights, such that nothing leaves its range."""
    inputs = largest * pixels if stage.kind == "classes" else largest
    shift_in, shift_sum = choose_shifts(stage, layer, inputs)
    layer = layer._replace(shift_in=shift_in, shift_sum=shift_sum)
    if stage.kind == "classes":
        return layer
    count, limit = stage.channels_out, 2**15 - 1
    bias = random.integers(-limit - 1, limit + 1, count, np.int16)
    multiplier = random.integers(-limit - 1, limit + 1, count, np.int16)
    bias[random.random(count) < 0.2] = limit
    multiplier[random.random(count) < 0.2] = limit
    shift_out = int(random.integers(8, 29))
    if wide:
        bias, multiplier, shift_out = np.zeros_like(bias), np.full_like(multiplier, limit), 14
    elif random.integers(2):
        bias >>= 6  # so that the sums have a say
    layer = layer._replace(bias=bias, multiplier=multiplier, shift_out=shift_out)
    while not fits(stage, layer, largest):
        layer = layer._replace(shift_out=layer.shift_out - 1)
    return layer


def noise_images(count: int, seed: int = 0) -> np.ndarray:
    """All paper, all ink, then noise of which more and more is paper: uint8 (count, 28, 28)."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 28, 28), np.uint8)
    images *= random.random(images.shape) < random.random((count, 1, 1))
    images[:1], images[1:2] = 0, 255
    return images


# --------------------------------------------------------------------------------- the study


def parity(
    results: Path,
    digits: int = 10_000,
    on_board: int = 500,
    random_networks: int = 200,
    models: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Compare every logit of every engine, and write what was compared to a file.

    Args:
        results: the folder that gets parity.json.
        digits: test digits, and images of noise, for each model on this machine.
        on_board: test digits for each model on each board.
        random_networks: how many, each with 32 images; on the boards with 4.
        models: what `tinydigits.load_quantized` takes; the presets if None.

    Returns:
        What was written: for each engine the logits that were compared, and the differing ones.

    Raises:
        Failure: a tool is missing, or logits differ; the file says which.
    """
    test = load_mnist().test_images
    if models is None:
        models = tuple(sorted(PRESETS))
    compared: dict[str, dict[str, int]] = {}

    def compare(engine: str, expected: np.ndarray, logits: np.ndarray, classes: np.ndarray) -> None:
        row = compared.setdefault(engine, {"networks": 0, "images": 0, "logits": 0, "differing": 0})
        row["networks"] += 1
        row["images"] += len(expected)
        row["logits"] += expected.size
        row["differing"] += int((logits != expected).sum())
        row["differing"] += int((classes != expected.argmax(axis=1)).sum())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        native = {compiler: open_native(build_native(compiler, folder)) for compiler in COMPILERS}
        targets = {core: build_engine(board, folder) for core, board in BOARDS.items()}
        for model, network, images, few in cases(
            models, test[:digits], digits, on_board, random_networks
        ):
            raw = to_bytes(network)
            expected = network.logits(images)
            for compiler, engine in native.items():
                compare(compiler, expected, *run_native(engine, raw, images))
            compare("wasm", expected, *run_wasm(raw, images, folder))
            scratch = scratch_of(next(iter(native.values())), raw)
            for core, board in BOARDS.items():
                if scratch <= SMALL or core != "cortex-m0":
                    done = run_board(board, targets[core], raw, scratch, images[:few], folder)
                    compare(core, expected[:few], done.logits, done.classes)
            say(f"{model}: compared")
    value = {"models": models, "random_networks": random_networks, "engines": compared}
    write_json(results / "parity.json", value)
    if any(row["differing"] for row in compared.values()):
        raise Failure(f"Engines differ: see {results / 'parity.json'}.")
    return value


def cases(
    models: tuple[str, ...], test: np.ndarray, noise: int, on_board: int, random_networks: int
) -> Iterator[tuple[str, IntegerNetwork, np.ndarray, int]]:
    """What to compare: (name, network, images, how many of them go to the boards)."""
    for model in models:
        yield model, load_quantized(model), np.concatenate([test, noise_images(noise)]), on_board
    for seed in range(random_networks):
        yield f"random {seed}", random_network(seed), noise_images(32, seed), 4
