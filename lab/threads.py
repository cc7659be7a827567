"""What several threads bring, and how they should wait for each other.

How they wait is settled when PyTorch is imported, and what ran before in a process may slow what
comes later. So every setting is measured in new processes, and in several, for the same setting is
quick in one process and slow in the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lab.benchmark import batches
from lab.study import commit, update_presets
from tinydigits.errors import UsageError
from tinydigits.files import write_json
from tinydigits.training.hardware import choose_threads, count_cores, describe_machine, step_macs
from tinydigits.training.loop import Run, new_run, train_step
from tinydigits.training.presets import preset

WAITS = (300_000, 10_000, 3_000, 1_000)
"""Values of GOMP_SPINCOUNT to compare; the first is what holds where nobody sets any."""

WAITING = "classic"
"""The preset whose threads wait in the comparison of `WAITS`."""

BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))
"""
"""What a busy process does, for as long as the process that started it is there.

It has a session of its own, as other people's programs have: Linux shares cores out by session.
"""

WARM_UP = 3
"""Training steps that are not counted, because the first ones prepare the others."""


def compare_threads(
    names: tuple[str, ...], results: Path, rounds: int = 5, seconds: float = 2
) -> dict[str, Any]:
    """Time presets' training steps on the CPU by number of threads, and write threads.json.

    All take turns, so that a drifting machine hits all of them alike. Measure on a machine that
    does nothing else.

    Args:
        names: the presets.
        results: the folder for threads.json.
        rounds: turns of each setting, each in a process of its own.
        seconds: how long a turn trains, beside what its start and its first steps take.

    Returns:
        What the file holds: for each preset the seconds of a training step, a number for each
        turn, by the number of threads; what `choose_threads` takes and the figure that it goes
        by; and the machine. Presets that are not named stay as they were.

    Raises:
        UsageError: there is nothing to measure, or only one core.
    """
    code, cores = commit(), several_cores(rounds, seconds)
    rows: dict[str, dict[str, Any]] = {
        name: {
            "threads": choose_threads(preset(name)),
            "step_macs": step_macs(preset(name)),
            "seconds_per_step": {"1": [], str(cores): []},
            **describe_machine(torch.device("cpu")),
        }
        for name in names
    }
    for _ in tqdm(range(rounds), "threads"):
        for name, row in rows.items():
            for threads, turns in row["seconds_per_step"].items():
                turns.append(seconds_in_process(int(threads), seconds, preset_name=name))
    return update_presets(results / "threads.json", rows, code)


def compare_waiting(results: Path, rounds: int = 5, seconds: float = 2) -> dict[str, Any]:
    """Time the training steps of `WAITING` by how its threads wait, and write waiting.json.

    Args: as for `compare_threads`.

    Returns:
        What the file holds: under "waiting" the seconds of a training step, a number for each
        turn, with one thread and with one per core, for each of `WAITS`, on the machine as it is
        ("quiet") and beside as many busy processes as there are cores ("busy"); and the machine.

    Raises: as `compare_threads`.
    """
    code, cores = commit(), several_cores(rounds, seconds)
    rows: list[dict[str, Any]] = [
        {"threads": threads, "spins": spins, "quiet": [], "busy": []}
        for threads, spins in ((1, WAITS[0]), *((cores, spins) for spins in WAITS))
    ]
    for part, others in (("quiet", 0), ("busy", cores)):
        with busy_processes(others):
            for _ in tqdm(range(rounds), part):
                for row in rows:
                    row[part].append(seconds_in_process(row["threads"], seconds, row["spins"]))
    timed = {"commit": code, "waiting": rows, **describe_machine(torch.device("cpu"))}
    write_json(results / "waiting.json", timed)
    return timed


def several_cores(rounds: int, seconds: float) -> int:
    """How many cores there are to compare; UsageError if one, or if nothing is to be measured."""
    cores = count_cores()
    if rounds < 1 or seconds <= 0:
        raise UsageError("rounds must be at least 1, and seconds above 0.")
    if cores == 1:
        raise UsageError("There is a single core here: measure on a machine with several.")
    return cores


