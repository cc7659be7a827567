"""The command line. Options come from the signatures below and from `Config`'s docstrings."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from tinydigits import __version__
from tinydigits.config import ACCURACY_GOAL, DEFAULT_PRESET, PRESETS, Config, preset
from tinydigits.files import Failure, Misuse, printable_streams, reason, say

DESCRIPTION = """\
Handwritten-digit recognition in a network small enough to fit anywhere.

Start with: tinydigits train

The version: tinydigits --version"""

Preset = Annotated[Positional[str], arg(metavar="PRESET")]
Presets = Annotated[Positional[tuple[str, ...]], arg(name="presets", metavar="PRESET")]
Model = Annotated[Positional[str], arg(metavar="MODEL")]
Backend = Literal["local", "ray"]
RESULTS = Path("results")


def trainer(defaults: Config, arguments: list[str]) -> Callable[..., None]:
    """The command train, whose options start from the preset `defaults`."""

    def train(
        preset_name: Annotated[Preset, arg(name="preset")] = defaults.name,
        /,
        config: Annotated[Config, arg(name="")] = defaults,
        resume: Annotated[Path | None, arg(metavar="RUN")] = None,
    ) -> None:
        """Train a network and write its weights, verdict, figures and report to a run folder.

        Args:
            preset_name: The preset whose values the options start from (see: tinydigits presets).
            config: What to train.
            resume: Go on with the run in this folder, with its own configuration.
        """
        from tinydigits import runs

        if preset_name != defaults.name:
            preset(preset_name)  # refuses a name that is none
            raise Misuse(f"Name the preset first: tinydigits train {preset_name} ...")
        # Counted in the words themselves, so that an option's default is refused like any value.
        if resume is not None and len(arguments) != (3 if "--resume" in arguments else 2):
            raise Misuse("--resume takes a run folder and nothing else: a run keeps its options.")
        run = runs.start(config) if resume is None else runs.resume(resume)
        where = f"tinydigits train --resume {shlex.quote(str(run.folder))}"
        try:
            runs.complete(run)
        except KeyboardInterrupt:
            say(f"Stopped after {len(run.history)} epochs; go on with: {where}")
            raise
        except BrokenPipeError as error:
            raise Failure(
                f"Stopped after {len(run.history)} epochs, because nobody reads the output any "
                f"more; go on with: {where}"
            ) from error

    return train


def evaluate(
    model: Model,
    data: Path | None = None,
    dataset: str = "",
    as_is: bool = False,
    float_: Annotated[bool, arg(name="float")] = False,
) -> None:
    """Measure a trained network on the test digits: of the data that its run was about, or others.

    In integers, as a device computes, where there is such a form of it, else in float32.

    Args:
        model: A preset, a run folder, a .tdq or a .safetensors file.
        data: A folder that holds MNIST (see: tinydigits train --help), which by default is found
            or fetched; or data of yours. All pictures count, unless some are in a folder test.
        dataset: What to call data of yours, needed where they come in a form that MNIST has.
        as_is: Take pictures of 28x28, light ink on black, as they are.
        float_: Take the float32 network, which needs PyTorch.
    """
    from tinydigits.data.dataset import DataSource
    from tinydigits.evaluation import evaluate
    from tinydigits.modelfile import find_model, read_description
    from tinydigits.run_data import dataset_of
    from tinydigits.terminal import is_printable_name

    path = find_model(model, *(() if float_ else (".tdq",)), ".safetensors")
    if path.suffix == ".tdq":
        from tinydigits.integer import load

        network, arithmetic = load(path), "integers"
        description = network.description
    else:
        from tinydigits.model import load_model

        network, arithmetic = load_model(path), "float32"
        description = read_description(path)
    if dataset and not is_printable_name(dataset):
        raise Misuse(f"--dataset {dataset!r} is no name of 1 to 100 printable characters.")
    tested = dataset_of(path, description, DataSource(data, dataset, as_is))
    count = f"{len(tested.test_labels):,} {tested.describe('test')}"
    print(f"{path} in {arithmetic}, on the {count}", flush=True)
    result = evaluate(network, tested.test_images, tested.test_labels)
    precision, recall = result.precision_and_recall()
    print(f"accuracy {result.accuracy:.2f} %   loss {result.loss:.4f}   ", end="")
    print(f"calibration error {100 * result.expected_calibration_error():.2f} %")
    width = max(5, *map(len, result.class_names))
    print(f"{'class':{width}}   precision    recall")
    for name, right, found in zip(result.class_names, precision, recall, strict=True):
        print(f"{name:>{width}}{100 * right:10.2f} %{100 * found:8.2f} %")
    for true, guess, count in result.largest_confusions():
        print(f"{result.class_names[guess]} for {result.class_names[true]}: {count} times")


def predict(
    pictures: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE")],
    model: Annotated[str, arg(metavar="MODEL")] = "tiny20k",
    min_confidence: float | None = None,
    annotate: Path | None = None,
    show: Path | None = None,
    json: bool = False,
) -> None:
    """Read the digits in pictures: photos, scans, screenshots.

    Prints the numbers, a line for each line of the picture; ? follows an unsure digit. The exit
    code is 1 where a picture could not be read.

    Args:
        pictures: Files in any format that Pillow reads; - is standard input.
        model: A preset, a run folder, or a model file.
        min_confidence: From 0 to 1: what is read with less is no digit. By default it is where 1 %
            of digits that the network never saw are rejected.
        annotate: A file for the picture with boxes, digits and confidence drawn on it.
        show: A file for what the network saw of each digit.
        json: Print a JSON object for each picture, on a line of its own.
    """
    from tqdm import tqdm

    from tinydigits import pictures as reader
    from tinydigits.integer import load

    if not pictures:
        raise Misuse("Name at least one picture: tinydigits predict photo.jpg")
    several = len(pictures) > 1
    for option, path in (("--annotate", annotate), ("--show", show)):
        if path is not None and several:
            raise Misuse(f"{option} takes one picture at a time.")
        if path is not None:
            reader.format_of(path)
    line = reader.line_of(min_confidence)
    network = load(model)
    failed = False
    for name in tqdm(pictures, "pictures", leave=False, disable=None if several else True):
        try:
            image = reader.open_picture(name)
            readings = reader.read(image, network, line)
            if annotate is not None:
                reader.save_picture(annotate, reader.annotated(image, readings))
            if show is not None:
                reader.save_picture(show, reader.sheet(readings))
        except Failure as error:
            if not several:
                raise
            tqdm.write(f"tinydigits: {error}", sys.stderr)
            failed = True
            continue
        text = reader.text_of(readings)
        if json:
            tqdm.write(reader.json_of(name, readings))
        elif text:
            prefix = f"{name}: " if several else ""
            tqdm.write("\n".join(prefix + row for row in text.splitlines()))
        else:
            tqdm.write(f"{name}: no digit found", sys.stderr)
    if failed:
        sys.exit(1)


def export(
    model: Model,
    to: Literal["c", "wasm", "onnx"],
    out: Path,
) -> None:
    """Write a network to a new folder, for a device (c), a web page (wasm) or ONNX Runtime (onnx).

    Args:
        model: A preset, a run folder, a .safetensors file or, but for onnx, a .tdq file.
        to: The form: C99 with a program that reads a PGM, laid out as an Arduino library;
            WebAssembly with a page; or an ONNX graph in float32.
        out: The folder to make.
    """
    from tinydigits.export import export

    for path in export(model, to, out):
        print(path)


def report(run: Annotated[Positional[Path], arg(metavar="RUN")]) -> None:
    """Draw the figures and the report of a finished run again.

    Args:
        run: A run folder.
    """
    from tinydigits.runs import rewrite_report

    print(f"Wrote {rewrite_report(run)}")


def summary(model: Model = DEFAULT_PRESET) -> None:
    """Print a network stage by stage: shapes, parameters, multiply-accumulates, stored numbers.

    Stored is what a device keeps: weights, and a scale and a shift for each channel.

    Args:
        model: A preset, a run folder, or a .safetensors file.
    """
    from tinydigits.layers import DIGITS, stored, total
    from tinydigits.modelfile import class_names_of, summarise

    stages, names = summarise(model), class_names_of(model)
    print(f"{'stage':24}{'output shape':>16}{'parameters':>12}{'MACs':>12}{'stored':>12}")
    for stage in stages:
        size = " x ".join(map(str, stage.shape))
        numbers = f"{stage.parameters:12,}{stage.macs:12,}{stage.stored:12,}"
        print(f"{stage.name:24}{size:>16}{numbers}")
    parameters, macs = total(stages)
    print(f"{'in all':24}{'':16}{parameters:12,}{macs:12,}{stored(stages):12,}")
    if names != DIGITS:
        print(f"tells apart: {', '.join(names)}")


def presets() -> None:
    """List the presets and what each is for."""
    for name, make in PRESETS.items():
        print(f"{name:12}{(make.__doc__ or '').splitlines()[0]}")


def data(root: Annotated[Path | None, arg(name="data")] = None) -> None:
    """Find or fetch MNIST, verify every byte, and say where the files are.

    Args:
        root: A folder of yours to look in instead.
    """
    from tinydigits.data.mnist import find_files

    for name, (raw, path) in find_files(root).items():
        print(f"{name:24}{len(raw):12,} bytes, verified   {path}")


def lab() -> None:
    """Measure what this project claims, and write it into the documents."""


def certify(
    preset_name: Annotated[Preset, arg(name="preset")],
    seeds: int = 10,
    jobs: int = 0,
    backend: Backend = "local",
    folder: Path = RESULTS,
) -> None:
    """Train a preset from many seeds and judge its claims; an interrupted study goes on.

    The exit code is 1 where the preset misses one of its own claims or, if it has none, a goal.

    Args:
        preset_name: The preset's name (see: tinydigits presets).
        seeds: How many seeds, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        backend: Processes of this machine, or a Ray cluster (the extra `cluster`).
        folder: Where PRESET.json and the weights of seed 0 go.
    """
    from tinydigits.lab.certify import certify, verdicts

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
    from tinydigits.lab.ablation import ablate, table

    print(table(ablate(seeds, jobs, backend, folder)))


def tune(
    question: Annotated[Positional[Literal["paper", "rounding"]], arg(metavar="QUESTION")],
    preset_names: Presets = (),
    answers: tuple[str, ...] = (),
    seeds: int = 5,
    jobs: int = 0,
    folder: Path = RESULTS,
) -> None:
    """Train presets in several ways and compare them on digits that were held out.

    paper: without grey paper and pale ink, and with three amounts of them. rounding: as they are,
    and with the last epochs for integers of few bits. Prints accuracies on the last 10,000
    training digits, which none was trained on. An interrupted study goes on.

    Args:
        question: What to compare: paper or rounding.
        preset_names: The presets; by default all of them.
        answers: Only these: none, half, most, all (of paper); none, w8a6, w8a4, w6a8, w4a8
            (rounding; w8a6: for weights of 8 bits and activations of 6).
        seeds: How many seeds of each, from 0 up.
        jobs: How many to train side by side, 0 for one per core.
        folder: Where the results go, to QUESTION/ in it.
    """
    from tinydigits.lab import tables
    from tinydigits.lab.tune import read_trainings, tune

    tune(question, preset_names or tuple(PRESETS), answers, seeds, jobs, folder)
    show = {"paper": tables.paper_table, "rounding": tables.rounding_table}[question]
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
    from tinydigits.lab.fashion import GOAL, fashion

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
    from tinydigits.lab.tables import write_tables

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
    from tinydigits.files import write_json
    from tinydigits.lab.benchmark import benchmark, profile_table, speed_table

    timed = benchmark(preset_names or tuple(PRESETS), results, rounds=rounds, threads=threads)
    print(speed_table(timed), end="\n\n")
    print(profile_table(timed))
    if out is not None:
        write_json(out, timed)


def integers(
    preset_names: Presets = (),
    twins: Path = Path("runs") / "twins",
    results: Path = RESULTS,
) -> None:
    """Make the integer networks that come with the package from the float ones.

    Each one's temperature is fitted with a twin, trained without the last 10,000 training digits.

    Args:
        preset_names: The presets; by default all of them.
        twins: The folder with the twins' runs; those that are missing are trained.
        results: The folder for integers.json, with what was measured on the test digits.
    """
    from tinydigits.lab.integers import make_integers, table

    print(table(make_integers(preset_names or tuple(PRESETS), twins, results)))


def stress(
    preset_names: Presets = (),
    results: Path = RESULTS,
    jobs: int = 0,
    digits: int = 10_000,
) -> None:
    """Measure the shipped networks on digits with grey paper, pale ink, noise, blur and the like.

    Args:
        preset_names: The presets; by default all of them.
        results: The folder for stress.json, in which other presets stay as they are.
        jobs: How many strengths of damage to measure side by side, 0 for one per core.
        digits: How many test digits.
    """
    from tinydigits.lab.stress import stress, table

    print(table(stress(preset_names or tuple(PRESETS), results, jobs, digits)))


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
    from tinydigits.lab.threads import compare_threads, gain_table

    print(gain_table(compare_threads(preset_names or tuple(PRESETS), results, rounds, seconds)))


def waiting(results: Path = RESULTS, rounds: int = 5, seconds: float = 2) -> None:
    """Time training steps by how the threads wait for each other.

    Prints a Markdown table. Measure on a machine that does nothing else.

    Args:
        results: The folder for waiting.json.
        rounds: How often each setting gets its turn.
        seconds: How long a turn trains.
    """
    from tinydigits.lab.threads import compare_waiting, waiting_table

    print(waiting_table(compare_waiting(results, rounds, seconds)))


def judge(
    twins: Path = Path("runs") / "twins",
    results: Path = RESULTS,
    seed: int = 0,
    line_only: bool = False,
) -> None:
    """Train the network that comes with the package to tell digits from what is none.

    Draws the line between them as well: where 1 % of the last 10,000 training digits are rejected,
    which neither the judge nor the twin that reads them has seen.

    Args:
        twins: The folder with the twins' runs; that of tiny20k is trained if it is missing.
        results: The folder for judge.json.
        seed: The seed of the training.
        line_only: Keep the judge that is there, and only draw the line again.
    """
    from tinydigits.lab.judge import make_judge

    study = make_judge(twins, results, seed, line_only)
    print(f"{study['accuracy']:.2f} % of what the judge never saw told apart; LINE {study['line']}")


def pictures(
    parts: Annotated[
        Positional[tuple[Literal["pages", "moved", "rejected", "prepared", "photo"], ...]],
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
        digits: How many test digits to move, scale, invert, pad and recolour.
    """
    from tinydigits.lab.pictures import PARTS, measure

    measure(results / "pictures.json", parts or PARTS, pages, digits, jobs)


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
    from tinydigits.lab.parity import parity

    parity(results, digits, on_board, random_networks)


