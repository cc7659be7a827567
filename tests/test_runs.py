"""The run folder: what is in it, the verdict, a folder for each run, and taking a run up again."""

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from test_training import SMALL

from tinydigits import (
    Config,
    Failure,
    Mnist,
    UsageError,
    evaluate,
    load_model,
    load_quantized,
    normalize,
    preset,
    quantize,
    resume,
    runs,
    train,
)
from tinydigits.files import read_json
from tinydigits.reader.rejection import probabilities_of
from tinydigits.training import loop
from tinydigits.training.presets import is_preset


def summary_of(config: Config, out: Path) -> dict[str, Any]:
    train(dataclasses.replace(config, out=out))
    return json.loads((out / "summary.json").read_text())


# ----------------------------------------------------------------------------- the run folder


def test_run_folder_holds_what_a_run_leaves(few: Mnist, tmp_path: Path):
    summary_of(SMALL, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    files = {"config.json", "metrics.csv", "summary.json", "checkpoint.pt"}
    files |= {"model.safetensors", "model.tdq"}
    assert names == files


def test_the_public_names_do_what_train_does(few: Mnist, tmp_path: Path):
    run = runs.start(dataclasses.replace(SMALL, out=tmp_path / "by hand"))
    rows = list(runs.epochs(run))
    runs.finish(run)
    assert rows == run.history
    whole = summary_of(SMALL, tmp_path / "at once")
    by_hand = json.loads((tmp_path / "by hand" / "summary.json").read_text())
    assert by_hand["weights_sha256"] == whole["weights_sha256"]
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("by hand", "at once")]
    assert names[0] == names[1]


def test_a_run_gives_the_weights_of_the_loop_in_memory(few: Mnist, tmp_path: Path):
    run = loop.new_run(SMALL)
    for _ in loop.epochs(run):
        pass
    kept = train(dataclasses.replace(SMALL, out=tmp_path / "run"))
    torch.testing.assert_close(kept.network.state_dict(), run.network.state_dict(), atol=0, rtol=0)


def test_a_network_of_its_own_rejects_1_percent_of_what_was_held_out_for_this(
    monkeypatch: pytest.MonkeyPatch, mnist: Mnist, tmp_path: Path
):
    some = Mnist(*(part[:n] for part, n in zip(mnist, (3500, 3500, 100, 100), strict=True)))
    monkeypatch.setattr("tinydigits.data.dataset.load_mnist", lambda root: some)
    run = train(dataclasses.replace(SMALL, epochs=1, out=tmp_path / "run"))
    network = load_quantized(tmp_path / "run")
    assert 340 <= len(run.unseen) <= 350 == 3500 // 10
    assert len(run.dataset.train_images) == 3500 - len(run.unseen)
    trained = {image.tobytes() for image in run.dataset.train_images}
    assert not trained & {image.tobytes() for image in run.unseen}
    assert network.rejection_threshold is not None
    below = probabilities_of(run.unseen, network).max(axis=1) < network.rejection_threshold
    assert 3 <= below.sum() <= 4
    again = runs.resume(tmp_path / "run")
    assert np.array_equal(again.unseen, run.unseen)


def test_what_a_run_is_measured_on_in_training_serves_for_its_threshold(few: Mnist, tmp_path: Path):
    run = train(dataclasses.replace(SMALL, epochs=1, validation=True, out=tmp_path / "run"))
    assert np.array_equal(run.unseen, run.dataset.test_images)
    assert len(few.train_labels) == len(run.dataset.train_labels) + len(run.unseen)


def test_too_few_images_for_a_threshold_make_none(few: Mnist, tmp_path: Path):
    run = train(dataclasses.replace(SMALL, epochs=1, out=tmp_path / "run"))
    assert len(run.unseen) == 0
    assert len(run.dataset.train_images) == len(few.train_images)
    assert load_quantized(tmp_path / "run").rejection_threshold is None


def test_a_preset_trains_on_all_digits_and_has_the_threshold_of_the_package(
    few: Mnist, tmp_path: Path
):
    run = train(dataclasses.replace(preset("sprint"), seed=3, out=tmp_path / "run"))
    assert len(run.dataset.train_images) == len(few.train_images)
    assert len(run.unseen) == 0
    shipped = load_quantized("sprint").rejection_threshold
    assert load_quantized(tmp_path / "run").rejection_threshold == shipped
    assert not is_preset(dataclasses.replace(preset("sprint"), epochs=2))
    assert not is_preset(dataclasses.replace(preset("sprint"), name="mine"))


def test_config_json_is_the_configuration(few: Mnist, tmp_path: Path):
    config = dataclasses.replace(SMALL, out=tmp_path / "run")
    runs.start(config)
    assert Config.from_json(json.loads((tmp_path / "run" / "config.json").read_text())) == config


