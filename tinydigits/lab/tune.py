"""What a change of a preset's training is worth, on training digits that are held out of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from tinydigits.config import (
    A_LITTLE_PAPER_AND_INK,
    MOST_PAPER_AND_INK,
    PAPER_AND_INK,
    PRESETS,
    Config,
    preset,
)
from tinydigits.files import Failure, Misuse
from tinydigits.lab.certify import (
    FORMS,
    SHIPPED_FORM,
    Forms,
    read_study,
    require_clean_tree,
    train_seeds,
)

Question = Literal["paper", "rounding"]
AMOUNTS = {
    "none": {"paper": 0.0, "fading": 0.0},
    "half": A_LITTLE_PAPER_AND_INK,
    "most": MOST_PAPER_AND_INK,
    "all": PAPER_AND_INK,
}
"""Of grey paper and pale ink: fields of `Config`."""
ROUNDED: Forms = FORMS | {"w4a8": (4, 8)}
"""The integer networks that are measured: those of all presets, and the coarsest weights."""
ROUNDED_EPOCHS = 3
"""How many epochs, at the end, are trained for integers of few bits."""


def tune(question: Question, names: tuple[str, ...], seeds: int, jobs: int, folder: Path) -> None:
    """Train presets in the ways that a question compares, and measure on the held-out digits.

    Args:
        question: paper: how much grey paper and pale ink; rounding: which bits the last epochs are
            trained for.
        names: the presets.
        seeds: how many of each, from 0 up.
        jobs: as for `train_seeds`.
        folder: the folder of all results; these go to QUESTION/NAME-ANSWER.json in it.

    Raises: as `tinydigits.lab.certify.certify`, and Misuse where there is no such question.
    """
    if question not in get_args(Question):
        raise Misuse(f"question must be {' or '.join(get_args(Question))}, not {question!r}.")
    require_clean_tree()
    configs = {p: config for name in names for p, config in trainings(question, name, folder)}
    forms = ROUNDED if question == "rounding" else FORMS
    for path, config in configs.items():
        train_seeds(config, seeds, jobs, "local", path, keep_weights=False, forms=forms)


def trainings(question: Question, name: str, folder: Path) -> list[tuple[Path, Config]]:
    """The trainings of a preset that are compared, each with the file for its results."""
    config = dataclasses.replace(preset(name), validation=True)
    answers: dict[str, dict[str, Any]]
    if question == "paper":
        answers = {**AMOUNTS}
    else:
        last = min(ROUNDED_EPOCHS, config.epochs)
        answers = {"none": {}} | {
            form: {"quantised_epochs": last, "weight_bits": w, "activation_bits": a}
            for form, (w, a) in ROUNDED.items()
            if form != SHIPPED_FORM
        }
    return [
        (folder / question / f"{name}-{answer}.json", dataclasses.replace(config, **fields))
        for answer, fields in answers.items()
    ]


def read_trainings(question: Question, folder: Path) -> list[dict[str, Any]]:
    """The studies that `tune` wrote, in the order of the presets.

    Raises:
        Failure: there is none, or one is damaged.
    """
    paths = [p for name in PRESETS for p, _ in trainings(question, name, folder) if p.exists()]
    if not paths:
        raise Failure(
            f"{folder} holds no {question}/: make it with tinydigits lab tune {question} PRESET."
        )
    return [read_study(path) for path in paths]
