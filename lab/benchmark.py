"""How long training takes, where the time goes, and how far that is from what the machine can do.

The presets take turns in one run, so that a drifting machine hits all alike.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from tqdm import tqdm

from lab.study import read_study
from tinydigits.data.mnist import load_mnist
from tinydigits.errors import UsageError
from tinydigits.network.architecture import total
from tinydigits.network.checkpoint import summarize
from tinydigits.training.augmentation import augment
from tinydigits.training.batches import shuffled_batches
from tinydigits.training.config import ACCURACY_GOAL, Config
from tinydigits.training.hardware import (
    choose_precision,
    count_cores,
    describe_machine,
    precision_name,
)
from tinydigits.training.loop import Run, new_run, train_step
from tinydigits.training.presets import preset

# Else the profiler tells on standard error that it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

BASELINE = "baseline"

PARTS = {
    # part of a training step: how the names of PyTorch's operators that do it begin
    "convolutions, backward": ("aten::convolution_backward",),
    "convolutions, forward": ("aten::mkldnn_convolution", "aten::_slow_conv", "aten::thnn_conv"),
    "BatchNorm, backward": ("aten::native_batch_norm_backward",),
    "BatchNorm, forward": ("aten::native_batch_norm",),
    "ReLU": ("aten::threshold_backward", "aten::clamp_min", "aten::relu"),
    "pooling": ("aten::max_pool", "aten::mean", "aten::adaptive_avg", "aten::_adaptive_avg"),
    "dropout": ("aten::bernoulli", "aten::native_dropout"),
    "augmentation": ("aten::grid_sampler", "aten::affine_grid", "aten::bmm"),
    "optimizer": ("Optimizer.step",),
}
"""What `profile_step` tells apart; the first part that fits takes an operator."""

MATRIX = 2048
"""Rows and columns of the matrix product that stands for what the machine can do."""

PRODUCTS = 4
"""Matrix products in a turn: one alone would mostly measure how warm the processor is."""

CERTIFIED = 10
"""Seeds that a mean must rest on before it counts as one."""


def benchmark(
    names: tuple[str, ...], results: Path, rounds: int = 5, steps: int = 60, threads: int = 0
) -> dict[str, Any]:
    """Time training steps on the CPU and, in turn with them, a large matrix product.

    Args:
        names: the presets; the baseline is always measured beside them, and a preset of the same
            network that trains in bfloat16 is measured in float32 as well.
        results: the folder of the certified results, which say who reaches 99.4 % on average.
        rounds: how often each preset gets its turn; the median of the rounds counts.
        steps: training steps of a turn.
        threads: CPU threads for all of them, 0 for one per core.

    Returns:
        For each preset its configuration, seconds per epoch, how many times as fast as the
        baseline that is, the seconds of its whole training and their share of the baseline's, its
        certified mean, FLOP/s achieved (see `step_flops`), the augmentation's share of a step and
        the shares of `PARTS`. Beside that the FLOP/s of a matrix product in each precision, the
        seconds that the program takes to start and to load the data, which count nowhere else, and
        the machine.

    Raises:
        UsageError: there is no such preset, or nothing to measure.
    """
    if rounds < 1 or steps < 1:
        raise UsageError("benchmark needs at least 1 round and 1 step.")
    threads = threads or count_cores()  # the same for all of them
    baseline_layers = preset(BASELINE).layers
    runs: dict[str, Run] = {}
    for name in (BASELINE, *(name for name in names if name != BASELINE)):
        # On the CPU, where all of it has to train, and where the clock and the profiler see it all.
        config = dataclasses.replace(preset(name), threads=threads, device="cpu")
        runs[name] = new_run(config)
        chosen = precision_name(config, runs[name].device)
        # What a processor without bfloat16 units would gain, as far as this one can tell.
        if name != BASELINE and config.layers == baseline_layers and chosen != "float32":
            config = dataclasses.replace(config, precision="float32")
            runs[f"{name} in float32"] = new_run(config)
    means = {name: certified_mean(results, name) for name in runs}
    start = [sys.executable, "-c", "import tinydigits.training.loop"]
    starting = seconds_of(lambda: subprocess.run(start, check=True))
    loading = seconds_of(load_mnist)
    precisions = {precision_name(run.config, run.device): run for run in runs.values()}
    steps_of = {name: len(batches(run)) for name, run in runs.items()}
    tasks: dict[str, Callable[[], float]] = {}
    for name, run in runs.items():
        tasks[name] = functools.partial(seconds_per_step, run, steps)
        tasks[f"{name} augmentation"] = functools.partial(seconds_to_augment, run, steps)
    for name, run in precisions.items():
        tasks[f"product in {name}"] = functools.partial(seconds_to_multiply, run)
    turns: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in tqdm(range(rounds + 1), "rounds"):
        for name, task in tasks.items():
            turns[name].append(task())
    median = {name: statistics.median(times[1:]) for name, times in turns.items()}  # 1st: warm-up
    epoch = {name: median[name] * steps_of[name] for name in runs}
    whole = epoch[BASELINE] * runs[BASELINE].config.epochs
    rows = {}
    for name, run in runs.items():
        training = epoch[name] * run.config.epochs
        rows[name] = {
            "config": run.config.to_json(),
            "precision": precision_name(run.config, run.device),
            "seconds_per_epoch": epoch[name],
            "times_as_fast": epoch[BASELINE] / epoch[name],
            "epochs": run.config.epochs,
            "seconds": training,
            "share_of_baseline": training / whole,
            "certified_mean": means[name],
            "flops_per_second": step_flops(run.config) / median[name],
            "augmentation_share": median[f"{name} augmentation"] / median[name],
            "profile": profile_step(run, steps),
            "turns": [seconds * steps_of[name] for seconds in turns[name][1:]],
        }
    first = runs[BASELINE]
    return {
        "presets": rows,
        "goal": ACCURACY_GOAL,
        "threads": first.threads,
        "rounds": rounds,
        "steps": steps,
        "seconds_to_start": starting,
        "seconds_to_load": loading,
        "matrix": MATRIX,
        "matrix_flops_per_second": {
            name: 2 * MATRIX**3 / median[f"product in {name}"] for name in precisions
        },
        **describe_machine(first.device),
    }


def batches(run: Run) -> DataLoader:
    """An epoch of the run's training digits, always the same."""
    return shuffled_batches(run.train_digits, run.config.batch_size, seed=0, epoch=1)


