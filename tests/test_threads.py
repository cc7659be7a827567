"""The comparison of threads: complete, and the choices in the code are those that it supports."""

import statistics
from pathlib import Path

import pytest

from tinydigits import Misuse, preset
from tinydigits.config import PRESETS
from tinydigits.files import read_json
from tinydigits.lab import threads
from tinydigits.machine import step_macs

RESULTS = Path(__file__).parents[1] / "results"
CHOSEN = 10_000
"""The GOMP_SPINCOUNT that the package sets; test_machine.py sees to it."""


@pytest.fixture(scope="module")
def committed() -> dict:
    return read_json(RESULTS / "threads.json")


def test_the_committed_comparison_is_of_the_present_presets(committed: dict) -> None:
    assert list(committed["presets"]) == list(PRESETS)
    for name, row in committed["presets"].items():
        assert row["step_macs"] == step_macs(preset(name))
        assert all(len(turns) == committed["rounds"] for turns in row["seconds_per_step"].values())
    assert [row["spins"] for row in committed["waiting"] if row["threads"] > 1] == [*threads.WAITS]
    for row in committed["waiting"]:
        assert len(row["quiet"]) == len(row["busy"]) == committed["rounds"]


def test_several_threads_are_taken_where_they_help(committed: dict) -> None:
    """On one processor more than on another, so a little may be left where one is taken."""
    taken = {name for name, row in committed["presets"].items() if row["threads"] > 1}
    assert taken == {"baseline", "classic", "tiny20k", "tiny10k", "dash"}
    for name, row in committed["presets"].items():
        assert threads.gain(row) > 1.1 if name in taken else threads.gain(row) < 1.3, name


def test_the_chosen_waiting_helps_beside_busy_processes_and_costs_little(committed: dict) -> None:
    rows = {row["spins"]: row for row in committed["waiting"] if row["threads"] > 1}
    default, chosen = rows[threads.WAITS[0]], rows[CHOSEN]
    assert max(chosen["busy"]) < max(default["busy"]) / 2
    assert statistics.median(chosen["quiet"]) < 1.1 * statistics.median(default["quiet"])


def test_the_tables_have_a_row_for_everything(committed: dict) -> None:
    waiting = threads.waiting_table(committed).splitlines()
    assert len(waiting) == 2 + 1 + len(threads.WAITS) + 2
    gains = threads.gain_table(committed).splitlines()
    assert [line.split("|")[1].strip() for line in gains[2:-2]] == list(PRESETS)
    for table in (waiting, gains):
        assert len({line.count("|") for line in table[:-2]}) == 1


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seconds": 0}])
def test_nothing_to_measure_is_refused(options: dict) -> None:
    with pytest.raises(Misuse, match="at least 1 round"):
        threads.compare(**options)


def test_a_single_core_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinydigits.lab.threads.count_cores", lambda: 1)
    with pytest.raises(Misuse, match="single core"):
        threads.compare()


@pytest.mark.slow
def test_a_comparison_times_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinydigits.lab.threads.PRESETS", {"classic": None, "tiny1k": None})
    monkeypatch.setattr("tinydigits.lab.threads.WAITS", (3000, 1000))
    monkeypatch.setattr("tinydigits.lab.threads.count_cores", lambda: 2)
    timed = threads.compare(rounds=1, seconds=0.1)
    times = [turns for row in timed["waiting"] for turns in (row["quiet"], row["busy"])]
    for row in timed["presets"].values():
        times += row["seconds_per_step"].values()
    assert len(times) == 3 * 2 + 2 * 2
    assert all(len(turns) == 1 and turns[0] > 0 for turns in times)
    assert "| classic |" in threads.gain_table(timed)
    assert "| 2 | 1,000 |" in threads.waiting_table(timed)


@pytest.mark.slow
def test_busy_processes_end_with_the_block() -> None:
    with threads.busy_processes(2) as busy:
        assert [process.poll() for process in busy] == [None, None]
    assert all(process.poll() is not None for process in busy)
