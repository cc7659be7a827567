"""Who imports whom: the order of the modules, and the border that PyTorch does not cross."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run

ROOT = Path(__file__).parents[1]

STAGES = (
    *("errors", "terminal", "files", "evaluation", "network", "images", "data", "quant"),
    *("training", "reader", "report", "run_folder", "engine", "runs", "cli", "__main__"),
)
"""The way from digits to an answer: a folder or a file imports only from those before it."""

MODULES = {
    "network": ("architecture", "checkpoint", "model"),
    "images": (
        "fonts",
        "decode",
        "morphology",
        "binarize",
        "page",
        "tracks",
        "ruling",
        "components",
        "preprocess",
        "symbol",
    ),
    "data": ("formats", "mnist", "folders", "drawn", "split", "dataset"),
    "quant": ("integer", "tdq", "ptq", "qat"),
    "training": (
        *("config", "presets", "hardware", "augmentation", "batches", "muon", "loop", "state"),
    ),
    "reader": ("rejection", "recognize", "merge_split", "text_lines", "output", "read"),
    "report": ("figures", "summary", "report"),
    "engine": ("export",),
}
"""The modules of each folder, in the same order."""

LABORATORY = (
    *("claims", "corruptions", "study", "certify", "ablation", "tune", "fashion", "benchmark"),
    *("threads", "engines", "parity", "forms", "drawings", "integers", "robustness"),
    *("footprint", "rejector", "pages", "pictures", "symbols", "tables", "__main__"),
)
"""The laboratory beside the package, in the same order; the package imports nothing of it."""

TORCH = {
    *("network.model", "quant.ptq", "quant.qat", "training.hardware", "training.augmentation"),
    *("training.batches", "training.muon", "training.loop", "training.state", "report.figures"),
    *("report.summary", "report.report", "runs"),
}
"""What the extra `train` is for. Everything else of the package works without it."""

PICTURES = {"images", "reader"}
"""Folders whose modules may begin with SciPy and Pillow."""

ORDER = (
    "tinydigits",
    *(
        name
        for stage in STAGES
        for name in (
            f"tinydigits.{stage}",
            *(f"tinydigits.{stage}.{module}" for module in MODULES.get(stage, ())),
        )
    ),
    "lab",
    *(f"lab.{name}" for name in LABORATORY),
)
"""All modules."""


def modules() -> dict[str, Path]:
    """The source of each module, by its full name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in ("tinydigits", "lab")
        for path in (ROOT / folder).rglob("*.py")
    }


def walk(node: ast.AST, whole: bool) -> Iterator[ast.AST]:
    """The nodes that are executed: those of functions only if the `whole` is asked for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if whole or not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from walk(child, whole)


def imports(name: str, whole: bool = True) -> set[str]:
    """The modules of ours that a module imports; when it is used, or only at its top."""
    found: set[str] = set()
    known = modules()
    for node in walk(ast.parse(known[name].read_text(encoding="utf-8")), whole):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative path"
            # from lab import certify names a module, from tinydigits import Config none.
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            paths = [path if path in known else str(node.module) for path in paths]
        else:
            continue
        found |= {path for path in paths if path.split(".")[0] in ("tinydigits", "lab")}
    return found


def needs_torch(name: str) -> bool:
    """Whether a module is one of `TORCH`."""
    return name.removeprefix("tinydigits.") in TORCH


def test_every_module_has_its_place_in_the_order():
    assert {*ORDER} == modules().keys()


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_those_above_it(name: str):
    """So that imports run in no circle, and from folder to folder in one direction."""
    assert imports(name) <= {*ORDER[: ORDER.index(name)]}


def test_what_works_without_pytorch_imports_no_module_that_needs_it():
    for name in ORDER[: ORDER.index("lab")]:
        if not needs_torch(name):
            assert not any(map(needs_torch, imports(name, whole=False))), name
    # Nor does what reads and computes, later, when it is used.
    for name in ORDER[: ORDER.index("tinydigits.report")]:
        if not needs_torch(name):
            assert not any(map(needs_torch, imports(name))), name


def test_no_module_is_long():
    """One sitting must do for each, and one topic."""
    for name, path in modules().items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, name


def test_the_walk_sees_what_it_should():
    """Else the tests above would be content with anything."""
    assert "lab.study" in imports("lab.tables")
    assert "lab.study" not in imports("lab.tables", whole=False)
    assert {"tinydigits.runs", "tinydigits.network.model"} <= imports("tinydigits.cli")
    assert "tinydigits.training.config" in imports("tinydigits.training.loop", whole=False)
    assert imports("tinydigits") == set()  # all of it by name, when it is used


BORDER = {"torch", "matplotlib", "joblib"}
"""What the base does not bring."""
LATE = BORDER | {"platformdirs", "pooch", "jinja2", "tqdm", "safetensors", "PIL", "scipy"}
"""What takes its time, and so is not imported before it is used."""


def loaded_after(code: str, *words: str) -> set[str]:
    """The packages that Python has loaded after it has run `code`."""
    tell = "import sys; print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    outcome = run(sys.executable, "-c", f"{code}\n{tell}", *words, cwd=ROOT)
    assert outcome.exit_code == 0, outcome.err
    return {*outcome.err.split()}


LIGHT = [
    name
    for name in ORDER[: ORDER.index("tinydigits.__main__")]
    if not needs_torch(name) and PICTURES.isdisjoint(name.split("."))
]
"""What begins with nothing heavy."""


@pytest.mark.parametrize("name", [*LIGHT, "tinydigits.images.preprocess", "lab.__main__"])
def test_nothing_heavy_is_imported_with(name: str):
    assert loaded_after(f"import {name}").isdisjoint(LATE)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("tinydigits.cli", "--help"),
        ("tinydigits.cli", "train --help"),
        ("tinydigits.cli", "presets"),
        ("lab.__main__", "certify --help"),
    ],
)
def test_nothing_heavy_is_imported_for(program: str, words: str):
    code = f"import sys\nfrom {program} import main\n"
    code += "try: main(sys.argv[1:])\nexcept SystemExit as stop: assert not stop.code"
    assert loaded_after(code, *words.split()).isdisjoint(LATE)


@pytest.mark.parametrize("words", ["summary", "summary tiny1k", "data"])
def test_pytorch_is_not_imported_for(words: str):
    code = "import sys\nfrom tinydigits.cli import main\nmain(sys.argv[1:])"
    assert loaded_after(code, *words.split()).isdisjoint(BORDER)


def test_pytorch_is_not_imported_by_what_python_needs_of_the_base():
    code = """
import numpy as np
from tinydigits import Config, evaluate, load_mnist, preset, summarize
from tinydigits.network.checkpoint import find_model, read_model_file
class Constant:
    def log_probs(self, images):
        return np.zeros((len(images), 10), np.float32)
mnist = load_mnist()
evaluate(Constant(), mnist.test_images[:5], mnist.test_labels[:5]).confusion()
summarize("classic"), summarize(preset("tiny2k")), summarize(Config(layers=("conv3:2",)))
read_model_file(find_model("classic"))
"""
    assert loaded_after(code).isdisjoint(BORDER)
