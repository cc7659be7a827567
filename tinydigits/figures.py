"""Figures of a training run and of what a network gets wrong, drawn by matplotlib.

Nothing here goes through pyplot, so there is no window, no global state and no current figure:
any thread may draw. A figure shows itself in a notebook; `save` writes it as PNG.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tinydigits.config import ACCURACY_GOAL
from tinydigits.evaluation import Evaluation
from tinydigits.files import write_atomically
from tinydigits.layers import SIZE

# Okabe and Ito's colours, which can be told apart with any colour vision and in grey.
BLUE, ORANGE = "#0072B2", "#E69F00"
INK, GREY, FAINT = "#222222", "#666666", "#dddddd"


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot is in use there."""

    def __init__(self, width: float, height: float):
        """Make an empty figure, `width` and `height` in inches."""
        margins = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
        super().__init__((width, height), dpi=100, facecolor="white", layout=margins)

    def _repr_png_(self) -> bytes:
        return png(self, self.dpi)


def png(figure: Figure, dpi: float = 200) -> bytes:
    """Render a figure as PNG, `dpi` pixels per inch; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        Failure: the folder cannot be written.
    """
    write_atomically(path, png(figure))


def curves(history: Sequence[dict[str, Any]], reported: str = "test digits") -> Figure:
    """Loss and accuracy after each epoch, on the training digits and on those reported on.

    Both axes are logarithmic, the accuracy's in the share of errors: from 98 to 99 % is as far as
    from 99 to 99.5 %, because either step halves the errors.

    Args:
        history: one or more rows as `training.epochs` yields them.
        reported: what to call the digits that a row's test_loss and test_accuracy, or
            validation_loss and validation_accuracy, are about.
    """
    part_reported = "validation" if "validation_loss" in history[0] else "test"
    figure = Picture(6, 5.6)
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    epoch = [row["epoch"] for row in history]
    # One error in 60,000 digits is 0.002 %: no error at all is drawn there, for want of a log 0.
    errors = {
        part: np.maximum([100 - row[f"{part}_accuracy"] for row in history], 0.002)
        for part in ("train", part_reported)
    }
    lines = (("train", "o--", ORANGE, "training digits"), (part_reported, "s-", BLUE, reported))
    for part, line, color, label in lines:
        style: dict[str, Any] = {"color": color, "markersize": 4, "label": label}
        loss.plot(epoch, [row[f"{part}_loss"] for row in history], line, **style)
        accuracy.plot(epoch, errors[part], line, **style)

    goal = 100 - ACCURACY_GOAL
    low, high = (f(goal, *itertools.chain(*errors.values())) for f in (min, max))
    accuracy.axhline(goal, color=INK, linewidth=1, linestyle=":")
    accuracy.text(0.01, goal, f"goal: {ACCURACY_GOAL} %", size=8, va="bottom", color=INK,
                  transform=accuracy.get_yaxis_transform())  # fmt: skip
    accuracy.set(yscale="log", ylim=(high * 1.2, low / 1.4), ylabel="accuracy (%)", xlabel="epoch")
    marks = (0, 50, 80, 90, 95, 97, 98, 98.5, 99, 99.4, 99.6, 99.8, 99.9, 99.95, 99.99)
    accuracy.yaxis.set_major_locator(FixedLocator([100 - mark for mark in marks]))
    accuracy.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g}"))

    losses = [row[f"{part}_loss"] for part in errors for row in history]
    positive = [value for value in losses if 0 < value < np.inf] or [1.0]
    loss.set(yscale="log", ylim=(min(positive) / 1.5, max(positive) * 1.5), ylabel="loss (nats)")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    loss.set_xlim(epoch[0] - 0.5, epoch[-1] + 0.5)
    loss.xaxis.set_major_locator(MaxNLocator(15, integer=True, min_n_ticks=1))
    for axes in (loss, accuracy):
        axes.yaxis.set_minor_locator(NullLocator())
        clean(axes)
    loss.legend(frameon=False, fontsize=9, labelcolor=INK)
    last = history[-1][f"{part_reported}_accuracy"]
    title(figure, f"Epoch {epoch[-1]}: {last:.2f} % of the {reported} recognised")
    return figure


