"""The way from the notebook's recipe to classic: what it is made of, and its statistics."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tinydigits import Failure, Misuse, ablation, config
from tinydigits.certify import without_seed


def test_the_way_leads_from_notebook_to_classic() -> None:
    way = [made for _, made in ablation.recipes()]
    assert way[0] == config.notebook()
    assert dataclasses.replace(way[-1], seed=config.classic().seed) == config.classic()


def test_every_step_changes_something_for_good() -> None:
    """A later step that takes a field back would make the earlier one look pointless."""
    way = [dataclasses.asdict(made) for _, made in ablation.recipes()]
    for field in way[0]:
        values = [value for value, _ in itertools.groupby(made[field] for made in way)]
        assert len(values) == len(set(values)), field
    for before, after in zip(ablation.recipes(), ablation.recipes()[1:], strict=False):
        a, b = dataclasses.asdict(before[1]), dataclasses.asdict(after[1])
        assert {key for key in a if a[key] != b[key]} - {"name"}


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(99.5, 0.05, 5), random.normal(99.0, 0.2, 10)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    half = ablation.welch_margin(len(a), float(a.std(ddof=1)), len(b), float(b.std(ddof=1)))
    assert half == pytest.approx((interval.high - interval.low) / 2)


def test_the_ends_must_be_certified_first(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="certify notebook"):
        ablation.ablate(2, 1, "local", tmp_path)


def write_study(folder: Path, made: config.Config, *accuracies: float) -> None:
    study = {
        "processor": "abacus",
        "threads_per_seed": 1,
        "versions": {"torch": "2"},
        "config": without_seed(made),
        "seeds": [{"seed": i, "accuracy": accuracy} for i, accuracy in enumerate(accuracies)],
    }
    (folder / f"{made.name}.json").write_text(json.dumps(study))


def test_a_gap_is_not_bridged(tmp_path: Path) -> None:
    """The worth of several changes must not pass for that of the last one."""
    for made in (config.notebook(), config.classic()):
        write_study(tmp_path, made, 99.0, 99.1)
    with pytest.raises(Failure, match=r"ablation-1\.json is missing"):
        ablation.read_rows(tmp_path)


def test_results_of_another_recipe_are_refused(tmp_path: Path) -> None:
    """The files are numbered: who puts a change in between must not relabel the old results."""
    way = [made for _, made in ablation.recipes()]
    for made in way:
        write_study(tmp_path, made, 99.0, 99.1)
    assert len(ablation.read_rows(tmp_path)) == len(way)
    write_study(tmp_path, dataclasses.replace(way[3], name=way[2].name), 99.0, 99.1)
    with pytest.raises(Failure, match=f"{way[2].name}.json is of another recipe"):
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
    (tmp_path / "notebook.json").write_text(text)
    with pytest.raises(Failure, match="does not hold 2 or more seeds"):
        ablation.read_rows(tmp_path)


@pytest.mark.slow
def test_only_what_is_missing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = config.improved("notebook", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setattr(ablation, "preset", lambda name: tiny)
    monkeypatch.setattr(
        ablation, "CHANGES", (("plain", {"rotation": 0}), ("slow", {"learning_rate": 0.01}))
    )
    first, between, last = (made for _, made in ablation.recipes())
    write_study(tmp_path, first, 50.0, 51.0)
    write_study(tmp_path, last, 80.0, 82.0)
    rows = ablation.ablate(2, 2, "local", tmp_path)
    assert [row["n"] for row in rows] == [2, 2, 2]
    assert (rows[0]["mean"], rows[2]["mean"]) == (50.5, 81.0)
    assert rows[1]["worth"] == pytest.approx(rows[1]["mean"] - 50.5)
    assert rows[2]["worth"] == pytest.approx(81 - rows[1]["mean"])
    names = {f"{made.name}.json" for made in (first, between, last)}
    assert {path.name for path in tmp_path.iterdir()} == names  # and no weights
    before = (tmp_path / f"{between.name}.json").read_bytes()
    monkeypatch.setattr("tinydigits.certify.train_seed", None)  # training now would fail
    assert ablation.ablate(2, 2, "local", tmp_path) == rows
    assert (tmp_path / f"{between.name}.json").read_bytes() == before
