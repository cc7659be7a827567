"""The integer networks that come with the package, made from the certified float ones."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from lab.study import commit, update_presets
from tinydigits import runs
from tinydigits.data.mnist import Mnist, held_out, load_mnist
from tinydigits.evaluation import Evaluation, evaluate
from tinydigits.files import write_atomically
from tinydigits.network.checkpoint import SHIPPED, find_model
from tinydigits.network.model import Network, load_model
from tinydigits.quant.ptq import CALIBRATION, fit_temperature, quantize
from tinydigits.quant.tdq import to_bytes
from tinydigits.training.presets import preset


def make_integers(
    names: tuple[str, ...], hold_out_models: Path, results: Path, weights: Path = SHIPPED
) -> dict[str, Any]:
    """Quantize the shipped networks, and fit the temperature of each one's probabilities.

    A temperature divides the scores, so that a network claims what it keeps (Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). It has to be fitted on digits that the network was not
    trained on, and those of the test set are only for reporting. So it is fitted on the last
    10,000 training digits with a hold-out model: the same training on the first 50,000.

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
    tuning, calibration = held_out(mnist), mnist.train_images[:CALIBRATION]
    hold_out_model = quantize(trained_hold_out_model(name, folder), calibration)
    temperature = fit_temperature(hold_out_model, tuning.test_images, tuning.test_labels)
    network = quantize(load_model(find_model(name)), calibration, temperature)
    content = to_bytes(network)
    write_atomically(weights / f"{name}.tdq", content)
    digits = mnist.test_images, mnist.test_labels
    return {
        "temperature": temperature,
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
        "| temperature |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in made["presets"].items():
        ours, theirs = row["integer"], row["float"]
        lines.append(
            f"| `{name}` | {row['bytes']:,} | {theirs['accuracy']:.2f} | {ours['accuracy']:.2f} "
            f"| {theirs['calibration_error']:.2f} | {ours['calibration_error']:.2f} "
            f"| {row['temperature']:.3f} |"
        )
    return "\n".join(lines)