def misclassified(evaluation: Evaluation, images: np.ndarray, limit: int = 100) -> Figure:
    """The digits that were misread, the worst first: the truth, the guess and its probability.

    Args:
        evaluation: what a network said about N digits.
        images: those digits, uint8 (N, 28, 28).
        limit: the most digits to show; the title says how many there are.
    """
    errors, names = evaluation.errors(), evaluation.class_names
    shown = errors[:limit]
    # Of the grid and of its cells, in pixels of a digit.
    columns, width, height = 10, SIZE + 6, SIZE + 18
    rows = -(-len(shown) // columns)
    figure = Picture(7.4, 0.6 + rows * 7.2 / columns * height / width)
    axes = figure.subplots()
    axes.axis("off")
    for i, index in enumerate(shown):
        left, top = i % columns * width + 3, i // columns * height + 2
        axes.imshow(
            images[index],
            cmap="gray_r",
            vmin=0,
            vmax=255,
            extent=(left, left + SIZE, top + SIZE, top),
        )
        truth, guess = (names[i[index]] for i in (evaluation.labels, evaluation.guesses))
        caption: dict[str, Any] = {"ha": "center", "va": "top"}
        axes.text(
            left + SIZE / 2, top + SIZE + 1, f"{truth} → {guess}", size=9, color=INK, **caption
        )
        axes.text(
            left + SIZE / 2,
            top + SIZE + 8,
            percent(float(evaluation.confidence[index])),
            size=7,
            color=GREY,
            **caption,
        )
    axes.set(xlim=(0, columns * width), ylim=(max(rows, 0.2) * height, 0))  # imshow moved them
    if len(errors) == 0:
        title(figure, f"None of {len(evaluation.labels):,} digits is misread")
    else:
        count = f"worst {len(shown)} of {len(errors)}" if len(shown) < len(errors) else len(errors)
        title(figure, f"Misread digits ({count}): truth → guess, and how sure the network was")
    return figure


def confusion(evaluation: Evaluation) -> Figure:
    """How often each digit was taken for which; only the errors are coloured, by their number."""
    counts = evaluation.confusion()
    names = evaluation.class_names
    right = np.eye(len(names), dtype=bool)
    most = max(1, counts[~right].max())
    figure = Picture(6, 6.9)
    axes = figure.subplots()
    axes.imshow(np.where(right, np.nan, counts), cmap="Blues", vmin=0, vmax=most)
    axes.imshow(np.where(right, 0.15, np.nan), cmap="Greys", vmin=0, vmax=1)
    for (truth, guess), count in np.ndenumerate(counts):
        dark = truth != guess and count > 0.6 * most
        if count or truth == guess:
            axes.text(guess, truth, count, size=9, ha="center", va="center",
                      color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set(xlabel="guess", ylabel="truth")
    clean(axes)
    axes.grid(False)
    axes.grid(which="minor", color="white")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    wrong = int(counts[~right].sum())
    title(figure, f"{wrong} of {len(evaluation.labels):,} digits are misread")
    words = "\n".join(describe_confusions(evaluation)) or "No digit is taken for another."
    figure.supxlabel(words, x=0.5, size=9, color=INK, linespacing=1.4)
    return figure


def describe_confusions(evaluation: Evaluation, n: int = 5) -> list[str]:
    """The n most frequent errors in words, the most frequent first: "4 taken for 9: 7 times"."""
    return [
        f"{evaluation.class_names[truth]} taken for {evaluation.class_names[guess]}: "
        f"{'once' if count == 1 else f'{count} times'}"
        for truth, guess, count in evaluation.largest_confusions(n)
    ]


def reliability(evaluation: Evaluation) -> Figure:
    """Whether the network is right as often as it claims, and how many digits that rests on.

    The bars are 95 % intervals (Wilson 1927): a bin of few digits says little, an empty one
    nothing. The lower panel is logarithmic, since nearly all digits are in the last bin.
    """
    digits, confidence, accuracy = evaluation.calibration()
    bins = len(digits)
    centres = (np.arange(bins) + 0.5) / bins
    figure = Picture(6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])

    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often as claimed")
    there = digits > 0
    below, above = wilson(digits[there], accuracy[there])
    upper.errorbar(
        confidence[there],
        accuracy[there],
        # Rounding may put the bound of a share of 0 or 1 beside it, by less than one can see.
        np.maximum([accuracy[there] - below, above - accuracy[there]], 0),
        fmt="s", color=BLUE, markersize=5, elinewidth=1, capsize=3, clip_on=False,
        label="share that is right, with its 95 % interval",
    )  # fmt: skip
    for centre in centres[~there]:
        upper.axvspan(centre - 0.5 / bins, centre + 0.5 / bins, color="#f4f4f4", linewidth=0)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")

    lower.bar(centres, digits, width=0.9 / bins, color=BLUE)
    lower.set(yscale="log", ylim=(0.5, digits.max() * 4), ylabel="digits")
    lower.set_xlabel("probability of the guess (grey above: no digits there)" if not there.all()
                     else "probability of the guess")  # fmt: skip
    for centre, count in zip(centres, digits, strict=True):
        lower.text(centre, max(count, 0.5) * 1.15, f"{count:,}", size=8, ha="center", color=INK)
    lower.set_xticks(np.linspace(0, 1, bins + 1))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    lower.yaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        clean(axes)
    sure = evaluation.confidence > 0.99
    wrong = sure & (evaluation.guesses != evaluation.labels)
    figure.supxlabel(
        f"The network gave its guess more than 99 % for {sure.sum():,} of {len(sure):,} digits, "
        f"and {wrong.sum():,} of those were wrong.", x=0.5, size=8, color=INK,
    )  # fmt: skip
    error = 100 * evaluation.expected_calibration_error()
    title(figure, f"Expected calibration error: {error:.2f} %")
    return figure


def wilson(n: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share that was observed in n cases (n of 1 or more), 0 to 1."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return centre - half, centre + half


def percent(probability: float) -> str:
    """A probability for people; what is not quite certain is not rounded to 100 %."""
    return "over 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"


def title(figure: Figure, text: str) -> None:
    """Head a finished figure with one line, and align its panels."""
    figure.suptitle(text, size=11, weight="bold", color=INK)
    figure.align_ylabels()


def clean(axes: Axes) -> None:
    """The style that all pictures share: no frame, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