@pytest.mark.parametrize("validation", [False, True])
def test_metrics_have_a_row_per_epoch(few: Mnist, tmp_path: Path, validation: bool):
    run = train(dataclasses.replace(SMALL, validation=validation, out=tmp_path / "run"))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == run.history
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    read = runs.read_metrics(tmp_path / "run" / "metrics.csv", run.config)
    assert read == [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


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
    run = train(dataclasses.replace(SMALL, ema_decay=0.9, out=tmp_path / "run"))
    assert run.evaluation is not None
    images = normalize(torch.from_numpy(few.test_images))
    with torch.no_grad():
        log_probs = load_model(tmp_path / "run")(images).numpy()
    np.testing.assert_allclose(log_probs, run.evaluation.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("validation", "digits"), [(False, "test digits"), (True, "held-out training digits")]
)
def test_what_is_printed_and_written_names_the_digits_that_it_is_about(
    few: Mnist, tmp_path: Path, capsys: pytest.CaptureFixture[str], validation: bool, digits: str
):
    """Nothing of a run that holds digits out may pass for a result on the test set."""
    folder = tmp_path / "run"
    run = train(dataclasses.replace(SMALL, validation=validation, out=folder))
    out = capsys.readouterr().out
    head, *rows = out.splitlines()[1 : 2 + len(run.history)]
    part = "validation" if validation else "test"
    assert ("valid. loss" in head, "valid. acc" in head) == (validation, validation)
    assert ("test loss" in head, "test acc" in head) == (not validation, not validation)
    for line, row in zip(rows, run.history, strict=True):
        assert line.split()[4] == f"{row[f'{part}_loss']:.4f}"
        assert line.split()[5] == f"{row[f'{part}_accuracy']:.2f}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["evaluated_on"] == digits
    assert (summary["loss"], summary["accuracy"]) == (
        run.history[-1][f"{part}_loss"],
        run.history[-1][f"{part}_accuracy"],
    )
    assert summary["goals"][0]["goal"] == f"accuracy over 99.4 % on the {digits}"
    assert f"accuracy over 99.4 % on the {digits}: " in out
    if validation:
        written = "".join((folder / name).read_text() for name in ("summary.json", "metrics.csv"))
        assert "test" not in (out + written).replace(str(folder), "")


def verdict(accuracies: list[float], **options: Any) -> dict[str, Any]:
    """The summary of a run whose epochs had these accuracies; nothing is trained."""
    run = loop.new_run(dataclasses.replace(SMALL, epochs=len(accuracies), **options))
    part = "validation" if run.config.validation else "test"
    run.history = [
        {"epoch": epoch, f"{part}_loss": 0.1, f"{part}_accuracy": accuracy, "seconds": 2.0}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    return runs.summarize_run(run)


@pytest.mark.parametrize("validation", [False, True])
def test_goals_are_met_when_passed(few: Mnist, validation: bool):
    summary = verdict([98.0, 99.41, 99.2, 99.45], validation=validation)
    assert [goal["met"] for goal in summary["goals"]] == [True, True, True]
    assert (summary["first_epoch_over_goal"], summary["seconds"]) == (2, 8.0)


def test_accuracy_must_exceed_its_goal_after_the_last_epoch(few: Mnist):
    summary = verdict([99.5, 99.4])
    assert not summary["goals"][0]["met"]
    assert summary["goals"][0]["measured"].startswith("99.40 %")
    assert summary["first_epoch_over_goal"] == 1


def test_20000_parameters_are_too_many(few: Mnist):
    layers = ("pool", "pool", "conv1:100", "conv1:190")
    summary = verdict([10.0], layers=layers)
    assert summary["parameters"] == 100 + 200 + 19_000 + 380 + 1900
    assert not summary["goals"][1]["met"]


def test_16_epochs_are_too_many(few: Mnist):
    assert not verdict([10.0] * 16)["goals"][2]["met"]


def test_loss_that_is_no_number_leaves_the_last_good_epoch(few: Mnist, tmp_path: Path):
    run = runs.start(dataclasses.replace(SMALL, out=tmp_path / "run"))
    rows = runs.epochs(run)
    next(rows)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.nan)
    with pytest.raises(Failure, match="The loss became nan in epoch 2"):
        next(rows)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


# ----------------------------------------------------------------------- a folder for each run


@pytest.fixture
def stopped_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and a second that does not end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinydigits.runs.time.strftime", lambda form: "20260101-000000")


def test_default_folder_is_a_new_one_under_runs(few: Mnist, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs.start(SMALL)
    assert run.folder is not None
    assert run.folder.parent == Path("runs")
    assert run.folder.name.startswith("small-")
    assert (run.folder / "config.json").exists()


def test_runs_of_the_same_second_get_folders_of_their_own(few: Mnist, stopped_clock: None):
    folders = [runs.start(SMALL).folder for _ in range(3)]
    names = ["small-20260101-000000", "small-20260101-000000-2", "small-20260101-000000-3"]
    assert folders == [Path("runs") / name for name in names]


def test_threads_that_start_at_once_get_folders_of_their_own(stopped_clock: None):
    together = threading.Barrier(8)

    def make(_: int) -> Path:
        together.wait()
        return runs.new_folder("small")

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(make, range(8)))
    assert len(set(folders)) == 8
    assert all(folder.is_dir() for folder in folders)


MAKE_FOLDER = """
import sys, time
from tinydigits import runs
time.strftime = lambda form: "20260101-000000"
print("ready", flush=True)
sys.stdin.readline()
print(runs.new_folder("small"))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_get_folders_of_their_own(tmp_path: Path):
    command = [sys.executable, "-c", MAKE_FOLDER]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = {process.communicate(timeout=60)[0] for process in started}
    assert said == {"runs/small-20260101-000000\n", "runs/small-20260101-000000-2\n"}


def test_a_file_in_the_place_of_runs_is_a_failure(few: Mnist, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("precious")
    with pytest.raises(Failure, match=r"Cannot make runs: .* Choose another --out"):
        runs.start(SMALL)
    assert Path("runs").read_text() == "precious"


def test_folder_that_holds_something_is_left_alone(few: Mnist, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is already there"):
        runs.start(dataclasses.replace(SMALL, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# ------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9},
        {"schedule": "one-cycle", "nesterov": True, "weight_decay": 0.01},
        {"muon_lr": 0.05, "nesterov": True},
        {"layers": ("pool", "conv3:4", "conv3:4", "again"), "ema_decay": 0.9},
        {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 2.0, "undistorted_end": 0.3},
        {"precision": "bfloat16", "channels_last": False},
        {"validation": True},
        {"qat_epochs": 2, "activation_bits": 4, "weight_bits": 4},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_resumed_run_ends_in_the_same_bits(few: Mnist, tmp_path: Path, options: dict[str, Any]):
    config = dataclasses.replace(SMALL, **options)
    whole = summary_of(config, tmp_path / "whole")
    folder = tmp_path / "stopped"
    next(runs.epochs(runs.start(dataclasses.replace(config, out=folder))))
    next(runs.epochs(resume(folder)))
    runs.complete(resume(folder))
    resumed = json.loads((folder / "summary.json").read_text())
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_a_run_for_integers_of_few_bits_leaves_them_too(
    few: Mnist, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = dataclasses.replace(SMALL, qat_epochs=1, activation_bits=5, weight_bits=3)
    summary_of(config, tmp_path / "run")
    network = load_quantized(tmp_path / "run")
    assert (network.activation_bits, network.weight_bits) == (5, 3)
    summary = read_json(tmp_path / "run" / "summary.json")
    found = evaluate(network, few.test_images, few.test_labels).accuracy
    assert summary["accuracy_in_integers"] == found
    assert f"{found:.2f} % in integers, with weights of 3 bits" in capsys.readouterr().out


def test_every_finished_run_leaves_its_network_in_integers(
    few: Mnist, tmp_path: Path, command: Callable[..., Outcome]
):
    """Where its data may be gone, too, it can be exported then."""
    run = train(dataclasses.replace(SMALL, out=tmp_path / "run"))
    network = load_quantized(tmp_path / "run")
    expected = quantize(run.network, few.train_images)
    assert (network.logits(few.test_images) == expected.logits(few.test_images)).all()
    said = {option: command("evaluate", run.folder, *option).out for option in ((), ("--float",))}
    assert said[()].startswith(f"{run.folder / 'model.tdq'} in integers, ")
    assert said["--float",].startswith(f"{run.folder / 'model.safetensors'} in float32, ")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--resume"),
        ("report",),
        ("evaluate",),
        ("summary",),
        ("predict", "7.png", "--model"),
    ],
)
def test_a_run_of_another_version_is_refused_by_its_name(
    few: Mnist, tmp_path: Path, command: Callable[..., Outcome], words: tuple[str, ...]
):
    run = train(dataclasses.replace(SMALL, out=tmp_path / "run"))
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace("ema_decay", "averaging"))
    outcome = command(*words, run.folder)
    assert outcome.exit_code == 2
    assert "run was made by tinydigits 0.1.0, which called ema_decay averaging" in outcome.sentence


def test_resuming_a_finished_run_changes_no_weights(few: Mnist, tmp_path: Path):
    first = summary_of(SMALL, tmp_path / "run")
    run = runs.complete(resume(tmp_path / "run"))
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["weights_sha256"] == first["weights_sha256"]
    assert len(run.history) == 3


def test_moved_run_can_be_resumed(few: Mnist, tmp_path: Path):
    next(runs.epochs(runs.start(dataclasses.replace(SMALL, out=tmp_path / "old"))))
    (tmp_path / "old").rename(tmp_path / "new")
    runs.complete(resume(tmp_path / "new"))
    assert (tmp_path / "new" / "model.safetensors").exists()
    assert not (tmp_path / "old").exists()
