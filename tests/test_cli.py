import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINYDIGITS, Outcome, run

import tinydigits
from lab.__main__ import COMMANDS as LAB
from tinydigits import Mnist, Network
from tinydigits.cli import COMMANDS
from tinydigits.network.model import save_model
from tinydigits.training import config
from tinydigits.training.presets import PRESETS

Command = Callable[..., Outcome]
ROOT = Path(__file__).parents[1]


# --------------------------------------------------------------------------------------- help


@pytest.fixture(scope="module")
def train_help() -> str:
    """What `tinydigits train --help` says, without the frames and line breaks around it."""
    return squeeze(run(TINYDIGITS, "train", "--help").out)


def squeeze(text: str) -> str:
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


def field_docstrings() -> dict[str, str]:
    """The docstring under each field of Config, from the source."""
    (tree,) = ast.parse(inspect.getsource(config.Config)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: doc.value.value
        for field, doc in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
        if isinstance(doc.value.value, str)
    }


@pytest.mark.parametrize("field", config.Config.__dataclass_fields__)
def test_field_is_an_option_with_its_docstring_as_help(train_help: str, field: str):
    assert f"--{field.replace('_', '-')}" in train_help
    assert squeeze(field_docstrings()[field]) in train_help


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        ([], ("train", *(command.__name__ for command in COMMANDS))),
        (["lab"], [c.__name__ for c in LAB]),
    ],
    ids=["tinydigits", "lab"],
)
def test_help_names_every_command(command: Command, words: list[str], commands: list[str]):
    out = command(*words, "--help").out
    assert re.findall(r"• (\w+) +\w", out) == list(commands)


def test_the_laboratory_is_a_program_of_a_clone():
    out = run(sys.executable, "-m", "lab", "--help", cwd=ROOT).out
    assert out.startswith("usage: python -m lab ")
    assert re.findall(r"• (\w+) +\w", out) == [command.__name__ for command in LAB]


def test_help_says_how_to_start_and_how_to_ask_for_the_version(command: Command):
    lines = command("--help").out.splitlines()
    assert "Start with: tinydigits train" in lines
    assert "The version: tinydigits --version" in lines


def test_options_start_from_the_named_preset(command: Command):
    assert "(default: baseline)" in command("train", "baseline", "--help").out


@pytest.mark.parametrize("words", [["--help"], ["summary"]], ids=lambda words: words[0])
def test_answers_in_under_half_a_second(words: list[str]):
    """Of the processor's time: a quiet machine needs as much, and a busy one does no harm."""
    seconds = []
    for _ in range(5):
        before = os.times()
        assert run(TINYDIGITS, *words).exit_code == 0
        after = os.times()
        user = after.children_user - before.children_user
        seconds.append(user + after.children_system - before.children_system)
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


def test_the_package_is_the_command(tmp_path: Path):
    outcome = run(sys.executable, "-m", "tinydigits", "presets", cwd=tmp_path)
    assert outcome == run(TINYDIGITS, "presets", cwd=tmp_path)
    assert outcome.exit_code == 0
    refused = run(sys.executable, "-m", "tinydigits", "train", "bestest", cwd=tmp_path)
    assert refused.exit_code == 2
    assert "There is no preset 'bestest'" in refused.sentence


