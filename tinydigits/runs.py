"""The folder of a run: started, saved after every epoch, resumed from there, and finished.

run = start(config)             # a new folder, fresh weights
for row in epochs(run): ...     # one pass over the digits each; saved after every one
finish(run)                     # weights, verdict, pictures, report
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tinydigits import training
from tinydigits.config import ACCURACY_GOAL, EPOCH_GOAL, PARAMETER_GOAL, Config, read_config
from tinydigits.data.dataset import check_fingerprint, load_dataset
from tinydigits.evaluation import evaluate
from tinydigits.files import (
    Failure,
    Misuse,
    expand,
    read_json,
    reason,
    say,
    sweep_temporaries,
    write_atomically,
    write_json,
)
from tinydigits.layers import total
from tinydigits.machine import choose_threads, describe_machine, precision_name, use_threads
from tinydigits.model import load_model, model_bytes
from tinydigits.modelfile import summarise
from tinydigits.quantise import CALIBRATION, quantize
from tinydigits.report import check_summary, write_report
from tinydigits.training import Run, first_epoch_over_goal, new_run, reported_part


def train(config: Config) -> Run:
    """Train a network from start to end, and print a row per epoch.

    Returns:
        The finished run; its folder holds the weights, the verdict, the pictures and the report.

    Raises:
        Misuse: the output folder is taken, or the device does not exist.
        Failure: the data cannot be had, the folder cannot be written, or the loss is not finite.
    """
    return complete(start(config))


def complete(run: Run) -> Run:
    """Train what is left of a run, printing a row per epoch, and write its results."""
    precision = precision_name(run.config, run.device)
    print(f"{run.config.name} on {run.device} in {precision}, threads: {run.threads}")
    print(header(run.config))
    for row in run.history:
        print(format_row(row))
    for row in epochs(run):
        print(format_row(row), flush=True)
    finish(run)
    return run


def start(config: Config) -> Run:
    """Make a new run: its folder, its data and its freshly drawn weights.

    Raises: as `train`.
    """
    if config.out is not None:
        refuse_taken(expand(config.out))
    if config.data is not None:  # so that the run can be resumed from anywhere
        config = dataclasses.replace(config, data=expand(config.data).resolve())
    if config.init and expand(config.init).exists():
        config = dataclasses.replace(config, init=str(expand(config.init).resolve()))
    # So that a resumed run has as many, wherever that is: with others the last bits may differ.
    config = dataclasses.replace(config, threads=choose_threads(config))
    run = new_run(config)
    run.folder = new_folder(config.name) if config.out is None else expand(config.out)
    run.lock = claim(run.folder)
    refuse_taken(run.folder)  # another process may have been faster
    write_json(run.folder / "config.json", config.to_json())
    return run


def refuse_taken(folder: Path) -> None:
    """Raise Misuse if there is something in `folder`, or if it is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        raise Misuse(
            f"{folder} is already there: choose another --out, or go on with the run in it by "
            f"tinydigits train --resume {folder}"
        )


def new_folder(name: str) -> Path:
    """Make a new folder under runs/, another one for each process that asks.

    Raises:
        Failure: it cannot be made.
    """
    named = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (named.with_name(f"{named.name}-{n}") for n in itertools.count(2))
    try:
        named.parent.mkdir(exist_ok=True)
        for folder in itertools.chain([named], numbered):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise AssertionError("numbers do not end")
    except OSError as error:
        raise Failure(
            f"Cannot make {named.parent}: {reason(error)}. Choose another --out."
        ) from error


def claim(folder: Path) -> FileLock:
    """Make `folder` where it is missing, and keep other processes from training in it.

    The lock goes with the process, however that ends.

    Raises:
        Misuse: another process is training in it.
        Failure: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Misuse(f"Another process is training in {folder}: let it finish.") from error
    except OSError as error:
        raise Failure(
            f"Cannot write in {folder}: {reason(error)}. Choose another --out."
        ) from error
    return lock


def resume(folder: Path) -> Run:
    """Take up a run where it was stopped, at whatever moment that was.

    It goes on from the last finished epoch and ends in the weights, to the bit, of a run that
    was never stopped (on the same processor, with the same number of threads; on a graphics card
    nobody has checked it).

    Raises:
        Misuse: `folder` is not a run folder.
        Failure: its configuration or its checkpoint is damaged.
    """
    folder = expand(folder)
    config = read_config(folder)
    lock = claim(folder)
    checkpoint = folder / "checkpoint.pt"
    run = new_run(config, fresh=not checkpoint.exists())
    run.folder, run.lock = folder, lock
    sweep_temporaries(folder)
    if checkpoint.exists():
        load_checkpoint(run, checkpoint)
    return run


def epochs(run: Run) -> Iterator[dict[str, Any]]:
    """`tinydigits.training.epochs`, with a checkpoint and metrics.csv written after each.

    Raises:
        Failure: the loss is not finite, or the folder cannot be written. What the last finished
            epoch left is still there.
    """
    for row in training.epochs(run):
        save_checkpoint(run)
        write_metrics(run)
        yield row


def folder_of(run: Run) -> Path:
    """The folder that a run is kept in.

    Raises:
        Misuse: it has none.
    """
    if run.folder is None:
        raise Misuse("This run has no folder: make it with start, or keep its weights yourself.")
    return run.folder


def save_checkpoint(run: Run) -> None:
    """Write all that the next epoch depends on, so that a killed run can go on from here."""
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
    write_atomically(folder_of(run) / "checkpoint.pt", buffer.getvalue())


def comparable(config: Config) -> dict[str, Any]:
    """What of a configuration a checkpoint depends on: all but the places of files."""
    return config.to_json() | {"data": None, "out": None, "init": ""}


def load_checkpoint(run: Run, path: Path) -> None:
    """Bring `run` to the state that `save_checkpoint` wrote.

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
    check_fingerprint(run.dataset, fingerprint, folder_of(run), run.config.data_source)
    try:
        # Options that are newer than the checkpoint had their defaults when it was written.
        if comparable(Config(run.config.layers)) | state["config"] != comparable(run.config):
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


