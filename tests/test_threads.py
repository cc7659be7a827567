"""The comparison of threads: complete, and the choices in the code are those that it supports."""

import statistics
from pathlib import Path

import pytest

from lab import threads
from tinydigits import UsageError, preset
from tinydigits.files import read_json
from tinydigits.training.hardware import step_macs
from tinydigits.training.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "results"
CHOSEN = 10_000
"""The GOMP_SPINCOUNT that the package sets; test_hardware.py sees to it."""


TIMED = [name for name, make in PRESETS.items() if not make().drawn]
"""The presets of MNIST alone."""


@pytest.fixture(scope="module")
def committed() -> dict:
    return read_json(RESULTS / "threads.json")["presets"]


@pytest.fixture(scope="module")
def waiting() -> dict:
    return read_json(RESULTS / "waiting.json")


def test_the_committed_comparisons_are_of_the_present_presets(
    committed: dict, waiting: dict
) -> None:
    assert list(committed) == TIMED
    for name, row in committed.items():
        assert row["step_macs"] == step_macs(preset(name))
        one, several = row["seconds_per_step"].values()
        assert len(one) == len(several) >= 5
    assert [row["spins"] for row in waiting["waiting"] if row["threads"] > 1] == [*threads.WAITS]
    for row in waiting["waiting"]:
        assert len(row["quiet"]) == len(row["busy"]) >= 5


def test_several_threads_are_taken_where_they_help(committed: dict) -> None:
    """On one processor more than on another, so a little may be left where one is taken."""
    taken = {name for name, row in committed.items() if row["threads"] > 1}
    assert taken == {"baseline", "classic", "tiny20k", "tiny10k", "dash"}
    for name, row in committed.items():
        assert threads.gain(row) > 1.1 if name in taken else threads.gain(row) < 1.3, name


def test_the_chosen_waiting_helps_beside_busy_processes_and_costs_little(waiting: dict) -> None:
    rows = {row["spins"]: row for row in waiting["waiting"] if row["threads"] > 1}
    default, chosen = rows[threads.WAITS[0]], rows[CHOSEN]
    assert max(chosen["busy"]) < max(default["busy"]) / 2
    assert statistics.median(chosen["quiet"]) < 1.1 * statistics.median(default["quiet"])


def test_the_tables_have_a_row_for_everything(committed: dict, waiting: dict) -> None:
    waits = threads.waiting_table(waiting).splitlines()
    assert len(waits) == 2 + 1 + len(threads.WAITS) + 2
    gains = threads.gain_table({"presets": committed}).splitlines()
    assert [line.split("|")[1].strip() for line in gains[2:-2]] == TIMED
    for table in (waits, gains):
        assert len({line.count("|") for line in table[:-2]}) == 1


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seconds": 0}])
def test_nothing_to_measure_is_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1, and seconds"):
        threads.compare_threads(("tiny1k",), tmp_path, **options)
    with pytest.raises(UsageError, match="at least 1, and seconds"):
        threads.compare_waiting(tmp_path, **options)


def test_a_single_core_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lab.threads.count_cores", lambda: 1)
    with pytest.raises(UsageError, match="single core"):
        threads.compare_threads(("tiny1k",), tmp_path)


@pytest.mark.slow
def test_a_comparison_times_all_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lab.threads.WAITS", (3000, 1000))
    monkeypatch.setattr("lab.threads.count_cores", lambda: 2)
    threads.compare_threads(("classic",), tmp_path, rounds=1, seconds=0.1)
    timed = threads.compare_threads(("tiny1k",), tmp_path, rounds=2, seconds=0.1)
    assert timed == read_json(tmp_path / "threads.json")
    found = {name: row["seconds_per_step"] for name, row in timed["presets"].items()}
    assert [len(turns) for row in found.values() for turns in row.values()] == [1, 1, 2, 2]
    assert all(turn > 0 for row in found.values() for turns in row.values() for turn in turns)
    assert "median of 1 or 2 turns" in threads.gain_table(timed)
    waited = threads.compare_waiting(tmp_path, rounds=1, seconds=0.1)
    assert waited == read_json(tmp_path / "waiting.json")
    times = [turns for row in waited["waiting"] for turns in (row["quiet"], row["busy"])]
    assert [len(turns) for turns in times] == [1] * 3 * 2
    assert all(turns[0] > 0 for turns in times)
    assert "| 2 | 1,000 |" in threads.waiting_table(waited)


@pytest.mark.slow
def test_busy_processes_end_with_the_block() -> None:
    with threads.busy_processes(2) as busy:
        assert [process.poll() for process in busy] == [None, None]
    assert all(process.poll() is not None for process in busy)
