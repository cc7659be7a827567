import dataclasses
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tdq

from lab.parity import noise_images, random_network
from tinydigits import Failure, Mnist, UsageError, load_model
from tinydigits.network.checkpoint import Description
from tinydigits.network.model import Network
from tinydigits.quant.integer import NO_DEPTHWISE, NO_TABLE, IntegerNetwork, QuantizedLayer
from tinydigits.quant.ptq import fit_temperature, quantize
from tinydigits.quant.tdq import from_bytes, load_quantized, save, to_bytes
from tinydigits.training.presets import PRESETS


@pytest.fixture(scope="module")
def tiny1k(mnist: Mnist) -> IntegerNetwork:
    return quantize(load_model("tiny1k"), mnist.train_images[:500])


def sealed(raw: bytes) -> bytes:
    """Bytes whose length and checksum are right again."""
    raw = raw[:4] + struct.pack("<I", len(raw)) + raw[8:]
    return raw[:8] + struct.pack("<I", zlib.crc32(raw[12:])) + raw[12:]


@pytest.mark.parametrize("seed", range(24))
def test_numpy_engine_agrees_with_a_naive_reader_of_the_format(seed: int):
    network = random_network(seed, widest=9) if seed % 10 != 9 else random_network(seed)
    model = tdq.read(to_bytes(network))
    images = noise_images(3, seed)
    logits = network.logits(images)
    for image, row in zip(images[seed % 3 :][:1], logits[seed % 3 :][:1], strict=True):
        assert tdq.classify(model, image)[0] == row.tolist()
    assert model["names"] == list(network.class_names)
    assert model["layers"] == " ".join(network.layers)


def test_shipped_network_agrees_with_the_naive_reader(tiny1k: IntegerNetwork, mnist: Mnist):
    logits, _ = tdq.classify(tdq.read(to_bytes(tiny1k)), mnist.test_images[0])
    assert logits == tiny1k.logits(mnist.test_images[:1])[0].tolist()


def test_random_networks_come_within_two_thousandths_of_31_bits():
    network = random_network(9)
    layer, images = network.quantized_layers[1], np.full((1, 28, 28), 255, np.uint8)
    inputs = 255 * 128 * len(layer.depthwise)
    assert network.quantized_layers[1].shift_in == 0
    assert 0.998 * 2**31 < inputs * 128 < 2**31
    assert (tdq.classify(tdq.read(to_bytes(network)), images[0])[1][0] == 255).all()


@pytest.mark.parametrize("seed", range(5))
def test_bytes_are_read_back_as_they_were_written(seed: int, tmp_path: Path):
    network = random_network(seed)
    save(network, tmp_path / "model.tdq")
    again = load_quantized(tmp_path)
    assert to_bytes(again) == to_bytes(network) == (tmp_path / "model.tdq").read_bytes()
    assert (again.layers, again.class_names) == (network.layers, network.class_names)


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.2, 0.575, 0.999999, 1.0])
def test_rejection_threshold_goes_with_the_network(tiny1k: IntegerNetwork, threshold: float):
    network = dataclasses.replace(tiny1k, rejection_threshold=threshold)
    raw = to_bytes(network)
    assert from_bytes(raw).rejection_threshold == threshold
    assert tdq.read(raw)["threshold"] == threshold
    assert len(raw) % 4 == 0
    assert from_bytes(to_bytes(tiny1k)).rejection_threshold is None


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), 0.1234567])
def test_what_is_no_rejection_threshold_is_refused(tiny1k: IntegerNetwork, threshold: float):
    with pytest.raises(UsageError, match="rejection threshold"):
        dataclasses.replace(tiny1k, rejection_threshold=threshold)


@pytest.mark.parametrize("threshold", ["", "2", "1.5", "-0", "0.", ".5", "0.1234567", "1e-3", "0 "])
def test_a_file_with_another_string_is_refused(tiny1k: IntegerNetwork, threshold: str):
    raw = to_bytes(dataclasses.replace(tiny1k, rejection_threshold=0.5))
    hostile = raw.rstrip(b"\0")[: -len("0.5")] + threshold.encode() + b"\0"
    with pytest.raises(Failure, match="rejection threshold"):
        from_bytes(sealed(hostile + bytes(-len(hostile) % 4)))


