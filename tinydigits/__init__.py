"""tinydigits: handwritten-digit recognition in a network small enough to fit anywhere.

The names below are imported when they are first used, so that `import tinydigits` is quick and
works without PyTorch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.data.mnist import Mnist, load_mnist
    from tinydigits.errors import Failure, UsageError
    from tinydigits.evaluation import Evaluation, evaluate
    from tinydigits.images.preprocess import prepare
    from tinydigits.network.checkpoint import summarize
    from tinydigits.network.model import Network, load_model, normalize
    from tinydigits.quant.integer import IntegerNetwork
    from tinydigits.quant.ptq import quantize
    from tinydigits.quant.tdq import load_quantized
    from tinydigits.reader.read import read
    from tinydigits.reader.recognize import Reading
    from tinydigits.runs import resume, train
    from tinydigits.training.config import Config
    from tinydigits.training.loop import Run, build_model
    from tinydigits.training.presets import preset

__version__ = "0.2.0"

# Where PyTorch computes with several threads, those that wait for the others do so in a loop, and
# keep the cores from whoever they wait for: beside other busy processes a training step can then
# take many times as long. After so many rounds of the loop a thread goes to sleep instead; the
# figures are in docs/performance.md. The variable is read once, when PyTorch is imported, so it is
# set here, where every way into this package passes. What the user has set counts.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOME = {
    "Config": "training.config",
    "preset": "training.presets",
    "Mnist": "data.mnist",
    "load_mnist": "data.mnist",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Failure": "errors",
    "UsageError": "errors",
    "Network": "network.model",
    "build_model": "training.loop",
    "load_model": "network.model",
    "normalize": "network.model",
    "summarize": "network.checkpoint",
    "Reading": "reader.recognize",
    "read": "reader.read",
    "prepare": "images.preprocess",
    "IntegerNetwork": "quant.integer",
    "load_quantized": "quant.tdq",
    "quantize": "quant.ptq",
    "Run": "training.loop",
    "resume": "runs",
    "train": "runs",
}

__all__ = [
    "Config",
    "Evaluation",
    "Failure",
    "IntegerNetwork",
    "Mnist",
    "Network",
    "Reading",
    "Run",
    "UsageError",
    "build_model",
    "evaluate",
    "load_mnist",
    "load_model",
    "load_quantized",
    "normalize",
    "prepare",
    "preset",
    "quantize",
    "read",
    "resume",
    "summarize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "runs":  # so that tinydigits.runs.start needs no import of its own
        return importlib.import_module("tinydigits.runs")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
