"""The command line. Options come from the signatures below and from `Config`'s docstrings."""

import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from tinydigits import __version__
from tinydigits.errors import Failure, UsageError, reason
from tinydigits.files import expand
from tinydigits.terminal import plain, printable_streams, say
from tinydigits.training.config import Config
from tinydigits.training.presets import DEFAULT_PRESET, PRESETS, preset

DESCRIPTION = """\
Handwritten-digit recognition in a network small enough to fit anywhere.

Start with: tinydigits train

The version: tinydigits --version"""

Preset = Annotated[Positional[str], arg(metavar="PRESET")]
Model = Annotated[Positional[str], arg(metavar="MODEL")]


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
            resume: Go on with the run in this folder, with its own configuration. --data beside it
                says where the same data are now.
        """
        from tinydigits import runs

        if preset_name != defaults.name:
            preset(preset_name)  # refuses a name that is none
            raise UsageError(f"Name the preset first: tinydigits train {preset_name} ...")
        # Counted in the words themselves, so that an option's default is refused like any value.
        names = option_names(arguments[1:])
        if resume is not None and (len(names) > len({*names}) or {*names} - {"--resume", "--data"}):
            raise UsageError(
                "--resume takes a run folder and, where its data have moved, --data with their "
                "place, and nothing else: a run keeps its options."
            )
        moved = config.data if "--data" in names else None
        run = runs.start(config) if resume is None else runs.resume(resume, moved)
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


def option_names(words: list[str]) -> list[str]:
    """The words of a command line without the values that options, which take one each, have."""
    names, rest = [], list(words)
    while rest:
        name, equals, _ = rest.pop(0).partition("=")
        names.append(name)
        if name.startswith("--") and not equals:
            del rest[:1]
    return names


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
    from tinydigits.network.checkpoint import find_model, read_description
    from tinydigits.run_folder import dataset_of
    from tinydigits.terminal import is_printable_name

    path = find_model(model, *(() if float_ else (".tdq",)), ".safetensors")
    if path.suffix == ".tdq":
        from tinydigits.quant.tdq import load_quantized

        network, arithmetic = load_quantized(path), "integers"
        description = network.description
    else:
        from tinydigits.network.model import load_model

        network, arithmetic = load_model(path), "float32"
        description = read_description(path)
    if dataset and not is_printable_name(dataset):
        raise UsageError(f"--dataset {dataset!r} is no name of 1 to 100 printable characters.")
    tested = dataset_of(path, description, DataSource(data, dataset, as_is))
    count = f"{len(tested.test_labels):,} {tested.describe('test')}"
    print(plain(f"{path} in {arithmetic}, on the {count}"), flush=True)
    result = evaluate(network, tested.test_images, tested.test_labels)
    precision, recall = result.precision_and_recall()
    print(f"accuracy {result.accuracy:.2f} %   loss {result.loss:.4f}   ", end="")
    print(f"calibration error {100 * result.expected_calibration_error():.2f} %")
    if result.unread.any():
        print(f"unread, for no ink is seen in them, and counted as wrong: {result.unread.sum():,}")
    width = max(5, *map(len, result.class_names))
    print(f"{'class':{width}}   precision    recall")
    for name, *shares in zip(result.class_names, precision, recall, strict=True):
        right, found = ("-" if math.isnan(x) else f"{100 * x:.2f} %" for x in shares)
        print(f"{name:>{width}}{right:>12}{found:>10}")
    for label, prediction, count in result.largest_confusions():
        print(f"{result.class_names[prediction]} for {result.class_names[label]}: {count} times")


def predict(
    pictures: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE")],
    model: Annotated[str, arg(metavar="MODEL")] = "reader",
    min_confidence: float | None = None,
    annotate: Path | None = None,
    show: Path | None = None,
    json: bool = False,
    segment: bool = False,
    frame: int = 1,
) -> None:
    """Read the digits in pictures: photos, scans, screenshots.

    Prints the numbers, a line for each line of the picture; ? follows an unsure digit. For a
    network of classes of yours a picture is one symbol. The exit code is 1 where a picture could
    not be read.

    Args:
        pictures: Files in any format that Pillow reads; - is standard input.
        model: A preset, a run folder, or a model file.
        min_confidence: From 0 to 1: what is read with less is no digit. Each network brings the
            confidence that 1 % of digits that it never saw fall below. One that was trained on
            fewer than 3,000 pictures brings none, and nothing is rejected. Without this option a
            picture of one symbol is always answered.
        annotate: A file for the picture with boxes, digits and confidence drawn on it.
        show: A file for what the network saw of each digit.
        json: Print a JSON object for each picture, on a line of its own.
        segment: Segment the picture, a page of many symbols, for a network of classes of yours too.
        frame: Which frame to read of an animation or of a file with several pages, from 1 on.
    """
    from tqdm import tqdm

    from tinydigits.images.decode import frames_of, open_picture
    from tinydigits.quant.tdq import load_quantized
    from tinydigits.reader import output
    from tinydigits.reader.read import read
    from tinydigits.reader.rejection import rejection_threshold

    if not pictures:
        raise UsageError("Name at least one picture: tinydigits predict photo.jpg")
    several = len(pictures) > 1
    for option, path in (("--annotate", annotate), ("--show", show)):
        if path is not None and several:
            raise UsageError(f"{option} takes one picture at a time.")
        if path is not None:
            output.format_of(path)
            output.refuse_overwriting(option, path, pictures[0])
    if annotate is not None and show is not None and expand(annotate) == expand(show):
        raise UsageError("--annotate and --show name the same file: give them two.")
    network = load_quantized(model)
    rejection_threshold(network, min_confidence)  # refuses an impossible one before any picture
    failed = False
    for name in tqdm(pictures, "pictures", leave=False, disable=None if several else True):
        try:
            image = open_picture(name, frame)
            readings = read(image, network, min_confidence, segment or None)
            if frame == 1 and frames_of(image) > 1:
                many = f"{name} holds {frames_of(image)} frames"
                tqdm.write(plain(f"{many}, of which this is the first: see --frame."), sys.stderr)
            if annotate is not None:
                output.save_picture(annotate, output.annotate(image, readings))
            if show is not None:
                output.save_picture(show, output.montage(readings))
        except Failure as error:
            if not several:
                raise
            tqdm.write(plain(f"tinydigits: {error}"), sys.stderr)
            failed = True
            continue
        text = output.text_of(readings)
        if json:
            tqdm.write(output.json_of(name, readings))
        elif text:
            prefix = f"{plain(name)}: " if several else ""
            tqdm.write("\n".join(prefix + row for row in text.splitlines()))
        else:
            what = "digit" if network.description.of_mnist else "symbol"
            tqdm.write(plain(f"{name}: no {what} found"), sys.stderr)
    if failed:
        sys.exit(1)


def export(
    model: Model,
    to: Literal["c", "wasm", "onnx"],
    out: Path,
    data: Path | None = None,
) -> None:
    """Write a network to a new folder, for a device (c), a web page (wasm) or ONNX Runtime (onnx).

    Args:
        model: A preset, a run folder, a .safetensors file or, but for onnx, a .tdq file.
        to: The form: C99 with a program that reads a PGM, laid out as an Arduino library;
            WebAssembly with a page; or an ONNX graph in float32.
        out: The folder to make.
        data: Where the data of the run are now, if they are needed and have moved.
    """
    from tinydigits.engine.export import export

    for path in export(model, to, out, data):
        print(plain(path))


def report(run: Annotated[Positional[Path], arg(metavar="RUN")], data: Path | None = None) -> None:
    """Draw the figures and the report of a finished run again.

    Args:
        run: A run folder.
        data: Where the data of the run are now, if they have moved.
    """
    from tinydigits.runs import rewrite_report

    print(plain(f"Wrote {rewrite_report(run, data)}"))


def summary(model: Model = DEFAULT_PRESET) -> None:
    """Print a network stage by stage: shapes, parameters, multiply-accumulates, stored numbers.

    Stored is what a device keeps: weights, and a scale and a shift for each channel.

    Args:
        model: A preset, a run folder, or a .safetensors file.
    """
    from tinydigits.network.architecture import DIGITS, stored, total
    from tinydigits.network.checkpoint import find_model, read_description, summarize

    # A preset's own layers, which it may have got before there are weights for them.
    named = model in PRESETS and not expand(model).exists()
    described = preset(model) if named else read_description(find_model(model))
    stages, names = summarize(described), getattr(described, "class_names", DIGITS)
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
        print(plain(f"{name:24}{len(raw):12,} bytes, verified   {path}"))


COMMANDS = (predict, evaluate, export, report, summary, presets, data)


def run_command(arguments: list[str]) -> None:
    """Do what the words of the command line say."""
    if arguments == ["--version"]:
        print(__version__)
        return
    # The preset decides the defaults that the options show, so it is read before them.
    named = arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-")
    defaults = preset(arguments[1] if named else preset_to_start_from(arguments))
    choose_command((trainer(defaults, arguments), *COMMANDS), "tinydigits", DESCRIPTION, arguments)


def choose_command(
    commands: Iterable[Callable[..., None]], prog: str, description: str, arguments: list[str]
) -> None:
    """Call the one of several functions that the first of the words names, with the others."""
    tyro.extras.subcommand_cli_from_dict(
        {command.__name__: command for command in commands},
        prog=prog,
        description=description,
        args=arguments,
    )


def preset_to_start_from(arguments: list[str]) -> str:
    """The preset where none is named: that of --init, whose layers are needed, or the default."""
    words = " ".join(arguments).replace("--init=", "--init ").split()
    after = words[words.index("--init") + 1 :] if "--init" in words else []
    return after[0] if after and after[0] in PRESETS else DEFAULT_PRESET


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; see `run_program`."""
    run_program(run_command, sys.argv[1:] if arguments is None else arguments)


def run_program(command: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run a command line and exit with 0, 1 (failure), 2 (usage error) or 128 + signal."""
    printable_streams()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        command(arguments)
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
        what = f"{error.filename or 'The output'} cannot be used: "
        # matplotlib, which has no place for its cache, gives a sentence of its own and no number.
        say(f"tinydigits: {what if error.errno else ''}{reason(error).removesuffix('.')}.")
        sys.exit(1)


def interrupt(number: int, frame: FrameType | None) -> Any:
    """Let SIGTERM end the program the way that Ctrl-C does."""
    raise KeyboardInterrupt(number)


def extras() -> dict[str, str]:
    """The extra that installs a module, by the module's name."""
    found = {}
    try:
        lines = requires("tinydigits") or []
    except PackageNotFoundError:  # a copy without metadata
        lines = [f"{name}; extra == 'train'" for name in ("filelock", "jinja2", "joblib", "torch")]
        lines.append("matplotlib; extra == 'train'")
    for line in lines:
        if match := re.match(r"([\w-]+).*extra == .(\w+)", line):
            found.setdefault(match[1].replace("-", "_"), match[2])
    return {module: extra for module, extra in found.items() if module != "tinydigits"}
