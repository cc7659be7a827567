"""Questions to held-out digits: the trainings that are compared, and what the presets have."""

import dataclasses
import json
from pathlib import Path

import pytest

from lab import tune
from lab.study import FORMS, RAW, read_study
from tinydigits import Failure, UsageError
from tinydigits.training import presets

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of that name, whose training takes a second or two."""
    made = presets.improved("cheap", "conv3:2 pool pool conv1:2", epochs=1, batch_size=2000)
    monkeypatch.setitem(presets.PRESETS, "cheap", lambda: made)


def test_none_and_three_amounts_are_compared_on_held_out_digits(tmp_path: Path) -> None:
    trainings = dict(tune.trainings("background", "tiny2k", tmp_path).values())
    assert [path.name for path in trainings] == [
        f"tiny2k-{amount}.json" for amount in ("none", "half", "most", "all")
    ]
    assert all(training.validation for training in trainings.values())
    none, half, most, whole = ((t.background, t.ink_fade) for t in trainings.values())
    assert none == (0, 0)
    assert (2 * half[0], 2 * half[1]) == whole == (0.3, 0.4)
    assert half < most < whole
    assert half[1] < most[1] < whole[1]


def test_the_last_epochs_are_trained_for_integers_of_fewer_bits(tmp_path: Path) -> None:
    trainings = dict(tune.trainings("qat", "tiny2k", tmp_path).values())
    assert [path.name for path in trainings] == [
        f"tiny2k-{answer}.json" for answer in ("none", "w8a6", "w8a4", "w6a8", "w4a8")
    ]
    plain, *others = trainings.values()
    assert plain == dataclasses.replace(presets.preset("tiny2k"), validation=True)
    for training, bits in zip(others, ((8, 6), (8, 4), (6, 8), (4, 8)), strict=True):
        assert training.qat_epochs > 0
        assert (training.weight_bits, training.activation_bits) == bits


def test_a_short_training_is_rounded_from_the_start(tmp_path: Path) -> None:
    _, *rounded = tune.trainings("qat", "sprint", tmp_path).values()
    assert [training.qat_epochs for _, training in rounded] == [1] * 4


def test_an_unknown_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="question must be background or qat, not 'color'"):
        tune.tune("color", ("tiny1k",), (), 2, 1, tmp_path)  # pyright: ignore[reportArgumentType]


def test_an_unknown_answer_is_refused_before_any_training(clean_tree: None, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="answers to background are none, half, most, all, not 'w8a6'"
    ):
        tune.tune("background", ("tiny1k",), ("half", "w8a6"), 2, 1, tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_unknown_preset_is_refused_before_any_training(clean_tree: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset"):
        tune.tune("background", ("tiny1k", "classical"), (), 2, 1, tmp_path)
    assert not any(tmp_path.iterdir())


def test_without_results_the_error_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="python -m lab tune background PRESET"):
        tune.read_trainings("background", tmp_path)


def test_results_of_another_training_are_refused(tmp_path: Path) -> None:
    study = json.loads((RESULTS / "background" / "tiny2k-half.json").read_text(encoding="utf-8"))
    path = tmp_path / "background" / "tiny2k-half.json"
    path.parent.mkdir()
    path.write_text(json.dumps(study), encoding="utf-8")
    assert [study["preset"] for study in tune.read_trainings("background", tmp_path)] == ["tiny2k"]
    study["config"]["layers"] = ["conv3:2", "pool"]  # what that preset had at another time
    path.write_text(json.dumps(study), encoding="utf-8")
    with pytest.raises(Failure, match=r"of another training.* lab tune background tiny2k"):
        tune.read_trainings("background", tmp_path)


@pytest.mark.slow
def test_an_answer_is_trained_alone(clean_tree: None, cheap: None, tmp_path: Path) -> None:
    tune.tune("qat", ("cheap",), ("w4a8",), 2, 2, tmp_path)
    assert [path.name for path in (tmp_path / "qat").iterdir()] == ["cheap-w4a8.json"]
    (study,) = tune.read_trainings("qat", tmp_path)
    assert study["config"]["weight_bits"] == 4
    assert {*study["integers"]} == {*tune.QAT_FORMS}


@pytest.mark.slow
def test_each_amount_is_trained_and_measured_on_raw_digits(
    clean_tree: None, cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune.tune("background", ("cheap",), (), 2, 2, tmp_path)
    paths = [path for path, _ in tune.trainings("background", "cheap", tmp_path).values()]
    studies = tune.read_trainings("background", tmp_path)
    assert len(paths) == len(studies) == 4
    assert len({study["seeds"][0]["weights_sha256"] for study in studies}) == 4
    for study in studies:
        assert study["config"]["validation"]
        assert {*study["raw"]} == {*RAW}
        assert [*study["integers"]] == [*FORMS]
    before = [path.read_bytes() for path in paths]
    monkeypatch.setattr("lab.study.train_seed", None)  # training now would fail
    tune.tune("background", ("cheap",), (), 2, 2, tmp_path)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    "path",
    [
        *sorted((RESULTS / "background").glob("*.json")),
        *sorted((RESULTS / "qat").glob("*.json")),
    ],
    ids=lambda p: f"{p.parent.name}, {p.stem}",
)
def test_the_committed_trainings_are_of_five_seeds_on_held_out_digits(path: Path) -> None:
    study = read_study(path)
    assert study["statistics"]["n"] >= 5
    assert study["config"]["validation"]


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("classic", "all"),
        ("tiny4k", "most"),
        ("tiny2k", "half"),
        ("tiny1k", "half"),
        ("dash", "half"),
        ("sprint", "half"),
    ],
)
def test_a_preset_has_the_amount_that_costs_little(name: str, amount: str) -> None:
    """It went in where the loss on held-out digits is under 0.05 points."""
    none, chosen = (
        read_study(RESULTS / "background" / f"{name}-{word}.json") for word in ("none", amount)
    )
    assert chosen["statistics"]["mean"] > none["statistics"]["mean"] - 0.05
    for field in ("background", "ink_fade"):
        assert getattr(presets.preset(name), field) == chosen["config"][field]
