"""The documents' tables and their figures, from the files in results/."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tinydigits.errors import Failure, reason
from tinydigits.files import read_json, write_atomically
from tinydigits.network.architecture import Stage, plan, stored, total
from tinydigits.training.config import ACCURACY_GOAL
from tinydigits.training.presets import PRESETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


def write_tables(results: Path, readme: Path) -> list[Path]:
    """Write the tables into `readme`, the model card and docs/ beside it, and draw the figures.

    Returns:
        The paths of the files.

    Raises:
        Failure: results are missing, or a document lacks the marks around a table. Then nothing
            is written.
    """
    from lab import robustness
    from tinydigits.report.figures import save

    texts: dict[Path, str] = {}
    for path, name, rows in all_tables(results, readme):
        texts[path] = replace_table(texts.get(path) or read_text(path), name, rows)
    for path, text in texts.items():
        write_atomically(path, text)
    others = read_json(results / "others.json")["accuracy"]
    pictures = {
        readme.parent / "docs" / "ladder.png": figure(on_mnist(read_studies(results)), others),
        readme.parent / "docs" / "robustness.png": shown(results, "robustness", robustness.figure),
    }
    for path, picture in pictures.items():
        save(picture, path)
    return [*texts, *pictures]


def all_tables(results: Path, readme: Path) -> list[tuple[Path, str, str]]:
    """Every table that is made from `results`: its document, its name in the marks, its text."""
    from lab import (
        ablation,
        benchmark,
        fashion,
        footprint,
        integers,
        pictures,
        rejector,
        robustness,
        symbols,
        threads,
        tune,
    )

    docs = readme.parent / "docs"
    notebook, performance = docs / "lab-notebook.md", docs / "performance.md"
    studies = read_studies(results)
    others = read_json(results / "others.json")
    changes = ablation.table(ablation.read_rows(results))
    return [
        (readme, "ladder", short_table(on_mnist(studies))),
        (docs / "results.md", "ladder", ladder_table(on_mnist(studies))),
        (docs / "results.md", "forms", forms_table(studies)),
        (docs / "results.md", "raw", raw_table(studies)),
        (
            readme.parent / "MODEL_CARD.md",
            "robustness",
            shown(results, "robustness", robustness.table),
        ),
        (docs / "results.md", "others", others_table(others["accuracy"])),
        (notebook, "replaced", replaced_table(results / "replaced.json")),
        (notebook, "background", background_table(tune.read_trainings("background", results))),
        (notebook, "qat", qat_table(tune.read_trainings("qat", results))),
        (notebook, "probes", probes_table(results / "probes.json")),
        (docs / "from-baseline-to-classic.md", "ablation", changes),
        (performance, "speed", shown(results, "benchmark", benchmark.speed_table)),
        (performance, "profile", shown(results, "benchmark", benchmark.profile_table)),
        (performance, "waiting", shown(results, "waiting", threads.waiting_table)),
        (performance, "threads", shown(results, "threads", threads.gain_table)),
        (docs / "own-data.md", "fashion", shown(results, "fashion", fashion.table)),
        (docs / "deploy.md", "footprint", shown(results, "footprint", footprint.table)),
        (docs / "deploy.md", "symbols", shown(results, "symbols", symbols.table)),
        (docs / "deploy.md", "microcontrollers", footprint.others_table(others["microcontroller"])),
        (docs / "deploy.md", "integers", shown(results, "integers", integers.table)),
        (docs / "use.md", "reader", ladder_table([s for s in studies if s["config"]["drawn"]])),
        (docs / "use.md", "scores", shown(results, "rejector", rejector.table)),
        (docs / "use.md", "pictures", shown(results, "pictures", pictures.table)),
        (docs / "use.md", "kinds", shown(results, "pictures", pictures.kinds_table)),
    ]


def shown(results: Path, command: str, show: Callable[[dict[str, Any]], T]) -> T:
    """A table or a figure of what a command of the laboratory measured.

    Raises:
        Failure: its result is missing, or another version wrote it.
    """
    path = results / f"{command}.json"
    measured = read_json(path)
    try:
        return show(measured)
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(
            f"{path} is not what this version writes: make it again with python -m lab {command} "
            "(--help says how)."
        ) from error


def read_text(path: Path) -> str:
    """The text of a document; Failure if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"Cannot read {path}: {reason(error)}.") from error


def read_studies(results: Path) -> list[dict[str, Any]]:
    """The certified studies in `results`, in the order of the presets."""
    from lab.study import read_study

    paths = [results / f"{name}.json" for name in PRESETS]
    studies = [read_study(path) for path in paths if path.exists()]
    if not studies:
        raise Failure(f"{results} holds no results: make some with python -m lab certify PRESET.")
    return studies


