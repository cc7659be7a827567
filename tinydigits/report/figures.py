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
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tinydigits.evaluation import Evaluation
from tinydigits.files import write_atomically
from tinydigits.network.architecture import SIZE
from tinydigits.training.config import ACCURACY_GOAL

# Okabe and Ito's colors, which can be told apart with any color vision and in gray.
BLUE, ORANGE = "#0072B2", "#E69F00"
INK, GRAY, FAINT = "#222222", "#666666", "#dddddd"


class NotebookFigure(Figure):
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


def curves(
    history: Sequence[dict[str, Any]],
    reported: str = "test digits",
    things: str = "digits",
    goal: float | None = ACCURACY_GOAL,
) -> Figure:
    """Loss and accuracy after each epoch, on the training digits and on those reported on.

    Both axes are logarithmic, the accuracy's in the share of errors: from 98 to 99 % is as far as
    from 99 to 99.5 %, because either step halves the errors.

    Args:
        history: one or more rows as `training.loop.epochs` yields them.
        reported: what to call the digits that a row's test_loss and test_accuracy, or
            validation_loss and validation_accuracy, are about.
        things: what the data set holds.
        goal: the accuracy to pass, in percent, if there is one.
    """
    part_reported = "validation" if "validation_loss" in history[0] else "test"
    figure = NotebookFigure(6, 5.6)
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    epoch = [row["epoch"] for row in history]
    # One error in 60,000 digits is 0.002 %: no error at all is drawn there, for want of a log 0.
    errors = {
        part: np.maximum([100 - row[f"{part}_accuracy"] for row in history], 0.002)
        for part in ("train", part_reported)
    }
    lines = (("train", "o--", ORANGE, f"training {things}"), (part_reported, "s-", BLUE, reported))
    for part, line, color, label in lines:
        style: dict[str, Any] = {"color": color, "markersize": 4, "label": shown(label, 60)}
        loss.plot(epoch, [row[f"{part}_loss"] for row in history], line, **style)
        accuracy.plot(epoch, errors[part], line, **style)

    goals = [] if goal is None else [100 - goal]
    low, high = (f(*goals, *itertools.chain(*errors.values())) for f in (min, max))
    for line in goals:
        accuracy.axhline(line, color=INK, linewidth=1, linestyle=":")
        accuracy.text(0.01, line, f"goal: {goal} %", size=8, va="bottom", color=INK,
                      transform=accuracy.get_yaxis_transform())  # fmt: skip
    accuracy.set(yscale="log", ylim=(high * 1.2, low / 1.4), ylabel="accuracy (%)", xlabel="epoch")
    ticks = (0, 50, 80, 90, 95, 97, 98, 98.5, 99, 99.4, 99.6, 99.8, 99.9, 99.95, 99.99)
    accuracy.yaxis.set_major_locator(FixedLocator([100 - tick for tick in ticks]))
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
    title(figure, f"Epoch {epoch[-1]}: {last:.2f} % of the {shown(reported, 60)} recognized")
    return figure


def misclassified(
    evaluation: Evaluation, images: np.ndarray, limit: int = 100, things: str = "digits"
) -> Figure:
    """The digits that were misread, the worst first: the label, the prediction and its probability.

    Args:
        evaluation: what a network said about N digits.
        images: those digits, uint8 (N, 28, 28).
        limit: the most digits to show; the title says how many there are.
        things: what to call them.
    """
    things = shown(things, 40)
    errors, names = evaluation.errors(), labels(evaluation.class_names, 8)
    worst = errors[:limit]
    # Of the grid and of its cells, in pixels of a digit.
    columns, width, height = 10, SIZE + 6, SIZE + 18
    rows = -(-len(worst) // columns)
    figure = NotebookFigure(7.4, 0.6 + rows * 7.2 / columns * height / width)
    axes = figure.subplots()
    axes.axis("off")
    for i, index in enumerate(worst):
        left, top = i % columns * width + 3, i // columns * height + 2
        axes.imshow(
            images[index],
            cmap="gray_r",
            vmin=0,
            vmax=255,
            extent=(left, left + SIZE, top + SIZE, top),
        )
        label, prediction = (names[i[index]] for i in (evaluation.labels, evaluation.predictions))
        caption: dict[str, Any] = {"ha": "center", "va": "top"}
        words = f"{label} → {prediction}"
        size = 9 if len(words) < 12 else 6
        axes.text(left + SIZE / 2, top + SIZE + 1, words, size=size, color=INK, **caption)
        axes.text(
            left + SIZE / 2,
            top + SIZE + 8,
            percent(float(evaluation.confidence[index])),
            size=7,
            color=GRAY,
            **caption,
        )
    axes.set(xlim=(0, columns * width), ylim=(max(rows, 0.2) * height, 0))  # imshow moved them
    if len(errors) == 0:
        title(figure, f"None of {len(evaluation.labels):,} {things} is misread")
    else:
        count = f"worst {len(worst)} of {len(errors)}" if len(worst) < len(errors) else len(errors)
        title(
            figure, f"Misread {things} ({count}): label → prediction, and how sure the network was"
        )
    return figure


def confusion(evaluation: Evaluation, things: str = "digits") -> Figure:
    """How often each class was taken for which; only the errors are colored, by their number.

    Args:
        evaluation: what a network said.
        things: what to call what it read.
    """
    things = shown(things, 40)
    counts = evaluation.confusion()
    names = labels(evaluation.class_names, 12)
    # More than thirty classes need a larger table, and more than ten finer print, in points.
    larger = max(1.0, len(names) / 30)
    size = min(9.0, 150 * larger / len(names))
    right = np.eye(len(names), dtype=bool)
    most = max(1, counts[~right].max())
    figure = NotebookFigure(6 * larger, 6.9 * larger)
    axes = figure.subplots()
    axes.imshow(np.where(right, np.nan, counts), cmap="Blues", vmin=0, vmax=most)
    axes.imshow(np.where(right, 0.15, np.nan), cmap="Grays", vmin=0, vmax=1)
    for (label, prediction), count in np.ndenumerate(counts):
        dark = label != prediction and count > 0.6 * most
        if count or label == prediction:
            axes.text(prediction, label, count, size=size, ha="center", va="center",
                      color="white" if dark else INK)  # fmt: skip
    long = max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, rotation=90 if long else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set(xlabel="prediction", ylabel="label")
    clean(axes)
    axes.grid(False)
    axes.grid(which="minor", color="white")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=size)
    wrong = int(counts[~right].sum())
    title(figure, f"{wrong} of {len(evaluation.labels):,} {things} are misread")
    words = "\n".join(shown(line, 90) for line in describe_confusions(evaluation))
    words = words or f"No {'digit' if things == 'digits' else 'class'} is taken for another."
    figure.supxlabel(words, x=0.5, size=9, color=INK, linespacing=1.4)
    return figure


