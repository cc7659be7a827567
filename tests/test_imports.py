"""Who imports whom: the order of the modules, and the border that PyTorch does not cross."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run

PACKAGE = Path(__file__).parents[1] / "tinydigits"

BASE = (
    *("terminal", "files", "evaluation", "layers", "preparation"),
    *("data", "data.formats", "data.mnist", "data.folders", "data.dataset"),
    *("config", "modelfile", "run_data", "integer"),
)
"""What works without PyTorch. A module imports only those that stand before it."""

PICTURES = ("ink", "pictures")
"""Neither does this, but it begins with SciPy and Pillow."""

TORCH = (
    *("model", "batches", "muon", "machine", "figures", "report", "quantise", "rounding"),
    *("training", "runs", "export", "lab", "lab.damage", "lab.certify", "lab.ablation", "lab.tune"),
    *("lab.fashion", "lab.benchmark", "lab.threads", "lab.parity", "lab.integers"),
    *("lab.stress", "lab.bill", "lab.judge", "lab.pictures", "lab.tables"),
)
"""What the extra `train` is for, in the same order."""

FRONT = ("cli", "__main__")
"""The command line stands last: it imports a command's modules when the command is called."""

ORDER = ("", *BASE, *PICTURES, *TORCH, *FRONT)
"""All modules; "" is the package itself."""


def modules() -> dict[str, Path]:
    """The source of each module of the package, by its name without the package's."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip("."): path
        for path in PACKAGE.rglob("*.py")
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
    """The modules of the package that a module imports; when it is used, or only at its top."""
    found: set[str] = set()
    known = modules()
    for node in walk(ast.parse(known[name].read_text(encoding="utf-8")), whole):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative path"
            # from tinydigits.lab import certify names a module, from tinydigits import Config none.
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            paths = [
                p if p.removeprefix("tinydigits.") in known else str(node.module) for p in paths
            ]
        else:
            continue
        found |= {
            path.removeprefix("tinydigits").strip(".")
            for path in paths
            if path.split(".")[0] == "tinydigits"
        }
    return found


def test_every_module_has_its_place_in_the_order():
    assert {*ORDER} == modules().keys()


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_those_above_it(name: str):
    """So that imports run in no circle."""
    below = imports(name) - {*ORDER[: ORDER.index(name)]}
    assert below == set()


def test_what_works_without_pytorch_imports_no_module_that_needs_it():
    for name in ("", *BASE, *PICTURES, *FRONT):
        assert imports(name, whole=False).isdisjoint(TORCH), name
    for name in (*BASE, *PICTURES):  # nor later, when it is used
        assert imports(name).isdisjoint(TORCH), name


def test_the_walk_sees_what_it_should():
    """Else the tests above would be content with anything."""
    assert "lab.certify" in imports("lab.tables")
    assert "lab.certify" not in imports("lab.tables", whole=False)
    assert {"runs", "model", "data.mnist"} <= imports("cli")
    assert "config" in imports("training", whole=False)
    assert imports("") == set()  # all of it by name, when it is used


BORDER = {"torch", "matplotlib", "joblib"}
"""What the base does not bring."""
LATE = BORDER | {"platformdirs", "pooch", "jinja2", "tqdm", "safetensors", "PIL", "scipy"}
"""What takes its time, and so is not imported before it is used."""


def loaded_after(code: str, *words: str) -> set[str]:
    """The packages that Python has loaded after it has run `code`."""
    tell = "import sys; print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    outcome = run(sys.executable, "-c", f"{code}\n{tell}", *words)
    assert outcome.exit_code == 0, outcome.err
    return {*outcome.err.split()}


@pytest.mark.parametrize("name", ["", *BASE, "cli"])
def test_nothing_heavy_is_imported_with(name: str):
    assert loaded_after(f"import tinydigits.{name}".strip(".")).isdisjoint(LATE)


@pytest.mark.parametrize("words", ["--help", "train --help", "lab certify --help", "presets"])
def test_nothing_heavy_is_imported_for(words: str):
    code = "import sys\nfrom tinydigits.cli import main\n"
    code += "try: main(sys.argv[1:])\nexcept SystemExit as stop: assert not stop.code"
    assert loaded_after(code, *words.split()).isdisjoint(LATE)


@pytest.mark.parametrize("words", ["summary", "summary tiny1k", "data"])
def test_pytorch_is_not_imported_for(words: str):
    code = "import sys\nfrom tinydigits.cli import main\nmain(sys.argv[1:])"
    assert loaded_after(code, *words.split()).isdisjoint(BORDER)


def test_pytorch_is_not_imported_by_what_python_needs_of_the_base():
    code = """
import numpy as np
from tinydigits import Config, evaluate, load_mnist, preset, summarise
from tinydigits.modelfile import find_model, read_model_file
class Guess:
    def log_probs(self, images):
        return np.zeros((len(images), 10), np.float32)
mnist = load_mnist()
evaluate(Guess(), mnist.test_images[:5], mnist.test_labels[:5]).confusion()
summarise("classic"), summarise(preset("tiny2k")), summarise(Config(layers=("conv3:2",)))
read_model_file(find_model("classic"))
"""
    assert loaded_after(code).isdisjoint(BORDER)
