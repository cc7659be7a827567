"""How robust the shipped networks are: accuracy on corrupted digits, by corruption and severity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from lab import corruptions
from lab.study import commit, update_presets
from tinydigits.data.mnist import load_mnist
from tinydigits.errors import UsageError
from tinydigits.evaluation import evaluate
from tinydigits.network.checkpoint import find_model
from tinydigits.network.model import load_model
from tinydigits.quant.tdq import load_quantized
from tinydigits.training.hardware import count_cores
from tinydigits.training.presets import preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Corruption(NamedTuple):
    """A corruption at several severities."""

    corrupt: Callable[[np.ndarray, float], np.ndarray]
    amounts: tuple[float, ...]
    unit: str
    """What an amount is, for the axis of the figure."""
    typical: float
    """The amount that the table shows."""
    none: float = 0.0
    """The amount that changes nothing."""


CORRUPTIONS = {
    "gray background": Corruption(
        corruptions.gray_background, (0.05, 0.1, 0.15, 0.2, 0.3), "of white", 0.1
    ),
    "pale ink": Corruption(corruptions.pale_ink, (0.25, 0.5, 0.75), "of the ink gone", 0.5),
    "noise": Corruption(corruptions.noise, (0.05, 0.1, 0.2, 0.3), "of white (sd)", 0.1),
    "blur": Corruption(corruptions.blur, (0.5, 1.0, 1.5, 2.0), "pixels (sd)", 1.0),
    "shift": Corruption(corruptions.shift, (1.0, 2.0, 3.0, 4.0), "pixels", 2.0),
    "rotation": Corruption(corruptions.rotation, (10.0, 20.0, 30.0, 40.0), "degrees", 20.0),
    "scale": Corruption(
        corruptions.scale, (0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3), "times", 0.8, none=1.0
    ),
    "thinner strokes": Corruption(corruptions.thinner, (0.5, 1.0, 1.5), "pixels less", 1.0),
    "thicker strokes": Corruption(corruptions.thicker, (0.5, 1.0, 2.0, 3.0), "pixels more", 2.0),
}
"""All that is measured."""
CLEAN = ("", 0.0)
"""No corruption, of no severity."""


def robustness(
    names: tuple[str, ...], results: Path, jobs: int = 0, digits: int = 10_000
) -> dict[str, Any]:
    """Measure float and integer networks on corrupted test digits and write robustness.json.

    Args:
        names: the presets.
        results: the folder for robustness.json.
        jobs: how many severities to measure side by side, 0 for one per core.
        digits: how many test digits.

    Returns:
        What the file holds, for each preset: commit, digits, the SHA-256 of its two files, the
        accuracy (%) of both on clean digits, and for each corruption a row per amount. Those
        of presets that are not named stay as they were.

    Raises:
        UsageError: there is no such preset, or the numbers make no sense.
    """
    code, configs = commit(), [preset(name) for name in names]
    most = len(load_mnist().test_images)
    if not (configs and 1 <= digits <= most and jobs >= 0):
        raise UsageError(f"Measure one preset or more on 1 to {most:,} digits with 0 or more jobs.")
    work = [CLEAN]
    work += [(kind, amount) for kind, tested in CORRUPTIONS.items() for amount in tested.amounts]
    measured: Any = Parallel(jobs or count_cores(), return_as="generator")(
        delayed(measure)(names, kind, amount, digits) for kind, amount in work
    )
    accuracies = dict(zip(work, tqdm(measured, "robustness", len(work)), strict=True))
    rows = {
        name: {
            "digits": digits,
            "sha256": files_of(name),
            "clean": accuracies[CLEAN][name],
            "corrupted": {
                kind: [{"amount": a, **accuracies[kind, a][name]} for a in tested.amounts]
                for kind, tested in CORRUPTIONS.items()
            },
        }
        for name in names
    }
    return update_presets(results / "robustness.json", rows, code)


def measure(
    names: tuple[str, ...], kind: str, amount: float, digits: int
) -> dict[str, dict[str, float]]:
    """The accuracies (%) of each preset's two networks on digits with one corruption or none."""
    mnist = load_mnist()
    images, labels = mnist.test_images[:digits], mnist.test_labels[:digits]
    if kind:
        images = CORRUPTIONS[kind].corrupt(images, amount)
    return {
        name: {
            "float": evaluate(load_model(name), images, labels).accuracy,
            "integers": evaluate(load_quantized(name), images, labels).accuracy,
        }
        for name in names
    }


def files_of(name: str) -> dict[str, str]:
    """The SHA-256 of the files of a preset's two networks, by their suffix."""
    return {
        suffix: hashlib.sha256(find_model(name, suffix).read_bytes()).hexdigest()
        for suffix in (".safetensors", ".tdq")
    }


def table(measured: dict[str, Any]) -> str:
    """Accuracy at a typical severity of each corruption, float and integers, as Markdown."""
    titles = [f"{kind}, {tested.unit}: {tested.typical:g}" for kind, tested in CORRUPTIONS.items()]
    lines = [f"| preset | none | {' | '.join(titles)} |", "|---" + "|--:" * (len(titles) + 1) + "|"]
    rows = measured["presets"]
    for name, row in rows.items():
        cells = [row["clean"]]
        for kind, tested in CORRUPTIONS.items():
            cells += [r for r in row["corrupted"][kind] if r["amount"] == tested.typical]
        shown = [f"{cell['float']:.1f} / {cell['integers']:.1f}" for cell in cells]
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    digits = {f"{row['digits']:,}" for row in rows.values()}
    lines.append(
        f"\nAccuracy of the shipped networks in percent, float / integers, on "
        f"{' and '.join(sorted(digits))} test digits, without `prepare`."
    )
    return "\n".join(lines)


def figure(measured: dict[str, Any]) -> Figure:
    """Accuracy against severity, a panel a corruption: lines for float, dots for integers."""
    from tinydigits.report.figures import FAINT, NotebookFigure

    drawing = NotebookFigure(8.5, 8.5)
    panels = drawing.subplots(-(-len(CORRUPTIONS) // 3), 3, sharey=True).flat
    for axes, (kind, tested) in zip(panels, CORRUPTIONS.items(), strict=False):
        for i, (name, row) in enumerate(measured["presets"].items()):
            points = [{"amount": tested.none, **row["clean"]}, *row["corrupted"][kind]]
            points.sort(key=lambda point: point["amount"])
            amounts = [point["amount"] for point in points]
            color, width = f"C{i}", 2.0 if name == "classic" else 1.0
            axes.plot(
                amounts, [point["float"] for point in points], color=color, linewidth=width,
                label=name,
            )  # fmt: skip
            axes.plot(amounts, [point["integers"] for point in points], ".", color=color)
        axes.set(title=kind, xlabel=tested.unit, ylim=(50, 101))
        axes.grid(color=FAINT)
    drawing.supylabel("accuracy, %")
    handles, labels = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return drawing