def test_repeated_convolution_is_stored_once(tiny1k: IntegerNetwork):
    model = to_bytes(tiny1k)
    offsets = [struct.unpack_from("<II", model, 36 + 24 * i + 16) for i in range(model[12])]
    assert len({weights for weights, _ in offsets}) == len(offsets) - 3
    assert len({table for _, table in offsets}) == len(offsets)


def test_result_does_not_depend_on_the_batch(tiny1k: IntegerNetwork, mnist: Mnist):
    images = mnist.test_images[:70]
    whole = tiny1k.logits(images)
    assert (tiny1k.logits(images, batch_size=1) == whole).all()
    assert (tiny1k.logits(images[:, ::-1][:, ::-1]) == whole).all()
    assert tiny1k.logits(images[:0]).shape == (0, 10)


def test_log_probs_are_those_of_the_floats_nearly(tiny1k: IntegerNetwork, mnist: Mnist):
    log_probs = tiny1k.log_probs(mnist.test_images[:500])
    assert log_probs.dtype == np.float32
    assert np.exp(log_probs.astype(np.float64)).sum(axis=1) == pytest.approx(1, abs=1e-5)
    floats = load_model("tiny1k").log_probs(mnist.test_images[:500])
    assert np.abs(np.exp(log_probs) - np.exp(floats)).mean() < 0.005


@pytest.mark.parametrize(
    "images",
    [np.zeros((28, 28), np.uint8), np.zeros((1, 28, 28)), np.zeros((1, 27, 28), np.uint8)],
)
def test_other_images_are_refused_in_a_sentence(tiny1k: IntegerNetwork, images: np.ndarray):
    with pytest.raises(UsageError, match="reads uint8"):
        tiny1k.logits(images)


# ------------------------------------------------------------------------------ damaged files


def test_every_altered_byte_and_every_shorter_file_is_refused(tiny1k: IntegerNetwork):
    raw = to_bytes(tiny1k)
    for i in range(0, len(raw), 11):
        for damaged in (raw[:i], raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :]):
            with pytest.raises(Failure, match=r"\.tdq file|damaged"):
                from_bytes(damaged)


def test_hostile_records_end_in_a_sentence():
    raw = to_bytes(random_network(4))
    random = np.random.default_rng(0)
    refused = 0
    for i in [*range(12, 36 + 24 * raw[12])] * 3:
        hostile = raw[:i] + bytes([int(random.integers(256))]) + raw[i + 1 :]
        try:
            from_bytes(sealed(hostile)).logits(noise_images(2))
        except Failure as failure:
            refused += "holds no network" in str(failure)
    assert refused > 200


def test_load_tells_what_is_missing(tmp_path: Path):
    with pytest.raises(UsageError, match="There is no model"):
        load_quantized(tmp_path / "none.tdq")
    (tmp_path / "text.tdq").write_text("nothing of the kind")
    with pytest.raises(Failure, match=r"is not a \.tdq file"):
        load_quantized(tmp_path / "text.tdq")


def test_sums_beyond_32_bits_are_refused():
    description = Description(("pool", "pool", "conv1:1"), ("a", "b"))
    weights, one = np.full((1, 1), 127, np.int8), np.ones(1, np.int16)
    classes = QuantizedLayer(NO_DEPTHWISE, np.ones((2, 1), np.int8), NO_TABLE, NO_TABLE)
    good = QuantizedLayer(NO_DEPTHWISE, weights, one, one, 0, 0, 8)
    IntegerNetwork(description, (good, classes))
    with pytest.raises(UsageError, match="rescaled"):
        IntegerNetwork(description, (good._replace(multiplier=one * 32767, bias=one * 32767,
                                                   shift_out=30), classes))  # fmt: skip
    wide = Description(("conv1:1",), ("a", "b"))
    with pytest.raises(UsageError, match="16 bits"):
        IntegerNetwork(wide, (good, classes))


# ------------------------------------------------------------------------------- quantization


