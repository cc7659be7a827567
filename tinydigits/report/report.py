"""The report of a run: its figures, and a page that explains them and needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import shlex
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from tinydigits.data.dataset import MNIST
from tinydigits.evaluation import Evaluation
from tinydigits.files import write_atomically
from tinydigits.report import figures
from tinydigits.report.summary import check_summary
from tinydigits.training.config import ACCURACY_GOAL, Config
from tinydigits.training.presets import PRESETS, preset

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
    """Write the figures (PNG) and report.html of a run into its folder.

    Equal arguments give equal bytes.

    Args:
        folder: the run folder.
        config: what was trained.
        summary: what `report.summary.summarize_run` returned.
        history: one or more rows as `training.loop.epochs` yields them.
        evaluation: what the network said about N digits.
        images: those digits, uint8 (N, 28, 28).

    Returns:
        The path of report.html.

    Raises:
        Failure: the folder cannot be written, or the summary lacks a value.
    """
    check_summary(summary, folder)
    dataset = summary["dataset"]
    is_mnist = dataset == MNIST
    things, goal = ("digits", ACCURACY_GOAL) if is_mnist else ("pictures", None)
    named = things if is_mnist else f"pictures of {dataset}"
    drawn = {
        "curves": figures.curves(history, summary["evaluated_on"], named, goal),
        "misclassified": figures.misclassified(evaluation, images, GALLERY, named),
        "confusion": figures.confusion(evaluation, named),
        "reliability": figures.reliability(evaluation, named),
    }
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.png")

    precision, recall = evaluation.precision_and_recall()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tinydigits.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = evaluation.class_names
    present = evaluation.confusion().sum(axis=1)
    page = environment.get_template("report.html").render(
        summary=summary,
        dataset=dataset,
        things=things,
        thing=things.removesuffix("s"),
        config=config.to_json(),
        command=[shlex.quote(word) for word in train_command(config)],
        history=history,
        evaluation=evaluation,
        chance_loss=math.log(len(names)),
        classes=list(zip(names, present, precision, recall, strict=True)),
        confusions=figures.describe_confusions(evaluation),
        numbered=figures.numbered(names),
        misread=[
            {
                "picture": data_url(digit_png(images[i])),
                "label": names[evaluation.labels[i]],
                "prediction": names[evaluation.predictions[i]],
                "probability": figures.percent(float(evaluation.confidence[i])),
            }
            for i in evaluation.errors()[:GALLERY]
        ],
        figure={name: data_url((folder / f"{name}.png").read_bytes()) for name in drawn},
    )
    write_atomically(folder / "report.html", page)
    return folder / "report.html"


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