# ------------------------------------------------------------------------------------ usage_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "bestest"], "There is no preset 'bestest'; the presets are "),
        (["summary", "bestest"], "There is no model bestest: name a run folder"),
        (["train", "--epochs", "0"], "epochs must be a whole number from 1 up, not 0"),
        (["train", "--lr", "-1"], "lr must be a number above 0, not -1.0"),
        (["train", "--layers", "conv3:4", "dense"], "'dense' is not a layer"),
        (["train", "--epochs", "3", "baseline"], "Name the preset first: tinydigits train base"),
        (["train", "--epochs", "3", "bestest"], "There is no preset 'bestest'"),
        (["train", "--threads", "99999999999"], "threads must be below 1,025"),
        (["train", "--batch-size", "9" * 30], "batch_size must be below 60,001"),
        (["train", "--layers", "conv7:9999", "conv7:9999"], "over 10,000,000 weights"),
        (["lab", "benchmark", "--rounds", "0"], "benchmark needs at least 1 round"),
        (["data", "--data", "/nowhere"], "There is no data folder /nowhere"),
        (["train", "--layers", "conv3:4", "conv3:5", "again"], "as many channels going out as"),
        (["lab", "certify", "classic", "--seeds", "1"], "at least 2 seeds"),
        (["lab", "robustness", "classical"], "There is no preset 'classical'"),
        (["lab", "robustness", "tiny1k", "--digits", "0"], "on 1 to 10,000 digits"),
        (["lab", "ablation", "--folder", "/nowhere"], "run python -m lab certify baseline first"),
    ],
)
def test_usage_error_is_one_sentence(
    command: Command, clean_tree: None, arguments: list[str], message: str
):
    outcome = command(*arguments)
    assert outcome.exit_code == 2
    assert message in outcome.sentence


@pytest.mark.parametrize(
    "words",
    [
        "--resume run --epochs 3",
        "--resume=run --epochs 3",
        "--resume run --epochs=3",
        "--epochs 3 --resume run",
        "--epochs 15 --resume run",
        "--epochs=15 --resume=run",
        "--resume run --seed 0",
        "--resume run --no-validation",
        "--resume=run --no-validation",
        "--no-validation --resume=run",
        "--validation --resume=run",
        "--resume run --device auto",
        "classic --resume run",
        "classic --resume=run",
        "baseline --resume=run",
        "--resume run classic",
        "--resume=run classic",
    ],
)
def test_resume_refuses_anything_beside_it(command: Command, tmp_path: Path, words: str):
    """An option with its default value, too: who writes it down means something by it."""
    outcome = command("train", *words.replace("run", str(tmp_path / "run")).split())
    assert outcome.exit_code == 2
    assert "and nothing else: a run keeps its options" in outcome.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["--resume {}", "--resume={}"])
def test_resume_alone_is_not_refused(command: Command, tmp_path: Path, words: str):
    outcome = command("train", *words.format(tmp_path / "run").split())
    assert outcome.exit_code == 2
    assert f"{tmp_path / 'run'} holds no config.json" in outcome.sentence


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lab"],
        ["lab", "tidy"],
        ["certify", "classic"],
        ["trian"],
        ["train", "--epochs", "many"],
        ["train", "--device", "tpu"],
        ["train", "--x"],
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_unreadable_options_exit_with_2_and_no_traceback(command: Command, arguments: list[str]):
    outcome = command(*arguments)
    assert outcome.exit_code == 2
    assert outcome.err
    assert "Traceback" not in outcome.err


def test_tables_without_results_says_how_to_make_them(command: Command, tmp_path: Path):
    outcome = command("lab", "tables", "--results", tmp_path)
    assert outcome.exit_code == 1
    assert "make some with python -m lab certify PRESET" in outcome.sentence


def test_damaged_results_leave_the_documents_alone(command: Command, tmp_path: Path):
    results = Path(shutil.copytree(ROOT / "results", tmp_path / "results"))
    (results / "classic.json").write_text('{"seeds": [{"accuracy": 99.5}]}')
    (tmp_path / "README.md").write_text("as it was")
    outcome = command("lab", "tables", "--results", results, "--readme", tmp_path / "README.md")
    assert outcome.exit_code == 1
    assert "classic.json does not hold 2 or more seeds" in outcome.sentence
    assert (tmp_path / "README.md").read_text() == "as it was"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has CUDA")
def test_device_that_is_not_there_is_refused(few: Mnist, command: Command, tmp_path: Path):
    outcome = command("train", *TINY, "--device", "cuda", "--out", tmp_path / "run")
    assert outcome.exit_code == 2
    assert "PyTorch finds no cuda here" in outcome.sentence
    assert not (tmp_path / "run").exists()


