"""A network's words, resolved once into a plan: what each stage is, and how large.

Everything that needs a network's geometry reads a plan: the network itself, the summary, and
whatever turns a network into another form.
"""

import re
from typing import Literal, NamedTuple

from tinydigits.errors import UsageError

SIZE = 28
"""Height and width of an image, in pixels."""

DIGITS = tuple("0123456789")
"""The classes that a network tells apart where nothing else is said."""

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, scaled to 0..1: the usual normalization.
"""

MOST_CLASSES = 100
"""The most classes that a network tells apart."""

LARGEST, DEEPEST = 10_000_000, 100
"""Weights and layers that no network exceeds, so that a damaged file cannot ask for all memory."""

Kind = Literal["conv", "depthwise", "separable", "pool", "average", "classes"]


class Stage(NamedTuple):
    """One stage of a network; the stages follow each other, the last gives a score a class.

    Images and activations are square, no convolution pads, and every stride is 1 but the pool's.
    """

    name: str
    """The word of `Config.layers`; the two stages that follow all words have names of their own."""
    kind: Kind
    """What is computed; for again, the kind of the convolution that it uses once more.

    conv: a convolution. depthwise: one that looks at each channel alone. separable: depthwise,
    then a 1x1 convolution that mixes the channels (Chollet 2017, "Xception"). All three are
    followed by BatchNorm and ReLU. pool: the largest of 2x2 pixels. average: the mean over all
    pixels. classes: a 1x1 convolution without bias.
    """
    kernel_size: int
    """Height and width of the kernels, in pixels: 3 for conv3:16."""
    channels_in: int
    channels_out: int
    size_in: int
    """Height and width of what comes in, in pixels."""
    size_out: int
    shares_weights_with: int | None
    """The stage, counted from 0, whose convolution is used again here; None: it has its own."""
    parameters: int
    """The numbers that training may change, those of BatchNorm included."""
    macs: int
    """Multiply-accumulates for one image: those of convolutions, since BatchNorm folds into them
    when a network is used."""
    stored: int
    """The numbers that a device stores: weights, and a scale and a shift for each channel, which
    are what BatchNorm becomes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """What comes out: (channels, height, width)."""
        return self.channels_out, self.size_out, self.size_out


def plan(layers: tuple[str, ...], classes: int = len(DIGITS)) -> tuple[Stage, ...]:
    """Resolve a network's layers, such as ("conv3:16", "pool", "separable3:32", "again").

    Args:
        layers: conv3:N, separable3:N, depthwise3 (kernels of 1, 3, 5 and 7 pixels; the latter two
            of at least 3), pool, and again, a weight-tied layer: it applies the last convolution
            once more, with the same weights and a BatchNorm of its own.
        classes: how many classes the network tells apart.

    Returns:
        A stage for each word, then the average over all pixels and the classes.

    Raises:
        UsageError: a word is none of the language's, or nothing would be left of the image.
    """
    if not layers or not isinstance(layers, tuple):
        raise UsageError("layers must be a tuple of one or more words such as conv3:16 and pool.")
    if len(layers) > DEEPEST:
        raise UsageError(f"layers must be at most {DEEPEST} words, not {len(layers):,}.")
    stages: list[Stage] = []
    size, channels = SIZE, 1
    last = None  # the last convolution that has weights of its own
    for word in layers:
        kind, kernel_size, width = parse(word)
        if kind == "pool":
            stage = Stage(word, "pool", 2, channels, channels, size, size // 2, None, 0, 0, 0)
        elif kind == "again":
            if last is None or channels != stages[last].channels_in:
                raise UsageError(
                    "layers: again repeats the convolution before it, so there must be one, with "
                    "as many channels going out as coming in."
                )
            stage = convolution(word, stages[last].kind, stages[last].kernel_size, channels,
                                channels, size, last)  # fmt: skip
        else:
            stage = convolution(word, kind, kernel_size, channels, width or channels, size, None)
            last = len(stages)
        stages.append(stage)
        size, channels = stage.size_out, stage.channels_out
        if size < 1:
            raise UsageError(f"layers: nothing is left of the {SIZE}x{SIZE} image after {word!r}.")
        if total(stages)[0] > LARGEST:
            raise UsageError(f"layers: {word!r} brings the network to over {LARGEST:,} weights.")
    if not {"conv", "separable"} & {stage.kind for stage in stages}:
        raise UsageError("layers must hold at least one convolution, such as conv3:16.")
    average = "global average pooling"
    stages.append(Stage(average, "average", size, channels, channels, size, 1, None, 0, 0, 0))
    weights = channels * classes
    stages.append(
        Stage("classes", "classes", 1, channels, classes, 1, 1, None, weights, weights, weights)
    )
    return tuple(stages)


def parse(word: str) -> tuple[Kind | Literal["again"], int, int]:
    """Read one word: its kind, its kernel size and its channels (0 where the word says none).

    Raises:
        UsageError: the word is none of the language's.
    """
    match = re.fullmatch(r"([a-z]+)([1357]?)(?::([1-9][0-9]{0,3}))?", str(word))
    if match:
        kind, kernel_size, width = match[1], int(match[2] or 0), int(match[3] or 0)
        match kind, kernel_size > 0, width > 0:
            case (("pool" | "again"), False, False):
                return kind, 0, 0
            case "conv", True, True:
                return kind, kernel_size, width
            case "separable", True, True if kernel_size > 1:
                return kind, kernel_size, width
            case "depthwise", True, False if kernel_size > 1:
                return kind, kernel_size, 0
    raise UsageError(
        f"layers: {word!r} is not a layer; write pool, again, depthwise3, separable3:16 "
        "or, for a 3x3 convolution with 16 channels, conv3:16 (kernels of 1, 3, 5 and 7 "
        "pixels, up to 9999 channels)."
    )


def convolution(
    name: str,
    kind: Kind,
    kernel_size: int,
    enter: int,
    leave: int,
    size: int,
    shares_weights_with: int | None,
) -> Stage:
    """A stage with a convolution from `enter` to `leave` channels, its BatchNorm included."""
    weights = {
        "conv": kernel_size**2 * enter * leave,
        "depthwise": kernel_size**2 * enter,
        "separable": kernel_size**2 * enter + enter * leave,
    }[kind]
    # BatchNorm learns a shift a channel and, where no 1x1 convolution could do it, a scale.
    tied = shares_weights_with is not None
    own = leave if tied else weights + leave * (1 if kind == "separable" else 2)
    numbers = 2 * leave + (0 if tied else weights)
    after = size - kernel_size + 1
    macs = weights * after**2
    return Stage(name, kind, kernel_size, enter, leave, size, after, shares_weights_with, own,
                 macs, numbers)  # fmt: skip


def total(stages: list[Stage] | tuple[Stage, ...]) -> tuple[int, int]:
    """Parameters and multiply-accumulates of all stages together."""
    return sum(stage.parameters for stage in stages), sum(stage.macs for stage in stages)


def stored(stages: list[Stage] | tuple[Stage, ...]) -> int:
    """The numbers of all stages that a device stores."""
    return sum(stage.stored for stage in stages)
