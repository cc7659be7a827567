"""What a preset pays for bearing grey paper and pale ink: trained without them and with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tinydigits.config import (
    A_LITTLE_PAPER_AND_INK,
    MOST_PAPER_AND_INK,
    PAPER_AND_INK,
    PRESETS,
    Config,
    preset,
)
from tinydigits.files import Failure
from tinydigits.lab.certify import read_study, require_clean_tree, train_seeds

AMOUNTS = {
    "none": {"paper": 0.0, "fading": 0.0},
    "half": A_LITTLE_PAPER_AND_INK,
    "most": MOST_PAPER_AND_INK,
    "all": PAPER_AND_INK,
}
"""What is compared: fields of `Config`."""


def ask_for_paper(names: tuple[str, ...], seeds: int, jobs: int, folder: Path) -> list[Path]:
    """Train presets with each of `AMOUNTS` and measure them on the held-out training digits.

    Args:
        names: the presets.
        seeds: how many of each, from 0 up.
        jobs: as for `train_seeds`.
        folder: the folder of all results; these go to paper/NAME-AMOUNT.json in it.

    Returns:
        The paths of the files.

    Raises: as `tinydigits.lab.certify.certify`.
    """
    require_clean_tree()
    configs = {path: config for name in names for path, config in trainings(name, folder)}
    for path, config in configs.items():
        train_seeds(config, seeds, jobs, "local", path, keep_weights=False)
    return [*configs]


def trainings(name: str, folder: Path) -> list[tuple[Path, Config]]:
    """The trainings of a preset that are compared, each with the file for its results."""
    held_out = dataclasses.replace(preset(name), validation=True)
    return [
        (folder / "paper" / f"{name}-{amount}.json", dataclasses.replace(held_out, **fields))
        for amount, fields in AMOUNTS.items()
    ]


def read_trainings(folder: Path) -> list[dict[str, Any]]:
    """The studies that `ask_for_paper` wrote, in the order of the presets.

    Raises:
        Failure: there is none, or one is damaged.
    """
    paths = [path for name in PRESETS for path, _ in trainings(name, folder) if path.exists()]
    if not paths:
        raise Failure(f"{folder} holds no paper/: make it with tinydigits lab paper PRESET.")
    return [read_study(path) for path in paths]
