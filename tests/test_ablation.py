"""The way from baseline to classic: what it is made of, and its statistics."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lab import ablation
from lab.study import without_seed
from tinydigits import Config, Failure, UsageError
from tinydigits.training import presets

ROOT = Path(__file__).parents[1]


def test_the_way_leads_from_baseline_to_classic() -> None:
    way = ablation.stops()
    assert way[0][1:] == (presets.baseline(), "baseline.json")
    assert way[-1][2] == "classic.json"
    assert dataclasses.replace(way[-1][1], seed=presets.classic().seed) == presets.classic()


def test_the_stops_between_have_numbered_results_of_their_own() -> None:
    between = ablation.stops()[1:-1]
    names = [str(number) for number in range(1, len(between) + 1)]
    assert [path for _, _, path in between] == [f"ablation/{name}.json" for name in names]
    committed = (ROOT / "results" / "ablation").iterdir()
    assert sorted(path.name for path in committed) == sorted(f"{name}.json" for name in names)


def test_every_step_changes_something_for_good() -> None:
    """A later step that takes a field back would make the earlier one look pointless."""
    way = [dataclasses.asdict(made) for _, made, _ in ablation.stops()]
    for field in way[0]:
        values = [value for value, _ in itertools.groupby(made[field] for made in way)]
        assert len(values) == len(set(values)), field
    for before, after in itertools.pairwise(way):
        assert {key for key in before if before[key] != after[key]} - {"name"}


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(99.5, 0.05, 5), random.normal(99.0, 0.2, 10)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    half = ablation.welch_margin(len(a), float(a.std(ddof=1)), len(b), float(b.std(ddof=1)))
    assert half == pytest.approx((interval.high - interval.low) / 2)


@pytest.mark.parametrize("there", ["classic", "baseline"])
def test_the_ends_must_be_certified_first(tmp_path: Path, clean_tree: None, there: str) -> None:
    write_study(tmp_path / f"{there}.json", presets.preset(there), 99.0, 99.1)
    (missing,) = {"classic", "baseline"} - {there}
    with pytest.raises(UsageError, match=f"run python -m lab certify {missing} first"):
        ablation.ablate(2, 1, "local", tmp_path)


def write_study(path: Path, made: Config, *accuracies: float) -> None:
    study = {
        "processor": "abacus",
        "threads_per_seed": 1,
        "versions": {"torch": "2"},
        "config": without_seed(made),
        "seeds": [{"seed": i, "accuracy": accuracy} for i, accuracy in enumerate(accuracies)],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(study))


def test_a_gap_is_not_bridged(tmp_path: Path) -> None:
    """The effect of several changes must not pass for that of the last one."""
    for made in (presets.baseline(), presets.classic()):
        write_study(tmp_path / f"{made.name}.json", made, 99.0, 99.1)
    with pytest.raises(Failure, match=r"1\.json is missing: make it with python -m lab ablation"):
        ablation.read_rows(tmp_path)


def test_results_of_another_training_are_refused(tmp_path: Path) -> None:
    """The files are numbered: who puts a change in between must not relabel the old results."""
    way = [(made, tmp_path / path) for _, made, path in ablation.stops()]
    for made, path in way:
        write_study(path, made, 99.0, 99.1)
    assert len(ablation.read_rows(tmp_path)) == len(way)
    write_study(way[2][1], way[3][0], 99.0, 99.1)
    with pytest.raises(Failure, match=r"2\.json is of another training"):
        ablation.read_rows(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"seeds": [{"accuracy": 99}, {"accuracy": 99}], "config": {"layers": ["conv3:2"]}}',
        '{"seeds": [{"seed": 0, "accuracy": 99}], "config": {"layers": ["conv3:2"]}}',
        '{"seeds": [{"seed": 0, "accuracy": 99}, {"seed": 1, "accuracy": 99}], '
        '"config": {"layers": ["conv3:2"]}}',
    ],
)
def test_a_study_that_is_damaged_or_cut_short_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(Failure, match="does not hold 2 or more seeds"):
        ablation.read_rows(tmp_path)


@pytest.mark.slow
def test_only_what_is_missing_is_trained(
    tmp_path: Path, clean_tree: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = presets.improved("baseline", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setattr(ablation, "preset", lambda name: tiny)
    monkeypatch.setattr(ablation, "CHANGES", (("plain", {"rotation": 0}), ("slow", {"lr": 0.01})))
    first, between, last = ((made, tmp_path / path) for _, made, path in ablation.stops())
    write_study(first[1], first[0], 50.0, 51.0)
    write_study(last[1], last[0], 80.0, 82.0)
    rows = ablation.ablate(2, 2, "local", tmp_path)
    assert [row["n"] for row in rows] == [2, 2, 2]
    assert (rows[0]["mean"], rows[2]["mean"]) == (50.5, 81.0)
    assert rows[1]["effect"] == pytest.approx(rows[1]["mean"] - 50.5)
    assert rows[2]["effect"] == pytest.approx(81 - rows[1]["mean"])
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {first[1], between[1], last[1]}  # and no weights
    before = between[1].read_bytes()
    monkeypatch.setattr("lab.study.train_seed", None)  # training now would fail
    assert ablation.ablate(2, 2, "local", tmp_path) == rows
    assert between[1].read_bytes() == before
