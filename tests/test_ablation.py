"""The way from the notebook's recipe to classic: what it is made of, and its statistics."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tinydigits import Failure, Misuse, ablation, config


def test_the_way_leads_from_notebook_to_classic() -> None:
    way = [made for _, made in ablation.recipes()]
    assert way[0] == config.notebook()
    assert dataclasses.replace(way[-1], seed=config.classic().seed) == config.classic()


def test_every_step_changes_something_for_good() -> None:
    """A later step that takes a field back would make the earlier one look pointless."""
    changed = [field for _, fields in ablation.CHANGES for field in fields]
    assert len(changed) == len(set(changed))
    for before, after in zip(ablation.recipes(), ablation.recipes()[1:], strict=False):
        a, b = dataclasses.asdict(before[1]), dataclasses.asdict(after[1])
        assert {key for key in a if a[key] != b[key]} - {"name"}


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(99.5, 0.05, 5), random.normal(99.0, 0.2, 10)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    half = ablation.welch(len(a), float(a.std(ddof=1)), len(b), float(b.std(ddof=1)))
    assert half == pytest.approx((interval.high - interval.low) / 2)


def test_the_ends_must_be_certified_first(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="certify notebook"):
        ablation.ablate(2, 1, "local", tmp_path)


def test_a_gap_is_not_bridged(tmp_path: Path) -> None:
    """The worth of several changes must not pass for that of the last one."""
    for name in ("notebook", "classic"):
        rows = [{"accuracy": 99.0}, {"accuracy": 99.1}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"seeds": rows}))
    with pytest.raises(Failure, match=r"ablation-1\.json is missing"):
        ablation.read_rows(tmp_path)


@pytest.mark.slow
def test_only_what_is_missing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = config.improved("notebook", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setattr(ablation, "preset", lambda name: tiny)
    monkeypatch.setattr(
        ablation, "CHANGES", (("plain", {"rotation": 0}), ("slow", {"learning_rate": 0.01}))
    )
    for name, accuracies in (("notebook", (50.0, 51.0)), ("classic", (80.0, 82.0))):
        rows = [{"accuracy": accuracy} for accuracy in accuracies]
        (tmp_path / f"{name}.json").write_text(json.dumps({"seeds": rows}))
    first, between, last = ablation.ablate(2, 2, "local", tmp_path)
    assert [row["n"] for row in (first, between, last)] == [2, 2, 2]
    assert (first["mean"], last["mean"]) == (50.5, 81.0)
    assert between["worth"] == pytest.approx(between["mean"] - 50.5)
    assert last["worth"] == pytest.approx(81 - between["mean"])
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "ablation-1.json",
        "classic.json",
        "notebook.json",
    ]