def describe_confusions(evaluation: Evaluation, n: int = 5) -> list[str]:
    """The n most frequent errors in words, the most frequent first: "4 taken for 9: 7 times"."""
    return [
        f"{evaluation.class_names[label]} taken for {evaluation.class_names[prediction]}: "
        f"{'once' if count == 1 else f'{count} times'}"
        for label, prediction, count in evaluation.largest_confusions(n)
    ]


def reliability(evaluation: Evaluation, things: str = "digits") -> Figure:
    """Whether the network is right as often as it claims, and how many digits that rests on.

    The bars are 95 % intervals (Wilson 1927): a bin of few digits says little, an empty one
    nothing. The lower panel is logarithmic, since nearly all digits are in the last bin.

    Args:
        evaluation: what a network said.
        things: what to call what it read.
    """
    things = shown(things, 40)
    digits, confidence, accuracy = evaluation.calibration()
    bins = len(digits)
    centers = (np.arange(bins) + 0.5) / bins
    figure = NotebookFigure(6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])

    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="as often as claimed")
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
    for center in centers[~there]:
        upper.axvspan(center - 0.5 / bins, center + 0.5 / bins, color="#f4f4f4", linewidth=0)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")

    lower.bar(centers, digits, width=0.9 / bins, color=BLUE)
    lower.set(yscale="log", ylim=(0.5, digits.max() * 4), ylabel=things)
    empty = "" if there.all() else f" (gray above: no {things} there)"
    lower.set_xlabel(f"probability of the prediction{empty}")
    for center, count in zip(centers, digits, strict=True):
        lower.text(center, max(count, 0.5) * 1.15, f"{count:,}", size=8, ha="center", color=INK)
    lower.set_xticks(np.linspace(0, 1, bins + 1))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    lower.yaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        clean(axes)
    sure = evaluation.confidence > 0.99
    wrong = sure & (evaluation.predictions != evaluation.labels)
    figure.supxlabel(
        f"The network gave its prediction more than 99 % for {sure.sum():,} of {len(sure):,} "
        f"{things}, and {wrong.sum():,} of those were wrong.", x=0.5, size=8, color=INK,
    )  # fmt: skip
    error = 100 * evaluation.expected_calibration_error()
    title(figure, f"Expected calibration error: {error:.2f} %")
    return figure


def wilson(n: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share that was observed in n cases (n of 1 or more), 0 to 1."""
    z = 1.96
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return center - half, center + half


def percent(probability: float) -> str:
    """A probability for people; what is not quite certain is not rounded to 100 %."""
    return "over 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"


def shown(text: str, most: int) -> str:
    """A name, which may be any text, as matplotlib can draw it: at most so many characters.

    What the font lacks is drawn as its escape, and a dollar begins no formula.
    """
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if has_glyph(c) else ascii(c)[1:-1] for c in short).replace("$", r"\$")


def has_glyph(character: str) -> bool:
    """Whether the figures' font has a character."""
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))


def labels(names: Sequence[str], most: int) -> list[str]:
    """Names of classes for a figure; a number, see `numbered`, stands for one that can't be drawn.

    Args:
        names: all of them.
        most: how many characters of one are drawn.
    """
    numbers = numbered(names)
    return [numbers.get(name) or shown(name, most) for name in names]


def numbered(names: Sequence[str]) -> dict[str, str]:
    """The numbers that stand in figures for names whose characters the font lacks."""
    return {
        name: f"({place})" for place, name in enumerate(names, 1) if not all(map(has_glyph, name))
    }


def title(figure: Figure, text: str) -> None:
    """Head a finished figure with one line, and align its panels."""
    figure.suptitle(text, size=11, weight="bold", color=INK)
    figure.align_ylabels()


def clean(axes: Axes) -> None:
    """The style that all figures share: no frame, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