def bill(
    preset_names: Presets = (),
    results: Path = RESULTS,
) -> None:
    """Count what each preset costs on a microcontroller: flash, RAM, instructions.

    Needs gcc, gcc-arm-none-eabi and qemu-system-arm (Debian's names), and the extra `onnx`.

    Args:
        preset_names: The presets; by default all of them.
        results: The folder for bill.json.
    """
    from tinydigits.lab.bill import bill, table

    print(table(bill(preset_names or tuple(PRESETS), results)))


COMMANDS = (predict, evaluate, export, report, summary, presets, data, lab)
LAB = (
    *(certify, ablation, tune, fashion, integers, stress, parity, bill, benchmark, threads),
    *(waiting, judge, pictures, tables),
)


def run_command(arguments: list[str]) -> None:
    """Do what the words of the command line say."""
    if arguments == ["--version"]:
        print(__version__)
        return
    commands: list[Callable[..., None]] = [*LAB]
    prog, description, words = "tinydigits lab", lab.__doc__, arguments[1:]
    if arguments[:1] != ["lab"]:
        # The preset decides the defaults that the options show, so it is read before them.
        named = arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-")
        defaults = preset(arguments[1] if named else preset_to_start_from(arguments))
        commands = [trainer(defaults, arguments), *COMMANDS]
        prog, description, words = "tinydigits", DESCRIPTION, arguments
    tyro.extras.subcommand_cli_from_dict(
        {command.__name__: command for command in commands},
        prog=prog,
        description=description,
        args=words,
    )


