"""Training: the loop itself, and the run folder that it can be stopped and continued from.

run = start(config)             # a new folder, fresh weights
for row in epochs(run): ...     # one pass over the digits each; saved after every one
finish(run)                     # weights, verdict, pictures, report
"""

from __future__ import annotations

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
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from tinydigits.augment import distort
from tinydigits.config import Config
from tinydigits.data import HELD_OUT, Digits, Mnist, load_mnist, shuffled_batches
from tinydigits.evaluation import Evaluation, evaluate
from tinydigits.files import (
    Failure,
    Misuse,
    read_json,
    reason,
    sweep_temporaries,
    write_atomically,
    write_json,
)
from tinydigits.machine import (
    choose_device,
    choose_precision,
    describe_machine,
    precision_name,
    use_threads,
)
from tinydigits.model import (
    Network,
    build_model,
    count_parameters,
    save_model,
    summarise,
    total,
)
from tinydigits.muon import Muon

ACCURACY_GOAL = 99.4
"""Percent that must be exceeded. This and the next two are the goals of the notebook."""
PARAMETER_GOAL = 20_000
"""Trainable parameters that must not be reached."""
EPOCH_GOAL = 15
"""Epochs that must not be exceeded."""


@dataclass
class Run:
    """A training run and the folder that holds all there is to know about it."""

    folder: Path
    config: Config
    device: torch.device
    threads: int
    train_digits: Digits
    images: np.ndarray
    """The digits that are reported on, uint8 (10000, 28, 28): the test set or the held-out ones."""
    labels: np.ndarray
    model: Network
    average: AveragedModel | None
    """The running average of the weights, where the configuration asks for one."""
    optimizer: torch.optim.Optimizer
    history: list[dict[str, Any]]
    """A row for each finished epoch."""
    evaluation: Evaluation | None = None
    """What the network said after the last epoch."""
    lock: FileLock | None = None
    """Keeps other processes from training in the folder, until the run is finished."""

    @property
    def network(self) -> Network:
        """The network that is measured and kept: the averaged one if there is one."""
        return self.model if self.average is None else self.average.module  # pyright: ignore


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
    print(HEADER)
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
    folder = config.out or new_folder(config.name)
    refuse_taken(folder)
    if config.data is not None:  # so that the run can be resumed from anywhere
        config = dataclasses.replace(config, data=config.data.expanduser().resolve())
    run = prepare(folder, config)
    run.lock = claim(folder)
    refuse_taken(folder)  # another process may have been faster
    write_json(folder / "config.json", config.to_json())
    return run


def refuse_taken(folder: Path) -> None:
    """Raise Misuse if there is something in `folder`, or if it is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        raise Misuse(
            f"{folder} is already there: choose another --out, or go on with the run in it by "
            f"tinydigits train --resume {folder}"
        )


def new_folder(name: str) -> Path:
    """A folder under runs/ that is not there yet."""
    named = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (named.with_name(f"{named.name}-{n}") for n in itertools.count(2))
    return next(folder for folder in itertools.chain([named], numbered) if not folder.exists())


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
    was never stopped (on the same machine, with the same number of threads).

    Raises:
        Misuse: `folder` is not a run folder.
        Failure: its configuration or its checkpoint is damaged.
    """
    config = read_config(folder)
    lock = claim(folder)
    run = prepare(folder, config)
    run.lock = lock
    sweep_temporaries(folder)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        load_checkpoint(run, checkpoint)
    return run


