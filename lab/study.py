"""A study: a training from many seeds, none of them dropped or repeated, and its results file."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import subprocess
from pathlib import Path
from typing import Any, Literal

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from lab import corruptions
from tinydigits.errors import Failure, UsageError, reason
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json, write_atomically, write_json
from tinydigits.network.model import model_bytes
from tinydigits.quant.ptq import CALIBRATION, measure_ranges, round_network
from tinydigits.terminal import say
from tinydigits.training.config import ACCURACY_GOAL, Config
from tinydigits.training.hardware import (
    choose_device,
    count_cores,
    describe_machine,
    precision_name,
)
from tinydigits.training.loop import epochs, first_epoch_over_goal, new_run
from tinydigits.training.presets import PRESETS

CODE = ("tinydigits/*.py", "lab/*.py")
"""What has to be committed before a claim is certified, as git matches paths."""

Backend = Literal["local", "ray"]

Forms = dict[str, tuple[int, int]]
"""Integer networks: bits of the weights and of the activations."""

FORMS: Forms = {"w8a8": (8, 8), "w8a6": (8, 6), "w8a4": (8, 4), "w6a8": (6, 8)}
"""Those that are measured of every preset."""

SHIPPED_FORM = "w8a8"
"""The one that comes with the package."""

RAW = {
    "background of 10 %": (corruptions.gray_background, 0.1),
    "background of 20 %": (corruptions.gray_background, 0.2),
    "half the ink": (corruptions.pale_ink, 0.5),
}
"""What the test digits meet on devices that prepare nothing."""


def train_seeds(
    config: Config,
    seeds: int,
    jobs: int,
    backend: Backend,
    path: Path,
    keep_weights: bool,
    forms: Forms = FORMS,
) -> dict[str, Any]:
    """Train a network from the seeds 0 to `seeds` - 1 and write the results to `path`.

    The file is written again after every round of seeds, and what is in it is not trained again,
    so a study that was interrupted goes on with the seeds that are missing.

    Args:
        config: the training; its seed and threads do not matter.
        seeds: how many, 2 or more.
        jobs: how many to train side by side, 0 for one per core. The threads of this machine are
            shared out among them.
        backend: "local" for processes of this machine, "ray" for a Ray cluster (the one that
            RAY_ADDRESS names, or a new one).
        path: the file for the results.
        keep_weights: whether to keep the weights of seed 0 beside it.
        forms: the integer networks to measure.

    Returns:
        What the file holds: the seeds' results, their statistics, and all that is needed to
        repeat them.

    Raises:
        UsageError: the numbers make no sense, or the file is of another configuration.
        Failure: the file is none of ours.
    """
    if seeds < 2 or jobs < 0:
        raise UsageError("A study needs at least 2 seeds (a spread) and 0 or more jobs.")
    cores = count_cores()
    jobs = jobs or cores
    threads = max(1, cores // jobs)
    config = dataclasses.replace(config, threads=threads)
    name = config.name
    device = choose_device(config)
    study = {
        "preset": name,
        "config": without_seed(config),
        "precision": precision_name(config, device),
        "device": str(device),
        "threads_per_seed": threads,
        "seeds_side_by_side": jobs,
        **describe_machine(device),
    }
    done: list[dict[str, Any]] = []
    if path.exists():
        before = read_study(path, least=1)
        same = ("config", "precision", "device", "accelerator", "threads_per_seed", "processor")
        different = [key for key in same if before.get(key) != study[key]]
        if libraries(before) != libraries(study):
            different.append("versions")
        if different:
            raise UsageError(
                f"{path} holds seeds of another {' and '.join(different)}: remove it, or choose "
                "another --folder."
            )
        # Early seeds lack forms that are measured now.
        study, done = before, [row for row in before["seeds"] if measured(row, forms)]
    missing = sorted({*range(seeds)} - {row["seed"] for row in done})
    code = commit()  # before the training: what is committed meanwhile trains nothing
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        import lab

        # The laboratory is in no wheel, so it is sent to the machines of the cluster.
        if not ray.is_initialized():
            ray.init(runtime_env={"py_modules": [lab]})
        register_ray()
    with (
        parallel_config("ray" if backend == "ray" else "loky", n_jobs=jobs),
        tqdm(total=seeds, initial=seeds - len(missing), desc=f"{name}, seeds") as bar,
    ):
        # In rounds, because not every backend of joblib hands results back one by one.
        for first in range(0, len(missing), jobs):
            of_round = missing[first : first + jobs]
            try:
                results = Parallel()(
                    delayed(train_seed)(dataclasses.replace(config, seed=seed), forms)
                    for seed in of_round
                )
            except KeyboardInterrupt:
                say(f"Stopped with {len(done)} of {seeds} seeds; the same command goes on there.")
                raise
            for row, weights in results:  # pyright: ignore[reportGeneralTypeIssues]
                done.append({**row, "commit": code})
                if row["seed"] == 0 and keep_weights:
                    write_atomically(path.with_suffix(".safetensors"), weights)
            done.sort(key=lambda row: row["seed"])
            write_json(path, {**study, **summary(done), "seeds": done})
            bar.update(len(of_round))
    return read_study(path)


def libraries(study: dict[str, Any]) -> dict[str, str]:
    """The versions that a study was made with, without ours: each seed names its commit."""
    return {name: v for name, v in study.get("versions", {}).items() if name != "tinydigits"}


def measured(row: dict[str, Any], forms: Forms) -> bool:
    """Whether a seed has all that `train_seed` measures."""
    return all(form in row.get("integers", {}) for form in forms) and all(
        name in row.get("raw", {}) for name in RAW
    )


def read_study(path: Path, least: int = 2) -> dict[str, Any]:
    """A study of at least so many seeds, as `train_seeds` wrote it.

    Raises:
        Failure: there is none in `path`.
    """
    study = read_json(path)
    try:
        if len({row["seed"] for row in study["seeds"]}) < least:
            raise ValueError("it has too few")
        # Early studies name one commit for all of their seeds.
        everywhere = {"commit": study.pop("commit")} if "commit" in study else {}
        study["seeds"] = [{**everywhere, **row} for row in study["seeds"]]
        study |= summary(study["seeds"])
        trained_on(study)  # the tables need it, so its lack is told here rather than there
        # Through Config, so that options that are newer than the file have their defaults.
        study["config"] = without_seed(Config.from_json(study["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(
            f"{path} does not hold {least} or more seeds of a study ({reason(error)}): the command "
            "that makes it completes it, or starts again once it is removed."
        ) from error
    return study


def read_training(path: Path, config: Config, command: str) -> dict[str, Any]:
    """The study in `path`, which has to be of that training.

    Raises:
        Failure: it is missing, incomplete or of another training; `command` makes it.
    """
    if not path.exists():
        raise Failure(f"{path} is missing: make it with {command}.")
    study = read_study(path)
    if study["config"] != without_seed(config) | {"threads": study["config"]["threads"]}:
        raise Failure(f"{path} is of another training: remove it and run {command}.")
    return study


def trained_on(study: dict[str, Any]) -> str:
    """What a study's seeds were trained on, for the line under a table."""
    processor = f"{study['processor']}, threads a seed: {study['threads_per_seed']}"
    where = study.get("accelerator") or processor
    return f"{where}, PyTorch {study['versions']['torch']}"


