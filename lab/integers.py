"""The integer networks that come with the package, made from the certified float ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.drawings import restyle
from lab.study import commit, update_presets
from tinydigits import runs
from tinydigits.data.dataset import load_dataset
from tinydigits.data.mnist import Mnist, held_out, load_mnist
from tinydigits.evaluation import Evaluation, evaluate
from tinydigits.files import write_atomically
from tinydigits.network.checkpoint import SHIPPED, find_model
from tinydigits.network.model import Network, load_model
from tinydigits.quant.integer import IntegerNetwork
from tinydigits.quant.ptq import CALIBRATION, fit_temperature, quantize
from tinydigits.quant.tdq import to_bytes
from tinydigits.reader.rejection import measure_threshold
from tinydigits.training.presets import preset


def make_integers(
    names: tuple[str, ...], hold_out_models: Path, results: Path, weights: Path = SHIPPED
) -> dict[str, Any]:
    """Quantize the shipped networks; fit each one's temperature, measure its rejection threshold.

    A temperature divides the scores, so that a network claims what it keeps (Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). It has to be fitted on digits that the network was not
    trained on, and those of the test set are only for reporting. So it is fitted on the last
    10,000 training digits with a hold-out model: the same training on the first 50,000. So is the
    threshold measured, on these digits as other hands and pens would have them.

    Args:
        names: the presets.
        hold_out_models: the folder of their runs; what is there is not trained again.
        results: the folder for integers.json: what was measured on the test digits.
        weights: the folder for the .tdq files.

    Returns:
        What integers.json holds: a row for each preset. Those of others stay as they were.

    Raises: as `tinydigits.train` and `tinydigits.quantize`.
    """
    code, mnist = commit(), load_mnist()
    rows = {name: make_integer(name, hold_out_models / name, mnist, weights) for name in names}
    return update_presets(results / "integers.json", rows, code)


def make_integer(name: str, folder: Path, mnist: Mnist, weights: Path) -> dict[str, Any]:
    """One preset of `make_integers`: its file in `weights`, and its row."""
    tuning = held_out(mnist)
    hold_out_model = hold_out_integers(name, folder)
    network = dataclasses.replace(
        quantize(
            load_model(find_model(name)), calibration_images(name), hold_out_model.temperature
        ),
        rejection_threshold=measure_threshold(hold_out_model, restyle(tuning.test_images)),
    )
    content = to_bytes(network)
    write_atomically(weights / f"{name}.tdq", content)
    digits = mnist.test_images, mnist.test_labels
    return {
        "temperature": network.temperature,
        "rejection_threshold": network.rejection_threshold,
        "activation_bits": network.activation_bits,
        "weight_bits": network.weight_bits,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "integer": figures_of(evaluate(network, *digits)),
        "float": figures_of(evaluate(load_model(find_model(name)), *digits)),
        "hold_out_model_sha256": hashlib.sha256(
            (folder / "model.safetensors").read_bytes()
        ).hexdigest(),
    }


def hold_out_integers(name: str, folder: Path) -> IntegerNetwork:
    """A preset's hold-out model in integers, with the temperature that suits it."""
    unseen = held_out(load_mnist())
    network = quantize(trained_hold_out_model(name, folder), calibration_images(name))
    temperature = fit_temperature(network, unseen.test_images, unseen.test_labels)
    return dataclasses.replace(network, temperature=temperature)


@functools.cache
def calibration_images(name: str) -> np.ndarray:
    """What a preset is quantized with, uint8 (N, 28, 28): the first of its training images."""
    return load_dataset(preset(name).data_source).train_images[:CALIBRATION]


def figures_of(evaluation: Evaluation) -> dict[str, float]:
    """Accuracy and calibration error, both in percent, and the loss in nats."""
    return {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "calibration_error": 100 * evaluation.expected_calibration_error(),
    }


def trained_hold_out_model(name: str, folder: Path) -> Network:
    """A preset's seed 0, trained on the first 50,000 training digits in `folder`."""
    if not (folder / "summary.json").exists():
        config = dataclasses.replace(preset(name), seed=0, threads=1, validation=True, out=folder)
        there = (folder / "config.json").exists()
        runs.complete(runs.resume(folder) if there else runs.start(config))
    return load_model(folder)


def table(made: dict[str, Any]) -> str:
    """What `make_integers` measured on the test digits, as a Markdown table."""
    lines = [
        "| preset | bytes | float % | integers % | calibration error %, float | integers "
        "| temperature | rejection threshold |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in made["presets"].items():
        ours, theirs, threshold = row["integer"], row["float"], row.get("rejection_threshold")
        lines.append(
            f"| `{name}` | {row['bytes']:,} | {theirs['accuracy']:.2f} | {ours['accuracy']:.2f} "
            f"| {theirs['calibration_error']:.2f} | {ours['calibration_error']:.2f} "
            f"| {row['temperature']:.3f} | {'-' if threshold is None else f'{threshold:.3f}'} |"
        )
    return "\n".join(lines)
