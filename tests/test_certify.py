"""Studies over seeds: the statistics, the resumable results file, and a real Ray cluster."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import need_tool, run

from tinydigits import Failure, Misuse, config
from tinydigits.files import read_json
from tinydigits.lab import certify as module
from tinydigits.lab.certify import certify, describe, verdicts
from tinydigits.model import load_model

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cheap(clean_tree: None, monkeypatch: pytest.MonkeyPatch) -> str:
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
    assert {"config", "versions", "processor", "threads_per_seed"} <= {*study}
    assert [row["commit"] for row in study["seeds"]] == ["c0ffee"] * 2
    weights = (tmp_path / "cheap.safetensors").read_bytes()
    assert study["seeds"][0]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
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


# -------------------------------------------------------------------- the code that trained it


def train_nothing(made: config.Config) -> tuple[dict[str, Any], bytes]:
    return {"seed": made.seed, "accuracy": 99.0 + made.seed / 10}, b"weights"


@pytest.fixture
def no_training(cheap: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset that is not trained at all; its studies need jobs=1."""
    monkeypatch.setattr(module, "train_seed", train_nothing)
    return cheap


def test_a_continued_study_keeps_the_commit_of_each_seed(
    no_training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now, seeds in (("first", 2), ("second", 3), (None, 4)):
        monkeypatch.setattr(module, "commit", lambda now=now: now)
        study = certify(no_training, seeds, jobs=1, folder=tmp_path)
    assert [row["commit"] for row in study["seeds"]] == ["first", "first", "second", None]
    assert "commit" not in study


def test_an_early_study_that_names_one_commit_is_continued(
    no_training: str, tmp_path: Path
) -> None:
    study = certify(no_training, 2, jobs=1, folder=tmp_path)
    for row in study["seeds"]:
        del row["commit"]
    (tmp_path / "cheap.json").write_text(json.dumps({**study, "commit": "early"}))
    study = certify(no_training, 3, jobs=1, folder=tmp_path)
    assert [row["commit"] for row in study["seeds"]] == ["early", "early", "c0ffee"]
    assert "commit" not in study


def test_a_commit_that_is_made_while_seeds_train_is_not_theirs(
    no_training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ["before"]

    def train(made: config.Config) -> tuple[dict[str, Any], bytes]:
        now[0] = "after-dirty"
        return train_nothing(made)

    monkeypatch.setattr(module, "commit", lambda: now[0])
    monkeypatch.setattr(module, "train_seed", train)
    study = certify(no_training, 3, jobs=1, folder=tmp_path)
    assert [row["commit"] for row in study["seeds"]] == ["before"] * 3


@pytest.mark.parametrize("words", [["certify", "cheap"], ["ablation"]], ids=lambda words: words[0])
def test_code_that_differs_from_its_commit_certifies_nothing(
    no_training: str,
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    monkeypatch.setattr(module, "commit", lambda: "c0ffee-dirty")
    outcome = command("lab", *words, "--folder", tmp_path)
    assert outcome.exit_code == 2
    assert "The code differs from its last commit: commit it before" in outcome.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Git, in a new repository that holds a copy of the package, of which nothing is added yet."""
    path = need_tool("git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    package = tmp_path / "tinydigits"
    shutil.copytree(ROOT / "tinydigits", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "__file__", str(package / "lab" / "certify.py"))

    def call(*arguments: str) -> str:
        identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
        outcome = run(path, "-C", tmp_path, *identity, *arguments)
        assert outcome.exit_code == 0, outcome.err
        return outcome.out.strip()

    call("init", "--quiet")
    return call


def test_outside_git_there_is_no_commit(git: Any, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / ".git")
    assert module.commit() is None


@pytest.mark.parametrize("ignored", [False, True])
def test_a_package_inside_somebody_elses_repository_has_no_commit(
    git: Any, tmp_path: Path, ignored: bool
) -> None:
    (tmp_path / "theirs.py").write_text("")
    (tmp_path / ".gitignore").write_text("tinydigits/\n" if ignored else "")
    git("add", "theirs.py", ".gitignore")
    git("commit", "--quiet", "--message", "Theirs")
    (tmp_path / "theirs.py").write_text("changed")
    assert module.commit() is None
    module.require_clean_tree()


def test_a_clean_tree_has_the_commit_of_its_head(git: Any, tmp_path: Path) -> None:
    git("add", ".")
    git("commit", "--quiet", "--message", "Ours")
    (tmp_path / "README.md").write_text("A new document does not change what is trained.")
    assert module.commit() == git("rev-parse", "--short=12", "HEAD")
    module.require_clean_tree()


@pytest.mark.parametrize("name", ["config.py", "lab/certify.py"])
@pytest.mark.parametrize("change", ["edited", "staged", "removed"])
def test_a_changed_tree_is_dirty(git: Any, tmp_path: Path, name: str, change: str) -> None:
    git("add", ".")
    git("commit", "--quiet", "--message", "Ours")
    path = tmp_path / "tinydigits" / name
    if change == "removed":
        path.unlink()
    else:
        path.write_text(path.read_text() + "\n# changed\n")
    if change == "staged":
        git("add", ".")
    assert module.commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"
    with pytest.raises(Misuse, match="differs from its last commit"):
        module.require_clean_tree()


# -------------------------------------------------------------------------------------- refusals


def test_who_stops_a_study_is_told_how_to_go_on(
    cheap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(made: config.Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinydigits.lab.certify.train_seed", stop)
    with pytest.raises(KeyboardInterrupt):
        certify(cheap, seeds=2, jobs=1, folder=tmp_path)
    assert "Stopped with 0 of 2 seeds; the same command goes on" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", '{"seeds": [{"accuracy": 1}]}', '{"seeds": []}'])
def test_a_file_that_holds_no_study_is_named_and_left_alone(
    tmp_path: Path, clean_tree: None, content: str
) -> None:
    path = tmp_path / "classic.json"
    path.write_text(content)
    with pytest.raises(Failure, match=r"classic\.json does not hold 1 or more seeds"):
        certify("classic", folder=tmp_path)
    assert path.read_text() == content


def test_numbers_that_make_no_sense_are_refused(clean_tree: None) -> None:
    with pytest.raises(Misuse, match="at least 2 seeds"):
        certify("classic", seeds=1)
    with pytest.raises(Misuse, match="no preset"):
        certify("classical")


@pytest.mark.parametrize("name", config.CLAIMS)
def test_what_a_preset_claims_was_measured_with_its_present_training(name: str) -> None:
    study = read_json(ROOT / "results" / f"{name}.json")
    assert [row["seed"] for row in study["seeds"]] == list(range(study["statistics"]["n"]))
    assert study["statistics"]["n"] >= 10
    assert study["statistics"] == describe(study["seeds"])
    assert study["statistics"]["mean"] >= config.CLAIMS[name]
    measured = config.Config.from_json({**study["config"], "seed": 0})
    assert measured == dataclasses.replace(config.preset(name), threads=measured.threads)


def test_the_default_preset_passes_the_goal_with_nearly_every_seed() -> None:
    numbers = read_json(ROOT / "results" / "classic.json")["statistics"]
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
