"""The same bits everywhere: NumPy, C on this machine, in Node, on an emulated Cortex-M0 and M4.

Also what C code costs on a microcontroller: bytes of its object, instructions and stack.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinydigits.config import PRESETS
from tinydigits.data.mnist import load_mnist
from tinydigits.files import Failure, Misuse, say, write_json
from tinydigits.integer import KINDS, NO_TABLE, NO_TAPS, NO_WEIGHTS, IntegerNetwork, Pass, load
from tinydigits.layers import Stage
from tinydigits.modelfile import Description
from tinydigits.quantise import choose_shifts, fits

ENGINE = Path(__file__).parents[1] / "engine"
SOURCES = sorted(ENGINE.glob("*.c"))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
COMPILERS = ("gcc", "clang")
FUNCTIONS = (
    *("tinydigits_check", "tinydigits_classes", "tinydigits_class_name"),
    *("tinydigits_scratch", "tinydigits_predict", "tinydigits_prepare"),
)
"""What tinydigits.js calls."""
SMALL = 12_000
"""The scratch that the microbit, with 16 kB of memory, has room for."""


class Board(NamedTuple):
    """An emulated microcontroller."""

    machine: str
    """QEMU's name for it."""
    processor: str
    """gcc's name for its processor."""
    instructions_per_tick: float
    """Of SysTick, where QEMU's -icount lets an instruction take a nanosecond."""
    memory: int
    """Bytes of RAM."""


BOARDS = {
    "cortex-m0": Board("microbit", "cortex-m0", 62.5, 16 * 1024),
    "cortex-m4": Board("mps2-an386", "cortex-m4", 40.0, 4 * 1024 * 1024),
}


class Measured(NamedTuple):
    """What a board did with N images."""

    logits: np.ndarray
    """int32 (N, classes)."""
    classes: np.ndarray
    """int64 (N,): what predict returned."""
    instructions: np.ndarray
    """int64 (N,): executed by predict, counted to 62.5 or 40."""
    stack: int
    """Bytes of stack that predict and what it calls used at most, interrupts aside."""


