"""Training, in memory: the loop, and all that it needs before its first step.

run = new_run(config)            # digits, freshly drawn weights, an optimizer
for row in epochs(run): ...      # one pass over the digits each
run.network                      # what has been trained

`tinydigits.runs` keeps a run in a folder, from which it can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from tinydigits.data.dataset import Dataset, load_dataset
from tinydigits.errors import Failure, UsageError
from tinydigits.evaluation import Evaluation, evaluate
from tinydigits.network.architecture import DIGITS, MEAN, STD
from tinydigits.network.model import Network, load_model
from tinydigits.quant.qat import forward_rounded
from tinydigits.terminal import say
from tinydigits.training.augmentation import augment
from tinydigits.training.batches import Digits, shuffled_batches
from tinydigits.training.config import ACCURACY_GOAL, Config
from tinydigits.training.hardware import (
    COMPARED,
    SLOWED,
    choose_device,
    choose_precision,
    slowed,
    use_threads,
)
from tinydigits.training.muon import Muon

RANGES_LAST = 100
"""Steps for which the ranges of rounded activations are kept, while the weights move."""


@dataclass
class Run:
    """A training run: what it trains, on what, and what came of it so far."""

    config: Config
    device: torch.device
    threads: int
    dataset: Dataset
    """What is trained and reported on."""
    train_digits: Digits
    model: Network
    average: AveragedModel | None
    """The running average of the weights, where the configuration asks for one."""
    optimizer: torch.optim.Optimizer
    ranges: dict[int, float] | None = None
    """The upper end of each stage's activations, once it computes with rounded numbers."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row for each finished epoch."""
    paces: list[float] = field(default_factory=list)
    """The median seconds of some steps at a time, until it was told that they take longer."""
    evaluation: Evaluation | None = None
    """What the network said after the last epoch."""

    @property
    def images(self) -> np.ndarray:
        """The digits that are reported on, uint8 (N, 28, 28): the test set or the held-out ones."""
        return self.dataset.test_images

    @property
    def labels(self) -> np.ndarray:
        """Their classes, int64 (N,)."""
        return self.dataset.test_labels

    @property
    def network(self) -> Network:
        """The network that is measured and kept: the averaged one if there is one."""
        return self.model if self.average is None else self.average.module  # pyright: ignore


def new_run(config: Config, dataset: Dataset | None = None, fresh: bool = True) -> Run:
    """All that a run needs before its first epoch; nothing is written.

    Args:
        config: the run's.
        dataset: what to train on, by default what `config` names.
        fresh: whether the weights that it starts from are needed; those of a checkpoint come later.

    Raises:
        UsageError: the device does not exist, or the data or the network to start from do not fit.
        Failure: the data cannot be had.
    """
    device, threads = choose_device(config), use_threads(config)
    dataset = dataset or load_dataset(config.data_source)
    torch.manual_seed(config.seed)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = build_model(config, dataset.class_names, dataset.mean, dataset.std)
    if config.init and fresh:
        start_from(model, config.init)
    model = model.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    return Run(
        config=config,
        device=device,
        threads=threads,
        dataset=dataset,
        train_digits=Digits(
            dataset.train_images, dataset.train_labels, device, dataset.mean, dataset.std
        ),
        model=model,
        average=averaged(model, config.ema_decay) if config.ema_decay else None,
        optimizer=build_optimizer(model, config),
    )


def build_model(
    config: Config, class_names: tuple[str, ...] = DIGITS, mean: float = MEAN, std: float = STD
) -> Network:
    """The network that `config` describes, with weights drawn from torch's generator.

    What it tells apart and how it normalizes raw pixels is the data set's affair, see `Network`.
    """
    return Network(config.layers, config.dropout, class_names, mean, std)


def start_from(model: Network, name_or_path: str | Path) -> None:
    """Give a network the weights of a trained one; not those of the classes where they differ.

    Raises:
        UsageError: there is no such network, or it has other layers.
        Failure: its file is damaged.
    """
    trained = load_model(name_or_path)
    if trained.layers != model.layers:
        raise UsageError(
            f"init: {name_or_path} has the layers {' '.join(trained.layers)}, and what is trained "
            f"has {' '.join(model.layers)}: choose the preset or the layers of what you start from."
        )
    state = trained.state_dict()
    if trained.class_names != model.class_names:
        del state["classes.weight"]
    model.load_state_dict(state, strict=False)