def seconds_per_step(run: Run, seconds: float) -> float:
    """The mean time of a training step, its batch's making included.

    It goes by the clock and not by a number of steps, for they may be many times as slow.
    """
    run.model.train()
    digits = itertools.chain.from_iterable(itertools.repeat(batches(run)))  # epoch after epoch
    for images, labels in itertools.islice(digits, WARM_UP):
        train_step(run, images, labels, progress=1 / 3)
    steps, passed, began = 0, 0.0, time.perf_counter()
    while passed < seconds:
        train_step(run, *next(digits), progress=1 / 3)
        steps += 1
        passed = time.perf_counter() - began
    return passed / steps


def seconds_in_process(
    threads: int, seconds: float, spins: int | None = None, preset_name: str = WAITING
) -> float:
    """`seconds_per_step` of a preset in a new process, with that GOMP_SPINCOUNT or the usual."""
    environment = dict(os.environ)
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = str(spins)
        environment.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-m", __name__, preset_name, str(threads), str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many other processes computing all the while."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", BUSY]
        busy = [
            stack.enter_context(subprocess.Popen(command, start_new_session=True))
            for _ in range(count)
        ]
        for process in busy:
            stack.callback(process.kill)
        yield busy


def waiting_table(timed: dict[str, Any]) -> str:
    """How long a step takes by how the threads wait, from `compare_waiting`, as Markdown."""
    lines = [
        "| threads | GOMP_SPINCOUNT | quiet: median | slowest start | of the default's "
        "| busy: median | slowest start | of the default's |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    default = next(row for row in timed["waiting"] if row["threads"] > 1)  # the first of WAITS
    for row in timed["waiting"]:
        spins = "any" if row["threads"] == 1 else f"{row['spins']:,}"
        cells = [f"{row['threads']}", spins]
        for part in ("quiet", "busy"):
            median, usual = (statistics.median(turns[part]) for turns in (row, default))
            cells += [f"{1000 * median:,.1f}", f"{1000 * max(row[part]):,.1f}"]
            cells.append(f"{median / usual:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\nMilliseconds a training step of `{WAITING}`, in {len(default['quiet'])} processes for "
        f"each figure; the default is {default['spins']:,} rounds. {measured_on(timed)}; by "
        "`python -m lab waiting`."
    )
    return "\n".join(lines)


def gain_table(timed: dict[str, Any]) -> str:
    """What several threads bring to each preset, from `compare_threads`, as a Markdown table."""
    presets = timed["presets"]
    lines = [
        "| preset | million MACs a step | 1 thread | several threads | of which there were "
        "| times as fast | threads taken |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in presets.items():
        one, several = (statistics.median(turns) for turns in row["seconds_per_step"].values())
        _, cores = row["seconds_per_step"]
        lines.append(
            f"| {name} | {row['step_macs'] / 1e6:.1f} | {1000 * one:.1f} | {1000 * several:.1f} "
            f"| {cores} | {gain(row):.2f} | {row['threads']} |"
        )
    turns = {len(turns) for row in presets.values() for turns in row["seconds_per_step"].values()}
    lines.append(
        "\nMilliseconds a training step, median of "
        f"{' or '.join(map(str, sorted(turns)))} turns. Times as fast: the median of the "
        "turns' own ratios. "
        f"{' and '.join(sorted({measured_on(row) for row in presets.values()}))}; by "
        "`python -m lab threads`."
    )
    return "\n".join(lines)


def gain(row: dict[str, Any]) -> float:
    """How many times as fast a preset trains with one thread per core as with a single one.

    The median over the turns, in each of which both were measured one right after the other.
    """
    one, all_cores = row["seconds_per_step"].values()
    return statistics.median(alone / shared for alone, shared in zip(one, all_cores, strict=True))


def measured_on(timed: dict[str, Any]) -> str:
    """The machine, for the line under a table."""
    return f"{timed['processor']}, PyTorch {timed['versions']['torch']}"


if __name__ == "__main__":  # as `seconds_in_process` starts it
    config = dataclasses.replace(preset(sys.argv[1]), device="cpu", threads=int(sys.argv[2]))
    print(seconds_per_step(new_run(config), float(sys.argv[3])))
