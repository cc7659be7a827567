"""The rejector, which tells digits from what is none, and how well it does.

A network for digits answers everything. The rejector, an out-of-distribution detector, is a network
of the same kind with two classes. It is trained on the first 50,000 training digits, altered and
drawn ones beside them, against what `lab.drawings` draws: letters and signs of fonts and of the
same hands and pens, brackets, scribbles, bars and boxes, and digits that were cut in two or run
together.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lab.drawings import draw, restyle
from lab.study import commit
from tinydigits.data.mnist import held_out, load_mnist
from tinydigits.evaluation import evaluate
from tinydigits.files import write_json
from tinydigits.network.architecture import MEAN, STD
from tinydigits.quant.tdq import save
from tinydigits.reader.recognize import MODEL
from tinydigits.reader.rejection import REJECTED, REJECTOR, measure_threshold
from tinydigits.training.presets import preset


def draw_unseen(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the rejector of that seed never saw, as `draw` gives it: of 5,000 held-out digits."""
    return draw(seed + 1, held_out(load_mnist()).test_images[:5000], 2_000)


def train_rejector(
    seed: int = 0, count: int = 20_000, epochs: int = 12
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Train the rejector's network, which has the layers of `reader`; nothing is written.

    Returns:
        The network, and images and labels as `draw` gives them, of digits that it never saw.
    """
    from tinydigits.data.dataset import Dataset
    from tinydigits.training import loop

    mnist = held_out(load_mnist())
    config = dataclasses.replace(
        preset(MODEL),
        name="rejector",
        seed=seed,
        epochs=epochs,
        channels_last=False,
        device="cpu",
        threads=1,  # so that every machine gets the same bits
        drawn=0,
        background=0.0,  # what it sees was prepared, so its paper is 0
        ink_fade=0.0,
    )
    unseen, labels = draw_unseen(seed)
    parts = *draw(seed, mnist.train_images, count), unseen, labels
    run = loop.new_run(config, Dataset(*parts, "candidates", ("digit", "none"), MEAN, STD))
    for row in loop.epochs(run):
        print(
            f"epoch {row['epoch']}: {row['test_accuracy']:.2f} % of what it never saw", flush=True
        )
    return run.network, unseen, labels


def make_rejector(hold_out_models: Path, results: Path, seed: int) -> dict[str, Any]:
    """Train the rejector that comes with the package, and say how well it does.

    Args:
        hold_out_models: the folder of the hold-out models' runs, as for `make_integers`.
        results: the folder for rejector.json, with what was measured.
        seed: what the drawing and the training start from.

    Returns:
        What rejector.json holds.

    Raises: as `tinydigits.train` and `tinydigits.quantize`.
    """
    from tinydigits.quant.ptq import fit_temperature, quantize

    code = commit()
    network, images, labels = train_rejector(seed)
    rejector = quantize(network, images[::5])
    rejector = dataclasses.replace(rejector, temperature=fit_temperature(rejector, images, labels))
    save(rejector, REJECTOR)
    study = {"commit": code, "seed": seed, "layers": " ".join(rejector.layers)}
    study |= measure_rejector(rejector, hold_out_models, images, labels)
    write_json(results / "rejector.json", study)
    return study


def measure_rejector(
    rejector: Any, hold_out_models: Path, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Measure what each of three scores rejects where it costs 1 % of unseen digits.

    The digits are the last 10,000 training digits as other hands and pens would have them, read by
    the hold-out model of the network that reads pictures: neither that nor the rejector saw them.

    The threshold of networks that bring none is measured in the same way, with `tiny20k`.

    Args:
        rejector: the rejector's network.
        hold_out_models: as in `make_rejector`.
        images: uint8 (N, 28, 28), digits and what is none, that the rejector never saw.
        labels: (N,), 0 for a digit, 1 for none.
    """
    from lab.integers import hold_out_integers

    reader = hold_out_integers(MODEL, hold_out_models / MODEL)

    def scores(digits: np.ndarray) -> dict[str, np.ndarray]:
        confidence = np.exp(reader.log_probs(digits).max(axis=1))
        verdict = np.exp(rejector.log_probs(digits)[:, 0])
        return {
            "the confidence alone": confidence,
            "the rejector alone": verdict,
            "their product": confidence * verdict,
        }

    digits = restyle(held_out(load_mnist()).test_images)
    sharing = hold_out_integers("tiny20k", hold_out_models / "tiny20k")
    unseen = scores(digits)
    thresholds = {name: float(np.quantile(score, REJECTED)) for name, score in unseen.items()}
    none = scores(images[labels == 1])
    return {
        "accuracy": round(evaluate(rejector, images, labels).accuracy, 3),
        "rejected": REJECTED,
        "shared_threshold": measure_threshold(sharing, digits),
        "thresholds": thresholds,
        "none_rejected": {
            name: 100 * float((score < thresholds[name]).mean()) for name, score in none.items()
        },
    }


def table(study: dict[str, Any]) -> str:
    """What each score rejects, as a Markdown table."""
    rows = ["| what decides | its threshold | rejected of what is no digit, % |", "|---|--:|--:|"]
    for name, share in study["none_rejected"].items():
        rows.append(f"| {name} | {study['thresholds'][name]:.3f} | {share:.1f} |")
    return "\n".join(rows)