def preset_to_start_from(arguments: list[str]) -> str:
    """The preset where none is named: that of --init, whose layers are needed, or the default."""
    words = " ".join(arguments).replace("--init=", "--init ").split()
    after = words[words.index("--init") + 1 :] if "--init" in words else []
    return after[0] if after and after[0] in PRESETS else DEFAULT_PRESET


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with 0, 1 (failure), 2 (misuse) or 128 + signal."""
    printable_streams()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        run_command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except Failure as error:
        say(f"tinydigits: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ModuleNotFoundError as error:
        extra = extras().get((error.name or "").split(".")[0])
        if extra is None:
            raise
        say(
            f"tinydigits: This command needs {error.name}, which is not installed; in a clone of "
            f"the project: pip install -c constraints.txt '.[{extra}]'"
        )
        sys.exit(1)
    except OSError as error:
        say(f"tinydigits: {error.filename or 'The output'} cannot be used: {reason(error)}.")
        sys.exit(1)


def interrupt(number: int, frame: FrameType | None) -> Any:
    """Let SIGTERM end the program the way that Ctrl-C does."""
    raise KeyboardInterrupt(number)


def extras() -> dict[str, str]:
    """The extra that installs a module, by the module's name."""
    found = {}
    for line in requires("tinydigits") or []:
        if match := re.match(r"([\w-]+).*extra == .(\w+)", line):
            found.setdefault(match[1].replace("-", "_"), match[2])
    return {module: extra for module, extra in found.items() if module != "tinydigits"}