WITHOUT_EXTRA = """
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'scipy', 'matplotlib', 'joblib', 'jinja2', 'filelock'}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
program, *words = sys.argv[1:]
if program == "lab":
    from lab.__main__ import main
else:
    from tinydigits.cli import main
main(words)
"""
"""The command line, or the laboratory's, in an installation without the extra `train`."""


@pytest.mark.parametrize(
    "words",
    [
        *(
            "tinydigits train",
            "tinydigits train --resume run",
            "tinydigits evaluate classic --float",
            "tinydigits report run",
            "lab certify classic",
        ),
        *("lab ablation", "lab benchmark"),
    ],
)
def test_command_without_its_extra_names_the_install_command(tmp_path: Path, words: str):
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    outcome = run(sys.executable, "-c", WITHOUT_EXTRA, *words.split(), cwd=tmp_path, env=path)
    assert outcome.exit_code == 1
    assert outcome.sentence.endswith("pip install -c constraints.txt '.[train]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        *("lab --help", "lab certify --help"),
        *(
            f"tinydigits {words}"
            for words in ("presets", "--help", "train --help", "data", "summary", "summary tiny1k")
        ),
        "tinydigits evaluate tiny1k",
    ],
)
def test_command_that_needs_no_extra_does_without(mnist: Mnist, words: str):
    outcome = run(sys.executable, "-c", WITHOUT_EXTRA, *words.split(), cwd=ROOT)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out


def test_a_network_in_a_file_is_summarized_without_an_extra(tmp_path: Path):
    save_model(tmp_path / "model.safetensors", Network(("conv3:2", "pool"), class_names=("a", "b")))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        outcome = run(sys.executable, "-c", WITHOUT_EXTRA, "tinydigits", "summary", path)
        assert (outcome.exit_code, outcome.err) == (0, "")
        assert re.search(r"^classes +2 x 1 x 1 +4 +4 +4$", outcome.out, re.MULTILINE)
        assert re.search(r"^in all +26 +12,172 +26$", outcome.out, re.MULTILINE)


# ----------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A run of the installed command from start to end, with pictures and report."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(TINYDIGITS, "train", *TINY, "--out", folder), folder


def test_train_ends_with_a_verdict_on_each_goal(finished: tuple[Outcome, Path]):
    outcome, _ = finished
    assert outcome.exit_code == 0, outcome.err
    verdicts = [line for line in outcome.out.splitlines() if line.startswith(("MET ", "MISSED "))]
    assert [line.split()[0] for line in verdicts] == ["MISSED", "MET", "MET"]


def test_train_prints_a_row_per_epoch(finished: tuple[Outcome, Path]):
    rows = re.findall(r"^ +(\d+) .* \d+\.\d\d %", finished[0].out, re.MULTILINE)
    assert rows == ["1", "2"]


def test_train_prints_no_bar_where_there_is_no_terminal(finished: tuple[Outcome, Path]):
    assert "it/s" not in finished[0].err
    assert "|" not in finished[0].err


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "metrics.csv", "summary.json", "model.safetensors"),
        *("curves.png", "misclassified.png", "confusion.png", "report.html"),
    ],
)
def test_train_leaves(finished: tuple[Outcome, Path], name: str):
    assert (finished[1] / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("inner", "options"),
    [("", ["--float"]), ("model.safetensors", [])],
    ids=["folder", "file"],
)
def test_evaluate_prints_what_the_run_measured(
    finished: tuple[Outcome, Path], command: Command, inner: str, options: list[str]
):
    measured = re.findall(r"([\d.]+) % after the last epoch", finished[0].out)
    outcome = command("evaluate", finished[1] / inner, *options)
    assert outcome.exit_code == 0
    measured_on, accuracy, *_ = outcome.out.splitlines()
    file = finished[1] / "model.safetensors"
    assert measured_on == f"{file} in float32, on the 10,000 test digits"
    assert accuracy.startswith(f"accuracy {measured[0]} %")