def write_metrics(run: Run) -> None:
    """Write metrics.csv, a row per epoch, with losses and accuracies as precise as they are."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(run.history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(run.history)
    write_atomically(folder_of(run) / "metrics.csv", text.getvalue())


def finish(run: Run) -> None:
    """Write what a run leaves behind: weights, summary, pictures and report; print the verdict."""
    folder = folder_of(run)
    if run.evaluation is None:  # resumed after the last epoch
        run.evaluation = evaluate(run.network, run.images, run.labels)
        write_metrics(run)  # a kill between the checkpoint and the row has left it out
    write_atomically(folder / "model.safetensors", model_bytes(run.network, run.config.name))
    config, summary = run.config, summarise_run(run)
    # Of a plain run on MNIST the network in integers can be made at any time. Other data may be
    # gone by then, and only the run knows which bits it trained for.
    if not run.dataset.is_mnist or config.quantised_epochs:
        bits = config.activation_bits, config.weight_bits
        try:
            integers = quantize(run.network, run.dataset.train_images[:CALIBRATION], 1.0, *bits)
            write_atomically(folder / "model.tdq", integers.to_bytes())
            if config.quantised_epochs:  # with few bits it may read otherwise than the float one
                found = evaluate(integers, run.images, run.labels).accuracy
                summary["accuracy_in_integers"] = found
        except Misuse as error:
            say(f"There is no model.tdq, the network in integers: {error}")
    write_json(folder / "summary.json", summary)
    write_report(folder, config, summary, run.history, run.evaluation, run.images)
    if not run.dataset.is_mnist:
        print(f"{summary['accuracy']:.2f} % of the {len(run.labels):,} {summary['evaluated_on']}")
    if "accuracy_in_integers" in summary:
        print(
            f"{summary['accuracy_in_integers']:.2f} % in integers, with weights of "
            f"{config.weight_bits} bits and activations of {config.activation_bits}: model.tdq"
        )
    for goal in summary["goals"]:
        print(f"{'MET   ' if goal['met'] else 'MISSED'} {goal['goal']}: {goal['measured']}")
    if run.lock is not None:
        run.lock.release()
    print(f"Everything is in {folder}; read {folder / 'report.html'}")


def summarise_run(run: Run) -> dict[str, Any]:
    """The content of summary.json: goals, values, and all that is needed to repeat the run.

    The goals are about MNIST, so for other data there are none.
    """
    accuracy = run.history[-1][f"{reported_part(run.config)}_accuracy"]
    loss = run.history[-1][f"{reported_part(run.config)}_loss"]
    first = first_epoch_over_goal(run)
    parameters, macs = total(summarise(run.network))
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


def header(config: Config) -> str:
    """What stands above the rows of `format_row`."""
    part = {"test": "test", "validation": "valid."}[reported_part(config)]
    return (
        f"epoch   train loss   train acc{part + ' loss':>13}{part + ' acc':>11}"
        "   learning rate   seconds"
    )


def format_row(row: dict[str, Any]) -> str:
    """A row of `epochs` for people, under `header`."""
    part = "validation" if "validation_loss" in row else "test"
    return (
        f"{row['epoch']:5}{row['train_loss']:13.4f}{row['train_accuracy']:10.2f} %"
        f"{row[f'{part}_loss']:13.4f}{row[f'{part}_accuracy']:9.2f} %"
        f"{row['learning_rate']:16.4g}{row['seconds']:10.1f}"
    )


def rewrite_report(folder: Path) -> Path:
    """Write the report of a finished run again, from the files in its folder.

    The network reads once more the digits that the run reported on: the test set or, for a
    validation run, the last 10,000 training digits.

    Returns:
        The path of report.html.

    Raises:
        Misuse: there is no finished run in `folder`.
        Failure: a file is missing, damaged or of another run, or the folder cannot be written.
    """
    folder = expand(folder)
    config = read_config(folder)
    model = load_model(folder)
    summary = read_json(folder / "summary.json")
    check_summary(summary, folder)
    weights = (folder / "model.safetensors").read_bytes()
    if summary["weights_sha256"] != hashlib.sha256(weights).hexdigest():
        raise Failure(
            f"{folder / 'summary.json'} does not describe the weights that are beside it: finish "
            f"the run again with tinydigits train --resume {folder}"
        )
    history = read_metrics(folder / "metrics.csv", config)
    use_threads(config)  # as in the training, for the same last bits
    dataset = load_dataset(config.data_source)
    check_fingerprint(dataset, summary.get("data_sha256"), folder, config.data_source)
    evaluation = evaluate(model, dataset.test_images, dataset.test_labels)
    return write_report(folder, config, summary, history, evaluation, dataset.test_images)


def read_metrics(path: Path, config: Config) -> list[dict[str, Any]]:
    """Read the rows that `write_metrics` wrote.

    Raises:
        Failure: there is no such file, or it is not such a table.
    """
    part = reported_part(config)
    names = ("train_loss", "train_accuracy", f"{part}_loss", f"{part}_accuracy", "learning_rate")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {"epoch": int(row["epoch"])} | {name: float(row[name]) for name in names}
                for row in csv.DictReader(file)
            ]
        if not rows:
            raise ValueError("it has no rows")
    except OSError as error:
        raise Failure(f"Cannot read {path}: {reason(error)}.") from error
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise Failure(f"{path} is not a table of epochs: {reason(error)}.") from error
    return rows
