import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tinydigits import Config, Failure, Misuse, Mnist, build_model, load_model, preset, training
from tinydigits.data import normalise
from tinydigits.muon import Muon, orthogonalise

SMALL = Config(
    layers=("pool", "conv3:4", "conv1:4"),
    name="small",
    dropout=0.1,
    epochs=3,
    batch_size=64,
    learning_rate=0.1,
    precision="float32",
    threads=1,
)


def summary_of(config: Config, out: Path) -> dict[str, Any]:
    training.train(dataclasses.replace(config, out=out))
    return json.loads((out / "summary.json").read_text())


# ---------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_step_is_the_one_written_out_by_hand(few: Mnist, tmp_path: Path, smoothing: float):
    config = dataclasses.replace(
        SMALL,
        dropout=0.0,
        epochs=1,
        batch_size=500,
        out=tmp_path / "run",
        label_smoothing=smoothing,
    )
    torch.manual_seed(config.seed)
    model = build_model(config).train()
    labels = torch.from_numpy(few.train_labels)
    log_probs = model(normalise(torch.from_numpy(few.train_images)))
    F.cross_entropy(log_probs, labels, label_smoothing=smoothing).backward()
    expected = [(p - 0.1 * p.grad).detach() for p in model.parameters() if p.grad is not None]
    run = training.start(config)
    (row,) = training.epochs(run)
    # The loss that is shown is comparable with the test loss, whatever the labels were.
    assert row["train_loss"] == pytest.approx(F.nll_loss(log_probs, labels).item(), rel=1e-5)
    torch.testing.assert_close([p.detach() for p in run.model.parameters()], expected)


def test_one_batch_can_be_learnt_by_heart(few: Mnist, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training, "load_mnist", lambda root: Mnist(*(part[:50] for part in few)))
    config = dataclasses.replace(
        SMALL,
        layers=("pool", "conv3:16", "conv3:16"),
        dropout=0.0,
        epochs=150,
        out=tmp_path / "run",
    )
    *_, last = training.epochs(training.start(config))
    assert last["train_accuracy"] == 100


@pytest.mark.slow
def test_described_network_passes_93_percent_after_one_epoch(tmp_path: Path):
    # One thread, because two that share a busy core with others wait for each other at length.
    config = dataclasses.replace(preset("notebook"), threads=1, out=tmp_path / "run")
    row = next(training.epochs(training.start(config)))
    assert row["test_accuracy"] > 93


def test_same_seed_gives_the_same_bits(few: Mnist, tmp_path: Path):
    runs = [summary_of(SMALL, tmp_path / name) for name in "ab"]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]


def test_other_seed_gives_other_bits(few: Mnist, tmp_path: Path):
    other = dataclasses.replace(SMALL, seed=2)
    runs = [summary_of(config, tmp_path / str(config.seed)) for config in (SMALL, other)]
    assert runs[0]["weights_sha256"] != runs[1]["weights_sha256"]


def test_state_of_torchs_generator_before_does_not_matter(few: Mnist, tmp_path: Path):
    first = summary_of(SMALL, tmp_path / "a")["weights_sha256"]
    torch.rand(7)
    assert summary_of(SMALL, tmp_path / "b")["weights_sha256"] == first


def test_validation_trains_on_the_first_digits_and_reports_on_the_last(few: Mnist, tmp_path: Path):
    run = training.start(dataclasses.replace(SMALL, validation=True, out=tmp_path / "run"))
    assert torch.equal(run.train_digits.images, torch.from_numpy(few.train_images[:400]))
    assert np.array_equal(run.images, few.train_images[400:])
    assert np.array_equal(run.labels, few.train_labels[400:])


def test_plain_run_trains_on_all_digits_and_reports_on_the_test_set(few: Mnist, tmp_path: Path):
    run = training.start(dataclasses.replace(SMALL, out=tmp_path / "run"))
    assert len(run.train_digits) == 500
    assert np.array_equal(run.images, few.test_images)


def test_constant_rate_stays():
    assert training.schedule(SMALL, 0.01) == training.schedule(SMALL, 1) == 1


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.4), (0.25, 1.0), (0.5, 2 / 3), (1.0, 0.0)])
def test_one_cycle_climbs_and_falls_along_straight_lines(progress: float, share: float):
    config = dataclasses.replace(SMALL, schedule="one-cycle", warm_up=0.25)
    assert training.schedule(config, progress) == pytest.approx(share)


# ----------------------------------------------------------------------------- the run folder