def accuracy_lost(preset: str, mnist: Mnist, count: int) -> int:
    """Of `count` test digits, how many less the integers read."""
    model = load_model(preset)
    network = quantize(model, mnist.train_images[:2000])
    images, labels = mnist.test_images[:count], mnist.test_labels[:count]
    right = [
        (scores.argmax(axis=1) == labels).sum()
        for scores in (model.log_probs(images), network.logits(images))
    ]
    return right[0] - right[1]


def test_integers_read_as_well_as_floats_on_a_thousand_digits(mnist: Mnist):
    assert accuracy_lost("tiny1k", mnist, 1000) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_integers_lose_at_most_five_digits_of_ten_thousand(preset: str, mnist: Mnist):
    assert accuracy_lost(preset, mnist, 10_000) <= 5


@pytest.mark.parametrize(
    "layers",
    [
        ("pool", "pool", "conv1:3", "depthwise3", "again", "conv3:5"),
        ("separable3:1", "again", "pool", "pool", "conv1:2"),
        ("pool", "depthwise5", "separable3:6", "conv3:6", "again", "pool"),
    ],
)
def test_fresh_networks_of_every_word_keep_their_scores(layers: tuple[str, ...], mnist: Mnist):
    import torch

    torch.manual_seed(0)
    model = Network(layers)
    for module in model.modules():  # BatchNorm like none that was just made
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)  # pyright: ignore
            torch.nn.init.uniform_(module.running_var, 0.05, 2)  # pyright: ignore
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    images = mnist.train_images[:200]
    network = quantize(model.eval(), images)
    floats = model.log_probs(images)
    off = np.abs(network.log_probs(images) - floats).mean()
    assert off < 0.05 * floats.std() + 0.01


def test_dead_channel_keeps_its_constant(mnist: Mnist):
    import torch

    torch.manual_seed(1)
    model = Network(("pool", "conv3:4", "conv3:4"))
    with torch.no_grad():
        model.features[1].norm.weight[:] = torch.tensor([0.0, 1e-9, -1.0, 1.0])  # pyright: ignore
        model.features[1].norm.bias[:] = torch.tensor([1.0, 0.5, 0.5, 0.0])  # pyright: ignore
    network = quantize(model.eval(), mnist.train_images[:100])
    off = network.log_probs(mnist.test_images[:50]) - model.log_probs(mnist.test_images[:50])
    assert np.abs(off).max() < 0.05


def test_fewer_bits_make_a_file_that_says_so(mnist: Mnist):
    network = quantize(load_model("tiny1k"), mnist.train_images[:200], 1.5, 6, 4)
    again = from_bytes(to_bytes(network))
    assert (again.activation_bits, again.weight_bits, again.temperature) == (6, 4, 1.5)
    assert max(np.abs(layer.weights.astype(int)).max() for layer in again.quantized_layers) == 7


def test_temperature_that_was_applied_is_found_again(tiny1k: IntegerNetwork, mnist: Mnist):
    images = mnist.train_images[:800]
    random = np.random.default_rng(0)
    scores = tiny1k.logits(images) * tiny1k.logit_scale / 3
    noise = random.gumbel(size=scores.shape)
    labels = (scores + noise).argmax(axis=1)  # drawn from softmax(scores)
    assert fit_temperature(tiny1k, images, labels) == pytest.approx(3, rel=0.15)


def test_first_answer_takes_no_pytorch_and_little_time(tiny1k: IntegerNetwork, tmp_path: Path):
    save(tiny1k, tmp_path / "model.tdq")
    code = (
        "import sys, numpy as np; from tinydigits.quant.tdq import load_quantized;"
        f"network = load_quantized({str(tmp_path / 'model.tdq')!r});"
        "print(network.logits(np.zeros((1, 28, 28), np.uint8)));"
        "sys.exit('torch' in sys.modules)"
    )
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        times.append(after.children_user + after.children_system
                     - before.children_user - before.children_system)  # fmt: skip
    assert min(times) < 1.0  # of the processor's time; on a quiet machine a third of it


def test_one_digit_takes_milliseconds(tiny1k: IntegerNetwork, mnist: Mnist):
    tiny1k.logits(mnist.test_images[:1])
    times = []
    for i in range(20):
        start = time.perf_counter()
        tiny1k.logits(mnist.test_images[i : i + 1])
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