def test_evaluate_says_whether_a_folder_or_a_preset_was_measured(
    few: Mnist, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run folder that is called like a preset goes first; nobody may take it for the preset."""
    monkeypatch.chdir(tmp_path)
    shipped = Path(tinydigits.__file__).parent / "weights" / "tiny1k"
    for words, what in ((), ".tdq in integers"), (("--float",), ".safetensors in float32"):
        out = command("evaluate", "tiny1k", *words).out
        assert out.startswith(f"{shipped}{what}, on the 200 test digits")
    (tmp_path / "tiny1k").mkdir()
    save_model(tmp_path / "tiny1k" / "model.safetensors", Network(("conv3:2", "pool", "pool")))
    file = Path("tiny1k") / "model.safetensors"
    assert command("evaluate", "tiny1k").out.startswith(f"{file} in float32, on the 200 test")


def test_evaluate_names_the_classes_as_the_network_does(
    few: Mnist, command: Command, tmp_path: Path
):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    save_model(tmp_path / "model.safetensors", Network(("conv3:2", "pool"), class_names=names))
    out = command("evaluate", tmp_path).out
    rows = re.findall(r"^ *([a-z]+) +(?:[\d.]+ %|-) +(?:[\d.]+ %|-)$", out, re.MULTILINE)
    assert tuple(rows) == names
    assert re.search(
        rf"^({'|'.join(names)}) for ({'|'.join(names)}): \d+ times$", out, re.MULTILINE
    )


def test_evaluate_refuses_a_network_of_fewer_classes(few: Mnist, command: Command, tmp_path: Path):
    save_model(tmp_path / "model.safetensors", Network(("conv3:2",), class_names=("a", "b", "c")))
    outcome = command("evaluate", tmp_path)
    assert outcome.exit_code == 2
    assert "was not trained on MNIST: name the folder of its run" in outcome.sentence


def test_report_is_written_again(finished: tuple[Outcome, Path], command: Command):
    before = (finished[1] / "report.html").read_text()
    (finished[1] / "report.html").unlink()
    assert command("report", finished[1]).exit_code == 0
    assert (finished[1] / "report.html").read_text() == before


def test_summary_prints_the_totals(command: Command):
    out = command("summary", "baseline").out
    assert re.search(r"conv3:16 +16 x 26 x 26 +176 +97,344 +176\n", out)
    assert re.search(r"in all +19,664 +3,876,224 +19,664\n", out)


def test_presets_are_listed_with_what_they_are_for(command: Command):
    out = command("presets").out
    for name, make in PRESETS.items():
        assert re.search(rf"^{re.escape(name)} .*\w", out, re.MULTILINE)
        assert (make.__doc__ or "").splitlines()[0] in out


def test_data_says_where_the_files_are(command: Command, mnist: Mnist):
    out = command("data").out
    assert out.count("verified") == 4
    assert all(Path(line.split()[-1]).is_file() for line in out.splitlines())


def test_reader_that_has_enough_is_no_error():
    with subprocess.Popen([TINYDIGITS, "presets"], stdout=subprocess.PIPE, stderr=-1) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.slow
def test_training_that_nobody_reads_stops_and_says_how_to_go_on(tmp_path: Path):
    words = [TINYDIGITS, "train", *TINY, "--out", tmp_path / "run"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"go on with: tinydigits train --resume {tmp_path / 'run'}" in err.decode()
    assert err.count(b"\n") == 1


def test_version_is_printed(command: Command):
    assert command("--version").out == f"{tinydigits.__version__}\n"


def test_version_of_the_package_is_that_of_the_project():
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    assert f'version = "{tinydigits.__version__}"' in text


def test_names_at_the_top_of_the_package_are_all_there():
    for name in tinydigits.__all__:
        assert getattr(tinydigits, name).__name__ == name
