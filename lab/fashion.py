"""Proof that the same training reads something else: Zalando's clothes in MNIST's form.

Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lab.study import describe, train_seeds, trained_on
from tinydigits.training.presets import preset

GOAL = 90.0
"""Percent of the test pictures that the mean of the seeds must exceed."""


def fashion(seeds: int, jobs: int, data: Path, folder: Path) -> dict[str, Any]:
    """Train tiny20k on Fashion-MNIST, with all of its settings, and write `folder`/fashion.json.

    Args, returns and raises: as `train_seeds`; `data` is the folder with the files.
    """
    config = dataclasses.replace(preset("tiny20k"), data=data, dataset="Fashion-MNIST")
    return train_seeds(config, seeds, jobs, "local", folder / "fashion.json", keep_weights=False)


def table(study: dict[str, Any]) -> str:
    """What `fashion` measured, as a Markdown table."""
    numbers = describe([row["accuracy"] for row in study["seeds"]])
    return (
        "| data | preset | accuracy %, mean ± sd (n) | lowest |\n|---|---|--:|--:|\n"
        f"| {study['config']['dataset']} | `{study['preset']}` "
        f"| {numbers['mean']:.2f} ± {numbers['sd']:.2f} ({numbers['n']}) "
        f"| {numbers['minimum']:.2f} |\n\nTrained on {trained_on(study)}."
    )
