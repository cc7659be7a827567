import math

import numpy as np
import pytest
import torch
from torch import nn

from tinydigits import Evaluation, evaluate


def made_of(probs: list[dict[int, float]], labels: list[int]) -> Evaluation:
    """An evaluation with these probabilities; what is not named gets next to nothing."""
    table = np.full((len(probs), 10), 1e-6)
    for row, named in zip(table, probs, strict=True):
        row[list(named)] = list(named.values())
    return Evaluation(np.log(table).astype(np.float32), np.array(labels, np.int64))


# Truths 3, 4, 4, 9; guesses 3, 9, 9, 9.
FOUR = made_of([{3: 0.95}, {9: 0.65, 4: 0.3}, {9: 0.62, 4: 0.36}, {9: 0.65}], [3, 4, 4, 9])


class Lookup(nn.Module):
    """Answers 3 for every digit, with the same log-probabilities; remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-4, -1, 10))
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return self.weight.repeat(len(x), 1)


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n, 28, 28), np.uint8), np.arange(n) % 10


def test_loss_is_the_sum_over_the_data_divided_by_its_size():
    loss = -(math.log(0.95) + math.log(0.3) + math.log(0.36) + math.log(0.65)) / 4
    assert FOUR.loss == pytest.approx(loss, rel=1e-6)


def test_loss_of_a_model_is_the_one_computed_by_hand():
    # Labels 0, 1, 2 get -4, -4 + 1/3, -4 + 2/3.
    assert evaluate(Lookup(), *digits(3)).loss == pytest.approx((12 - 1 / 3 - 2 / 3) / 3)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_of_unequal_size_weigh_by_their_size(batch_size: int):
    expected = np.linspace(4, 1, 10)[np.arange(7)].mean()
    assert evaluate(Lookup(), *digits(7), batch_size).loss == pytest.approx(expected)


def test_last_batch_holds_what_is_left_over():
    model = Lookup()
    evaluate(model, *digits(7), batch_size=3)
    assert [n for n, _, _ in model.calls] == [3, 3, 1]


def test_model_reads_in_eval_mode_and_without_gradients():
    model = Lookup().train()
    evaluate(model, *digits(2))
    assert model.calls == [(2, False, False)]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool):
    model = Lookup().train(training)
    evaluate(model, *digits(2))
    assert model.training is training


def test_mode_is_restored_after_an_error():
    class Broken(Lookup):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, *digits(2))
    assert model.training


def test_model_gets_normalised_images():
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1:] == (1, 28, 28)
            return x[:, 0, 0, :10]

    images = np.zeros((1, 28, 28), np.uint8)
    images[0, 0, 1] = 255
    row = evaluate(Corner(), images, np.array([0])).log_probs[0]
    assert row[:2] == pytest.approx([-0.1307 / 0.3081, (1 - 0.1307) / 0.3081])


def test_weights_do_not_change():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, *digits(5))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, int), "N of 1 or more"),
        (np.zeros((2, 27, 28), np.uint8), np.zeros(2, int), r"\(N, 28, 28\)"),
        (np.zeros((2, 784), np.uint8), np.zeros(2, int), r"\(N, 28, 28\)"),
        (np.zeros((2, 28, 28), np.float32), np.zeros(2, int), "raw uint8 bytes, not float32"),
        (np.zeros((2, 28, 28), np.uint8), np.zeros(3, int), r"labels must be \(2,\)"),
        (np.zeros((2, 28, 28), np.uint8), np.zeros((2, 1), int), r"labels must be \(2,\)"),
    ],
)
def test_wrong_input_is_refused(images, labels, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate(Lookup(), images, labels)


def test_accuracy_is_in_percent():
    assert FOUR.accuracy == 50


def test_confidence_is_the_probability_of_the_guess():
    assert FOUR.confidence == pytest.approx([0.95, 0.65, 0.62, 0.65])


def test_confusion_has_a_row_per_truth_and_a_column_per_guess():
    expected = np.zeros((10, 10), int)
    expected[3, 3], expected[4, 9], expected[9, 9] = 1, 2, 1
    assert np.array_equal(FOUR.confusion(), expected)


def test_largest_confusions_come_most_frequent_first():
    three = made_of([{1: 0.9}, {9: 0.9}, {9: 0.9}, {5: 0.9}], [7, 4, 4, 5])
    assert three.largest_confusions() == [(4, 9, 2), (7, 1, 1)]


def test_largest_confusions_are_at_most_n():
    three = made_of([{1: 0.9}, {9: 0.9}, {9: 0.9}], [7, 4, 4])
    assert three.largest_confusions(1) == [(4, 9, 2)]


def test_precision_is_the_share_of_right_guesses():
    precision, _ = FOUR.precision_and_recall()
    assert precision[[3, 9]] == pytest.approx([1, 1 / 3])
    assert np.isnan(precision[4])  # never guessed


def test_recall_is_the_share_of_digits_that_are_found():
    _, recall = FOUR.precision_and_recall()
    assert recall[[3, 4, 9]] == pytest.approx([1, 0, 1])
    assert np.isnan(recall[0])  # never there


def test_errors_come_worst_first():
    assert FOUR.errors().tolist() == [1, 2]  # the truth had 0.3, then 0.36


def test_calibration_sorts_guesses_by_confidence():
    count, confidence, accuracy = FOUR.calibration()
    assert count.tolist() == [0, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    assert confidence[[6, 9]] == pytest.approx([1.92 / 3, 0.95])
    assert accuracy[[6, 9]] == pytest.approx([1 / 3, 1])
    assert np.isnan(confidence[:6]).all()


def test_expected_calibration_error_weighs_gaps_by_digits():
    gap = 3 / 4 * (1.92 / 3 - 1 / 3) + 1 / 4 * (1 - 0.95)
    assert FOUR.expected_calibration_error() == pytest.approx(gap)


def test_a_certain_guess_falls_into_the_last_bin():
    sure = made_of([{0: 1.0}], [0])
    assert sure.calibration()[0].tolist() == [0] * 9 + [1]
