"""What each network costs on a microcontroller, and how fast it is on this machine."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lab import engines
from lab.study import commit
from tinydigits.data.mnist import load_mnist
from tinydigits.engine.export import onnx_graph
from tinydigits.evaluation import evaluate
from tinydigits.files import write_json
from tinydigits.network.architecture import total
from tinydigits.network.checkpoint import find_model, summarize
from tinydigits.network.model import load_model
from tinydigits.quant.tdq import load_quantized
from tinydigits.training.hardware import processor_name

LEVELS = ("-Os", "-O2", "-O3")
"""How the engine is compiled for the boards: -Os counts, the others show what bytes would buy."""

DIGITS = 200
"""Digits whose instructions are counted; their mean is the figure."""

ROUNDS = 15
"""Turns that the two engines of this machine take; the median ratio counts."""


def footprint(names: tuple[str, ...], results: Path) -> dict[str, Any]:
    """Measure what each preset's integer network needs, and write footprint.json.

    Instructions are those of predict, which QEMU executes and SysTick counts; they are no cycles
    and no milliseconds. RAM is the scratch and the painted stack, the image aside. On this
    machine, C and ONNX Runtime take turns, one digit at a time on one thread, and their ratio is
    the figure.

    Args:
        names: the presets.
        results: the folder for footprint.json.

    Returns:
        What the file holds.

    Raises:
        Failure: a compiler or an emulator is missing.
    """
    mnist = load_mnist()
    images, labels = mnist.test_images, mnist.test_labels
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        native = engines.open_native(engines.build_native("gcc", folder, "-march=native"))
        targets = {
            core: {level: engines.build_engine(board, folder, level) for level in LEVELS}
            for core, board in engines.BOARDS.items()
        }
        code = code_bytes(targets["cortex-m0"]["-Os"])
        for name in tqdm(names, "footprint"):
            model, network = find_model(name, ".tdq").read_bytes(), load_quantized(name)
            scratch = engines.scratch_of(native, model)
            row = {
                "parameters": total(summarize(name))[0],
                "macs": total(summarize(name))[1],
                "float_accuracy": evaluate(load_model(name), images, labels).accuracy,
                "integer_accuracy": evaluate(network, images, labels).accuracy,
                "model_bytes": len(model),
                "flash": len(model) + code["predict"],
                "scratch": scratch,
                "native": native_ratio(name, native, model, images[:DIGITS]),
            }
            for core, board in engines.BOARDS.items():
                if core == "cortex-m0" and scratch > engines.SMALL:
                    continue  # more than the emulated board has
                counts = {}
                for level, target in targets[core].items():
                    done = engines.run_board(board, target, model, scratch, images[:DIGITS], folder)
                    counts[level] = float(done.instructions.mean())
                    if level == "-Os":
                        row[f"stack_{core}"] = done.stack
                row[f"instructions_{core}"] = counts
            stack = row.get("stack_cortex-m0", row["stack_cortex-m4"])
            rows[name] = {**row, "ram": scratch + stack}
    made = {
        "commit": commit(),
        "processor": processor_name(),
        "compiler": engines.run("arm-none-eabi-gcc", "-dumpversion").strip(),
        "digits": DIGITS,
        "code": code,
        "presets": rows,
    }
    write_json(results / "footprint.json", made)
    return made


def code_bytes(target: Path) -> dict[str, int]:
    """Bytes of code and constants in an object: all of it, and what each function brings along."""
    functions = ("predict", "check", "prepare")
    bytes_of = {name: linked_bytes(target, f"tinydigits_{name}") for name in functions}
    return {"object": sum(engines.functions(target).values()), **bytes_of}


def linked_bytes(target: Path, function: str) -> int:
    """Bytes of code and constants that a linker keeps where only `function` is called."""
    program = target.with_suffix(f".{function}.elf")
    engines.run("arm-none-eabi-ld", "--gc-sections", "-e", function, "-o", program, target)
    return sum(engines.functions(program).values())


def native_ratio(name: str, native: Any, model: bytes, images: np.ndarray) -> dict[str, float]:
    """Microseconds a digit in C and in ONNX Runtime, in turns, and their median ratio."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_graph(load_model(name)).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    single = [images[i : i + 1] for i in range(len(images))]

    def onnx() -> None:
        for image in single:
            session.run(None, {"images": image})

    def c() -> None:
        engines.run_native(native, model, images)

    times: dict[str, list[float]] = {"c": [], "onnxruntime": []}
    for _ in range(ROUNDS + 1):
        for engine, work in (("c", c), ("onnxruntime", onnx)):
            began = time.perf_counter()
            work()
            times[engine].append((time.perf_counter() - began) / len(images) * 1e6)
    ratios = [a / b for a, b in zip(times["c"][1:], times["onnxruntime"][1:], strict=True)]
    return {
        "microseconds": statistics.median(times["c"][1:]),
        "onnxruntime_microseconds": statistics.median(times["onnxruntime"][1:]),
        "ratio": statistics.median(ratios),
    }


def table(made: dict[str, Any]) -> str:
    """What a network costs, from what `footprint` returned, as a Markdown table."""
    lines = [
        "| preset | float % | integers % | MACs | flash, bytes | RAM, bytes | Cortex-M0, million "
        "instructions: -Os | -O3 | Cortex-M4: -Os | -O3 | of ONNX Runtime's time |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in made["presets"].items():
        counts = [
            f"{row[f'instructions_{core}'][level] / 1e6:.2f}"
            if f"instructions_{core}" in row
            else "-"
            for core in engines.BOARDS
            for level in ("-Os", "-O3")
        ]
        lines.append(
            f"| `{name}` | {row['float_accuracy']:.2f} | {row['integer_accuracy']:.2f} "
            f"| {row['macs']:,} | {row['flash']:,} | {row['ram']:,} | {' | '.join(counts)} "
            f"| {row['native']['ratio']:.1f} |"
        )
    code = made["code"]
    lines.append(
        f"\nThe shipped networks (seed 0) on the test digits; gcc {made['compiler']}. Flash: the "
        f"model and predict with what it calls ({code['predict']:,} bytes at -Os for a Cortex-M0; "
        f"check and prepare bring it to {code['object']:,}). RAM: scratch and stack, the image "
        "aside. Instructions: the mean over "
        f"{made['digits']} digits, counted by QEMU; no cycles and no milliseconds. A dash: the "
        "emulated board has too little RAM. ONNX Runtime: float32, the same network, one digit at "
        f"a time on one thread, {made['processor']}."
    )
    return "\n".join(lines)


def others_table(others: dict[str, Any]) -> str:
    """BitNetMCU's networks, counted in the same way, as a Markdown table."""
    lines = [
        "| network | parameters | accuracy % | flash, bytes | RAM, bytes "
        "| Cortex-M0, million instructions: -Os | -O3 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in others["models"]:
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['accuracy']:.2f} | {row['flash']:,} "
            f"| {row['ram']:,} | {row['instructions_os'] / 1e6:.2f} "
            f"| {row['instructions_o3'] / 1e6:.2f} |"
        )
    lines.append(f"\n{others['project']}, commit {others['commit']}. {others['method']}")
    return "\n".join(lines)
