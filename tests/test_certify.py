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

from lab import claims
from lab import study as module
from lab.certify import certify, verdicts
from lab.corruptions import gray_background
from lab.study import (
    FORMS,
    RAW,
    SHIPPED_FORM,
    Forms,
    describe,
    read_study,
    summary,
    update_presets,
    without_seed,
)
from tinydigits import Failure, UsageError
from tinydigits.data.mnist import load_mnist
from tinydigits.evaluation import evaluate
from tinydigits.files import read_json
from tinydigits.network.model import load_model
from tinydigits.quant.ptq import CALIBRATION, quantize
from tinydigits.training import config, presets

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cheap(clean_tree: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset that trains in a few seconds."""

    def cheap() -> config.Config:
        return presets.improved("cheap", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)

    monkeypatch.setitem(presets.PRESETS, "cheap", cheap)
    monkeypatch.setitem(claims.CLAIMS, "cheap", 5.0)
    monkeypatch.setitem(claims.BUDGETS, "cheap", 1000)
    return "cheap"


def test_statistics_by_hand() -> None:
    numbers = describe([99.3, 99.5, 99.7])
    assert numbers["n"] == 3
    assert numbers["mean"] == pytest.approx(99.5)
    assert numbers["sd"] == pytest.approx(0.2)
    assert numbers["minimum"] == 99.3
    assert numbers["over_goal"] == 2
    # t(0.95, 2 degrees of freedom) = 2.919986, from a table
    assert numbers["lower_bound"] == pytest.approx(99.5 - 2.919986 * 0.2 / math.sqrt(3), abs=1e-6)


def test_exactly_the_goal_is_not_over_it() -> None:
    assert describe([99.4, 99.41])["over_goal"] == 1


def measured(accuracy: float) -> dict[str, Any]:
    """What `train_seed` writes of a seed's float network, integer networks and raw digits."""
    return {
        "accuracy": accuracy,
        "integers": {form: accuracy - i / 10 for i, form in enumerate(FORMS, 1)},
        "raw": {name: {"float": accuracy - 1, "integers": accuracy - 2} for name in RAW},
    }


def test_a_summary_describes_float_integers_and_raw_digits() -> None:
    found = summary([measured(99.0), measured(99.2)])
    assert found["statistics"]["mean"] == pytest.approx(99.1)
    assert [found["integers"][form]["mean"] for form in FORMS] == pytest.approx(
        [99.0, 98.9, 98.8, 98.7]
    )
    for name in RAW:
        assert found["raw"][name]["float"]["mean"] == pytest.approx(98.1)
        assert found["raw"][name]["integers"]["minimum"] == pytest.approx(97.0)


def test_what_only_some_seeds_measured_is_not_summed_up() -> None:
    found = summary([measured(99.0), {"accuracy": 99.2}])
    assert found["statistics"]["n"] == 2
    assert found["integers"] == found["raw"] == {}
    more = measured(99.2)
    more["integers"]["w3a8"] = 80.0
    for rows in ([measured(99.0), more], [more, measured(99.0)]):
        assert {*summary(rows)["integers"]} == {*FORMS}
    assert summary([more, more])["integers"]["w3a8"]["mean"] == 80


@pytest.mark.slow
def test_a_study_is_complete_and_goes_on_with_missing_seeds(cheap: str, tmp_path: Path) -> None:
    study = certify(cheap, seeds=2, jobs=1, folder=tmp_path)
    assert [row["seed"] for row in study["seeds"]] == [0, 1]
    assert {"seed", "accuracy", "loss", "first_epoch_over_goal", "seconds"} <= {*study["seeds"][0]}
    first = load_model(tmp_path / "cheap.safetensors")
    digits = load_mnist()
    row = study["seeds"][0]
    assert row["accuracy"] == evaluate(first, digits.test_images, digits.test_labels).accuracy
    integer = quantize(first, digits.train_images[:CALIBRATION], weight_bits=6, activation_bits=8)
    few = evaluate(integer, digits.test_images, digits.test_labels).accuracy
    assert row["integers"]["w6a8"] == few
    gray = gray_background(digits.test_images, 0.2)
    on_gray = evaluate(first, gray, digits.test_labels).accuracy
    assert row["raw"]["background of 20 %"]["float"] == on_gray
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
    other = presets.improved("cheap", "conv3:3 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setitem(presets.PRESETS, "cheap", lambda: other)
    with pytest.raises(UsageError, match="another config"):
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


def train_nothing(made: config.Config, _forms: Forms) -> tuple[dict[str, Any], bytes]:
    return {"seed": made.seed, **measured(99.0 + made.seed / 10)}, b"weights"


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


def test_a_complete_study_of_float_networks_alone_is_judged(
    no_training: str, tmp_path: Path
) -> None:
    certify(no_training, 2, jobs=1, folder=tmp_path)
    path = tmp_path / "cheap.json"
    study = read_json(path)
    for row in study["seeds"]:
        del row["integers"], row["raw"]
    path.write_text(json.dumps(study))
    asked, holds, found = verdicts(read_study(path))[-1]
    assert asked.startswith("own claim: the test digits, integers")
    assert (holds, found) == (False, "not measured")


def test_seeds_that_lack_a_form_are_trained_again(no_training: str, tmp_path: Path) -> None:
    study = certify(no_training, 3, jobs=1, folder=tmp_path)
    del study["seeds"][1]["integers"]["w8a6"]
    for row in study["seeds"]:
        row["commit"] = "early"
    (tmp_path / "cheap.json").write_text(json.dumps(study))
    study = certify(no_training, 3, jobs=1, folder=tmp_path)
    assert [row["commit"] for row in study["seeds"]] == ["early", "c0ffee", "early"]
    assert {*study["integers"]} == {*FORMS}


def test_a_commit_that_is_made_while_seeds_train_is_not_theirs(
    no_training: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ["before"]

    def train(made: config.Config, forms: Forms) -> tuple[dict[str, Any], bytes]:
        now[0] = "after-dirty"
        return train_nothing(made, forms)

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
    """Git, in a new repository that holds a copy of the code, of which nothing is added yet."""
    path = need_tool("git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("tinydigits", "lab"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "lab" / "study.py"))

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
    (tmp_path / ".gitignore").write_text("tinydigits/\nlab/\n" if ignored else "")
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


@pytest.mark.parametrize("name", ["tinydigits/training/config.py", "lab/study.py"])
@pytest.mark.parametrize("change", ["edited", "staged", "removed"])
def test_a_changed_tree_is_dirty(git: Any, tmp_path: Path, name: str, change: str) -> None:
    git("add", ".")
    git("commit", "--quiet", "--message", "Ours")
    path = tmp_path / name
    if change == "removed":
        path.unlink()
    else:
        path.write_text(path.read_text() + "\n# changed\n")
    if change == "staged":
        git("add", ".")
    assert module.commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"
    with pytest.raises(UsageError, match="differs from its last commit"):
        module.require_clean_tree()


# -------------------------------------------------------------------------------------- refusals


def test_who_stops_a_study_is_told_how_to_go_on(
    cheap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(made: config.Config, forms: Forms) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lab.study.train_seed", stop)
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
    with pytest.raises(UsageError, match="at least 2 seeds"):
        certify("classic", seeds=1)
    with pytest.raises(UsageError, match="no preset"):
        certify("classical")


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_what_a_preset_claims_was_measured_with_its_present_training(name: str) -> None:
    study = read_json(ROOT / "results" / f"{name}.json")
    assert [row["seed"] for row in study["seeds"]] == list(range(study["statistics"]["n"]))
    assert study["statistics"]["n"] >= 10
    assert study["statistics"] == describe([row["accuracy"] for row in study["seeds"]])
    assert study["statistics"]["mean"] >= claims.CLAIMS[name]
    measured = config.Config.from_json({**study["config"], "seed": 0})
    assert measured == dataclasses.replace(presets.preset(name), threads=measured.threads)


@pytest.mark.parametrize("name", claims.CORRUPTION_CLAIMS)
def test_a_preset_that_bears_paper_and_ink_holds_all_of_its_claims(name: str) -> None:
    rows = verdicts(read_study(ROOT / "results" / f"{name}.json"))
    assert len(rows) == 3 + 1 + 2 + 2 * len(claims.CORRUPTION_CLAIMS[name])
    assert [asked for asked, holds, _ in rows if not holds] == []


def test_what_a_preset_bears_is_measured() -> None:
    for bounds in claims.CORRUPTION_CLAIMS.values():
        assert {*bounds} <= {*RAW}


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_integers_reach_what_the_preset_claims(name: str) -> None:
    study = read_study(ROOT / "results" / f"{name}.json")
    assert study["integers"][SHIPPED_FORM]["mean"] >= claims.CLAIMS[name]


def test_the_default_preset_passes_the_goal_with_nearly_every_seed() -> None:
    numbers = read_json(ROOT / "results" / "classic.json")["statistics"]
    assert numbers["over_goal"] / numbers["n"] >= 0.9


def test_no_preset_trains_longer_than_it_may() -> None:
    assert all(make().epochs <= 15 for make in presets.PRESETS.values())
    assert presets.sprint().epochs == 1


def study_of(name: str, *accuracies: float) -> dict[str, Any]:
    seeds = [measured(accuracy) for accuracy in accuracies]
    described = without_seed(presets.preset(name))
    return {"preset": name, "config": described, "seeds": seeds, **summary(seeds)}


@pytest.mark.parametrize(
    ("mean", "holds"), [(99.59, [True, False]), (99.6, [True, True]), (99.49, [False, False])]
)
def test_verdicts_judge_the_goals_the_budget_and_the_claim(mean: float, holds: list[bool]) -> None:
    rows = verdicts(study_of("classic", mean, mean))  # its integers are 0.1 below it
    assert [row[1] for row in rows[:6]] == [True, True, True, True, *holds]
    assert rows[1][2] == "19,664"
    assert rows[3][2] == "19,664 and 19,664"
    assert rows[5][2] == f"{mean - 0.1:.3f} %"


def test_verdicts_judge_raw_digits_by_float_and_integers() -> None:
    rows = verdicts(study_of("classic", 100.5, 100.5))[6:]
    assert [(row[0].split(": ")[1], row[1]) for row in rows] == [
        ("background of 10 %, float", True),
        ("background of 10 %, integers", False),  # 98.5, and 99.3 are claimed
        ("background of 20 %, float", True),
        ("background of 20 %, integers", False),
        ("half the ink, float", True),
        ("half the ink, integers", False),
    ]


def test_what_was_not_measured_does_not_hold() -> None:
    study = study_of("classic", 99.9, 99.9) | {"integers": {}, "raw": {}}
    assert [row[1:] for row in verdicts(study)[5:]] == [(False, "not measured")] * 7


def test_a_preset_without_a_claim_is_judged_by_the_goals_alone() -> None:
    assert len(verdicts(study_of("baseline", 99.0, 99.0))) == 3


def test_rows_of_other_presets_stay(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    for code, rows in (
        ("first", {"dash": {"x": 1}, "classic": {"x": 1}}),
        ("second", {"dash": {}}),
    ):
        made = update_presets(path, rows, code)
    assert made == read_json(path)
    assert list(made["presets"]) == ["classic", "dash"]
    assert made["presets"] == {"classic": {"commit": "first", "x": 1}, "dash": {"commit": "second"}}


def test_a_file_without_rows_of_presets_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text("[]")
    with pytest.raises(Failure, match=r"some\.json holds no rows of presets"):
        update_presets(path, {"dash": {}}, None)
    assert path.read_text() == "[]"
