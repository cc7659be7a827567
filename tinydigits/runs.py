"""The folder of a run: started, saved after every epoch, resumed from there, and finished.

run = start(config)             # a new folder, fresh weights
for row in epochs(run): ...     # one pass over the digits each; saved after every one
finish(run)                     # weights, verdict, figures, report
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tinydigits.data.dataset import Dataset, check_fingerprint, load_dataset
from tinydigits.errors import Failure, UsageError, reason
from tinydigits.evaluation import evaluate
from tinydigits.files import expand, read_json, sweep_temporaries, write_atomically, write_json
from tinydigits.network.model import load_model, save_model
from tinydigits.quant.ptq import CALIBRATION, quantize
from tinydigits.quant.tdq import load_quantized, save
from tinydigits.reader.rejection import measure_threshold, spare
from tinydigits.report.report import write_report
from tinydigits.report.summary import check_summary, summarize_run
from tinydigits.run_folder import at_its_place, read_config
from tinydigits.terminal import plain, say
from tinydigits.training import loop
from tinydigits.training.config import Config
from tinydigits.training.hardware import choose_threads, precision_name, use_threads
from tinydigits.training.loop import Run, new_run, reported_part
from tinydigits.training.presets import is_preset
from tinydigits.training.state import load_state, save_state

CHECKPOINT = "checkpoint.pt"
"""The file in a run's folder that a stopped run goes on from."""


@dataclass(kw_only=True)
class SavedRun(Run):
    """A run that is kept in a folder."""

    folder: Path
    lock: FileLock
    """Keeps other processes from training in the folder, until the run is finished."""
    unseen: np.ndarray
    """uint8 (N, 28, 28): what the rejection threshold is measured on; none for a preset."""


def train(config: Config) -> SavedRun:
    """Train a network from start to end, and print a row per epoch.

    Returns:
        The finished run; its folder holds the weights, the verdict, the figures and the report.

    Raises:
        UsageError: the output folder is taken, or the device does not exist.
        Failure: the data cannot be had, the folder cannot be written, or the loss is not finite.
    """
    return complete(start(config))


def complete(run: SavedRun) -> SavedRun:
    """Train what is left of a run, printing a row per epoch, and write its results."""
    precision = precision_name(run.config, run.device)
    print(f"{run.config.name} on {run.device} in {precision}, threads: {run.threads}")
    if len(run.unseen) and not run.config.validation:
        print(f"held out to measure when to reject: {len(run.unseen):,} {run.dataset.things}")
    print(header(run.config))
    for row in run.history:
        print(format_row(row))
    for row in epochs(run):
        print(format_row(row), flush=True)
    finish(run)
    return run


def start(config: Config) -> SavedRun:
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
    dataset, unseen = load_data(config)
    run = new_run(config, dataset)
    folder = new_folder(config.name) if config.out is None else expand(config.out)
    lock = claim(folder)
    refuse_taken(folder)  # another process may have been faster
    write_json(folder / "config.json", config.to_json())
    return SavedRun(**vars(run), folder=folder, lock=lock, unseen=unseen)


def load_data(config: Config) -> tuple[Dataset, np.ndarray]:
    """The data of a run, and images of its classes that it is not trained on, uint8 (N, 28, 28).

    The latter are those that it is measured on, where these are no test images; none for a preset,
    whose rejection threshold comes with the package; else a few of the training images.
    """
    dataset = load_dataset(config.data_source)
    if config.validation:
        return dataset, dataset.test_images
    if dataset.is_mnist and is_preset(config):
        return dataset, dataset.test_images[:0]
    return spare(dataset)


