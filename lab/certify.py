"""Claims that stand up: a preset trained from many seeds, none of them dropped or repeated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lab.claims import BUDGETS, CLAIMS, CORRUPTION_CLAIMS
from lab.study import SHIPPED_FORM, Backend, require_clean_tree, train_seeds
from tinydigits.network.architecture import stored, total
from tinydigits.network.checkpoint import summarize
from tinydigits.training.config import ACCURACY_GOAL, EPOCH_GOAL, PARAMETER_GOAL, Config
from tinydigits.training.presets import preset


def certify(
    name: str,
    seeds: int = 10,
    jobs: int = 0,
    backend: Backend = "local",
    folder: Path = Path("results"),
) -> dict[str, Any]:
    """Train a preset from the seeds 0 to `seeds` - 1 and write `folder`/`name`.json.

    The weights of seed 0 are kept beside it.

    Args: `name` is the preset's; the others are those of `train_seeds`.

    Returns and raises: as `train_seeds`, and UsageError where there is no such preset or where the
    code is not that of a commit.
    """
    require_clean_tree()
    config = preset(name)
    return train_seeds(config, seeds, jobs, backend, folder / f"{name}.json", keep_weights=True)


def verdicts(study: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """The three goals of the project and the preset's own claims, decided by the mean.

    Returns:
        For each: what is asked, whether it holds, and what was measured.
    """
    name = study["preset"]
    numbers, config = study["statistics"], Config.from_json({**study["config"], "seed": 0})
    stages = summarize(config)
    parameters, _ = total(stages)
    mean = f"{numbers['mean']:.3f} %"
    rows = [
        (f"mean accuracy over {ACCURACY_GOAL} %", numbers["mean"] > ACCURACY_GOAL, mean),
        (
            f"under {PARAMETER_GOAL:,} trainable parameters",
            parameters < PARAMETER_GOAL,
            f"{parameters:,}",
        ),
        (f"at most {EPOCH_GOAL} epochs", config.epochs <= EPOCH_GOAL, f"{config.epochs}"),
    ]
    if name not in CLAIMS:
        return rows
    kept, budget = stored(stages), BUDGETS[name]
    rows.append(
        (
            f"own claim: under {budget:,}, whether parameters or stored numbers are counted",
            max(parameters, kept) < budget,
            f"{parameters:,} and {kept:,}",
        )
    )
    both = {"float": numbers, "integers": study["integers"].get(SHIPPED_FORM)}
    claims = [("the test digits", CLAIMS[name], both)]
    claims += [
        (met, least, study["raw"].get(met, {}))
        for met, least in CORRUPTION_CLAIMS.get(name, {}).items()
    ]
    for met, least, found in claims:
        for kind in both:
            mean = found[kind]["mean"] if found.get(kind) else math.nan
            asked = f"own claim: {met}, {kind}: mean of at least {least:.2f} %"
            measured = "not measured" if math.isnan(mean) else f"{mean:.3f} %"
            rows.append((asked, mean >= least, measured))
    return rows
