"""The C engine, built and run: on this machine, in Node, on an emulated Cortex-M0 and M4.

Also what C code costs on a microcontroller: bytes of its object, instructions and stack.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinydigits
from tinydigits.errors import Failure
from tinydigits.quant.tdq import from_bytes

ENGINE = Path(tinydigits.__file__).parent / "engine"

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

    `build_wasm(engines.ENGINE / "tinydigits.wasm")` makes the file that comes with the package.

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
    return len(from_bytes(model).class_names)
