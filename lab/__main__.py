"""The command line of the laboratory, which measures what this project claims.

python -m lab certify tiny1k
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from tinydigits.cli import choose_command, run_program
from tinydigits.training.config import ACCURACY_GOAL
from tinydigits.training.presets import PRESETS

DESCRIPTION = """\
Measure what this project claims, and write it into the documents.

In a clone of the project, with the extra dev: python -m lab COMMAND"""

Preset = Annotated[Positional[str], arg(metavar="PRESET")]
Presets = Annotated[Positional[tuple[str, ...]], arg(name="presets", metavar="PRESET")]
Backend = Literal["local", "ray"]
RESULTS = Path("results")


def certify(
    preset_name: Annotated[Preset, arg(name="preset")],
    seeds: int = 10,
    jobs: int = 0,
    backend: Backend = "local",
    folder: Path = RESULTS,
) -> None:
    """Train a preset from many seeds and check its claims; an interrupted study goes on.

    The exit code is 1 where the preset misses one of its own claims or, if it has none, a goal.

    Args:
        preset_name: The preset's name (see: tinydigits presets).
        seeds: How many seeds, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        backend: Processes of this machine, or a Ray cluster (the extra `cluster`).
        folder: Where PRESET.json and the weights of seed 0 go.
    """
    from lab.certify import certify, verdicts

    study = certify(preset_name, seeds, jobs, backend, folder)
    numbers = study["statistics"]
    print(
        f"{preset_name}: mean {numbers['mean']:.3f} %   sd {numbers['sd']:.3f}   "
        f"n {numbers['n']}   minimum {numbers['minimum']:.2f} %"
    )
    print(f"lower bound of the mean (one-sided, 95 %): {numbers['lower_bound']:.3f} %")
    print(f"seeds over {ACCURACY_GOAL} %: {numbers['over_goal']} of {numbers['n']}")
    rows = verdicts(study)
    for asked, holds, measured in rows:
        print(f"{'PASS' if holds else 'FAIL'} {asked}: {measured}")
    # A small network claims less than the project's goals; its own claims then decide.
    if not all(holds for _, holds, _ in rows[3:] or rows):
        sys.exit(1)


def ablation(
    seeds: int = 5, jobs: int = 0, backend: Backend = "local", folder: Path = RESULTS
) -> None:
    """Go from baseline to classic, one change at a time, with several seeds for each.

    The two ends are what certify measured; an interrupted study goes on.

    Args:
        seeds: How many seeds for each step between them, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        backend: Processes of this machine, or a Ray cluster (the extra `cluster`).
        folder: Where certify's results are; the new ones go to ablation/ in it.
    """
    from lab.ablation import ablate, table

    print(table(ablate(seeds, jobs, backend, folder)))


def tune(
    question: Annotated[Positional[Literal["background", "qat"]], arg(metavar="QUESTION")],
    preset_names: Presets = (),
    answers: tuple[str, ...] = (),
    seeds: int = 5,
    jobs: int = 0,
    folder: Path = RESULTS,
) -> None:
    """Train presets in several ways and compare them on digits that were held out.

    background: without gray background and pale ink, and with three amounts of them. qat: as they
    are, and with the last epochs for integers of few bits. Prints accuracies on the last 10,000
    training digits, which none was trained on. An interrupted study goes on.

    Args:
        question: What to compare: background or qat.
        preset_names: The presets; by default all of them.
        answers: Only these: none, half, most, all (of background); none, w8a6, w8a4, w6a8, w4a8
            (qat; w8a6: for weights of 8 bits and activations of 6).
        seeds: How many seeds of each, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        folder: Where the results go, to QUESTION/ in it.
    """
    from lab import tables
    from lab.tune import read_trainings, tune

    tune(question, preset_names or tuple(PRESETS), answers, seeds, jobs, folder)
    show = {"background": tables.background_table, "qat": tables.qat_table}[question]
    print(show(read_trainings(question, folder)))


def fashion(
    seeds: int = 3,
    jobs: int = 0,
    data: Path = Path("/usr/share/datasets/fashion-mnist"),
    folder: Path = RESULTS,
) -> None:
    """Train tiny20k on Fashion-MNIST from several seeds; an interrupted study goes on.

    The exit code is 1 where their mean does not pass 90 %.

    Args:
        seeds: How many seeds, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        data: The four IDX files, by default where Debian's dataset-fashion-mnist puts them.
        folder: Where fashion.json goes.
    """
    from lab.fashion import GOAL, fashion

    numbers = fashion(seeds, jobs, data, folder)["statistics"]
    holds = numbers["mean"] > GOAL
    print(
        f"{'PASS' if holds else 'FAIL'} Fashion-MNIST over {GOAL:g} %: mean {numbers['mean']:.2f} "
        f"% of {numbers['n']} seeds, minimum {numbers['minimum']:.2f} %"
    )
    if not holds:
        sys.exit(1)


def tables(results: Path = RESULTS, readme: Path = Path("README.md")) -> None:
    """Write the tables of the documents, and their figures, from the results.

    Args:
        results: The folder with what the other commands of the lab wrote.
        readme: The README whose table is replaced; the other documents are beside it or in docs/.
    """
    from lab.tables import write_tables

    print(f"Wrote {' and '.join(map(str, write_tables(results, readme)))}")


def benchmark(
    preset_names: Presets = (),
    results: Path = RESULTS,
    rounds: int = 5,
    threads: int = 0,
    out: Path | None = None,
) -> None:
    """Time the training of presets on the CPU, in turn with the baseline.

    Prints Markdown tables: how fast each is, and where the time of a training step goes.

    Args:
        preset_names: The presets to time; by default all of them.
        results: The folder with what certify wrote: which presets reach 99.4 % on average.
        rounds: How often each gets its turn; the median counts.
        threads: CPU threads for all of them, 0 for one per core.
        out: A file for the figures, as JSON.
    """
    from lab.benchmark import benchmark, profile_table, speed_table
    from tinydigits.files import write_json

    timed = benchmark(preset_names or tuple(PRESETS), results, rounds=rounds, threads=threads)
    print(speed_table(timed), end="\n\n")
    print(profile_table(timed))
    if out is not None:
        write_json(out, timed)


def integers(
    preset_names: Presets = (),
    hold_out_models: Path = Path("runs") / "hold-out-models",
    results: Path = RESULTS,
) -> None:
    """Make the integer networks that come with the package from the float ones.

    Each one's temperature is fitted with its hold-out model: the same training without the last
    10,000 training digits.

    Args:
        preset_names: The presets; by default all of them.
        hold_out_models: The folder of the hold-out models' runs; missing ones are trained.
        results: The folder for integers.json, with what was measured on the test digits.
    """
    from lab.integers import make_integers, table

    print(table(make_integers(preset_names or tuple(PRESETS), hold_out_models, results)))


def robustness(
    preset_names: Presets = (),
    results: Path = RESULTS,
    jobs: int = 0,
    digits: int = 10_000,
) -> None:
    """Measure the shipped networks on digits with gray background, pale ink, noise and the like.

    Args:
        preset_names: The presets; by default all of them.
        results: The folder for robustness.json, in which other presets stay as they are.
        jobs: How many severities to measure side by side, 0 for one per core.
        digits: How many test digits.
    """
    from lab.robustness import robustness, table

    print(table(robustness(preset_names or tuple(PRESETS), results, jobs, digits)))


def threads(
    preset_names: Presets = (),
    results: Path = RESULTS,
    rounds: int = 5,
    seconds: float = 2,
) -> None:
    """Time training steps with one thread and with one per core.

    Prints a Markdown table. Measure on a machine that does nothing else.

    Args:
        preset_names: The presets to time; by default all of them.
        results: The folder for threads.json, in which other presets stay as they are.
        rounds: How often each setting gets its turn.
        seconds: How long a turn trains.
    """
    from lab.threads import compare_threads, gain_table

    print(gain_table(compare_threads(preset_names or tuple(PRESETS), results, rounds, seconds)))


def waiting(results: Path = RESULTS, rounds: int = 5, seconds: float = 2) -> None:
    """Time training steps by how the threads wait for each other.

    Prints a Markdown table. Measure on a machine that does nothing else.

    Args:
        results: The folder for waiting.json.
        rounds: How often each setting gets its turn.
        seconds: How long a turn trains.
    """
    from lab.threads import compare_waiting, waiting_table

    print(waiting_table(compare_waiting(results, rounds, seconds)))


def rejector(
    hold_out_models: Path = Path("runs") / "hold-out-models",
    results: Path = RESULTS,
    seed: int = 0,
) -> None:
    """Train the network that comes with the package to tell digits from what is none.

    It needs the handwriting fonts of some Debian packages, which it names where they are missing.
    The thresholds of rejection are measured with it by `integers`, so run that for every preset
    afterwards.

    Args:
        hold_out_models: The folder of the hold-out models' runs; that of reader is trained if it
            is missing.
        results: The folder for rejector.json.
        seed: The seed of the training.
    """
    from lab.rejector import make_rejector

    study = make_rejector(hold_out_models, results, seed)
    print(f"{study['accuracy']:.2f} % of what the rejector never saw told apart")


def pictures(
    parts: Annotated[
        Positional[tuple[Literal["pages", "moved", "hands", "rejected", "prepared", "photo"], ...]],
        arg(metavar="PART"),
    ] = (),
    results: Path = RESULTS,
    jobs: int = 0,
    pages: int = 500,
    digits: int = 10_000,
) -> None:
    """Measure how well pictures are read: pages, moved digits, letters, scribbles, a photo.

    Args:
        parts: What to measure again; by default all.
        results: The folder for pictures.json, in which other parts stay as they are.
        jobs: How many pages to read side by side, 0 for one per core.
        pages: How many pages to compose from the test digits.
        digits: How many test digits to move, scale, invert, pad and recolor.
    """
    from lab.pictures import PARTS, measure

    measure(results / "pictures.json", parts or PARTS, pages, digits, jobs)


def symbols(results: Path = RESULTS, each: int = 10) -> None:
    """Measure how whole pictures of symbols are read, whatever light and color they have.

    Args:
        results: The folder for symbols.json.
        each: Pictures of each symbol and kind.
    """
    from lab.symbols import SETS, measure
    from tinydigits.files import write_json

    rows = [row for name in SETS for row in measure(name, each)]
    write_json(results / "symbols.json", {"rows": rows})


def parity(
    results: Path = RESULTS, digits: int = 10_000, on_board: int = 500, random_networks: int = 200
) -> None:
    """Compare every logit of every engine: NumPy, C here and on emulated boards, WebAssembly.

    Needs gcc, clang, gcc-arm-none-eabi, qemu-system-arm and nodejs (Debian's names).

    Args:
        results: The folder for parity.json.
        digits: Test digits, and images of noise, for each preset on this machine.
        on_board: Test digits for each preset on each board.
        random_networks: How many networks of random layers and extreme weights.
    """
    from lab.parity import parity

    parity(results, digits, on_board, random_networks)


def footprint(
    preset_names: Presets = (),
    results: Path = RESULTS,
) -> None:
    """Count what each preset costs on a microcontroller: flash, RAM, instructions.

    Needs gcc, gcc-arm-none-eabi and qemu-system-arm (Debian's names), and the extra `onnx`.

    Args:
        preset_names: The presets; by default all of them.
        results: The folder for footprint.json.
    """
    from lab.footprint import footprint, table

    print(table(footprint(preset_names or tuple(PRESETS), results)))


COMMANDS = (
    *(
        certify,
        ablation,
        tune,
        fashion,
        integers,
        robustness,
        parity,
        footprint,
        benchmark,
        threads,
    ),
    *(waiting, rejector, pictures, symbols, tables),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit codes are those of `tinydigits`."""
    run_program(run_command, sys.argv[1:] if arguments is None else arguments)


def run_command(arguments: list[str]) -> None:
    """Do what the words of the command line say."""
    choose_command(COMMANDS, "python -m lab", DESCRIPTION, arguments)


if __name__ == "__main__":
    main()