def train_steps(run: Run, steps: int) -> None:
    """Take so many training steps, with augmentation where the preset has it.

    A third of the way is past the warm-up of every preset and before its undistorted end.
    """
    run.model.train()
    for images, labels in itertools.islice(batches(run), steps):
        train_step(run, images, labels, progress=1 / 3)


def seconds_of(work: Callable[[], object]) -> float:
    """The time that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds_per_step(run: Run, steps: int) -> float:
    """The mean time of a training step, its batch's making included."""
    return seconds_of(lambda: train_steps(run, steps)) / steps


def seconds_to_augment(run: Run, steps: int) -> float:
    """The mean time that augmenting a batch takes; 0 where the preset does none."""
    images, _ = next(iter(batches(run)))
    if augment(images, run.config) is images:
        return 0.0
    return seconds_of(lambda: [augment(images, run.config) for _ in range(steps)]) / steps


def seconds_to_multiply(run: Run) -> float:
    """The mean time of a large matrix product in the precision that the run trains in."""
    matrix = torch.full((MATRIX, MATRIX), 0.5, dtype=choose_precision(run.config, run.device))
    product = torch.empty_like(matrix)
    multiply = functools.partial(torch.mm, matrix, matrix, out=product)
    return seconds_of(lambda: [multiply() for _ in range(PRODUCTS)]) / PRODUCTS