def build_optimizer(model: Network, config: Config) -> torch.optim.Optimizer:
    """SGD for all weights, or Muon for the convolutions between the first layer and the classes.

    `initial_lr` is the rate that the schedule scales.
    """
    inner = [
        module.weight
        for module in model.features[1:].modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1 and config.muon_lr
    ]
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    rest = [weight for weight in learned if all(weight is not w for w in inner)]
    sgd: dict[str, Any] = {"params": rest, "weight_decay": config.weight_decay}
    sgd["lr"] = sgd["initial_lr"] = config.lr
    if not inner:
        return torch.optim.SGD([sgd], momentum=config.momentum, nesterov=config.nesterov)
    muon: dict[str, Any] = {"params": inner, "weight_decay": 0.0, "orthogonal": True}
    muon["lr"] = muon["initial_lr"] = config.muon_lr
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
    """Train the epochs that are left; after each, evaluate and yield a row, new in `run.history`.

    The rows hold epoch, train_loss, train_accuracy (%, in train mode, while the weights move),
    test_loss, test_accuracy (%), lr and seconds (of the training pass). A run that
    holds digits out has validation_loss and validation_accuracy in place of the test's.

    Raises:
        Failure: the loss is not finite.
    """
    reported = reported_part(run.config)
    for epoch in range(len(run.history) + 1, run.config.epochs + 1):
        began = time.perf_counter()
        train_loss, train_accuracy = train_one_epoch(run, epoch)
        seconds = time.perf_counter() - began
        run.evaluation = evaluate(run.network, run.images, run.labels)
        for loss in (train_loss, run.evaluation.loss):
            if not np.isfinite(loss):
                raise Failure(
                    f"The loss became {loss} in epoch {epoch}: lower the learning rate. "
                    "What was saved before is untouched."
                )
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            f"{reported}_loss": run.evaluation.loss,
            f"{reported}_accuracy": run.evaluation.accuracy,
            "lr": run.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
        }
        run.history.append(row)
        yield row


def reported_part(config: Config) -> str:
    """The digits that a run reports on, as its rows name them: test, or validation."""
    return "validation" if config.validation else "test"


def first_epoch_over_goal(run: Run) -> int | None:
    """The first epoch after which the accuracy was over the goal, or None."""
    accuracy = f"{reported_part(run.config)}_accuracy"
    return next((row["epoch"] for row in run.history if row[accuracy] > ACCURACY_GOAL), None)


def train_one_epoch(run: Run, epoch: int) -> tuple[float, float]:
    """One pass over the training digits: mean loss and accuracy (%) as they went by."""
    config = run.config
    total_loss = torch.zeros((), device=run.device)
    total_right = torch.zeros((), device=run.device)
    n = 0
    rounded = epoch > config.epochs - config.qat_epochs
    run.model.train()
    batches = shuffled_batches(run.train_digits, config.batch_size, config.seed, epoch)
    steps_before, steps = (epoch - 1) * len(batches), config.epochs * len(batches)
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None)
    if epoch == config.epochs - config.qat_epochs + 1:
        run.paces.clear()  # steps with rounded numbers take longer anyway
    seconds = [time.perf_counter()]
    for step, (images, labels) in enumerate(bar, steps_before + 1):
        if rounded and (step - steps_before) % RANGES_LAST == 1:
            run.ranges = {}  # measured anew, by every epoch's first step too: there runs resume
        loss, log_probs = train_step(run, images, labels, progress=step / steps)
        total_loss += loss * len(labels)
        total_right += (log_probs.argmax(1) == labels).sum()
        n += len(labels)
        watch_pace(run, seconds, time.perf_counter())
    return total_loss.item() / n, 100 * total_right.item() / n


def watch_pace(run: Run, ends: list[float], now: float) -> None:
    """Tell, once, when the steps of several threads take much longer than before.

    Args:
        run: the run.
        ends: the seconds at which the last steps ended, on some clock; the newest is added.
        now: the seconds at which one has ended.
    """
    ends.append(now)
    if run.threads == 1 or len(ends) <= COMPARED:
        return
    run.paces.append(float(np.median(np.diff(ends))))
    del ends[:-1]
    if slowed(run.paces):
        say(
            f"Steps take over {SLOWED} times as long as before: where other programs keep the "
            "computer busy, a run of one thread is quicker (--threads 1, for a new run)."
        )
        run.paces.clear()


def train_step(
    run: Run, images: torch.Tensor, labels: torch.Tensor, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of the weights.

    Args:
        run: what is trained.
        images: normalized, (B, 1, 28, 28).
        labels: int64 (B,).
        progress: the share of all steps that is done after this one.

    Returns:
        The mean loss of the batch, without label smoothing so that it compares with the test loss,
        and its log-probabilities (B, classes); both from before the update.
    """
    config = run.config
    undistorted = progress > 1 - config.undistorted_end
    images = augment(images, config, run.model.mean, run.model.std, undistorted)
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * schedule(config, progress)
    precision = choose_precision(config, run.device)
    if run.ranges is not None:
        precision = torch.float32  # bfloat16 can't tell all steps of 8 bits apart
    run.optimizer.zero_grad()
    with torch.autocast(run.device.type, precision, enabled=precision != torch.float32):
        if run.ranges is None:
            log_probs = run.model(images)
        else:
            bits = config.activation_bits, config.weight_bits
            log_probs = forward_rounded(run.model, images, run.ranges, *bits)
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
