"""The summary of a run: the verdict on the goals, and all that is needed to repeat the run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tinydigits.errors import Failure
from tinydigits.network.architecture import total
from tinydigits.network.model import model_bytes
from tinydigits.training.config import ACCURACY_GOAL, EPOCH_GOAL, PARAMETER_GOAL
from tinydigits.training.hardware import describe_machine, precision_name
from tinydigits.training.loop import Run, first_epoch_over_goal, reported_part


def summarize_run(run: Run) -> dict[str, Any]:
    """The content of summary.json: goals, values, and all that is needed to repeat the run.

    The goals are about MNIST, so for other data there are none.
    """
    accuracy = run.history[-1][f"{reported_part(run.config)}_accuracy"]
    loss = run.history[-1][f"{reported_part(run.config)}_loss"]
    first = first_epoch_over_goal(run)
    parameters, macs = total(run.network.plan)
    digits = run.dataset.describe("held-out training" if run.config.validation else "test")
    passed = f"first over {ACCURACY_GOAL} % in epoch {first}" if first else "never over it"
    goals = [
        {
            "goal": f"accuracy over {ACCURACY_GOAL} % on the {digits}",
            "met": accuracy > ACCURACY_GOAL,
            "measured": f"{accuracy:.2f} % after the last epoch, {passed}",
        },
        {
            "goal": f"under {PARAMETER_GOAL:,} trainable parameters",
            "met": parameters < PARAMETER_GOAL,
            "measured": f"{parameters:,}",
        },
        {
            "goal": f"at most {EPOCH_GOAL} epochs",
            "met": run.config.epochs <= EPOCH_GOAL,
            "measured": f"{run.config.epochs}",
        },
    ]
    weights = model_bytes(run.network, run.config.name)
    return {
        "name": run.config.name,
        "dataset": run.dataset.name,
        "data_sha256": run.dataset.fingerprint,
        "class_names": run.dataset.class_names,
        "goals": goals if run.dataset.is_mnist else [],
        "evaluated_on": digits,
        "accuracy": accuracy,
        "loss": loss,
        "first_epoch_over_goal": first if run.dataset.is_mnist else None,
        "epochs": run.config.epochs,
        "parameters": parameters,
        "macs": macs,
        "seconds": sum(row["seconds"] for row in run.history),
        "seed": run.config.seed,
        "device": str(run.device),
        "precision": precision_name(run.config, run.device),
        "threads": run.threads,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **describe_machine(run.device),
    }


SUMMARY: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "dataset": str,
    "goals": list,
    "evaluated_on": str,
    "accuracy": (int, float),
    "loss": (int, float),
    "epochs": int,
    "parameters": int,
    "macs": int,
    "seconds": (int, float),
    "seed": int,
    "device": str,
    "precision": str,
    "threads": int,
    "weights_sha256": str,
    "processor": str,
    "instruction_set": str,
    "cores": int,
    "accelerator": (str, type(None)),
    "system": str,
    "versions": dict,
}
"""What the page reads of a summary, and what kind of value each is."""


def check_summary(summary: Any, folder: Path) -> None:
    """See to it that a summary, which was read from `folder`, has all that the page needs.

    Raises:
        Failure: it lacks a value, or has an impossible one; the message names it.
    """
    values = summary if isinstance(summary, dict) else {}
    wrong = [name for name, kind in SUMMARY.items() if not isinstance(values.get(name, ...), kind)]
    if not wrong and not all(
        isinstance(goal, dict) and {"goal", "met", "measured"} <= goal.keys()
        for goal in values["goals"]
    ):
        wrong = ["goals"]
    if wrong:
        raise Failure(
            f"The report cannot be written, because {folder / 'summary.json'} lacks "
            f"{', '.join(wrong)} or has impossible values for them: finish the run again with "
            f"tinydigits train --resume {folder}"
        )