def read_config(folder: Path) -> Config:
    """The configuration of the run in `folder`.

    Raises:
        Misuse: `folder` is not a run folder.
        Failure: its configuration is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise Misuse(f"{folder} holds no config.json, so there is no run in it.")
    try:
        return Config.from_json(read_json(path))
    except Misuse as error:
        raise Failure(f"{path} is damaged: {error}") from error


def prepare(folder: Path, config: Config) -> Run:
    """All that a run needs before its first epoch; nothing is written."""
    device, threads = choose_device(config), use_threads(config)
    mnist = split(load_mnist(config.data), config)
    if len(mnist.train_labels) % config.batch_size == 1:
        raise Misuse(
            f"batch_size {config.batch_size} leaves a single digit for the last batch of an epoch, "
            "and BatchNorm needs two: choose another."
        )
    torch.manual_seed(config.seed)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = build_model(config).to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    return Run(
        folder=folder,
        config=config,
        device=device,
        threads=threads,
        train_digits=Digits(mnist.train_images, mnist.train_labels, device),
        images=mnist.test_images,
        labels=mnist.test_labels,
        model=model,
        average=averaged(model, config.averaging) if config.averaging else None,
        optimizer=build_optimizer(model, config),
        history=[],
    )


def split(mnist: Mnist, config: Config) -> Mnist:
    """The digits that a run trains on, and those that it reports on in place of the test set."""
    if not config.validation:
        return mnist
    images, labels = mnist.train_images, mnist.train_labels
    return Mnist(images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:])


def build_optimizer(model: Network, config: Config) -> torch.optim.Optimizer:
    """SGD for all weights, or Muon for the convolutions between the first layer and the classes.

    `initial_lr` is the rate that the schedule scales.
    """
    inner = [
        module.weight
        for module in model.features[1:].modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1 and config.muon_rate
    ]
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    rest = [weight for weight in learnt if all(weight is not w for w in inner)]
    sgd: dict[str, Any] = {"params": rest, "weight_decay": config.weight_decay}
    sgd["lr"] = sgd["initial_lr"] = config.learning_rate
    if not inner:
        return torch.optim.SGD([sgd], momentum=config.momentum, nesterov=config.nesterov)
    muon: dict[str, Any] = {"params": inner, "weight_decay": 0.0, "orthogonal": True}
    muon["lr"] = muon["initial_lr"] = config.muon_rate
    return Muon([{**sgd, "orthogonal": False}, muon], config.momentum)


def averaged(model: Network, keep: float) -> AveragedModel:
    """An exponential average of weights and BatchNorm statistics, updated after each step.

    It keeps less at first, so that the random start is forgotten at once.
    """

    def update(average: torch.Tensor, current: torch.Tensor, steps: torch.Tensor | int):
        if not average.is_floating_point():  # BatchNorm's count of batches
            return current
        return average.lerp(current, max(1 - keep, 9 / (10 + int(steps))))

    return AveragedModel(model, avg_fn=update, use_buffers=True)


# ---------------------------------------------------------------------------------- the loop


def epochs(run: Run) -> Iterator[dict[str, Any]]:
    """Train the epochs that are left; after each, evaluate, save a checkpoint and yield a row.

    The rows hold epoch, train_loss, train_accuracy (%, in train mode, while the weights move),
    test_loss, test_accuracy (%), learning_rate and seconds (of the training pass).

    Raises:
        Failure: the loss is not finite, or the folder cannot be written. What the last finished
            epoch left is still there.
    """
    for epoch in range(len(run.history) + 1, run.config.epochs + 1):
        began = time.perf_counter()
        train_loss, train_accuracy = train_one_epoch(run, epoch)
        seconds = time.perf_counter() - began
        run.evaluation = evaluate(run.network, run.images, run.labels)
        for loss in (train_loss, run.evaluation.loss):
            if not np.isfinite(loss):
                raise Failure(
                    f"The loss became {loss} in epoch {epoch}: lower the learning rate. "
                    f"What was saved in {run.folder} before is untouched."
                )
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": run.evaluation.loss,
            "test_accuracy": run.evaluation.accuracy,
            "learning_rate": run.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
        }
        run.history.append(row)
        save_checkpoint(run)
        write_metrics(run)
        yield row


def train_one_epoch(run: Run, epoch: int) -> tuple[float, float]:
    """One pass over the training digits: mean loss and accuracy (%) as they went by."""
    config = run.config
    total_loss = torch.zeros((), device=run.device)
    total_right = torch.zeros((), device=run.device)
    run.model.train()
    batches = shuffled_batches(run.train_digits, config.batch_size, config.seed, epoch)
    steps_before, steps = (epoch - 1) * len(batches), config.epochs * len(batches)
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None)
    for step, (images, labels) in enumerate(bar, steps_before + 1):
        loss, log_probs = train_step(run, images, labels, progress=step / steps)
        total_loss += loss * len(labels)
        total_right += (log_probs.argmax(1) == labels).sum()
    n = len(run.train_digits)
    return total_loss.item() / n, 100 * total_right.item() / n


def train_step(
    run: Run, images: torch.Tensor, labels: torch.Tensor, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of the weights.

    Args:
        run: what is trained.
        images: normalised, (B, 1, 28, 28).
        labels: int64 (B,).
        progress: the share of all steps that is done after this one.

    Returns:
        The mean loss of the batch, without label smoothing so that it compares with the test loss,
        and its log-probabilities (B, 10); both from before the update.
    """
    config = run.config
    augmented = config.rotation or config.scale or config.shear or config.shift
    if augmented and progress <= 1 - config.plain_end:
        images = distort(images, config)
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * schedule(config, progress)
    precision = choose_precision(config, run.device)
    run.optimizer.zero_grad()
    with torch.autocast(run.device.type, precision, enabled=precision != torch.float32):
        log_probs = run.model(images)
    loss = F.nll_loss(log_probs, labels)
    if config.label_smoothing:  # Szegedy et al. 2016, "Rethinking the Inception Architecture"
        torch.lerp(loss, -log_probs.mean(), config.label_smoothing).backward()
    else:
        loss.backward()
    run.optimizer.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    return loss.detach(), log_probs.detach()


