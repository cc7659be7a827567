"""The report of a run: its pictures, and a page that explains them and needs no other file."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import shlex
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from tinydigits import pictures
from tinydigits.config import PRESETS, Config, preset
from tinydigits.data import load_mnist
from tinydigits.evaluation import Evaluation, evaluate
from tinydigits.files import Failure, read_json, reason, write_atomically
from tinydigits.machine import use_threads
from tinydigits.model import load_model
from tinydigits.training import read_config, split

GALLERY = 100
"""The most misread digits that are shown."""


def write_report(
    folder: Path,
    config: Config,
    summary: dict[str, Any],
    history: list[dict[str, Any]],
    evaluation: Evaluation,
    images: np.ndarray,
) -> Path:
    """Write the pictures (PNG) and report.html of a run into its folder.

    Equal arguments give equal bytes.

    Args:
        folder: the run folder.
        config: what was trained.
        summary: what `training.summarise_run` returned.
        history: one or more rows as `training.epochs` yields them.
        evaluation: what the network said about N digits.
        images: those digits, uint8 (N, 28, 28).

    Returns:
        The path of report.html.

    Raises:
        Failure: the folder cannot be written, or the summary lacks a value.
    """
    figures = {
        "curves": pictures.curves(history, str(summary.get("evaluated_on"))),
        "misclassified": pictures.misclassified(evaluation, images, GALLERY),
        "confusion": pictures.confusion(evaluation),
        "reliability": pictures.reliability(evaluation),
    }
    for name, figure in figures.items():
        pictures.save(figure, folder / f"{name}.png")

    precision, recall = evaluation.precision_and_recall()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tinydigits", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        page = environment.get_template("report.html").render(
            summary=summary,
            config=config.to_json(),
            command=[shlex.quote(word) for word in train_command(config)],
            history=history,
            evaluation=evaluation,
            digits=list(zip(evaluation.confusion().sum(axis=1), precision, recall, strict=True)),
            confusions=pictures.describe_confusions(evaluation),
            misread=[
                {
                    "picture": data_url(digit_png(images[i])),
                    "truth": evaluation.labels[i],
                    "guess": evaluation.guesses[i],
                    "probability": pictures.percent(float(evaluation.confidence[i])),
                }
                for i in evaluation.errors()[:GALLERY]
            ],
            picture={name: data_url((folder / f"{name}.png").read_bytes()) for name in figures},
        )
    except (jinja2.UndefinedError, TypeError, ValueError) as error:
        raise Failure(
            f"The report cannot be written, because {folder / 'summary.json'} lacks a value or has "
            f"an impossible one: finish the run again with tinydigits train --resume {folder}"
        ) from error
    write_atomically(folder / "report.html", page)
    return folder / "report.html"


def rewrite_report(folder: Path) -> Path:
    """Write the report of a finished run again, from the files in its folder.

    The network reads once more the digits that the run reported on: the test set or, for a
    validation run, the last 10,000 training digits.

    Returns:
        The path of report.html.

    Raises:
        Misuse: there is no finished run in `folder`.
        Failure: a file is missing, damaged or of another run, or the folder cannot be written.
    """
    config = read_config(folder)
    model = load_model(folder)
    summary = read_json(folder / "summary.json")
    weights = (folder / "model.safetensors").read_bytes()
    if (
        not isinstance(summary, dict)
        or summary.get("weights_sha256") != hashlib.sha256(weights).hexdigest()
    ):
        raise Failure(
            f"{folder / 'summary.json'} does not describe the weights that are beside it: finish "
            f"the run again with tinydigits train --resume {folder}"
        )
    history = read_metrics(folder / "metrics.csv")
    use_threads(config)  # as in the training, for the same last bits
    digits = split(load_mnist(config.data), config)
    evaluation = evaluate(model, digits.test_images, digits.test_labels)
    return write_report(folder, config, summary, history, evaluation, digits.test_images)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `training.write_metrics` wrote.

    Raises:
        Failure: there is no such file, or it is not such a table.
    """
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
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


def train_command(config: Config) -> list[str]:
    """The words of a `tinydigits train` that repeats a run, in a new folder.

    They name the preset that the run is called after and what differs from it, or, if there is no
    such preset, every option.
    """
    known = config.name in PRESETS
    base = preset(config.name).to_json() if known else {}
    words = ["tinydigits", "train", *([config.name] if known else [])]
    for field in dataclasses.fields(config):
        value = config.to_json()[field.name]
        if field.name == "out" or value == base.get(field.name):
            continue
        option = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [option, *value]
        else:
            words += [option, str(value)]
    return words


def digit_png(image: np.ndarray) -> bytes:
    """A digit, uint8 (28, 28), as PNG, ink on paper."""
    buffer = io.BytesIO()
    Image.fromarray(255 - image).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """A picture as the address of itself, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
