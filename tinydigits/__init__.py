"""tinydigits: handwritten-digit recognition in a network small enough to fit anywhere.

The names below are imported when they are first used, so that `import tinydigits` is quick and
works without PyTorch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.config import Config, preset
    from tinydigits.data.mnist import Mnist, load_mnist
    from tinydigits.evaluation import Evaluation, evaluate
    from tinydigits.files import Failure, Misuse
    from tinydigits.integer import IntegerNetwork, load
    from tinydigits.model import Network, build_model, load_model, normalise
    from tinydigits.modelfile import summarise
    from tinydigits.pictures import Reading, read
    from tinydigits.preparation import prepare
    from tinydigits.quantise import quantize
    from tinydigits.runs import epochs, finish, resume, start, train
    from tinydigits.training import Run

__version__ = "0.1.0"

# Where PyTorch computes with several threads, those that wait for the others do so in a loop, and
# keep the cores from whoever they wait for: beside other busy processes a training step can then
# take many times as long. After so many rounds of the loop a thread goes to sleep instead; the
# figures are in docs/performance.md. The variable is read once, when PyTorch is imported, so it is
# set here, where every way into this package passes. What the user has set counts.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOME = {
    "Config": "config",
    "preset": "config",
    "Mnist": "data.mnist",
    "load_mnist": "data.mnist",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Failure": "files",
    "Misuse": "files",
    "Network": "model",
    "build_model": "model",
    "load_model": "model",
    "normalise": "model",
    "summarise": "modelfile",
    "Reading": "pictures",
    "read": "pictures",
    "prepare": "preparation",
    "IntegerNetwork": "integer",
    "load": "integer",
    "quantize": "quantise",
    "Run": "training",
    "epochs": "runs",
    "finish": "runs",
    "resume": "runs",
    "start": "runs",
    "train": "runs",
}

__all__ = [
    "Config",
    "Evaluation",
    "Failure",
    "IntegerNetwork",
    "Misuse",
    "Mnist",
    "Network",
    "Reading",
    "Run",
    "build_model",
    "epochs",
    "evaluate",
    "finish",
    "load",
    "load_mnist",
    "load_model",
    "normalise",
    "prepare",
    "preset",
    "quantize",
    "read",
    "resume",
    "start",
    "summarise",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