def schedule(config: Config, progress: float) -> float:
    """The share, 0 to 1, of the full step size when `progress`, above 0 to 1, of the steps is done.

    One cycle is a straight climb and a straight fall (Smith and Topin 2018,
    "Super-Convergence"): large steps early to get far, vanishing ones at the end to settle.
    """
    if config.schedule == "constant":
        return 1.0
    if progress < config.warm_up:
        return progress / config.warm_up
    return (1 - progress) / (1 - config.warm_up)


# ----------------------------------------------------------------------------- the run folder


def save_checkpoint(run: Run) -> None:
    """Write all that the next epoch depends on, so that a killed run can go on from here."""
    state = {
        "config": comparable(run.config),
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
    write_atomically(run.folder / "checkpoint.pt", buffer.getvalue())


def comparable(config: Config) -> dict[str, Any]:
    """What of a configuration a checkpoint depends on: all but the places of files."""
    return config.to_json() | {"data": None, "out": None}


def load_checkpoint(run: Run, path: Path) -> None:
    """Bring `run` to the state that `save_checkpoint` wrote.

    Raises:
        Failure: the file is damaged or belongs to another configuration.
    """
    try:
        # weights_only: a checkpoint from a stranger must not be able to run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] != comparable(run.config):
            raise ValueError("it was made with other options")
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
    # torch raises errors of a dozen types for a damaged file.
    except Exception as error:
        raise Failure(
            f"{path} is damaged or belongs to another run: remove it to start this run again "
            f"from its first epoch ({reason(error)[:200]})."
        ) from error


def write_metrics(run: Run) -> None:
    """Write metrics.csv, a row per epoch, with losses and accuracies as precise as they are."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(run.history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(run.history)
    write_atomically(run.folder / "metrics.csv", text.getvalue())


def finish(run: Run) -> None:
    """Write what a run leaves behind: weights, summary, pictures and report; print the verdict."""
    from tinydigits.report import write_report

    if run.evaluation is None:  # resumed after the last epoch
        run.evaluation = evaluate(run.network, run.images, run.labels)
        write_metrics(run)  # a kill between the checkpoint and the row has left it out
    save_model(run.folder / "model.safetensors", run.network, run.config)
    summary = summarise_run(run)
    write_json(run.folder / "summary.json", summary)
    write_report(run.folder, run.config, summary, run.history, run.evaluation, run.images)
    for goal in summary["goals"]:
        print(f"{'MET   ' if goal['met'] else 'MISSED'} {goal['goal']}: {goal['measured']}")
    if run.lock is not None:
        run.lock.release()
    print(f"Everything is in {run.folder}; read {run.folder / 'report.html'}")


def summarise_run(run: Run) -> dict[str, Any]:
    """The content of summary.json: goals, values, and all that is needed to repeat the run."""
    last = run.history[-1]
    over = [row["epoch"] for row in run.history if row["test_accuracy"] > ACCURACY_GOAL]
    first = over[0] if over else None
    parameters = count_parameters(run.model)
    digits = "held-out training digits" if run.config.validation else "test digits"
    passed = f"first over {ACCURACY_GOAL} % in epoch {first}" if first else "never over it"
    goals = [
        {
            "goal": f"accuracy over {ACCURACY_GOAL} % on the {digits}",
            "met": last["test_accuracy"] > ACCURACY_GOAL,
            "measured": f"{last['test_accuracy']:.2f} % after the last epoch, {passed}",
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
    weights = (run.folder / "model.safetensors").read_bytes()
    return {
        "name": run.config.name,
        "goals": goals,
        "evaluated_on": digits,
        "accuracy": last["test_accuracy"],
        "loss": last["test_loss"],
        "first_epoch_over_goal": first,
        "epochs": run.config.epochs,
        "parameters": parameters,
        "macs": total(summarise(run.config))[1],
        "seconds": sum(row["seconds"] for row in run.history),
        "seed": run.config.seed,
        "device": str(run.device),
        "precision": precision_name(run.config, run.device),
        "threads": run.threads,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **describe_machine(run.device),
    }


HEADER = "epoch   train loss   train acc   test loss   test acc   learning rate   seconds"


def format_row(row: dict[str, Any]) -> str:
    """A row of `epochs` for people, under `HEADER`."""
    return (
        f"{row['epoch']:5}{row['train_loss']:13.4f}{row['train_accuracy']:10.2f} %"
        f"{row['test_loss']:12.4f}{row['test_accuracy']:9.2f} %{row['learning_rate']:16.4g}"
        f"{row['seconds']:10.1f}"
    )
