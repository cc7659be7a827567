"""What a change of a preset's training brings, on training digits that are held out of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from lab.study import FORMS, SHIPPED_FORM, Forms, read_training, require_clean_tree, train_seeds
from tinydigits.errors import Failure, UsageError
from tinydigits.training.config import Config
from tinydigits.training.presets import (
    BACKGROUND_AND_INK,
    HALF_BACKGROUND_AND_INK,
    MOST_BACKGROUND_AND_INK,
    PRESETS,
    preset,
)

Question = Literal["background", "qat"]
AMOUNTS = {
    "none": {"background": 0.0, "ink_fade": 0.0},
    "half": HALF_BACKGROUND_AND_INK,
    "most": MOST_BACKGROUND_AND_INK,
    "all": BACKGROUND_AND_INK,
}
"""How much gray background and pale ink the training shows: fields of `Config`."""
QAT_FORMS: Forms = FORMS | {"w4a8": (4, 8)}
"""The integer networks that are measured: those of all presets, and the coarsest weights."""
QAT_EPOCHS = 3
"""How many epochs, at the end, are trained for integers of few bits."""


def tune(
    question: Question,
    names: tuple[str, ...],
    answers: tuple[str, ...],
    seeds: int,
    jobs: int,
    folder: Path,
) -> None:
    """Train presets in the ways that a question compares, and measure on the held-out digits.

    Args:
        question: background: how much gray background and pale ink; qat: which bits the last
            epochs are trained for.
        names: the presets.
        answers: which of the ways, as `trainings` calls them; none for all.
        seeds: how many of each, from 0 up.
        jobs: as for `train_seeds`.
        folder: the folder of all results; these go to QUESTION/NAME-ANSWER.json in it.

    Raises: as `lab.certify.certify`, and UsageError where there is no such question or
        answer.
    """
    if question not in get_args(Question):
        raise UsageError(f"question must be {' or '.join(get_args(Question))}, not {question!r}.")
    compared = [trainings(question, name, folder) for name in names]
    for ways in compared:
        if unknown := [answer for answer in answers if answer not in ways]:
            raise UsageError(f"answers to {question} are {', '.join(ways)}, not {unknown[0]!r}.")
    require_clean_tree()
    forms = QAT_FORMS if question == "qat" else FORMS
    for ways in compared:
        for path, config in (ways[answer] for answer in answers or ways):
            train_seeds(config, seeds, jobs, "local", path, keep_weights=False, forms=forms)


def trainings(question: Question, name: str, folder: Path) -> dict[str, tuple[Path, Config]]:
    """A preset's trainings, by their answers, and the file for the results of each."""
    config = dataclasses.replace(preset(name), validation=True)
    ways: dict[str, dict[str, Any]] = {**AMOUNTS}
    if question == "qat":
        last = min(QAT_EPOCHS, config.epochs)
        ways = {"none": {}} | {
            form: {"qat_epochs": last, "weight_bits": w, "activation_bits": a}
            for form, (w, a) in QAT_FORMS.items()
            if form != SHIPPED_FORM
        }
    return {
        answer: (folder / question / f"{name}-{answer}.json", dataclasses.replace(config, **fields))
        for answer, fields in ways.items()
    }


def read_trainings(question: Question, folder: Path) -> list[dict[str, Any]]:
    """The studies that `tune` wrote, in the order of the presets.

    Raises:
        Failure: there is none, or one is damaged or of a training that is not compared now.
    """
    command = f"python -m lab tune {question}"
    studies = [
        read_training(path, config, f"{command} {name}")
        for name in PRESETS
        for path, config in trainings(question, name, folder).values()
        if path.exists()
    ]
    if not studies:
        raise Failure(f"{folder} holds no {question}/: make it with {command} PRESET.")
    return studies
