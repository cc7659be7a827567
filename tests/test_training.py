"""The loop, in memory: one step by hand, what is trained on what, the schedule, the optimizers."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tinydigits import Config, Failure, Mnist, build_model, normalize, preset
from tinydigits.training import augmentation, loop
from tinydigits.training.muon import Muon, orthogonalize

SMALL = Config(
    layers=("pool", "conv3:4", "conv1:4"),
    name="small",
    dropout=0.1,
    epochs=3,
    batch_size=64,
    lr=0.1,
    precision="float32",
    threads=1,
)


def trained(config: Config) -> loop.Run:
    run = loop.new_run(config)
    assert list(loop.epochs(run)) == run.history
    return run


def weights_of(run: loop.Run) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in run.network.state_dict().values())


# ---------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_step_is_the_one_written_out_by_hand(few: Mnist, smoothing: float):
    config = dataclasses.replace(
        SMALL, dropout=0.0, epochs=1, batch_size=500, label_smoothing=smoothing
    )
    torch.manual_seed(config.seed)
    model = build_model(config).train()
    labels = torch.from_numpy(few.train_labels)
    log_probs = model(normalize(torch.from_numpy(few.train_images)))
    F.cross_entropy(log_probs, labels, label_smoothing=smoothing).backward()
    expected = [(p - 0.1 * p.grad).detach() for p in model.parameters() if p.grad is not None]
    run = loop.new_run(config)
    (row,) = loop.epochs(run)
    # The loss that is shown is comparable with the test loss, whatever the labels were.
    assert row["train_loss"] == pytest.approx(F.nll_loss(log_probs, labels).item(), rel=1e-5)
    torch.testing.assert_close([p.detach() for p in run.model.parameters()], expected)


def test_one_batch_can_be_learned_by_heart(few: Mnist, monkeypatch: pytest.MonkeyPatch):
    tiny = Mnist(*(part[:50] for part in few))
    monkeypatch.setattr("tinydigits.data.dataset.load_mnist", lambda root: tiny)
    layers = ("pool", "conv3:16", "conv3:16")
    run = trained(dataclasses.replace(SMALL, layers=layers, dropout=0.0, epochs=150))
    assert run.history[-1]["train_accuracy"] == 100


@pytest.mark.slow
def test_the_baseline_passes_93_percent_after_one_epoch():
    # One thread, because two that share a busy core with others wait for each other at length.
    run = loop.new_run(dataclasses.replace(preset("baseline"), threads=1))
    assert next(loop.epochs(run))["test_accuracy"] > 93


def test_shapes_are_left_alone_at_the_end_and_paper_and_ink_are_not(
    few: Mnist, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []
    for name in ("distort", "shade"):
        real = getattr(augmentation, name)
        monkeypatch.setattr(
            augmentation, name, lambda *all, real=real, name=name: calls.append(name) or real(*all)
        )
    config = dataclasses.replace(
        SMALL, epochs=1, batch_size=50, rotation=5, undistorted_end=0.4, background=0.2
    )  # ten steps
    trained(config)
    assert calls == ["distort", "shade"] * 6 + ["shade"] * 4
    calls.clear()
    trained(dataclasses.replace(config, rotation=0, background=0, ink_fade=0.1))
    assert calls == ["shade"] * 10
    calls.clear()
    trained(dataclasses.replace(config, rotation=0, background=0))
    assert calls == []


def test_same_seed_gives_the_same_bits(few: Mnist):
    assert weights_of(trained(SMALL)) == weights_of(trained(SMALL))


def test_other_seed_gives_other_bits(few: Mnist):
    other = dataclasses.replace(SMALL, seed=2)
    assert weights_of(trained(SMALL)) != weights_of(trained(other))


def test_state_of_torchs_generator_before_does_not_matter(few: Mnist):
    first = weights_of(trained(SMALL))
    torch.rand(7)
    assert weights_of(trained(SMALL)) == first


def test_a_run_in_memory_leaves_no_file(
    few: Mnist, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(folder)
    run = trained(dataclasses.replace(SMALL, out=folder / "run"))
    assert not {"folder", "lock"} & vars(run).keys()
    assert list(folder.iterdir()) == []


def test_validation_trains_on_the_first_digits_and_reports_on_the_last(few: Mnist):
    run = loop.new_run(dataclasses.replace(SMALL, validation=True))
    assert torch.equal(run.train_digits.images, torch.from_numpy(few.train_images[:400]))
    assert np.array_equal(run.images, few.train_images[400:])
    assert np.array_equal(run.labels, few.train_labels[400:])


def test_plain_run_trains_on_all_digits_and_reports_on_the_test_set(few: Mnist):
    run = loop.new_run(SMALL)
    assert len(run.train_digits) == 500
    assert np.array_equal(run.images, few.test_images)


@pytest.mark.parametrize(("validation", "part"), [(False, "test"), (True, "validation")])
def test_a_row_names_the_digits_that_it_is_about(few: Mnist, validation: bool, part: str):
    run = loop.new_run(dataclasses.replace(SMALL, epochs=1, validation=validation))
    (row,) = loop.epochs(run)
    assert list(row) == [
        *("epoch", "train_loss", "train_accuracy"),
        *(f"{part}_loss", f"{part}_accuracy", "lr", "seconds"),
    ]
    assert run.evaluation is not None
    assert (row[f"{part}_loss"], row[f"{part}_accuracy"]) == (
        run.evaluation.loss,
        run.evaluation.accuracy,
    )
    assert np.array_equal(run.evaluation.labels, run.labels)


def test_the_first_epoch_over_the_goal_is_found_in_either_kind_of_row(few: Mnist):
    for validation, part in ((False, "test"), (True, "validation")):
        run = loop.new_run(dataclasses.replace(SMALL, validation=validation))
        assert loop.first_epoch_over_goal(run) is None
        run.history = [
            {"epoch": epoch, f"{part}_accuracy": accuracy}
            for epoch, accuracy in enumerate((98.0, 99.4, 99.41, 99.2), 1)
        ]
        assert loop.first_epoch_over_goal(run) == 3


def test_loss_that_is_no_number_stops_the_run_and_adds_no_row(few: Mnist):
    run = loop.new_run(SMALL)
    rows = loop.epochs(run)
    next(rows)
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.nan)
    with pytest.raises(Failure, match="The loss became nan in epoch 2"):
        next(rows)
    assert [row["epoch"] for row in run.history] == [1]


def test_a_single_digit_is_no_batch(few: Mnist):
    """BatchNorm needs two; the digit that is left out is another one in each epoch."""
    (row,) = loop.epochs(loop.new_run(dataclasses.replace(SMALL, batch_size=499, epochs=1)))
    assert np.isfinite(row["train_loss"])


def test_constant_rate_stays():
    assert loop.schedule(SMALL, 0.01) == loop.schedule(SMALL, 1) == 1


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.4), (0.25, 1.0), (0.5, 2 / 3), (1.0, 0.0)])
def test_one_cycle_climbs_and_falls_along_straight_lines(progress: float, share: float):
    config = dataclasses.replace(SMALL, schedule="one-cycle", warm_up=0.25)
    assert loop.schedule(config, progress) == pytest.approx(share)


# ------------------------------------------------------------------------------ the optimizers


def test_muon_takes_steps_of_the_same_size_in_every_direction():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    matrix[1] = matrix[0] + 0.01 * matrix[1]  # all but parallel to another row
    for tall_or_wide in (matrix, matrix.T):
        sizes = torch.linalg.svdvals(orthogonalize(tall_or_wide))
        assert sizes.min() > 0.3
        assert sizes.max() < 1.3


def test_muon_trains_the_inner_convolutions_and_sgd_the_rest():
    config = dataclasses.replace(preset("classic"), muon_lr=0.02)
    model = build_model(config)
    sgd, muon = loop.build_optimizer(model, config).param_groups
    assert [tuple(w.shape[:2]) for w in muon["params"]] == [(32, 16), (16, 32), (32, 16), (32, 32)]
    counted = sum(w.numel() for group in (sgd, muon) for w in group["params"])
    assert counted == 19_664
    assert (sgd["lr"], muon["lr"]) == (config.lr, 0.02)


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