def refuse_taken(folder: Path) -> None:
    """Raise UsageError if there is something in `folder`, or if it is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        raise UsageError(
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
        UsageError: another process is training in it.
        Failure: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"Another process is training in {folder}: let it finish.") from error
    except OSError as error:
        raise Failure(
            f"Cannot write in {folder}: {reason(error)}. Choose another --out."
        ) from error
    return lock


def resume(folder: Path, data: Path | None = None) -> SavedRun:
    """Take up a run where it was stopped, at whatever moment that was.

    It goes on from the last finished epoch and ends in the weights, to the bit, of a run that
    was never stopped (on the same processor, with the same number of threads; on a graphics card
    nobody has checked it).

    Args:
        folder: the run's.
        data: where its data are now, if they have moved; the run remembers it.

    Raises:
        UsageError: `folder` is not a run folder, or its data are gone.
        Failure: its configuration or its checkpoint is damaged, or the data are others.
    """
    folder = expand(folder)
    config = at_its_place(read_config(folder), folder, data)
    lock = claim(folder)
    checkpoint = folder / CHECKPOINT
    dataset, unseen = load_data(config)
    run = new_run(config, dataset, fresh=not checkpoint.exists())
    sweep_temporaries(folder)
    if checkpoint.exists():
        load_state(run, checkpoint)
    if data is not None:
        write_json(folder / "config.json", config.to_json())
    return SavedRun(**vars(run), folder=folder, lock=lock, unseen=unseen)


def epochs(run: SavedRun) -> Iterator[dict[str, Any]]:
    """`tinydigits.training.loop.epochs`, with a checkpoint and metrics.csv written after each.

    Raises:
        Failure: the loss is not finite, or the folder cannot be written. What the last finished
            epoch left is still there.
    """
    for row in loop.epochs(run):
        save_state(run, run.folder / CHECKPOINT)
        write_metrics(run)
        yield row


def write_metrics(run: SavedRun) -> None:
    """Write metrics.csv, a row per epoch, with losses and accuracies as precise as they are."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(run.history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(run.history)
    write_atomically(run.folder / "metrics.csv", text.getvalue())


def finish(run: SavedRun) -> None:
    """Write what a run leaves behind: weights, summary, figures and report; print the verdict."""
    folder = run.folder
    if run.evaluation is None:  # resumed after the last epoch
        run.evaluation = evaluate(run.network, run.images, run.labels)
        write_metrics(run)  # a kill between the checkpoint and the row has left it out
    save_model(folder / "model.safetensors", run.network, run.config.name)
    config, summary = run.config, summarize_run(run)
    # Made here, since the data may be gone later, and only the run knows its bits.
    bits = config.activation_bits, config.weight_bits
    try:
        integers = quantize(run.network, run.dataset.train_images[:CALIBRATION], 1.0, *bits)
        if is_preset(config) and run.dataset.is_mnist:
            threshold = load_quantized(config.name).rejection_threshold
        else:
            threshold = measure_threshold(integers, run.unseen)
        integers = dataclasses.replace(integers, rejection_threshold=threshold)
        save(integers, folder / "model.tdq")
        if config.qat_epochs:  # with few bits it may read otherwise than the float one
            found = evaluate(integers, run.images, run.labels).accuracy
            summary["accuracy_in_integers"] = found
    except UsageError as error:
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
    run.lock.release()
    print(plain(f"Everything is in {folder}; read {folder / 'report.html'}"))


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
        f"{row['lr']:16.4g}{row['seconds']:10.1f}"
    )


def rewrite_report(folder: Path, data: Path | None = None) -> Path:
    """Write the report of a finished run again, from the files in its folder.

    The network reads once more the digits that the run reported on: the test set or, for a
    validation run, the last 10,000 training digits.

    Args:
        folder: the run's.
        data: where its data are now, if they have moved.

    Returns:
        The path of report.html.

    Raises:
        UsageError: there is no finished run in `folder`, or its data are gone.
        Failure: a file is missing, damaged or of another run, or the folder cannot be written.
    """
    folder = expand(folder)
    config = at_its_place(read_config(folder), folder, data)
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
    names = ("train_loss", "train_accuracy", f"{part}_loss", f"{part}_accuracy", "lr")
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
