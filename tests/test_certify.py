"""Studies over seeds: the statistics, the resumable results file, and a real Ray cluster."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from tinydigits import Failure, Misuse, config
from tinydigits.certify import certify, describe, verdicts
from tinydigits.files import read_json
from tinydigits.model import load_model


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset that trains in a few seconds."""

    def cheap() -> config.Config:
        return config.improved("cheap", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)

    monkeypatch.setitem(config.PRESETS, "cheap", cheap)
    monkeypatch.setitem(config.CLAIMS, "cheap", 5.0)
    return "cheap"


def test_statistics_by_hand() -> None:
    rows = [{"accuracy": accuracy} for accuracy in (99.3, 99.5, 99.7)]
    numbers = describe(rows)
    assert numbers["n"] == 3
    assert numbers["mean"] == pytest.approx(99.5)
    assert numbers["sd"] == pytest.approx(0.2)
    assert numbers["minimum"] == 99.3
    assert numbers["over_goal"] == 2
    # t(0.95, 2 degrees of freedom) = 2.919986, from a table
    assert numbers["lower_bound"] == pytest.approx(99.5 - 2.919986 * 0.2 / math.sqrt(3), abs=1e-6)


def test_exactly_the_goal_is_not_over_it() -> None:
    assert describe([{"accuracy": 99.4}, {"accuracy": 99.41}])["over_goal"] == 1


@pytest.mark.slow
def test_a_study_is_complete_and_goes_on_with_missing_seeds(cheap: str, tmp_path: Path) -> None:
    study = certify(cheap, seeds=2, jobs=1, folder=tmp_path)
    assert [row["seed"] for row in study["seeds"]] == [0, 1]
    assert {"seed", "accuracy", "loss", "first_epoch_over_goal", "seconds"} <= {*study["seeds"][0]}
    assert {"config", "versions", "processor", "threads_per_seed", "commit"} <= {*study}
    assert study["seeds"][0]["weights_sha256"] != study["seeds"][1]["weights_sha256"]
    assert load_model(tmp_path / "cheap.safetensors").training is False
    # Take one seed away, mark the other: the missing one comes back, the other is left alone.
    path = tmp_path / "cheap.json"
    kept = {**study["seeds"][0], "loss": -1.0}
    path.write_text(json.dumps({**study, "seeds": [kept]}))
    again = certify(cheap, seeds=2, jobs=1, folder=tmp_path)
    assert again["seeds"][0] == kept
    assert again["seeds"][1]["weights_sha256"] == study["seeds"][1]["weights_sha256"]


@pytest.mark.slow
def test_a_study_of_another_configuration_is_not_mixed_in(
    cheap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(cheap, seeds=2, jobs=2, folder=tmp_path)
    before = (tmp_path / "cheap.json").read_bytes()
    other = config.improved("cheap", "conv3:3 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setitem(config.PRESETS, "cheap", lambda: other)
    with pytest.raises(Misuse, match="another config"):
        certify(cheap, seeds=3, jobs=2, folder=tmp_path)
    assert (tmp_path / "cheap.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, dozens of them
def test_a_ray_cluster_gives_the_same_weights(cheap: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    local = certify(cheap, seeds=2, jobs=2, folder=tmp_path / "local")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        cluster = certify(cheap, seeds=2, jobs=2, backend="ray", folder=tmp_path / "ray")
    finally:
        ray.shutdown()
    for here, there in zip(local["seeds"], cluster["seeds"], strict=True):
        assert here["weights_sha256"] == there["weights_sha256"]


def test_who_stops_a_study_is_told_how_to_go_on(
    cheap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(made: config.Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinydigits.certify.train_seed", stop)
    with pytest.raises(KeyboardInterrupt):
        certify(cheap, seeds=2, jobs=1, folder=tmp_path)
    assert "Stopped with 0 of 2 seeds; the same command goes on" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", '{"seeds": [{"accuracy": 1}]}', '{"seeds": []}'])
def test_a_file_that_holds_no_study_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classic.json"
    path.write_text(content)
    with pytest.raises(Failure, match=r"classic\.json does not hold 1 or more seeds"):
        certify("classic", folder=tmp_path)
    assert path.read_text() == content


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(Misuse, match="at least 2 seeds"):
        certify("classic", seeds=1)
    with pytest.raises(Misuse, match="no preset"):
        certify("classical")


@pytest.mark.parametrize("name", config.CLAIMS)
def test_what_a_preset_claims_was_measured_with_its_present_recipe(name: str) -> None:
    study = read_json(Path(__file__).parents[1] / "results" / f"{name}.json")
    assert [row["seed"] for row in study["seeds"]] == list(range(study["statistics"]["n"]))
    assert study["statistics"]["n"] >= 10
    assert study["statistics"] == describe(study["seeds"])
    assert study["statistics"]["mean"] >= config.CLAIMS[name]
    measured = config.Config.from_json({**study["config"], "seed": 0})
    assert measured == dataclasses.replace(config.preset(name), threads=measured.threads)


def test_the_default_preset_passes_the_goal_with_nearly_every_seed() -> None:
    numbers = read_json(Path(__file__).parents[1] / "results" / "classic.json")["statistics"]
    assert numbers["over_goal"] / numbers["n"] >= 0.9


def test_no_preset_trains_longer_than_it_may() -> None:
    assert all(make().epochs <= 15 for make in config.PRESETS.values())
    assert config.sprint().epochs == 1


@pytest.mark.parametrize(("mean", "holds"), [(99.49, False), (99.5, True)])
def test_verdicts_judge_the_goals_and_the_claim(mean: float, holds: bool) -> None:
    study = {
        "preset": "classic",
        "config": {k: v for k, v in config.classic().to_json().items() if k != "seed"},
        "statistics": {"mean": mean},
    }
    goals = verdicts(study)
    assert [row[1] for row in goals] == [True, True, True, holds]
    assert goals[1][2] == "19,664"