def run(*command: object, folder: Path | None = None, timeout: float = 600) -> str:
    """Run a tool and return what it prints.

    Raises:
        Failure: it is missing, fails or doesn't end.
    """
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        raise Failure(f"{words[0]} is not installed, and this needs it.")
    try:
        done = subprocess.run(
            words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{words[0]} did not end within {timeout:.0f} seconds.") from error
    if done.returncode:
        raise Failure(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


# ------------------------------------------------------------------------------- this machine


def build_native(compiler: str, folder: Path, *options: str) -> Path:
    """Compile the engine to a shared library in `folder`.

    Raises:
        Failure: the compiler is missing, or it warns.
    """
    library = folder / f"tinydigits-{Path(compiler).name}.so"
    options = (*STRICT, "-O3", *options)
    run(compiler, *options, "-shared", "-fPIC", *SOURCES, "-o", library)
    return library


def open_native(library: Path) -> Any:
    """The engine's functions, for `ctypes`."""
    engine = ctypes.CDLL(str(library))
    engine.tinydigits_check.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    engine.tinydigits_scratch.argtypes = [ctypes.c_void_p]
    engine.tinydigits_scratch.restype = ctypes.c_size_t
    engine.tinydigits_predict.argtypes = [ctypes.c_void_p] * 4
    engine.tinydigits_classes.argtypes = [ctypes.c_void_p]
    engine.tinydigits_class_name.argtypes = [ctypes.c_void_p, ctypes.c_int]
    engine.tinydigits_class_name.restype = ctypes.c_char_p
    engine.tinydigits_prepare.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        *(ctypes.c_void_p, ctypes.c_void_p),
    ]
    return engine


def run_native(engine: Any, model: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classify images, uint8 (N, 28, 28), with what `open_native` returns.

    Returns:
        The logits, int32 (N, classes), and the classes that predict returned, int64 (N,).

    Raises:
        Failure: the engine refuses the model.
    """
    words = np.frombuffer(model, np.uint32)  # numpy aligns what it allocates
    words = words.copy()
    if code := engine.tinydigits_check(words.ctypes.data, len(model)):
        raise Failure(f"The engine refuses the model: {code}.")
    # Noise, since what is in the scratch before must not matter.
    noise = np.random.default_rng(0)
    scratch = noise.integers(0, 2**32, engine.tinydigits_scratch(words.ctypes.data) // 4 + 1,
                             np.uint32)  # fmt: skip
    images = np.ascontiguousarray(images)
    logits = np.empty((len(images), engine.tinydigits_classes(words.ctypes.data)), np.int32)
    classes = np.empty(len(images), np.int64)
    for i in range(len(images)):
        classes[i] = engine.tinydigits_predict(
            words.ctypes.data, images[i].ctypes.data, logits[i].ctypes.data, scratch.ctypes.data
        )
    return logits, classes


def scratch_of(engine: Any, model: bytes) -> int:
    """The bytes of scratch that a model needs."""
    words = np.frombuffer(model, np.uint32).copy()
    return engine.tinydigits_scratch(words.ctypes.data)


# --------------------------------------------------------------------------------- WebAssembly


def build_wasm(target: Path) -> None:
    """Compile the engine to WebAssembly, for tinydigits.js.

    `build_wasm(parity.ENGINE / "tinydigits.wasm")` makes the file that comes with the package.

    Raises:
        Failure: clang or its linker is missing, it warns, or the engine needs a library.
    """
    run(
        *("clang", "--target=wasm32", *STRICT, "-O3", "-ffreestanding", "-nostdlib"),
        *("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,--stack-first", "-Wl,-z,stack-size=8192"),
        *(f"-Wl,--export={name}" for name in ("__heap_base", *FUNCTIONS)),
        *(*SOURCES, "-o", target),
    )
    target.chmod(0o644)  # the linker makes a program of it


def run_node(script: str, folder: Path, module: Path = ENGINE / "tinydigits.js") -> str:
    """Run JavaScript in `folder`, with `load` of tinydigits.js; returns what it prints.

    Raises:
        Failure: Node is missing, or the script throws.
    """
    lines = (
        f'import {{ load }} from "{module.as_uri()}";',
        'import { readFileSync, writeFileSync } from "node:fs";',
        script,
    )
    return run("node", "--input-type=module", "--eval", "\n".join(lines), folder=folder)


def run_wasm(
    model: bytes, images: np.ndarray, folder: Path, wasm: Path = ENGINE / "tinydigits.wasm"
) -> tuple[np.ndarray, np.ndarray]:
    """Classify images, uint8 (N, 28, 28), in Node; files go to `folder`. Returns as `run_native`.

    Raises:
        Failure: Node is missing, or the engine refuses the model.
    """
    (folder / "model.tdq").write_bytes(model)
    (folder / "images").write_bytes(np.ascontiguousarray(images).tobytes())
    run_node(CLASSIFY.replace("WASM", json.dumps(str(wasm))), folder)
    rows = np.fromfile(folder / "results", np.int32).reshape(len(images), -1)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


CLASSIFY = """
const network = await load("model.tdq", WASM);
const images = readFileSync("images");
const rows = [];
for (let i = 0; i < images.length; i += 784) {
  const { index, logits } = network.predict(images.subarray(i, i + 784));
  rows.push(index, ...logits);
}
writeFileSync("results", Int32Array.from(rows));
"""


# ------------------------------------------------------------------------------------- boards


def build_engine(board: Board, folder: Path, level: str = "-Os") -> Path:
    """Compile the engine for a board: an object in `folder` that calls nothing but itself.

    Raises:
        Failure: the compiler is missing, it warns, or the object needs a library.
    """
    target = folder / f"tinydigits-{board.processor}{level}.o"
    options = ("-mthumb", f"-mcpu={board.processor}", *STRICT, level)
    # One object of all files, each function in a section of its own, so that a linker leaves out
    # what is not called.
    options += ("-r", "-nostdlib", "-ffunction-sections", "-fdata-sections")
    run("arm-none-eabi-gcc", *options, *SOURCES, "-o", target)
    if needed := run("arm-none-eabi-nm", "-u", target).split():
        raise Failure(f"The engine for {board.processor} needs a library: {' '.join(needed)}.")
    return target


def functions(target: Path) -> dict[str, int]:
    """The bytes of each function and constant in an object."""
    lines = run("arm-none-eabi-nm", "-S", target).splitlines()
    sized = [fields for fields in map(str.split, lines) if len(fields) == 4]
    sizes: Counter[str] = Counter()
    for _, size, _, name in sized:  # two files may each have a function of the same name
        sizes[name] += int(size, 16)
    return sizes


def run_board(
    board: Board, target: Path, model: bytes, scratch: int, images: np.ndarray, folder: Path
) -> Measured:
    """Classify images, uint8 (N, 28, 28), on an emulated board.

    Args:
        board: the board.
        target: what `build_engine` made for it.
        model: the content of a .tdq file.
        scratch: the bytes that it needs, see `scratch_of`.
        images: what to classify.
        folder: where to put files on the way; no other call may use it at the same time.

    Raises:
        Failure: a tool is missing, or the program does not fit the board or fails.
    """
    (folder / "model").write_bytes(model)
    (folder / "images").write_bytes(np.ascontiguousarray(images).tobytes())
    (folder / "results").unlink(missing_ok=True)
    here, program = Path(__file__).parent, folder / "program.elf"
    run(
        *("arm-none-eabi-gcc", "-mthumb", f"-mcpu={board.processor}", "-std=gnu99", "-Os"),
        *("-Wall", "-Wextra", "-ffreestanding", "-nostdlib"),
        *(f"-Wl,--defsym=memory={board.memory}", "-T", here / "board.ld"),
        *(f"-I{ENGINE}", f'-DMODEL="{folder / "model"}"', f"-DSCRATCH={scratch}"),
        *(here / "board.c", target, "-o", program),
    )
    run(
        *("qemu-system-arm", "-M", board.machine, "-nographic", "-monitor", "none"),
        *("-serial", "none", "-semihosting-config", "enable=on,target=native"),
        *("-icount", "shift=0", "-kernel", program),
        folder=folder,
    )
    classes = load_classes(model)
    rows = np.fromfile(folder / "results", np.uint32).reshape(-1, 3 + classes)
    if len(rows) != len(images):
        raise Failure(f"{board.machine} classified {len(rows)} of {len(images)} images.")
    return Measured(
        rows[:, 3:].view(np.int32),
        rows[:, 0].astype(np.int64),
        (rows[:, 1] * board.instructions_per_tick).astype(np.int64),
        int(rows[:, 2].max(initial=0)),
    )


def load_classes(model: bytes) -> int:
    """How many classes the content of a .tdq file tells apart."""
    return len(IntegerNetwork.from_bytes(model).class_names)


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
        except Misuse:  # nothing was left of the image
            continue
    stages = description.plan()
    passes: list[Pass] = []
    own: dict[int, Pass] = {}
    largest = 255
    for i, stage in enumerate(stages):
        if stage.kind not in KINDS:
            continue
        source = i if stage.shares_weights_with is None else stage.shares_weights_with
        if source not in own:
            own[source] = random_weights(random, stage, seed % 10 == 9)
        pixels = stages[-2].size_in ** 2
        passes.append(random_table(random, stage, own[source], largest, pixels, seed % 10 == 9))
        largest = 2**bits - 1
    return IntegerNetwork(description, tuple(passes), 0.01, 1.0, bits)


def random_layers(random: np.random.Generator, widest: int) -> tuple[str, ...]:
    """One to seven words; a third of the networks begins with a pool, few have none."""
    words = ["pool"] * int(random.integers(0, 3) == 0)
    for _ in range(int(random.integers(1, 7))):
        window, width = random.choice([1, 3, 3, 5, 7]), random.integers(1, widest + 1)
        kind = random.choice(["conv", "conv", "separable", "separable", "depthwise", "pool",
                              "again", "again"])  # fmt: skip
        match kind:
            case "conv":
                words.append(f"conv{window}:{width}")
            case "separable":
                words.append(f"separable{max(3, window)}:{width}")
                if random.integers(2):  # so that it can be repeated
                    words.append(f"separable{max(3, window)}:{width}")
            case "depthwise":
                words.append(f"depthwise{max(3, window)}")
            case _:
                words.append(str(kind))
    return tuple(words)


def random_weights(random: np.random.Generator, stage: Stage, wide: bool) -> Pass:
    """Weights of any sort: extreme ones, even ones, mostly zero."""

    def draw(*shape: int) -> np.ndarray:
        style = random.integers(3)
        if style == 0:
            return random.choice(np.array([-128, 127], np.int8), shape)
        drawn = random.integers(-128, 128, shape, np.int8)
        return drawn if style == 1 else drawn * (random.random(shape) < 0.2).astype(np.int8)

    taps, weights = NO_TAPS, NO_WEIGHTS
    if stage.kind in ("depthwise", "separable"):
        taps = draw(stage.channels_in, stage.kernel_size, stage.kernel_size)
    if stage.kind != "depthwise":
        area = stage.kernel_size**2 if stage.kind == "conv" else 1
        weights = draw(stage.channels_out, area * stage.channels_in)
    if wide and stage.kind == "separable":
        taps = np.zeros_like(taps)
        taps[:, 1, 1] = -128
        weights = np.full_like(weights, -128)
        weights[1::2] = 127
    if wide and stage.kind == "conv":
        weights = np.full_like(weights, 127)
    return Pass(taps, weights, NO_TABLE, NO_TABLE)


def random_table(
    random: np.random.Generator, stage: Stage, numbers: Pass, largest: int, pixels: int, wide: bool
) -> Pass:
    """Biases, multipliers and shifts for weights, such that nothing leaves its range."""
    inputs = largest * pixels if stage.kind == "classes" else largest
    shift_in, shift_sum = choose_shifts(stage, numbers, inputs)
    numbers = numbers._replace(shift_in=shift_in, shift_sum=shift_sum)
    if stage.kind == "classes":
        return numbers
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
    numbers = numbers._replace(bias=bias, multiplier=multiplier, shift_out=shift_out)
    while not fits(stage, numbers, largest):
        numbers = numbers._replace(shift_out=numbers.shift_out - 1)
    return numbers


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
        models: what `tinydigits.load` takes; the presets if None.

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
            raw = network.to_bytes()
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
        yield model, load(model), np.concatenate([test, noise_images(noise)]), on_board
    for seed in range(random_networks):
        yield f"random {seed}", random_network(seed), noise_images(32, seed), 4