def on_mnist(studies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The studies of presets that were trained on nothing but MNIST: the ladder."""
    return [study for study in studies if not study["config"]["drawn"]]


def replace_table(text: str, name: str, table: str) -> str:
    """`text` with what stands between the two marks of that name replaced by `table`."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise Failure(f"The document needs the lines {' and '.join(marks)} around its table.")
    return f"{before}{begin}\n{table}\n{end}{after}"


def replaced_table(path: Path) -> str:
    """The certifications that a preset's present one replaced, as a Markdown table."""
    lines = [
        "| preset | what it was then | accuracy %, mean ± sd (n) | commit | why it was replaced |"
    ]
    lines.append("|---|---|--:|---|---|")
    for row in read_json(path):
        mean, sd = statistics.fmean(row["accuracies"]), statistics.stdev(row["accuracies"])
        lines.append(
            f"| `{row['preset']}` | {row['then']} | {mean:.3f} ± {sd:.3f} "
            f"({len(row['accuracies'])}) | {row['commit']} | {row['why']} |"
        )
    return "\n".join(lines)


def probes_table(path: Path) -> str:
    """The single runs that presets were tuned by, as a Markdown table, the larger networks first.

    Accuracies (%) are those of the held-out digits, of the last weights and of averaged ones.
    """
    lines = [
        "| parameters | layers | epochs | changed | loss | last | averaged |",
        "|--:|---|--:|---|--:|--:|--:|",
    ]
    for probe in sorted(read_json(path)["probes"], key=lambda probe: -probe["parameters"]):
        changed = ", ".join(f"{name} {value}" for name, value in probe["changes"].items())
        last, averaged = (
            "" if accuracy is None else f"{accuracy:.2f}"
            for accuracy in (probe["accuracy"], probe["averaged_accuracy"])
        )
        loss = "" if probe["loss"] is None else f"{probe['loss']:.4f}"
        lines.append(
            f"| {probe['parameters']:,} | {' '.join(probe['layers'])} | {probe['epochs']} "
            f"| {changed} | {loss} | {last} | {averaged} |"
        )
    return "\n".join(lines)


def others_table(others: list[dict[str, Any]]) -> str:
    """The figure's caption for other people's networks: how each was measured, and where."""
    lines = [
        "| in the figure | parameters | accuracy % | how it was measured, and where it was read |",
        "|---|--:|--:|---|",
    ]
    for row in others:
        lines.append(
            f"| {row['label']} | {row['parameters']:,} | {row['accuracy']:.2f} | {row['source']} |"
        )
    return "\n".join(lines)


def ladder_table(studies: list[dict[str, Any]]) -> str:
    """The studies as a Markdown table."""
    from lab.study import SHIPPED_FORM

    lines = [
        "| preset | parameters | stored | MACs | epochs | accuracy %, mean ± sd (n) | in integers "
        f"| lowest | over {ACCURACY_GOAL} % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for study in studies:
        numbers = study["statistics"]
        stages = stages_of(study)
        parameters, macs = total(stages)
        lines.append(
            f"| `{study['preset']}` | {parameters:,} | {stored(stages):,} "
            f"| {macs:,} | {study['config']['epochs']} | {spread(numbers)} ({numbers['n']}) "
            f"| {spread(study['integers'].get(SHIPPED_FORM))} "
            f"| {numbers['minimum']:.2f} | {numbers['over_goal']} of {numbers['n']} |"
        )
    lines.append(
        "\nMeasured on the test set after the last epoch, in float32 and in integers of 8 bits, "
        f"for the seeds 0 to n - 1, none left out. {trained_where(studies)}"
    )
    return "\n".join(lines)


def trained_where(studies: list[dict[str, Any]]) -> str:
    """The line under a table that says which presets were trained on which machine."""
    from lab.study import trained_on

    machines: dict[str, dict[str, None]] = {}  # by machine its presets, in order and once
    for study in studies:
        machines.setdefault(trained_on(study), {})[f"`{study['preset']}`"] = None
    if len(machines) == 1:
        return f"Trained on {next(iter(machines))}."
    return " ".join(f"{', '.join(names)}: trained on {on}." for on, names in machines.items())


def stages_of(study: dict[str, Any]) -> tuple[Stage, ...]:
    """The plan of the network that was trained, whatever the preset is today."""
    return plan(tuple(study["config"]["layers"]))


def spread(numbers: dict[str, Any] | None) -> str:
    """Mean and standard deviation of some accuracies, or a dash where they were not measured."""
    return f"{numbers['mean']:.3f} ± {numbers['sd']:.3f}" if numbers else "-"


def learned(config: dict[str, Any]) -> str:
    """The gray background and the pale ink that a training went to, or that it did without."""
    background, ink = 100 * config["background"], 100 * (1 - config["ink_fade"])
    return f"{background:g} %, {ink:g} %" if background or ink < 100 else "no"


def forms_table(studies: list[dict[str, Any]]) -> str:
    """What fewer bits cost, as Markdown: mean accuracies of the seeds' integer networks."""
    from lab.study import FORMS

    titles = [f"weights of {w} bits, activations of {a}" for w, a in FORMS.values()]
    lines = [f"| preset | float | {' | '.join(titles)} |", "|---" + "|--:" * (len(FORMS) + 1) + "|"]
    for study in studies:
        cells = [study["statistics"], *(study["integers"].get(form) for form in FORMS)]
        lines.append(f"| `{study['preset']}` | {' | '.join(map(spread, cells))} |")
    return "\n".join(lines)


def raw_table(studies: list[dict[str, Any]]) -> str:
    """Mean accuracies on unprepared digits, and what the training did about it, as Markdown."""
    from lab.study import RAW

    titles = [f"{name}{kind}" for name in RAW for kind in ("", ", integers")]
    lines = [
        f"| preset | trained on background up to, ink down to | {' | '.join(titles)} |",
        "|---|---" + "|--:" * len(titles) + "|",
    ]
    for study in studies:
        config, raw = study["config"], study["raw"]
        cells = [raw.get(name, {}).get(kind) for name in RAW for kind in ("float", "integers")]
        lines.append(
            f"| `{study['preset']}` | {learned(config)} | {' | '.join(map(spread, cells))} |"
        )
    return "\n".join(lines)


def background_table(studies: list[dict[str, Any]]) -> str:
    """What background and ink in training cost on held-out digits, as Markdown: mean accuracies."""
    from lab.study import RAW

    lines = [
        "| preset | layers | trained on background up to, ink down to | accuracy %, mean ± sd (n) "
        f"| {' | '.join(RAW)} |",
        "|---|---|---|--:" + "|--:" * len(RAW) + "|",
    ]
    for study in studies:
        config, numbers = study["config"], study["statistics"]
        raw = [spread(study["raw"].get(name, {}).get("float")) for name in RAW]
        lines.append(
            f"| `{study['preset']}` | {' '.join(config['layers'])} | {learned(config)} "
            f"| {spread(numbers)} ({numbers['n']}) | {' | '.join(raw)} |"
        )
    return "\n".join([*lines, f"\n{trained_where(studies)}"])


def qat_table(studies: list[dict[str, Any]]) -> str:
    """What training for integers of few bits brings on held-out digits, as Markdown: means."""
    from lab.tune import QAT_FORMS

    lines = [
        f"| preset | last epochs trained for | float %, mean ± sd (n) | {' | '.join(QAT_FORMS)} |",
        "|---|---|--:" + "|--:" * len(QAT_FORMS) + "|",
    ]
    for study in studies:
        config, numbers = study["config"], study["statistics"]
        bits = f"w{config['weight_bits']}a{config['activation_bits']}"
        epochs = config["qat_epochs"]
        integers = [spread(study["integers"].get(form)) for form in QAT_FORMS]
        lines.append(
            f"| `{study['preset']}` | {f'{bits}, {epochs}' if epochs else 'none'} "
            f"| {spread(numbers)} ({numbers['n']}) | {' | '.join(integers)} |"
        )
    return "\n".join([*lines, f"\n{trained_where(studies)}"])


def short_table(studies: list[dict[str, Any]]) -> str:
    """What a visitor wants to know: how accurate a network of which size is, as Markdown."""
    lines = ["| preset | parameters | accuracy % (mean of n seeds) |", "|---|--:|--:|"]
    for study in studies:
        numbers = study["statistics"]
        parameters, _ = total(stages_of(study))
        lines.append(
            f"| `{study['preset']}` | {parameters:,} | {numbers['mean']:.2f} ({numbers['n']}) |"
        )
    return "\n".join(lines)


def figure(studies: list[dict[str, Any]], others: list[dict[str, Any]]) -> Figure:
    """Accuracy against parameters, ours with error bars (one sd), others' as labeled points."""
    from tinydigits.report.figures import NotebookFigure

    drawing = NotebookFigure(8, 7)
    axes = drawing.subplots()
    for study in studies:
        numbers = study["statistics"]
        parameters, _ = total(stages_of(study))
        axes.errorbar(
            parameters, numbers["mean"], numbers["sd"], fmt="o", color="#0072b2", capsize=3
        )
        left = parameters < 15_000  # where the names of others are in the way on the right
        axes.annotate(
            study["preset"],
            (parameters, numbers["mean"]),
            xytext=(-5, 2) if left else (6, 0),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            verticalalignment="bottom" if left else "center",
            color="#0072b2",
        )
    for row in others:
        label, parameters, accuracy = row["label"], row["parameters"], row["accuracy"]
        left = not 1_500 < parameters < 15_000  # where ours are in the way on the left
        axes.plot(parameters, accuracy, "D", color="#999999", markersize=5)
        axes.annotate(
            label,
            (parameters, accuracy),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            verticalalignment="center",
            color="#555555",
            fontsize=8,
        )
    axes.axhline(ACCURACY_GOAL, color="#d55e00", linewidth=0.8, linestyle="--")
    axes.set(
        xscale="log",
        xlabel="trainable parameters",
        ylabel="accuracy on the MNIST test set, %",
        title="tinydigits (mean ± sd over seeds) and others",
    )
    axes.grid(alpha=0.3)
    axes.margins(x=0.2)
    return drawing
