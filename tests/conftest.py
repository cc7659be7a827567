"""What the tests share: outside tools, the real data, and the command line as a process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings

from lab import __main__ as lab
from tinydigits.cli import main
from tinydigits.data.mnist import Mnist, load_mnist

settings.register_profile("unhurried", deadline=None)  # on a busy one anything may take long
settings.load_profile("unhurried")

PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "arm-none-eabi-nm": "binutils-arm-none-eabi",
    "node": "nodejs",
    "wasm-ld": "lld",
}
"""The Debian package of each command that `need_tool` is asked for, where it has another name."""

TINY = (
    *("--layers", "pool", "pool", "conv3:4", "--dropout", "0.1", "--ema-decay", "0.9"),
    *("--schedule", "one-cycle", "--lr", "0.3", "--batch-size", "1000"),
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


class Outcome(NamedTuple):
    """What a call of the command line came to."""

    exit_code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line in which a failure is told."""
        *_, last = self.err.splitlines()
        assert last.startswith("tinydigits: ")
        assert self.err.count("tinydigits: ") == 1
        assert "Traceback" not in self.err
        return last


TINYDIGITS = Path(sys.executable).with_name("tinydigits")
"""The installed command."""


def child(moment: str, end: str, *arguments: object) -> Outcome:
    """Run the command line in a process that meets its `end` at a `moment`; see child.py."""
    return run(sys.executable, Path(__file__).with_name("child.py"), moment, end, *arguments)


def run(*command: object, timeout: float = 300, **options: Any) -> Outcome:
    """Run a command that prints text and reads nothing."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


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
    outcome = child("never", "SIGKILL", "train", *TINY, "--out", folder)
    assert outcome.exit_code == 0, outcome.err
    return folder


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """The command line as a function, in this process: quicker than `tinydigits`."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        exit_code = 0
        try:
            words = [str(argument) for argument in arguments]
            if words[:1] == ["lab"]:  # python -m lab
                lab.main(words[1:])
            else:
                main(words)
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
        said = capfd.readouterr()
        return Outcome(exit_code, said.out, said.err)

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def few(mnist: Mnist, monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """Runs see only the first 500 training digits and 200 test digits, and draw no report."""
    digits = Mnist(*(part[: 200 if len(part) == 10_000 else 500] for part in mnist))
    for module in ("mnist", "dataset"):
        monkeypatch.setattr(f"tinydigits.data.{module}.load_mnist", lambda root: digits)
    monkeypatch.setattr("tinydigits.data.mnist.HELD_OUT", 100)
    monkeypatch.setattr("tinydigits.runs.write_report", lambda *_: None)
    return digits


@pytest.fixture
def clean_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code counts as committed; the tests are run before that, too."""
    monkeypatch.setattr("lab.study.commit", lambda: "c0ffee")