def test_run_folder_holds_what_a_run_leaves(few: Mnist, tmp_path: Path):
    summary_of(SMALL, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    files = {"config.json", "metrics.csv", "summary.json", "model.safetensors", "checkpoint.pt"}
    assert names == files


def test_config_json_is_the_configuration(few: Mnist, tmp_path: Path):
    config = dataclasses.replace(SMALL, out=tmp_path / "run")
    training.start(config)
    assert Config.from_json(json.loads((tmp_path / "run" / "config.json").read_text())) == config


def test_metrics_have_a_row_per_epoch(few: Mnist, tmp_path: Path):
    run = training.train(dataclasses.replace(SMALL, out=tmp_path / "run"))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == run.history
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_summary_hashes_the_model_file(few: Mnist, tmp_path: Path):
    summary = summary_of(SMALL, tmp_path / "run")
    raw = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert summary["weights_sha256"] == hashlib.sha256(raw).hexdigest()


def test_summary_has_what_is_needed_to_repeat_the_run(few: Mnist, tmp_path: Path):
    summary = summary_of(SMALL, tmp_path / "run")
    assert summary["threads"] == 1
    assert summary["seed"] == 1
    assert {"python", "torch", "numpy"} <= summary["versions"].keys()
    assert summary["processor"]
    assert summary["precision"] == "float32"


def test_written_model_says_what_the_trained_one_said(few: Mnist, tmp_path: Path):
    run = training.train(dataclasses.replace(SMALL, averaging=0.9, out=tmp_path / "run"))
    assert run.evaluation is not None
    images = normalise(torch.from_numpy(few.test_images))
    with torch.no_grad():
        log_probs = load_model(tmp_path / "run")(images).numpy()
    np.testing.assert_allclose(log_probs, run.evaluation.log_probs, atol=1e-5)


def verdict(few: Mnist, folder: Path, accuracies: list[float], **options: Any) -> dict[str, Any]:
    """The summary of a run of which every epoch had one of these test accuracies."""
    config = dataclasses.replace(SMALL, epochs=len(accuracies), out=folder, **options)
    run = training.train(config)
    for row, accuracy in zip(run.history, accuracies, strict=True):
        row["test_accuracy"] = accuracy
    return training.summarise_run(run)


def test_goals_are_met_when_passed(few: Mnist, tmp_path: Path):
    summary = verdict(few, tmp_path / "run", [98.0, 99.41, 99.2, 99.45])
    assert [goal["met"] for goal in summary["goals"]] == [True, True, True]
    assert summary["first_epoch_over_goal"] == 2


def test_accuracy_must_exceed_its_goal_after_the_last_epoch(few: Mnist, tmp_path: Path):
    summary = verdict(few, tmp_path / "run", [99.5, 99.4])
    assert not summary["goals"][0]["met"]
    assert summary["goals"][0]["measured"].startswith("99.40 %")
    assert summary["first_epoch_over_goal"] == 1


def test_20000_parameters_are_too_many(few: Mnist, tmp_path: Path):
    layers = ("pool", "pool", "conv1:100", "conv1:190")
    summary = verdict(few, tmp_path / "run", [10.0], layers=layers)
    assert summary["parameters"] == 100 + 200 + 19_000 + 380 + 1900
    assert not summary["goals"][1]["met"]


def test_16_epochs_are_too_many(few: Mnist, tmp_path: Path):
    assert not verdict(few, tmp_path / "run", [10.0] * 16)["goals"][2]["met"]


def test_default_folder_is_a_new_one_under_runs(few: Mnist, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = training.start(SMALL)
    assert run.folder.parent == Path("runs")
    assert run.folder.name.startswith("small-")


def test_folder_that_holds_something_is_left_alone(few: Mnist, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(Misuse, match="is already there"):
        training.start(dataclasses.replace(SMALL, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_loss_that_is_no_number_leaves_the_last_good_epoch(few: Mnist, tmp_path: Path):
    run = training.start(dataclasses.replace(SMALL, out=tmp_path / "run"))
    rows = training.epochs(run)
    next(rows)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.nan)
    with pytest.raises(Failure, match="The loss became nan in epoch 2"):
        next(rows)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


# ------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"averaging": 0.9},
        {"schedule": "one-cycle", "nesterov": True, "weight_decay": 0.01},
        {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 2.0, "plain_end": 0.3},
        {"precision": "bfloat16", "channels_last": False},
        {"validation": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_resumed_run_ends_in_the_same_bits(few: Mnist, tmp_path: Path, options: dict[str, Any]):
    config = dataclasses.replace(SMALL, **options)
    whole = summary_of(config, tmp_path / "whole")
    folder = tmp_path / "stopped"
    next(training.epochs(training.start(dataclasses.replace(config, out=folder))))
    next(training.epochs(training.resume(folder)))
    training.complete(training.resume(folder))
    resumed = json.loads((folder / "summary.json").read_text())
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_resuming_a_finished_run_changes_no_weights(few: Mnist, tmp_path: Path):
    first = summary_of(SMALL, tmp_path / "run")
    run = training.complete(training.resume(tmp_path / "run"))
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["weights_sha256"] == first["weights_sha256"]
    assert len(run.history) == 3


def test_moved_run_can_be_resumed(few: Mnist, tmp_path: Path):
    next(training.epochs(training.start(dataclasses.replace(SMALL, out=tmp_path / "old"))))
    (tmp_path / "old").rename(tmp_path / "new")
    training.complete(training.resume(tmp_path / "new"))
    assert (tmp_path / "new" / "model.safetensors").exists()
    assert not (tmp_path / "old").exists()


def test_muon_takes_steps_of_the_same_size_in_every_direction():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    matrix[1] = matrix[0] + 0.01 * matrix[1]  # all but parallel to another row
    for tall_or_wide in (matrix, matrix.T):
        sizes = torch.linalg.svdvals(orthogonalise(tall_or_wide))
        assert sizes.min() > 0.3
        assert sizes.max() < 1.3


def test_muon_trains_the_inner_convolutions_and_sgd_the_rest():
    config = dataclasses.replace(preset("classic"), muon_rate=0.02)
    model = build_model(config)
    sgd, muon = training.build_optimizer(model, config).param_groups
    assert [tuple(w.shape[:2]) for w in muon["params"]] == [(32, 16), (16, 32), (32, 16), (32, 32)]
    counted = sum(w.numel() for group in (sgd, muon) for w in group["params"])
    assert counted == 19_664
    assert (sgd["lr"], muon["lr"]) == (config.learning_rate, 0.02)


def test_without_orthogonal_groups_muon_is_nesterov_sgd():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    group = {"params": list(ours.parameters()), "lr": 0.1, "weight_decay": 0.01}
    optimizers = [
        Muon([{**group, "orthogonal": False}], momentum=0.9),
        torch.optim.SGD(
            theirs.parameters(), lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True
        ),
    ]
    for _ in range(5):
        x = torch.randn(7, 5)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