def without_seed(config: Config) -> dict[str, Any]:
    """What all seeds of a study have in common."""
    return {key: value for key, value in config.to_json().items() if key != "seed"}


def train_seed(config: Config, forms: Forms) -> tuple[dict[str, Any], bytes]:
    """Train one seed, as a worker does: its row of the results, and its weights.

    The workers share a machine, so each one is told its number of threads (`config.threads`).
    """
    run = new_run(config)
    for _ in epochs(run):
        pass
    assert run.evaluation is not None  # a run has one epoch or more
    weights = model_bytes(run.network, config.name)
    ranges = measure_ranges(run.network, run.dataset.train_images[:CALIBRATION])
    integers = {
        form: round_network(run.network, ranges, weight_bits=w, activation_bits=a)
        for form, (w, a) in forms.items()
    }
    both = {"float": run.network, "integers": integers[SHIPPED_FORM]}
    raw = {name: corrupt(run.images, amount) for name, (corrupt, amount) in RAW.items()}
    row = {
        "seed": config.seed,
        "accuracy": run.evaluation.accuracy,
        "loss": run.evaluation.loss,
        "integers": {
            form: evaluate(network, run.images, run.labels).accuracy
            for form, network in integers.items()
        },
        "raw": {
            name: {kind: evaluate(both[kind], images, run.labels).accuracy for kind in both}
            for name, images in raw.items()
        },
        "first_epoch_over_goal": first_epoch_over_goal(run),
        "seconds": sum(row["seconds"] for row in run.history),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return row, weights


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """What `describe` says of some seeds' float networks, integer networks and raw digits.

    Returns:
        statistics; integers, by form; raw, by corruption and then float and integers. The latter
        two have what was measured of all seeds; nothing, in studies from before that was done.
    """
    everywhere = seeds if all("integers" in row and "raw" in row for row in seeds) else []
    forms = everywhere[0]["integers"] if everywhere else {}
    return {
        "statistics": describe([row["accuracy"] for row in seeds]),
        "integers": {
            form: describe([row["integers"][form] for row in everywhere])
            for form in forms
            if all(form in row["integers"] for row in everywhere)
        },
        "raw": {
            name: {
                kind: describe([row["raw"][name][kind] for row in everywhere])
                for kind in ("float", "integers")
            }
            for name in (everywhere[0]["raw"] if everywhere else ())
            if all(name in row["raw"] for row in everywhere)
        },
    }


def describe(accuracies: list[float]) -> dict[str, Any]:
    """Statistics of the accuracies (percent) of some seeds.

    `lower_bound` is the one-sided 95 % lower confidence bound of the mean (Student's t), None
    for fewer than two seeds.
    """
    from scipy.stats import t

    n = len(accuracies)
    mean = statistics.fmean(accuracies)
    sd = statistics.stdev(accuracies) if n > 1 else None
    bound = None if sd is None else mean - float(t.ppf(0.95, n - 1)) * sd / math.sqrt(n)
    return {
        "n": n,
        "mean": mean,
        "sd": sd,
        "minimum": min(accuracies),
        "over_goal": sum(accuracy > ACCURACY_GOAL for accuracy in accuracies),
        "lower_bound": bound,
    }


def update_presets(path: Path, rows: dict[str, dict[str, Any]], code: str | None) -> dict[str, Any]:
    """Write rows about presets to a file, and rows about others stay.

    Args:
        path: the file.
        rows: by the preset's name.
        code: the commit of the code that measured them, noted in each.

    Returns:
        What the file then holds: the rows in the order of the presets, under "presets".

    Raises:
        Failure: the file is there, and none of ours.
    """
    try:
        before = read_json(path)["presets"] if path.exists() else {}
        rows = before | {name: {"commit": code, **row} for name, row in rows.items()}
        updated = {"presets": {name: rows[name] for name in PRESETS if name in rows}}
    except (KeyError, TypeError) as error:
        raise Failure(f"{path} holds no rows of presets ({reason(error)}): remove it.") from error
    write_json(path, updated)
    return updated


def require_clean_tree() -> None:
    """See to it that the code is that of a commit, or of no repository at all.

    Raises:
        UsageError: it was changed since, so that nobody could repeat what it certifies.
    """
    if (commit() or "").endswith("-dirty"):
        raise UsageError(
            "The code differs from its last commit: commit it before you certify a claim."
        )


def commit() -> str | None:
    """The commit that this code is of, marked where the code differs from it.

    None outside git, and where the package is installed inside a repository of somebody else's.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "lab/study.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
