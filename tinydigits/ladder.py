"""The ladder of presets, from the certified results: the table of the README and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.config import PRESETS, preset
from tinydigits.files import Failure, read_json, reason, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGIN, END = "<!-- ladder: begin -->", "<!-- ladder: end -->"

ANCHORS = (
    # label, trainable parameters, accuracy (%), how it was measured and where it was read
    (
        "EfficientMnist",
        13_562,
        99.53,
        "last epoch, one seed: divya-r-kamat/EfficientMnist-Under20K",
    ),
    ("EVA4 F7", 9_994, 99.60, "last epoch, one seed: sagarigrandhi/EVA4 S5"),
    ("ERA S6", 8_932, 99.50, "best test epoch: The-School-of-AI/era-s6-ram"),
    ("minimal-model", 4_862, 99.07, "one seed, 50 epochs: ruslangrimov/mnist-minimal-model"),
    ("Parameter-Efficient", 997, 98.76, "mean, 200 epochs: JoshWarn/Parameter-Efficient-MNIST"),
    ("Efficient-CapsNet", 161_000, 99.74, "mean of single models, 150 epochs, as published"),
)
"""Other people's networks, for comparison; nearly all are a single seed or a best epoch."""


def write_ladder(results: Path, readme: Path) -> list[Path]:
    """Put the table between the marks of `readme` and the figure into docs/ladder.png beside it.

    Returns:
        The paths of the two files.

    Raises:
        Failure: there are no results, or `readme` has no marks.
    """
    from tinydigits.pictures import save

    studies = read_studies(results)
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"Cannot read {readme}: {reason(error)}.") from error
    write_atomically(readme, replace_table(text, table(studies)))
    picture = readme.parent / "docs" / "ladder.png"
    save(figure(studies), picture)
    return [readme, picture]


def read_studies(results: Path) -> list[dict[str, Any]]:
    """The certified studies in `results`, in the order of the presets."""
    paths = [results / f"{name}.json" for name in PRESETS]
    studies = [read_json(path) for path in paths if path.exists()]
    if not studies:
        raise Failure(f"{results} holds no results: make some with tinydigits certify PRESET.")
    return studies


def replace_table(text: str, table: str) -> str:
    """`text` with what stands between the two marks replaced by `table`."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise Failure(f"The README needs the lines {BEGIN} and {END} around its table.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def table(studies: list[dict[str, Any]]) -> str:
    """The studies as a Markdown table."""
    from tinydigits.model import summarise

    lines = [
        "| preset | parameters | MACs | epochs | accuracy %, mean ± sd (n) | lowest | over 99.4 % "
        "| s per seed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for study in studies:
        numbers = study["statistics"]
        stages = summarise(preset(study["preset"]))
        seconds = sorted(row["seconds"] for row in study["seeds"])[len(study["seeds"]) // 2]
        lines.append(
            f"| `{study['preset']}` | {sum(stage.parameters for stage in stages):,} "
            f"| {sum(stage.macs for stage in stages):,} | {study['config']['epochs']} "
            f"| {numbers['mean']:.3f} ± {numbers['sd']:.3f} ({numbers['n']}) "
            f"| {numbers['minimum']:.2f} | {numbers['over_goal']} of {numbers['n']} "
            f"| {seconds:.0f} |"
        )
    machine = studies[-1]
    lines.append("")
    lines.append(
        f"Test set, float32, last epoch, seeds 0 to n - 1, none left out. {machine['processor']}, "
        f"{machine['threads_per_seed']} thread a seed, PyTorch {machine['versions']['torch']}; "
        "s per seed is the median time of the training passes."
    )
    return "\n".join(lines)


def figure(studies: list[dict[str, Any]]) -> Figure:
    """Accuracy against parameters, ours with error bars (one sd), others' as labelled points."""
    from tinydigits.model import summarise
    from tinydigits.pictures import Picture

    drawing = Picture(8, 5)
    axes = drawing.subplots()
    for study in studies:
        numbers = study["statistics"]
        parameters = sum(stage.parameters for stage in summarise(preset(study["preset"])))
        axes.errorbar(
            parameters, numbers["mean"], numbers["sd"], fmt="o", color="#0072b2", capsize=3
        )
        axes.annotate(
            study["preset"],
            (parameters, numbers["mean"]),
            xytext=(6, 6),
            textcoords="offset points",
            color="#0072b2",
        )
    for label, parameters, accuracy, _ in ANCHORS:
        axes.plot(parameters, accuracy, "D", color="#999999", markersize=5)
        axes.annotate(
            label,
            (parameters, accuracy),
            xytext=(6, -12),
            textcoords="offset points",
            color="#555555",
            fontsize=8,
        )
    axes.axhline(99.4, color="#d55e00", linewidth=0.8, linestyle="--")
    axes.set(
        xscale="log",
        xlabel="trainable parameters",
        ylabel="accuracy on the MNIST test set, %",
        title="tinydigits (mean ± sd over seeds) and others",
    )
    axes.grid(alpha=0.3)
    return drawing
