"""The timings: complete, consistent with each other, and blind to nothing that they should see."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from lab import benchmark
from tinydigits.files import read_json, write_json
from tinydigits.training import config, presets

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("results")
    for name, seeds in (("sprint", 10), ("classic", 2)):  # two are too few to be certain
        rows = [{"seed": seed, "accuracy": 99.4} for seed in range(seeds)]
        made = presets.preset(name).to_json()
        machine = {"processor": "abacus", "threads_per_seed": 1, "versions": {"torch": "2"}}
        write_json(folder / f"{name}.json", {"config": made, "seeds": rows, **machine})
    return benchmark.benchmark(("sprint", "classic"), folder, rounds=1, steps=10)


@pytest.mark.slow
def test_all_presets_are_measured_beside_the_baseline(timed: dict) -> None:
    rows = timed["presets"]
    assert [name for name in rows if "float32" not in name] == ["baseline", "sprint", "classic"]
    chosen = rows["classic"]["precision"]
    assert ("classic in float32" in rows) == (chosen == "bfloat16")
    assert rows["baseline"]["times_as_fast"] == rows["baseline"]["share_of_baseline"] == 1
    assert rows["baseline"]["precision"] == "float32"
    for row in rows.values():
        assert row["seconds"] == pytest.approx(row["seconds_per_epoch"] * row["epochs"])
        assert sum(row["profile"].values()) == pytest.approx(1)
        assert row["precision"] in timed["matrix_flops_per_second"]
    assert rows["sprint"]["certified_mean"] == pytest.approx(99.4)
    assert rows["classic"]["certified_mean"] is None


@pytest.mark.slow
def test_the_profile_knows_what_a_preset_does(timed: dict) -> None:
    rows = timed["presets"]
    for row in rows.values():
        assert row["profile"]["optimizer"] > 0
        assert row["profile"]["the rest"] > 0
    # Muon computes more than SGD does, and most of it in operators that it calls.
    optimizers = [rows[name]["profile"]["optimizer"] for name in ("sprint", "baseline")]
    assert optimizers[0] > optimizers[1]
    assert rows["baseline"]["profile"]["augmentation"] == 0
    assert rows["baseline"]["profile"]["dropout"] > 0
    assert rows["classic"]["profile"]["dropout"] == 0
    assert rows["classic"]["profile"]["augmentation"] > 0
    assert 0 < rows["classic"]["augmentation_share"] < 1
    assert rows["baseline"]["augmentation_share"] == 0
    # SGD is cheap beside what it optimizes; Muon on small batches need not be.
    baseline = rows["baseline"]["profile"]
    assert baseline["convolutions, backward"] > baseline["optimizer"]
    for row in rows.values():
        assert row["profile"]["convolutions, backward"] > 0
        assert min(row["profile"][part] for part in ("BatchNorm, forward", "ReLU", "pooling")) > 0


@pytest.mark.slow
def test_the_tables_have_a_row_for_everything(timed: dict) -> None:
    speed = benchmark.speed_table(timed).splitlines()
    assert [line.split("|")[1].strip() for line in speed[2:5]] == ["baseline", "sprint", "classic"]
    assert "| yes |" in speed[3]
    assert "| not certified |" in speed[4]
    profile = benchmark.profile_table(timed).splitlines()
    assert len(profile) == 2 + len(benchmark.PARTS) + 2
    assert len({line.count("|") for line in profile}) == 1


def test_flops_of_a_step_by_hand() -> None:
    one = config.Config(layers=("conv3:2",), batch_size=10)
    # 18 weights x 26 x 26 pixels, 20 weights of the classes; two operations each; three passes
    assert benchmark.step_flops(one) == 3 * 2 * (18 * 26 * 26 + 20) * 10


def test_a_convolution_is_nothing_but_a_convolution(capfd: pytest.CaptureFixture[str]) -> None:
    """The names of PyTorch's operators change: this notices when the parts no longer fit."""
    layer, images = nn.Conv2d(3, 3, 3), torch.randn(8, 3, 28, 28)
    with benchmark.profile(activities=[benchmark.ProfilerActivity.CPU]) as recorded:
        seconds = benchmark.seconds_of(lambda: layer(images).sum().backward())
    assert capfd.readouterr().err == ""
    shares = benchmark.shares_of_parts(recorded.key_averages(), seconds)
    assert shares["convolutions, forward"] > 0
    assert shares["convolutions, backward"] > 0
    assert shares["BatchNorm, forward"] == shares["ReLU"] == shares["optimizer"] == 0
    assert 0 < shares["the rest"] < 1


def test_the_committed_timings_are_of_the_present_presets_and_results() -> None:
    rows = read_json(RESULTS / "benchmark.json")["presets"]
    assert {name for name, make in presets.PRESETS.items() if not make().drawn} <= {*rows}
    for name, row in rows.items():
        timed = config.Config.from_json(row["config"])
        now = presets.preset(name.removesuffix(" in float32"))
        same = {field: getattr(timed, field) for field in ("threads", "device", "precision")}
        assert timed == dataclasses.replace(now, **same)
        assert row["certified_mean"] == benchmark.certified_mean(RESULTS, name)


def test_the_committed_timings_reach_what_was_asked_for() -> None:
    timed = read_json(RESULTS / "benchmark.json")
    rows = timed["presets"]
    assert rows["classic"]["times_as_fast"] >= 3
    assert rows["classic in float32"]["times_as_fast"] >= 1.8
    reaching = [row for row in rows.values() if (row["certified_mean"] or 0) >= timed["goal"]]
    assert min(row["share_of_baseline"] for row in reaching) <= 1 / 20
    assert max(row["augmentation_share"] for row in rows.values()) < 1 / 5
