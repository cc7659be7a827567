"""A network in the form that a device, a page or another program takes."""

from __future__ import annotations

import contextlib
import html
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import expand
from tinydigits.network.architecture import DIGITS
from tinydigits.network.checkpoint import find_model, read_description, shipped
from tinydigits.quant.integer import IntegerNetwork
from tinydigits.quant.tdq import load_quantized, to_bytes

if TYPE_CHECKING:
    from tinydigits.network.model import Network

ENGINE = Path(__file__).parent
"""The engine in C and in WebAssembly, and the templates of what goes with it."""

Form = Literal["c", "wasm", "onnx"]


def export(model: str | Path, to: Form, out: str | Path, data: Path | None = None) -> list[Path]:
    """Write a network to a new folder, in another form.

    c: the engine, the network as an array of constants, and a program that reads a picture; the
    folder is an Arduino library as well. wasm: the engine for browsers and Node, the network, and
    a page. onnx: the float network for ONNX Runtime and the like, from uint8 (N, 28, 28) to
    log-probabilities (N, classes); needs PyTorch and the extra `onnx`.

    Args:
        model: a preset, a run folder, a .safetensors file or, but for onnx, a .tdq file.
        to: the form.
        out: the folder, which must not be there or be empty.
        data: where the data of the model's run are now, if they are needed and have moved.

    Returns:
        The paths of the files.

    Raises:
        UsageError: there is no such form or model, or the folder holds other files.
        Failure: the model is damaged, or the folder cannot be written. Then it is not there.
    """
    writers: dict[str, Callable[[str | Path, Path, Path | None], None]] = {
        "c": write_c,
        "wasm": write_wasm,
        "onnx": write_onnx,
    }
    if to not in writers:
        raise UsageError(f"A network is exported to {', '.join(get_args(Form))}, not to {to!r}.")
    with new_folder(expand(out)) as folder:
        writers[to](model, folder, data)
    return sorted(path for path in expand(out).rglob("*") if path.is_file())


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the name `out` when all is written, and vanishes if something fails.

    Raises:
        UsageError: `out` is a file, or holds something.
        Failure: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is already there and not an empty folder: choose another --out.")
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        inside = temporary / "files"  # mkdtemp's own folder can be entered by its owner only
        inside.mkdir()
        yield inside
        if out.exists():
            out.rmdir()
        inside.replace(out)
    except OSError as error:
        raise Failure(f"Cannot write {out}: {reason(error)}. Choose another --out.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def name_of(model: str | Path) -> str:
    """What a network is called: its preset, its training, or else its file."""
    if str(model) in shipped() and not expand(model).exists():
        return str(model)
    path = expand(model)
    if path.is_dir() or path.suffix == ".safetensors":
        file = find_model(model)
        return read_description(file).name or file.stem
    return path.stem


def integer_network(model: str | Path, data: Path | None) -> IntegerNetwork:
    """The integer form of a network, made here where there is only the float one.

    It then has 8 bits, and the ranges of its activations are measured on the training images of its
    run, or on those of MNIST for a file alone. A finished run has made its own: name its folder.

    Raises: as `tinydigits.load_quantized` and `tinydigits.load_model`, and UsageError for a float
        network that was trained on something else.
    """
    path = find_model(model, ".tdq", ".safetensors")
    if path.suffix == ".tdq":
        return load_quantized(path)
    from tinydigits.network.model import load_model
    from tinydigits.quant.ptq import CALIBRATION, quantize
    from tinydigits.run_folder import data_of_run

    dataset = data_of_run(path, read_description(path), data)
    return quantize(load_model(path), dataset.train_images[:CALIBRATION])


def identifier(name: str) -> str:
    """`name` with _ for each character that a name in C can't have."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def fill_in(template: str, path: Path, **values: object) -> None:
    """Write a file of `ENGINE` with each $name in it replaced by its value."""
    text = (ENGINE / template).read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(values), encoding="utf-8")


def write_c(model: str | Path, folder: Path, data: Path | None) -> None:
    """Engine, model and program in C, laid out as an Arduino library."""
    network, title = integer_network(model, data), name_of(model)
    name, engine = identifier(title), sorted(ENGINE.glob("*.[ch]"))
    if name.lower() in {path.stem for path in engine}:
        raise UsageError(
            f"The engine has a file called {name}, too: give the network another name."
        )
    content = to_bytes(network)
    words = np.frombuffer(content + bytes(-len(content) % 4), "<u4")
    lines = [
        "    " + " ".join(f"0x{word:08x}," for word in words[i : i + 8])
        for i in range(0, len(words), 8)
    ]
    values = {
        "name": name,
        "NAME": name.upper(),
        "title": title if title.isascii() else name,
        "layers": " ".join(network.layers),
        "bytes": len(content),
        "words": len(words),
        "array": "\n".join(lines),
    }
    source = folder / "src"
    fill_in("model.h.in", source / f"{name}.h", **values)
    fill_in("model.c.in", source / f"{name}.c", **values)
    fill_in("digit.c.in", folder / "digit.c", **values)
    fill_in("Makefile.in", folder / "Makefile", **values)
    fill_in("library.properties.in", folder / "library.properties", **values)
    for path in engine:
        shutil.copyfile(path, source / path.name)


def write_wasm(model: str | Path, folder: Path, data: Path | None) -> None:
    """The engine for browsers and Node, the network, and a page that uses them."""
    network, title = integer_network(model, data), name_of(model)
    name = identifier(title)
    (folder / f"{name}.tdq").write_bytes(to_bytes(network))
    for file in ("tinydigits.wasm", "tinydigits.js"):
        shutil.copyfile(ENGINE / file, folder / file)
    names = network.class_names
    what = "a digit" if names == DIGITS else f"one of these: {html.escape(', '.join(names))}"
    fill_in("page.html.in", folder / "index.html", name=name, what=what)


def write_onnx(model: str | Path, folder: Path, data: Path | None) -> None:
    """The float network as an ONNX graph, checked and compared on all test digits of its run.

    Raises:
        UsageError: nobody knows what it was trained on.
        Failure: ONNX Runtime does not answer as PyTorch does.
    """
    import onnx
    import onnxruntime

    from tinydigits.evaluation import evaluate
    from tinydigits.network.model import load_model
    from tinydigits.run_folder import data_of_run

    network, name, path = load_model(model), name_of(model), find_model(model)
    tested = data_of_run(path, read_description(path), data)
    expected = evaluate(network, tested.test_images, tested.test_labels)
    digits = tested.describe("MNIST test" if tested.is_mnist else "test")
    graph = onnx_graph(network)
    notes = {
        "name": name,
        "class_names": json.dumps(network.class_names),
        "accuracy": f"{expected.accuracy:.2f} % of the {len(tested.test_labels):,} {digits}",
        "license": "Apache-2.0",
        "input": "uint8, ink 255 on paper 0; the normalization is in the graph",
    }
    onnx.helper.set_model_props(graph, notes)
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (log_probs,) = session.run(None, {"images": tested.test_images})
    distance = np.abs(np.asarray(log_probs) - expected.log_probs).max()
    same = (np.asarray(log_probs).argmax(1) == expected.predictions).all()
    if distance > 1e-4 or not same:
        raise Failure(
            f"ONNX Runtime's log-probabilities differ from PyTorch's by up to {distance:.2g}: "
            "please report this with the versions of torch, onnx and onnxruntime."
        )
    (folder / f"{identifier(name)}.onnx").write_bytes(content)


def onnx_graph(network: Network) -> onnx.ModelProto:  # noqa: F821  # pyright: ignore
    """A network as an ONNX graph with dynamic batch, from uint8 (N, 28, 28) named images."""
    import torch

    from tinydigits.network.architecture import SIZE

    images = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    # It would tell on standard error that torchvision, which is not needed, is missing.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        warnings.simplefilter("ignore")  # about PyTorch's own insides
        with contextlib.redirect_stdout(nowhere):
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["log_probs"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    assert program is not None  # None only where a file was named
    return program.model_proto
