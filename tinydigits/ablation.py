"""The way from the notebook's recipe to `classic`, one change at a time, over several seeds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from tinydigits.certify import Backend, read_study, train_seeds, trained_on, without_seed
from tinydigits.config import Config, preset
from tinydigits.files import Failure, Misuse

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "arithmetic for speed: bfloat16 where there are units for it, channels last",
        {"precision": "auto", "channels_last": True},
    ),
    ("no dropout", {"dropout": 0.0}),
    ("a one-cycle schedule", {"schedule": "one-cycle"}),
    ("peak learning rate 0.4 for 0.01", {"learning_rate": 0.4}),
    ("Nesterov momentum", {"nesterov": True}),
    ("augmentation", {"rotation": 10, "scale": 0.1, "shear": 0.1, "shift": 1.25}),
    ("averaged weights", {"averaging": 0.998}),
    ("no augmentation in the last tenth", {"plain_end": 0.1}),
    ("weight decay of 2e-5", {"weight_decay": 2e-5}),
    ("batches of 64 for 128", {"batch_size": 64}),
    (
        "Muon for the convolutions inside, SGD at 0.1 for the rest",
        {"muon_rate": 0.05, "learning_rate": 0.1},
    ),
)
"""What turns `notebook` into `classic`, in this order: in words, and as fields of `Config`."""


def recipes() -> list[tuple[str, Config]]:
    """The recipes on the way: what each changes in the one before it, and its configuration.

    The first is `notebook`, the last `classic`; those between are called ablation-1, -2, ...
    """
    config = preset("notebook")
    way = [("the notebook, literally", config)]
    for number, (change, fields) in enumerate(CHANGES, 1):
        name = "classic" if number == len(CHANGES) else f"ablation-{number}"
        config = dataclasses.replace(config, name=name, **fields)
        way.append((change, config))
    return way


def ablate(seeds: int, jobs: int, backend: Backend, folder: Path) -> list[dict[str, Any]]:
    """Train what is missing of the recipes on the way, and return the rows of `read_rows`.

    The two ends are not trained here but taken from what `certify` wrote.

    Raises: as `tinydigits.certify.train_seeds`, and Misuse where an end is missing.
    """
    for name in ("notebook", "classic"):
        if not (folder / f"{name}.json").exists():
            raise Misuse(f"{folder} lacks {name}.json: run tinydigits certify {name} first.")
    for _, config in recipes()[1:-1]:
        train_seeds(config, seeds, jobs, backend, folder, keep_weights=False)
    return read_rows(folder)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The way from `notebook` to `classic`, as `ablate` has measured it.

    Returns:
        A row for each recipe: change, n, mean and sd (percent), trained_on, and, but for the first,
        worth: the mean's difference to the row before, and margin: half the width of its 95 %
        confidence interval.

    Raises:
        Failure: a recipe's results are missing, incomplete, or those of another recipe.
    """
    rows: list[dict[str, Any]] = []
    for change, config in recipes():
        path = folder / f"{config.name}.json"
        if not path.exists():
            raise Failure(f"{path} is missing: make it with tinydigits ablation.")
        study = read_study(path)
        here = without_seed(config) | {"threads": study["config"]["threads"]}
        if study["config"] != here:
            raise Failure(f"{path} is of another recipe: remove it and run tinydigits ablation.")
        row = {"change": change, **{key: study["statistics"][key] for key in ("n", "mean", "sd")}}
        row["trained_on"] = trained_on(study)
        if rows:
            row["worth"] = row["mean"] - rows[-1]["mean"]
            row["margin"] = welch_margin(row["n"], row["sd"], rows[-1]["n"], rows[-1]["sd"])
        rows.append(row)
    return rows


def welch_margin(n1: int, sd1: float, n2: int, sd2: float) -> float:
    """Half the width of the 95 % confidence interval of a difference between two groups' means.

    Welch 1947, "The generalization of Student's problem when several different population
    variances are involved".
    """
    from scipy.stats import t

    a, b = sd1**2 / n1, sd2**2 / n2
    if a + b == 0:
        return 0.0
    degrees = (a + b) ** 2 / (a**2 / (n1 - 1) + b**2 / (n2 - 1))
    return float(t.ppf(0.975, degrees)) * math.sqrt(a + b)


def table(rows: list[dict[str, Any]]) -> str:
    """`read_rows` as a Markdown table."""
    lines = ["| the change | accuracy %, mean ± sd (n) | worth, with its 95 % interval |"]
    lines.append("|---|--:|--:|")
    for row in rows:
        worth = f"{row['worth']:+.3f} ± {row['margin']:.3f}" if "worth" in row else ""
        lines.append(
            f"| {row['change']} | {row['mean']:.3f} ± {row['sd']:.3f} ({row['n']}) | {worth} |"
        )
    first, *others = (row["trained_on"] for row in rows)
    lines.append(
        f"\nThe first row trained on {first}, the others on {' and '.join(sorted({*others}))}."
    )
    return "\n".join(lines)
