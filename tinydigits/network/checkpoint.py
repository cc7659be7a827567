"""Model files: where they are, which network they hold, and their weights; without PyTorch.

A model file is float32 safetensors. Its header says in one JSON value what the numbers alone do
not: the layers, the names of the classes, the normalization of the input, the training's name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import expand, read_json
from tinydigits.network.architecture import DIGITS, MEAN, MOST_CLASSES, STD, Stage, plan
from tinydigits.terminal import is_printable_name

SHIPPED = Path(__file__).parents[1] / "weights"
"""The networks that come with the package, one file per preset."""

KEY = "tinydigits"
"""The header's only entry: safetensors writes several in random order, so that the same training
would give different bytes."""


RENAMED = {
    "paper": "background",
    "fading": "ink_fade",
    "plain_end": "undistorted_end",
    "averaging": "ema_decay",
    "learning_rate": "lr",
    "muon_rate": "muon_lr",
    "quantised_epochs": "qat_epochs",
}
"""What the fields of a configuration were called in version 0.1.0, and what they are called now."""


@dataclass(frozen=True)
class Description:
    """Which network a model file holds, and how its answers are to be read.

    Raises:
        UsageError: (a ValueError) a value is impossible; the message says which.
    """

    layers: tuple[str, ...]
    """As in `Config.layers`."""
    class_names: tuple[str, ...] = DIGITS
    """What the scores stand for, 2 to 100 names (see `is_printable_name`)."""
    mean: float = MEAN
    """What is taken from each pixel, scaled to 0..1, before it is divided by `std`."""
    std: float = STD
    name: str = ""
    """What the training was called."""

    def __post_init__(self) -> None:
        names = self.class_names
        if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
            raise UsageError(
                f"A network tells 2 to {MOST_CLASSES} classes apart, each once, not {len(names)}."
            )
        if not all(map(is_printable_name, names)):
            raise UsageError("The name of a class has 1 to 100 characters, no control characters.")
        if not all(isinstance(x, float) and math.isfinite(x) for x in (self.mean, self.std)):
            raise UsageError("The normalization of a network is two finite numbers.")
        if self.std <= 0:
            raise UsageError(f"std must be above 0, not {self.std}.")
        self.plan()

    @property
    def of_mnist(self) -> bool:
        """Whether the network tells MNIST's digits apart: ten classes, and MNIST's normalization.

        No other data have that: theirs is measured, and MNIST's is two rounded figures.
        """
        alike = np.float32(self.mean) == np.float32(MEAN) and np.float32(self.std) == np.float32(
            STD
        )
        return bool(alike) and len(self.class_names) == len(DIGITS)

    def plan(self) -> tuple[Stage, ...]:
        """The network's stages, see `tinydigits.network.architecture.plan`."""
        return plan(self.layers, len(self.class_names))


def summarize(model: Any) -> tuple[Stage, ...]:
    """A network stage by stage: output shape, trainable parameters and multiply-accumulates.

    Args:
        model: a `Config`, a network, or what `find_model` finds.

    Raises: as `find_model` and `read_description`.
    """
    if isinstance(model, str | Path):
        return read_description(find_model(model)).plan()
    return plan(model.layers, len(getattr(model, "class_names", DIGITS)))


def shipped() -> list[str]:
    """The presets whose trained networks come with the package, by name."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def find_model(name_or_path: str | Path, *suffixes: str) -> Path:
    """The file of a trained network.

    Args:
        name_or_path: a run folder, a model file, or a preset whose weights come with the package
            (those of its certified seed 0). A folder or file of a preset's name goes first.
        suffixes: what the file's name ends in where a folder or a preset is named, the most
            welcome first; by default .safetensors.

    Raises:
        UsageError: there is no such file or folder, or another version made it.
    """
    suffixes = suffixes or (".safetensors",)
    path = expand(name_or_path)
    if not SHIPPED.is_dir():
        raise Failure(
            f"The networks of tinydigits are not in {SHIPPED}: if the package is in a zip file, "
            "unpack it; a program frozen by PyInstaller needs --collect-data tinydigits."
        )
    if path.is_file():
        return path
    refuse_other_version(path)
    stem = path / "model" if path.is_dir() else SHIPPED / str(name_or_path)
    if path.is_dir() or str(name_or_path) in shipped():
        for file in (stem.with_name(f"{stem.name}{suffix}") for suffix in suffixes):
            if file.exists():
                return file
    if path.is_dir() and not (path / "config.json").exists():
        raise UsageError(
            f"{path} is no run folder: a model is a preset, the folder of a run or a model's file. "
            "A folder of data is named by --data, and pictures are named one by one."
        )
    if path.is_dir():
        raise UsageError(
            f"{path} holds no {' or '.join(f'model{suffix}' for suffix in suffixes)}: name a "
            f"finished run, or finish this one with: tinydigits train --resume {path}"
        )
    raise UsageError(
        f"There is no model {path}: name a run folder, a {' or '.join(suffixes)} file, or one of "
        f"the networks that come with the package ({', '.join(shipped())})."
    )


def refuse_other_version(folder: Path) -> None:
    """See to it that `folder` holds no run of version 0.1.0, whose options had other names.

    Raises:
        UsageError: it does.
    """
    path = folder / "config.json"
    try:
        values = read_json(path) if path.exists() else {}
    except Failure:  # damage is told by who needs the file
        return
    before = [name for name in RENAMED if isinstance(values, dict) and name in values]
    if before:
        raise UsageError(
            f"{folder} was made by tinydigits 0.1.0, which called {RENAMED[before[0]]} "
            f"{before[0]}: train it again, or go on with that version."
        )


def file_bytes(description: Description, weights: dict[str, np.ndarray]) -> bytes:
    """The content of a model file; equal arguments give equal bytes."""
    from safetensors.numpy import save

    return save(weights, {KEY: json.dumps(dataclasses.asdict(description), sort_keys=True)})


def read_description(path: Path) -> Description:
    """Which network a model file holds, without reading its weights.

    Raises:
        Failure: the file cannot be read, or it is no model of this kind.
    """
    return read_model_file(path, weights=False)[0]


def read_model_file(path: Path, weights: bool = True) -> tuple[Description, dict[str, np.ndarray]]:
    """Read a model file: which network it holds, and its arrays by name (none if not asked for).

    Raises:
        Failure: the file cannot be read, or it is no model of this kind.
    """
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(KEY)
            if weights:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise Failure(f"{path} is not a readable safetensors file: {reason(error)}.") from error
    if header is None:
        raise Failure(f"{path} is a safetensors file, but not one that tinydigits wrote.")
    try:
        return parse_header(header), arrays
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise Failure(f"The header of {path} names no network: the file is damaged.") from error


def parse_header(header: str) -> Description:
    """Read a header: one JSON value or, as early files have it, the layers' words alone.

    Raises:
        KeyError, RecursionError, TypeError, ValueError: it is neither.
    """
    if not header.startswith("{"):
        return Description(tuple(header.split()))
    values = json.loads(header)
    layers, class_names = (tuple(values.pop(name)) for name in ("layers", "class_names"))
    return Description(layers, class_names, **values)