def step_flops(config: Config) -> float:
    """Floating-point operations that the convolutions of a training step need.

    Two for each multiply-accumulate, forward once and backward twice (for the gradients of the
    weights and of the activations; the first layer's, which needs no gradient of the image, is
    counted like the others), for each digit of the batch. What BatchNorm, ReLU, pooling,
    augmentation and the optimizer compute is not counted, only their time.
    """
    return 3 * 2 * total(summarize(config))[1] * config.batch_size


def profile_step(run: Run, steps: int) -> dict[str, float]:
    """The share of each of `PARTS` in the time of a training step; "the rest" makes it 1."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        seconds = seconds_of(lambda: train_steps(run, steps))
    return shares_of_parts(recorded.key_averages(), seconds)


def shares_of_parts(events: Iterable[Any], seconds: float) -> dict[str, float]:
    """The profiler's events summed up by `PARTS`, as shares of `seconds`.

    The rest is all other operators, and Python between the operators.
    """
    shares = dict.fromkeys(PARTS, 0.0)
    for event in events:
        for part, begins in PARTS.items():
            if event.key.startswith(begins):
                # An optimizer's work is done by the operators that it calls, which no part counts.
                whole = event.cpu_time_total if part == "optimizer" else event.self_cpu_time_total
                shares[part] += whole / 1e6 / seconds
                break
    return {**shares, "the rest": 1 - sum(shares.values())}


def certified_mean(results: Path, name: str) -> float | None:
    """The mean accuracy of a preset, if it was measured over enough seeds."""
    path = results / f"{name}.json"
    numbers = read_study(path)["statistics"] if path.exists() else None
    return numbers["mean"] if numbers and numbers["n"] >= CERTIFIED else None


def speed_table(timed: dict[str, Any]) -> str:
    """How fast the presets are, from what `benchmark` returned, as a Markdown table."""
    lines = [
        "| preset | arithmetic | s per epoch | times as fast | epochs | s in all "
        "| of the baseline's time | mean of 99.4 % | GFLOP/s | of a matrix product's |",
        "|---|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for name, row in timed["presets"].items():
        mean = row["certified_mean"]
        reaches = "not certified" if mean is None else "yes" if mean >= timed["goal"] else "no"
        share = row["flops_per_second"] / timed["matrix_flops_per_second"][row["precision"]]
        lines.append(
            f"| {name} | {row['precision']} | {row['seconds_per_epoch']:.2f} "
            f"| {row['times_as_fast']:.2f} | {row['epochs']} | {row['seconds']:.1f} "
            f"| {row['share_of_baseline']:.1%} (1/{1 / row['share_of_baseline']:.0f}) | {reaches} "
            f"| {row['flops_per_second'] / 1e9:.0f} | {share:.0%} |"
        )
    products = (
        f"{speed / 1e9:.0f} GFLOP/s in {name}"
        for name, speed in timed["matrix_flops_per_second"].items()
    )
    lines.append(
        f"\n{timed['processor']}, threads: {timed['threads']}, PyTorch "
        f"{timed['versions']['torch']}; median of {timed['rounds']} rounds of {timed['steps']} "
        f"steps. The matrix product: {' and '.join(products)}. Not in the table: "
        f"{timed['seconds_to_start']:.1f} s to start the program and "
        f"{timed['seconds_to_load']:.1f} s to load the data."
    )
    return "\n".join(lines)


def profile_table(timed: dict[str, Any]) -> str:
    """Where the time of a training step goes, in percent, as a Markdown table."""
    presets = timed["presets"]
    lines = ["| part of a step | " + " | ".join(presets) + " |"]
    lines.append("|---|" + "--:|" * len(presets))
    for part in [*PARTS, "the rest"]:
        shares = (f"{row['profile'][part]:.0%}" for row in presets.values())
        lines.append(f"| {part} | {' | '.join(shares)} |")
    augmentation = (f"{row['augmentation_share']:.0%}" for row in presets.values())
    lines.append(f"| augmentation in all, timed alone | {' | '.join(augmentation)} |")
    return "\n".join(lines)
