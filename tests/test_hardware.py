"""Threads: how they wait, how many there are, and that a run keeps its number."""

import dataclasses
import os
import sys
from pathlib import Path

import joblib
import pytest
import torch
from conftest import TINYDIGITS, run

from tinydigits import Config, Mnist, preset, runs
from tinydigits.files import read_json
from tinydigits.training.hardware import choose_threads, count_cores, use_threads
from tinydigits.training.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "results"

CORES = 3
"""How many cores the tests pretend that there are."""

SMALL = ("pool", "pool", "conv3:4")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of `CORES` cores whose user has set no number of threads."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: CORES)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


# ---------------------------------------------------------------------------------- waiting


def libgomp() -> Path:
    """The OpenMP library that comes with this PyTorch."""
    found = sorted(Path(torch.__file__).parents[1].glob("torch*/**/libgomp*.so*"))
    if not found:
        pytest.skip("this PyTorch brings no libgomp, whose variable it is")
    return found[0]


def settled(*command: object, **variables: str) -> str:
    """How long threads will wait in a loop, as libgomp itself tells when a command loads it."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    outcome = run(*command, env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **variables})
    _, named, rest = outcome.err.partition("GOMP_SPINCOUNT = '")
    assert named, outcome.err
    return rest.partition("'")[0]


@pytest.mark.parametrize(
    ("variables", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
        ({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}, "7"),
    ],
    ids=["nothing set", "count set", "policy set", "both set"],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(
    variables: dict[str, str], spins: str
) -> None:
    code = "import ctypes, sys, tinydigits; ctypes.CDLL(sys.argv[1])"
    assert settled(sys.executable, "-c", code, libgomp(), **variables) == spins


WORKER = """
import os, tinydigits, joblib
print(*joblib.Parallel(2)([joblib.delayed(os.getenv)("GOMP_SPINCOUNT")] * 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [TINYDIGITS, "report", "there-is-no-run"],
        [sys.executable, "-m", "tinydigits", "report", "there-is-no-run"],
        [sys.executable, "-c", "from tinydigits import load_model; load_model('tiny1k')"],
    ],
    ids=["command", "module", "import"],
)
def test_every_way_in_sets_the_waiting_before_pytorch(command: list[object]) -> None:
    libgomp()  # skips where there is none
    assert settled(*command) == "10000"


@pytest.mark.slow
def test_workers_inherit_the_waiting() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    outcome = run(sys.executable, "-c", WORKER, env=environment)
    assert outcome.out.split() == ["10000", "10000"], outcome.err


# --------------------------------------------------------------------------- how many threads


def test_a_quota_counts_like_missing_cores() -> None:
    assert count_cores() == CORES
    assert choose_threads(preset("classic")) == CORES


@pytest.mark.parametrize("name", [name for name, make in PRESETS.items() if not make().drawn])
def test_several_threads_are_taken_where_the_committed_comparison_has_them(name: str) -> None:
    """Whether they help there is for test_threads.py to see."""
    row = read_json(RESULTS / "threads.json")["presets"][name]
    assert choose_threads(preset(name)) == (CORES if row["threads"] > 1 else 1)


def test_smaller_batches_need_fewer_threads() -> None:
    assert choose_threads(dataclasses.replace(preset("classic"), batch_size=2)) == 1


@pytest.mark.parametrize("name", ["classic", "tiny1k"])
@pytest.mark.parametrize(("asked", "threads"), [("5", 5), (" 2 ", 2), ("4,2", 4)])
def test_the_number_in_the_environment_is_honored(
    monkeypatch: pytest.MonkeyPatch, name: str, asked: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert choose_threads(preset(name)) == threads


@pytest.mark.parametrize("asked", ["", "0", "-1", "many", "1.5", "²", ","])
def test_what_is_no_number_is_ignored_as_openmp_does(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert choose_threads(preset("classic")) == CORES


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert use_threads(dataclasses.replace(preset("classic"), threads=2)) == 2
    assert torch.get_num_threads() == 2


# ----------------------------------------------------------------------- a run keeps its number


def test_a_resumed_run_has_as_many_threads_as_it_started_with(
    few: Mnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    started = runs.start(Config(layers=SMALL, epochs=2, batch_size=100, out=folder))
    next(runs.epochs(started))
    assert started.lock is not None
    started.lock.release()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    torch.set_num_threads(1)
    resumed = runs.resume(folder)
    assert (resumed.threads, torch.get_num_threads()) == (2, 2)
    assert len(resumed.history) == 1  # its checkpoint is accepted
    runs.complete(resumed)
    assert read_json(folder / "summary.json")["threads"] == 2
    assert read_json(folder / "config.json")["threads"] == 2
