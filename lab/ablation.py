"""The way from `baseline` to `classic`, one change at a time, over several seeds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from lab.study import Backend, read_training, require_clean_tree, train_seeds, trained_on
from tinydigits.errors import UsageError
from tinydigits.training.config import Config
from tinydigits.training.presets import BACKGROUND_AND_INK, preset

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "arithmetic for speed: bfloat16 where there are units for it, channels last",
        {"precision": "auto", "channels_last": True},
    ),
    ("no dropout", {"dropout": 0.0}),
    ("a one-cycle schedule", {"schedule": "one-cycle"}),
    ("peak learning rate 0.4 for 0.01", {"lr": 0.4}),
    ("Nesterov momentum", {"nesterov": True}),
    ("augmentation", {"rotation": 10, "scale": 0.1, "shear": 0.1, "shift": 1.25}),
    ("averaged weights", {"ema_decay": 0.998}),
    ("no distortion in the last tenth", {"undistorted_end": 0.1}),
    ("weight decay of 2e-5", {"weight_decay": 2e-5}),
    ("batches of 64 for 128", {"batch_size": 64}),
    (
        "Muon for the convolutions inside, SGD at 0.1 for the rest",
        {"muon_lr": 0.05, "lr": 0.1},
    ),
    ("gray background and pale ink in half of the digits", BACKGROUND_AND_INK),
)
"""What turns `baseline` into `classic`, in this order: in words, and as fields of `Config`."""


def stops() -> list[tuple[str, Config, str]]:
    """The stops on the way: what each changes in the one before it, its training, its results.

    The first is `baseline`, the last `classic`; the results (a path in the folder of all results)
    of those between are in a folder of their own.
    """
    config = preset("baseline")
    way = [("the baseline", config, "baseline.json")]
    for number, (change, fields) in enumerate(CHANGES, 1):
        last = number == len(CHANGES)
        name = "classic" if last else f"ablation-{number}"
        config = dataclasses.replace(config, name=name, **fields)
        way.append((change, config, f"{name}.json" if last else f"ablation/{number}.json"))
    return way


def ablate(seeds: int, jobs: int, backend: Backend, folder: Path) -> list[dict[str, Any]]:
    """Train what is missing of the stops on the way, and return the rows of `read_rows`.

    The two ends are not trained here but taken from what `certify` wrote.

    Raises: as `lab.certify.certify`, and UsageError where an end is missing.
    """
    require_clean_tree()
    first, *between, last = stops()
    for _, config, path in (first, last):
        if not (folder / path).exists():
            raise UsageError(
                f"{folder} lacks {path}: run python -m lab certify {config.name} first."
            )
    for _, config, path in between:
        train_seeds(config, seeds, jobs, backend, folder / path, keep_weights=False)
    return read_rows(folder)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The way from `baseline` to `classic`, as `ablate` has measured it.

    Returns:
        A row for each stop: change, n, mean and sd (percent), trained_on, and, but for the first,
        effect: the mean's difference to the row before, and margin: half the width of its 95 %
        confidence interval.

    Raises:
        Failure: a stop's results are missing, incomplete, or those of another training.
    """
    rows: list[dict[str, Any]] = []
    for change, config, name in stops():
        study = read_training(folder / name, config, "python -m lab ablation")
        row = {"change": change, **{key: study["statistics"][key] for key in ("n", "mean", "sd")}}
        row["trained_on"] = trained_on(study)
        if rows:
            row["effect"] = row["mean"] - rows[-1]["mean"]
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
    lines = ["| the change | accuracy %, mean ± sd (n) | effect, with its 95 % interval |"]
    lines.append("|---|--:|--:|")
    for row in rows:
        effect = f"{row['effect']:+.3f} ± {row['margin']:.3f}" if "effect" in row else ""
        lines.append(
            f"| {row['change']} | {row['mean']:.3f} ± {row['sd']:.3f} ({row['n']}) | {effect} |"
        )
    first, *others = (row["trained_on"] for row in rows)
    machines = " and ".join(sorted({*others}))
    trained = f"All trained on {first}."
    if machines != first:
        trained = f"The first row trained on {first}, the others on {machines}."
    lines.append(f"\n{trained}")
    return "\n".join(lines)
