"""What the tests share: outside tools, the real data, and the command line as a process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinydigits.data import Mnist, load_mnist

PACKAGES = {"chromium": "chromium", "npm": "npm"}
"""The Debian package of each command that `need_tool` is asked for, where the names are known."""

TINY = (
    *("--layers", "pool", "pool", "conv3:4", "--dropout", "0.1", "--averaging", "0.9"),
    *("--schedule", "one-cycle", "--learning-rate", "0.3", "--batch-size", "1000"),
    *("--epochs", "2", "--threads", "1"),
)
"""Options of a network that trains on the real data in a second, and has all sorts of state."""


def need_tool(name: str) -> str:
    """The path of a command that is no Python package; skips the test where it is missing.

    TINYDIGITS_REQUIRE_TOOLS in the environment (as in CI) turns the skip into a failure.
    """
    if path := shutil.which(name):
        return path
    missing = f"needs {name}: install the Debian package {PACKAGES.get(name, name)}"
    if os.environ.get("TINYDIGITS_REQUIRE_TOOLS"):
        pytest.fail(missing)
    pytest.skip(missing)


def tinydigits(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the installed command to its end."""
    command = Path(sys.executable).parent / "tinydigits"
    return run([command, *arguments], **options)


def child(moment: str, end: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that meets its `end` at a `moment`; see child.py."""
    return run([sys.executable, Path(__file__).with_name("child.py"), moment, end, *arguments])


def run(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command that prints text and reads nothing."""
    settings: dict = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run([str(word) for word in command], **settings | {"timeout": 300} | options)


def assert_one_sentence(process: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """The process told its user what went wrong in one line of its own; returns that line."""
    assert process.returncode == exit_code, process.stderr
    assert "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("tinydigits: ")]
    assert lines == process.stderr.splitlines()[-1:], process.stderr
    return lines[0]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors are quicker on one thread, and the sums come out alike on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist() -> Mnist:
    """The real data, found or fetched once."""
    return load_mnist()


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the options TINY that nothing disturbed. Only to be read."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = child("never", "SIGKILL", "train", *TINY, "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder
