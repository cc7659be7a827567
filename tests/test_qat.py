"""Training with rounded numbers: they are those of the integers, and the gradient gets through."""

import dataclasses

import numpy as np
import pytest
import torch

from tinydigits import Mnist, Network, evaluate, load_model, preset
from tinydigits.quant.ptq import measure_ranges, round_network
from tinydigits.quant.qat import forward_rounded, round_activations, round_rows, rounded_kernels
from tinydigits.training import loop

LAYERS = ("conv3:4", "separable3:6", "pool", "depthwise3", "conv1:6", "again")


def test_activations_are_multiples_of_a_step_up_to_the_largest():
    values = torch.tensor([0.0, 0.3, 0.5, 1.1, 2.9, 7.0], requires_grad=True)
    rounded = round_activations(values, most=3.0, bits=2)
    assert rounded.tolist() == [0, 0, 0, 1, 3, 3]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 1, 1, 1, 0]  # what is cut off gets none


def test_each_row_of_weights_has_a_scale_of_its_own():
    weights = torch.tensor([[3.0, -1.2, 0.4], [0.0, 0.0, 0.0], [0.1, 0.3, -0.02]])
    rounded, scale = round_rows(weights, bits=3)
    torch.testing.assert_close(scale, torch.tensor([[1.0], [1.0], [0.1]]))
    expected = [[3.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.3, 0.0]]
    torch.testing.assert_close(rounded, torch.tensor(expected))


@pytest.mark.parametrize("name", ["classic", "tiny2k"])
@pytest.mark.parametrize(
    ("activation_bits", "weight_bits", "most"),
    [(8, 8, 0.45), (8, 4, 0.1), (8, 2, 0.05), (4, 8, 0.6)],
)
def test_rounded_network_is_nearer_to_the_integers_than_the_float_one(
    mnist: Mnist, name: str, activation_bits: int, weight_bits: int, most: float
):
    network, images = load_model(name), mnist.test_images[:300]
    ranges = measure_ranges(network, mnist.train_images[:1000])
    bits = activation_bits, weight_bits
    integers = round_network(network, ranges, 1.0, *bits).log_probs(images)
    with torch.no_grad():
        known = dict(enumerate(ranges))
        rounded = forward_rounded(network, torch.from_numpy(images), known, *bits).numpy()
    floats = network.log_probs(images)
    # What is left are the sums that only the integers round, and values half way between two steps.
    assert np.abs(rounded - integers).mean() < most * np.abs(floats - integers).mean()


@pytest.mark.parametrize(
    "layers", [("pool", "separable3:4", "conv3:3"), ("separable3:1", "again", "conv3:2", "pool")]
)
def test_black_paper_is_kept_in_the_first_convolution_alone(layers: tuple[str, ...], mnist: Mnist):
    """Of weights of 2 bits: what rounding takes from the paper, it gives back."""
    torch.manual_seed(0)
    network = Network(layers).eval()
    images, bits = mnist.test_images[:50], (8, 2)
    ranges = measure_ranges(network, images)
    integers = round_network(network, ranges, 1.0, *bits).log_probs(images)
    with torch.no_grad():
        known = dict(enumerate(ranges))
        rounded = forward_rounded(network, torch.from_numpy(images), known, *bits).numpy()
    off = np.abs(network.log_probs(images) - integers).mean()
    assert np.abs(rounded - integers).mean() < 0.1 * off


def test_weights_of_every_kind_of_layer_learn_and_stay_unrounded(few: Mnist):
    torch.manual_seed(0)
    model = Network(LAYERS).train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    images = torch.from_numpy(few.train_images[:50])
    ranges: dict[int, float] = {}
    log_probs = forward_rounded(model, images, ranges, 4, 3)
    labels = torch.from_numpy(few.train_labels[:50])
    torch.nn.functional.nll_loss(log_probs, labels).backward()
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None
            assert tensor.grad.abs().max() > 0, name
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name])
    plain = model.eval()(images)
    assert not torch.equal(plain, forward_rounded(model, images, ranges, 4, 3))
    assert torch.equal(plain, model(images))  # nothing is left behind in the network


def test_missing_ranges_are_those_of_the_first_batch_and_stay(few: Mnist):
    torch.manual_seed(0)
    model = Network(LAYERS).eval()
    ranges: dict[int, float] = {}
    with torch.no_grad():
        forward_rounded(model, torch.from_numpy(few.train_images), ranges, 8, 8)
    expected = measure_ranges(model, few.train_images)
    assert [*ranges] == [0, 1, 3, 4, 5]  # the pool has none
    assert [ranges[i] for i in ranges] == pytest.approx([expected[i] for i in ranges], rel=0.05)
    before = {**ranges}
    forward_rounded(model, torch.from_numpy(few.train_images[:9] // 2), ranges, 8, 8)
    assert ranges == before


def test_depthwise_weights_keep_eight_bits():
    torch.manual_seed(0)
    model = Network(LAYERS)
    counts = [
        [max(len(row.detach().unique()) for row in kernel) for kernel in kernels]
        for kernels in rounded_kernels(model, 2)
    ]
    # The two halves of a separable convolution are rounded as one.
    (conv,), (separable_depthwise, separable_rows), pool, (depthwise,), (conv1,), again = counts
    assert min(separable_depthwise, separable_rows, depthwise) > 3
    assert conv == conv1 == 3
    assert (pool, again) == ([], [conv1])


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_training_for_few_bits_pays_in_few_bits(mnist: Mnist, epochs: int):
    """Two epochs of a small network, the last or both of them for 3 and 3 bits, or neither."""
    config = dataclasses.replace(
        preset("tiny1k"), epochs=2, layers=("pool", *preset("tiny1k").layers[:2]), threads=1
    )
    accuracies = []
    for changes in ({}, {"qat_epochs": epochs, "activation_bits": 3, "weight_bits": 3}):
        run = loop.new_run(dataclasses.replace(config, **changes))
        for _ in loop.epochs(run):
            pass
        ranges = measure_ranges(run.network, mnist.train_images[:2000])
        integers = round_network(run.network, ranges, 1.0, 3, 3)
        accuracies.append(evaluate(integers, mnist.test_images, mnist.test_labels).accuracy)
    assert accuracies[1] > accuracies[0] + 1
