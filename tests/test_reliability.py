"""Runs that are killed, disks that are full, files that are damaged or lie."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, TINYDIGITS, Outcome, child, run
from safetensors.numpy import save_file

from tinydigits import Config, Mnist, UsageError, build_model, runs
from tinydigits.network.model import save_model

slow = pytest.mark.slow
Command = Callable[..., Outcome]


def assert_ends_like(folder: Path, whole: Path) -> None:
    """A run has the weights of another to the bit, and its rows but for the seconds."""
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    rows, expected = (
        [line.split(",")[:-1] for line in (run / "metrics.csv").read_text().splitlines()]
        for run in (folder, whole)
    )
    assert rows == expected


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------- killed runs


@slow
@pytest.mark.parametrize(
    ("moment", "end", "exit_code"),
    [
        ("step:1", "SIGKILL", -9),
        ("step:3", "SIGTERM", 143),
        ("before:checkpoint.pt:1", "SIGKILL", -9),
        ("after:checkpoint.pt:1", "SIGKILL", -9),
        ("before:metrics.csv:1", "SIGKILL", -9),
        ("step:9", "SIGKILL", -9),
        ("step:9", "SIGTERM", 143),
        ("step:9", "SIGINT", 130),
        ("half:checkpoint.pt:2", "SIGKILL", -9),
        ("half:checkpoint.pt:2", "SIGTERM", 143),
        ("before:checkpoint.pt:2", "SIGKILL", -9),
        ("before:checkpoint.pt:2", "SIGINT", 130),
        ("after:checkpoint.pt:2", "SIGKILL", -9),
        ("half:model.safetensors:1", "SIGKILL", -9),
        ("after:model.safetensors:1", "SIGKILL", -9),
        ("half:summary.json:1", "SIGKILL", -9),
        ("open:checkpoint.pt:1", "FULL", 1),
        ("open:checkpoint.pt:2", "FULL", 1),
        ("open:model.safetensors:1", "FULL", 1),
    ],
)
def test_resumed_run_ends_like_one_that_nothing_stopped(
    whole_run: Path, tmp_path: Path, moment: str, end: str, exit_code: int
):
    folder = tmp_path / "run"
    stopped = child(moment, end, "train", *TINY, "--out", folder)
    assert stopped.exit_code == exit_code, stopped.err
    assert "Traceback" not in stopped.err
    if exit_code > 128:
        assert f"tinydigits train --resume {folder}" in stopped.err
    if end == "FULL":
        assert "Cannot write" in stopped.sentence
    resumed = child("never", "SIGKILL", "train", "--resume", folder)
    assert resumed.exit_code == 0, resumed.err
    assert_ends_like(folder, whole_run)


@slow
def test_run_that_is_stopped_again_and_again_ends_like_one_that_was_not(
    whole_run: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    first = child("step:5", "SIGKILL", "train", *TINY, "--out", folder)
    ends = [
        child(moment, "SIGKILL", "train", "--resume", folder)
        for moment in ("step:6", "half:checkpoint.pt:1", "after:checkpoint.pt:1", "step:4")
    ]
    assert [outcome.exit_code for outcome in (first, *ends)] == [-9] * 5
    assert child("never", "SIGKILL", "train", "--resume", folder).exit_code == 0
    assert_ends_like(folder, whole_run)


@slow
def test_run_killed_before_it_had_a_configuration_can_be_started_again(
    whole_run: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    assert child("half:config.json:1", "SIGKILL", "train", *TINY, "--out", folder).exit_code == -9
    assert child("never", "SIGKILL", "train", *TINY, "--out", folder).exit_code == 0
    assert_ends_like(folder, whole_run)


@slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_from_outside_stops_the_command_which_names_how_to_go_on(
    tmp_path: Path, number: signal.Signals, exit_code: int
):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [TINYDIGITS, "train", *TINY, "--epochs", "50", "--out", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("    1 "):
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert err.startswith("Stopped after ")
    assert err.endswith(f"go on with: tinydigits train --resume {folder}\n")
    assert err.count("\n") == 1


@pytest.fixture
def half_run(few: Mnist, tmp_path: Path) -> Path:
    """A run of two epochs that was stopped after the first."""
    config = Config(layers=("pool", "conv3:4"), epochs=2, threads=1, out=tmp_path / "half")
    next(runs.epochs(runs.start(config)))
    return tmp_path / "half"


def test_resuming_sweeps_up_what_a_killed_process_left(half_run: Path, command: Command):
    old, young = half_run / ".checkpoint.pt.old.tmp", half_run / ".checkpoint.pt.young.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    (half_run / "checkpoint.pt").write_bytes(b"damaged, so that nothing is trained")
    command("train", "--resume", half_run)
    assert not old.exists()
    assert young.exists()  # another process may still be writing it


def test_folder_that_is_being_trained_in_is_left_alone(few: Mnist, tmp_path: Path):
    config = Config(layers=("pool", "conv3:4"), epochs=2, threads=1, out=tmp_path / "run")
    started = runs.start(config)
    with pytest.raises(UsageError, match="Another process is training"):
        runs.resume(tmp_path / "run")
    runs.complete(started)
    assert len(runs.resume(tmp_path / "run").history) == 2


def test_checkpoint_of_other_options_is_refused(half_run: Path, command: Command):
    config = json.loads((half_run / "config.json").read_text())
    (half_run / "config.json").write_text(json.dumps(config | {"lr": 0.02}))
    outcome = command("train", "--resume", half_run)
    assert outcome.exit_code == 1
    assert "made with other options" in outcome.sentence


# ------------------------------------------------------------------------- damaged run folders


def resume(command: Command, folder: Path) -> Outcome:
    """Resume a damaged run, which must change nothing in its folder."""
    before = contents(folder)
    outcome = command("train", "--resume", folder)
    assert contents(folder) == before
    return outcome


def test_folder_that_is_no_run_cannot_be_resumed(command: Command, tmp_path: Path):
    outcome = resume(command, tmp_path)
    assert outcome.exit_code == 2
    assert f"{tmp_path} holds no config.json" in outcome.sentence


def test_run_that_is_not_there_cannot_be_resumed(command: Command, tmp_path: Path):
    outcome = command("train", "--resume", tmp_path / "nowhere")
    assert outcome.exit_code == 2
    assert "nowhere holds no config.json" in outcome.sentence
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"layers": [', b"\xff\xfe", b"\0" * 100, b"[" * 100_000],
    ids=["empty", "brace", "cut", "UTF-16", "zeros", "endless"],
)
def test_damaged_configuration_is_named(half_run: Path, command: Command, content: bytes):
    (half_run / "config.json").write_bytes(content)
    outcome = resume(command, half_run)
    assert outcome.exit_code == 1
    assert f"{half_run / 'config.json'} is not valid JSON" in outcome.sentence


@pytest.mark.parametrize(
    ("change", "name"),
    [({"epochs": 0}, "epochs"), ({"color": 1}, "color"), ({"data": 5}, "data")],
)
def test_impossible_configuration_is_refused_by_name(
    half_run: Path, command: Command, change: dict[str, Any], name: str
):
    path = half_run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    outcome = resume(command, half_run)
    assert outcome.exit_code == 1
    assert name in outcome.sentence


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["empty", "truncated", "altered", "other shape", "other kind"])
def test_damaged_checkpoint_is_named(half_run: Path, command: Command, damage: str):
    path = half_run / "checkpoint.pt"
    raw = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "altered":
        path.write_bytes(raw.replace(b"features", b"creature"))
    elif damage == "other shape":
        config = json.loads((half_run / "config.json").read_text())
        (half_run / "config.json").write_text(json.dumps(config | {"layers": ["conv3:2"]}))
    else:
        torch.save([1, 2], path)
    outcome = resume(command, half_run)
    assert outcome.exit_code == 1
    assert f"{path} is damaged or belongs to another run" in outcome.sentence


def test_rows_that_are_of_other_digits_are_refused(few: Mnist, tmp_path: Path, command: Command):
    """As early versions wrote them for a run that holds digits out."""
    folder = tmp_path / "run"
    config = Config(layers=("pool", "conv3:4"), epochs=2, threads=1, validation=True, out=folder)
    next(runs.epochs(runs.start(config)))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    (row,) = state["history"]
    state["history"] = [{key.replace("validation", "test"): row[key] for key in row}]
    torch.save(state, folder / "checkpoint.pt")
    outcome = resume(command, folder)
    assert outcome.exit_code == 1
    assert "checkpoint.pt is damaged or belongs to another run" in outcome.sentence


@pytest.mark.parametrize("by", [pickle, torch], ids=["pickle", "torch"])
def test_checkpoint_that_would_run_code_does_not(
    half_run: Path, command: Command, tmp_path: Path, by: Any
):
    trace = tmp_path / "executed"
    with (half_run / "checkpoint.pt").open("wb") as file:
        (pickle.dump if by is pickle else torch.save)({"model": Bomb(trace)}, file)
    outcome = resume(command, half_run)
    assert outcome.exit_code == 1
    assert "checkpoint.pt is damaged" in outcome.sentence
    assert not trace.exists()


# ---------------------------------------------------------------------------- output folders


@pytest.mark.parametrize("place", ["file/run", "file/deeper/run"])
def test_folder_below_a_file_cannot_be_written(
    few: Mnist, command: Command, tmp_path: Path, place: str
):
    (tmp_path / "file").write_text("precious")
    outcome = command("train", *TINY, "--out", tmp_path / place)
    assert outcome.exit_code == 1
    assert "Cannot write" in outcome.sentence
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_folder_where_the_system_allows_none_is_named(few: Mnist, command: Command):
    outcome = command("train", *TINY, "--out", "/proc/tinydigits/run")
    assert outcome.exit_code == 1
    assert "/proc/tinydigits/run" in outcome.sentence


def test_folder_with_too_long_a_name_is_refused(few: Mnist, command: Command, tmp_path: Path):
    outcome = command("train", *TINY, "--out", tmp_path / ("a" * 300))
    assert outcome.exit_code == 1
    assert "too long" in outcome.sentence


def test_folder_that_is_a_file_is_left_alone(few: Mnist, command: Command, tmp_path: Path):
    (tmp_path / "run").write_text("precious")
    outcome = command("train", *TINY, "--out", tmp_path / "run")
    assert outcome.exit_code == 2
    assert "is already there" in outcome.sentence
    assert (tmp_path / "run").read_text() == "precious"


def test_folder_that_holds_a_run_is_left_alone(half_run: Path, command: Command):
    before = contents(half_run)
    outcome = command("train", *TINY, "--out", half_run)
    assert outcome.exit_code == 2
    assert f"tinydigits train --resume {half_run}" in outcome.sentence
    assert contents(half_run) == before


@pytest.mark.parametrize("batch_size", [50, 500], ids=["training", "test"])
def test_loss_that_is_no_number_is_one_sentence(
    few: Mnist, command: Command, tmp_path: Path, batch_size: int
):
    # The only step of an epoch spoils the test loss, but not the loss that came before it.
    options = ("--lr", "1e30", "--schedule", "constant", "--batch-size", batch_size)
    outcome = command("train", *TINY, *options, "--out", tmp_path / "run")
    assert outcome.exit_code == 1
    assert "The loss became nan in epoch 1: lower the learning rate" in outcome.sentence
    assert [path.name for path in (tmp_path / "run").glob("[!.]*")] == ["config.json"]


# -------------------------------------------------------------------------------- model files


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 9, b"\xff" * 64])
def test_file_that_is_no_model_is_one_sentence(command: Command, tmp_path: Path, content: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    outcome = command("evaluate", path)
    assert outcome.exit_code == 1
    assert f"{path} is not a readable safetensors file" in outcome.sentence


def test_pickle_called_safetensors_is_not_executed(command: Command, tmp_path: Path):
    path, trace = tmp_path / "model.safetensors", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    outcome = command("evaluate", path)
    assert outcome.exit_code == 1
    assert f"{path} is not a readable safetensors file" in outcome.sentence
    assert not trace.exists()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("conv3:2", "The weights in {path} do not fit"),
        ("pool", "The header of {path} names no network"),
        ('{"layers": ["conv3:2"]}', "The header of {path} names no network"),
    ],
)
def test_model_of_another_shape_is_one_sentence(
    command: Command, tmp_path: Path, header: str, message: str
):
    path = tmp_path / "model.safetensors"
    save_file({"classes.weight": np.zeros((10, 4, 1, 1), np.float32)}, path, {"tinydigits": header})
    outcome = command("evaluate", path)
    assert outcome.exit_code == 1
    assert message.format(path=path) in outcome.sentence


def test_model_that_is_not_finite_is_one_sentence(command: Command, tmp_path: Path):
    config = Config(layers=("conv3:2",))
    model = build_model(config)
    torch.nn.init.constant_(model.classes.weight, torch.nan)
    save_model(tmp_path / "model.safetensors", model)
    outcome = command("evaluate", tmp_path)
    assert outcome.exit_code == 1
    assert "are not all finite" in outcome.sentence


def test_model_that_is_not_there_is_one_sentence(command: Command, tmp_path: Path):
    outcome = command("evaluate", tmp_path / "model.safetensors")
    assert outcome.exit_code == 2
    assert "There is no model" in outcome.sentence


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_folder_without_a_model_is_one_sentence(command: Command, tmp_path: Path, name: str):
    outcome = command(name, tmp_path)
    assert outcome.exit_code in (1, 2)
    assert str(tmp_path) in outcome.sentence
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- a disk


def test_full_disk_is_one_sentence_and_leaves_what_was_there(
    half_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
):
    def no_space(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    outcome = resume(command, half_run)
    assert outcome.exit_code == 1
    assert "checkpoint.pt: No space left on device. Free the space" in outcome.sentence


@slow
def test_disk_that_is_full_leaves_the_last_good_checkpoint(whole_run: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or run(mount, "-t", "tmpfs", "-o", "size=28k", "tiny", disk).exit_code:
        pytest.skip("needs the right to mount a small disk")
    try:
        # Room for the first checkpoint, but not for the second one beside it.
        (disk / "ballast").write_bytes(b"x" * 4096)
        full = child("never", "SIGKILL", "train", *TINY, "--out", disk / "run")
        assert full.exit_code == 1
        assert "No space left on device" in full.sentence
        (disk / "ballast").unlink()
        shutil.copytree(disk / "run", tmp_path / "run")
    finally:
        run("umount", disk)
    assert child("never", "SIGKILL", "train", "--resume", tmp_path / "run").exit_code == 0
    assert_ends_like(tmp_path / "run", whole_run)
