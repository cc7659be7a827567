"""The presets: functions that return a `Config`; the docstrings say what to expect of each."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tinydigits.errors import UsageError
from tinydigits.training.config import Config


def baseline() -> Config:
    """The starting point: the course notebook that this project grew out of, unchanged.

    19,664 parameters, 15 epochs of plain SGD at a constant learning rate. That notebook leaves the
    widths of its fourth and fifth block open: 16-32-32 uses the budget of 20,000 parameters,
    16-16-32 would give 12,720.
    """
    return Config(
        layers=("conv3:16", "conv3:32", "pool", "conv1:16", "conv3:32", "conv3:32"),
        name="baseline",
        dropout=0.05,
        epochs=15,
        batch_size=128,
        lr=0.01,
        momentum=0.9,
        seed=1,
        precision="float32",
        channels_last=False,
    )


def improved(name: str, layers: str, augmentation: float = 1.0, **changes: Any) -> Config:
    """What the presets below share: a better training than the baseline's.

    Large one-cycle steps with Nesterov momentum, distorted shapes (but, where `changes` does not
    say otherwise, for the last tenth of the steps), averaged weights, no dropout, and bfloat16
    where the processor has units for it. `augmentation` scales all amounts of the distortion.
    """
    values = {
        "epochs": 15,
        "batch_size": 64,
        "lr": 0.5,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 2e-5,
        "schedule": "one-cycle",
        "rotation": 10 * augmentation,
        "scale": augmentation / 10,
        "shear": augmentation / 10,
        "shift": 1.25 * augmentation,
        "undistorted_end": 0.1,
        "ema_decay": 0.998,
        "seed": 0,
    }
    return Config(name=name, layers=tuple(layers.split()), **{**values, **changes})


BACKGROUND_AND_INK = {"background": 0.3, "ink_fade": 0.4}
"""Gray background and pale ink in training, for presets that have to read both unprepared."""

MOST_BACKGROUND_AND_INK = {"background": 0.2, "ink_fade": 0.3}
"""Two thirds of that gray and three quarters of that loss of ink, for a smaller network."""

HALF_BACKGROUND_AND_INK = {"background": 0.15, "ink_fade": 0.2}
"""Half of `BACKGROUND_AND_INK`, where more would cost accuracy on MNIST's own background."""


def classic() -> Config:
    """The baseline's network, to the parameter, with a better training: what `train` trains."""
    return improved(
        "classic",
        "conv3:16 conv3:32 pool conv1:16 conv3:32 conv3:32",
        lr=0.1,
        muon_lr=0.05,
        **BACKGROUND_AND_INK,
    )


def tiny20k() -> Config:
    """The most accurate that we have with under 20,000 parameters."""
    return improved(
        "tiny20k",
        "conv3:32 separable3:48 pool separable3:96 separable3:96 again again",
        augmentation=1.2,
        lr=0.1,
        muon_lr=0.05,
        weight_decay=5e-4,
        **BACKGROUND_AND_INK,
    )


def tiny10k() -> Config:
    """The most accurate that we have with under 10,000 parameters."""
    return improved(
        "tiny10k",
        "conv3:20 separable3:76 pool separable3:76 again again again",
        lr=0.1,
        muon_lr=0.05,
        weight_decay=5e-4,
        **BACKGROUND_AND_INK,
    )


def tiny4k() -> Config:
    """The most accurate that we have with under 4,000 parameters."""
    layers = "conv3:20 separable3:40 pool separable3:40 again again again"
    return improved("tiny4k", layers, augmentation=0.6, **MOST_BACKGROUND_AND_INK)


def tiny2k() -> Config:
    """The most accurate that we have with under 2,000 parameters."""
    layers = "conv3:8 separable3:28 pool separable3:28 again again again"
    return improved("tiny2k", layers, augmentation=0.4, **HALF_BACKGROUND_AND_INK)


def tiny1k() -> Config:
    """The most accurate that we have with under 1,000 parameters."""
    layers = "conv3:7 separable3:16 pool separable3:16 again again again"
    return improved("tiny1k", layers, augmentation=0.4, lr=0.7, **HALF_BACKGROUND_AND_INK)


def reader() -> Config:
    """What `predict` reads pictures with: MNIST's digits and others, drawn in many hands."""
    return improved(
        "reader",
        "conv3:16 pool conv3:24 conv3:32 separable3:64 separable3:64",
        epochs=10,
        batch_size=128,
        lr=0.1,
        muon_lr=0.05,
        weight_decay=5e-4,
        drawn=40_000,
        **HALF_BACKGROUND_AND_INK,
    )


def dash() -> Config:
    """99.4 % in the least time that we can."""
    # Multiples of 16 channels: with others, bfloat16 operators fill no vector register and crawl.
    return improved(
        "dash",
        "conv3:16 pool conv3:16 conv3:16 conv3:32 conv3:32",
        augmentation=0.5,
        epochs=2,
        batch_size=128,
        lr=0.2,
        muon_lr=0.05,
        weight_decay=5e-4,
        undistorted_end=0,
        ema_decay=0.98,
        **HALF_BACKGROUND_AND_INK,
    )


def sprint() -> Config:
    """99.4 % in a single epoch."""
    return improved(
        "sprint",
        "conv3:8 conv3:12 pool conv3:20 conv3:22 conv3:26 conv3:28",
        augmentation=0.3,
        epochs=1,
        batch_size=32,
        lr=0.1,
        muon_lr=0.05,
        weight_decay=5e-4,
        undistorted_end=0,
        ema_decay=0.99,
        label_smoothing=0.1,
        **HALF_BACKGROUND_AND_INK,
    )


PRESETS: dict[str, Callable[[], Config]] = {
    make.__name__: make
    for make in (baseline, classic, tiny20k, tiny10k, tiny4k, tiny2k, tiny1k, reader, dash, sprint)
}

DEFAULT_PRESET = "classic"


def preset(name: str) -> Config:
    """The configuration of that name.

    Raises:
        UsageError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name]()


def is_preset(config: Config) -> bool:
    """Whether a training is that of the preset of its name, whatever its seed and its machine."""
    if config.name not in PRESETS:
        return False
    free = ("seed", "out", "data", "device", "precision", "channels_last", "threads")
    here = {name: getattr(config, name) for name in free}
    return config == dataclasses.replace(preset(config.name), **here)
