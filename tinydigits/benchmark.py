"""How long training takes: the literal recipe and our presets, interleaved in one run."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tinydigits.config import preset
from tinydigits.data import shuffled_batches
from tinydigits.files import Misuse, read_json
from tinydigits.machine import describe_machine, precision_name
from tinydigits.training import ACCURACY_GOAL, Run, prepare, train_step

LITERAL = "notebook"


def benchmark(
    names: tuple[str, ...], results: Path, rounds: int = 5, steps: int = 60, threads: int = 0
) -> dict[str, Any]:
    """Time training steps of several presets, in turn, so that a drifting machine hits all alike.

    Args:
        names: the presets; the literal recipe is always measured beside them.
        results: the folder of the certified results, which say who reaches 99.4 % on average.
        rounds: how often each preset gets its turn; the median of the rounds counts.
        steps: training steps of a turn.
        threads: CPU threads for all of them, 0 for one per core.

    Returns:
        For each preset seconds per epoch, how many times as fast as the literal recipe that is,
        and, for those whose certified mean is over 99.4 %, the seconds of their whole training
        and its share of the literal recipe's; beside that what was reported separately: loading
        of the data, and the machine.

    Raises:
        Misuse: there is no such preset, or nothing to measure.
    """
    if rounds < 1 or steps < 1:
        raise Misuse("benchmark needs at least 1 round and 1 step.")
    began = time.perf_counter()
    runs: dict[str, Run] = {}
    for name in (LITERAL, *(name for name in names if name != LITERAL)):
        config = dataclasses.replace(preset(name), threads=threads)
        runs[name] = prepare(Path(), config)
    loading = (time.perf_counter() - began) / len(runs)
    turns: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds + 1), "rounds"):
        for name, run in runs.items():
            turns[name].append(seconds_per_epoch(run, steps))
    epoch = {name: statistics.median(times[1:]) for name, times in turns.items()}  # 1st: warm-up
    literal = epoch[LITERAL] * runs[LITERAL].config.epochs
    rows = {}
    for name, run in runs.items():
        training = epoch[name] * run.config.epochs
        rows[name] = {
            "precision": precision_name(run.config, run.device),
            "seconds_per_epoch": epoch[name],
            "times_as_fast": epoch[LITERAL] / epoch[name],
            "epochs": run.config.epochs,
            "seconds": training,
            "share_of_literal": training / literal,
            "certified_mean": certified_mean(results, name),
            "turns": turns[name][1:],
        }
    first = runs[LITERAL]
    return {
        "presets": rows,
        "goal": ACCURACY_GOAL,
        "threads": first.threads,
        "rounds": rounds,
        "steps": steps,
        "seconds_to_load": loading,
        **describe_machine(first.device),
    }


def seconds_per_epoch(run: Run, steps: int) -> float:
    """The time of an epoch, from that of so many training steps."""
    batches = shuffled_batches(run.train_digits, run.config.batch_size, seed=0, epoch=1)
    run.model.train()
    began = time.perf_counter()
    for images, labels in itertools.islice(batches, steps):
        # Half way through: augmentation is on and the learning rate is at work.
        train_step(run, images, labels, progress=0.5)
    return (time.perf_counter() - began) / steps * len(batches)


def certified_mean(results: Path, name: str) -> float | None:
    """The mean accuracy of a preset, if it is certified."""
    path = results / f"{name}.json"
    return read_json(path)["statistics"]["mean"] if path.exists() else None
