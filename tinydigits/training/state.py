"""The state of a run between two epochs, as a file, so that a killed run can go on from there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from tinydigits.data.dataset import check_fingerprint
from tinydigits.errors import Failure, reason
from tinydigits.files import write_atomically
from tinydigits.training.config import Config
from tinydigits.training.loop import Run, reported_part

PLACES: dict[str, Any] = {"data": None, "dataset": "", "out": None, "init": ""}
"""The fields of a configuration that say where files are."""


def save_state(run: Run, path: Path) -> None:
    """Write all that the next epoch depends on, so that a killed run can go on from here.

    Raises:
        Failure: the file cannot be written; what was there before stays.
    """
    state = {
        "config": comparable(run.config),
        "data": run.dataset.fingerprint,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": run.history,
        "random": torch.get_rng_state(),
    }
    if run.average is not None:
        state["average"] = run.average.state_dict()
    if run.device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(run.device)
    elif run.device.type == "mps":
        state["random_mps"] = torch.mps.get_rng_state()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def comparable(config: Config) -> dict[str, Any]:
    """What of a configuration a checkpoint depends on: all but the places of files.

    What the data are called is in their fingerprint.
    """
    return config.to_json() | PLACES


def load_state(run: Run, path: Path) -> None:
    """Bring `run` to the state that `save_state` wrote.

    Raises:
        Failure: the file is damaged or belongs to another configuration, or the data have changed.
    """
    try:
        # weights_only: a checkpoint from a stranger must not be able to run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        fingerprint = state.get("data")
    # torch raises errors of a dozen types for a damaged file.
    except Exception as error:
        raise unusable(path, error) from error
    check_fingerprint(run.dataset, fingerprint, path.parent, run.config.data_source)
    try:
        # Options that are newer than the checkpoint had their defaults when it was written.
        before = comparable(Config(run.config.layers)) | state["config"] | PLACES
        if before != comparable(run.config):
            raise ValueError("it was made with other options")
        if any(f"{reported_part(run.config)}_loss" not in row for row in state["history"]):
            raise ValueError("its rows are about other digits")
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        if run.average is not None:
            run.average.load_state_dict(state["average"])
        run.history = state["history"]
        torch.set_rng_state(state["random"])
        if run.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], run.device)
        elif run.device.type == "mps":
            torch.mps.set_rng_state(state["random_mps"])
    except Exception as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> Failure:
    """What to say of a checkpoint that cannot be taken up."""
    return Failure(
        f"{path} is damaged or belongs to another run: remove it to start this run again "
        f"from its first epoch ({reason(error)[:200]})."
    )
