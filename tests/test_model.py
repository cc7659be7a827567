import copy
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from tinydigits import (
    Failure,
    Misuse,
    Mnist,
    build_model,
    evaluate,
    load_model,
    preset,
    summarise,
)
from tinydigits.config import PRESETS, Config, parse_layers
from tinydigits.machine import processor_name
from tinydigits.model import SHIPPED as SHIPPED_FOLDER
from tinydigits.model import Network, count_parameters, save_model, total

ROOT = Path(__file__).parents[1]

NOTEBOOK = preset("notebook")
NARROW = dataclasses.replace(
    NOTEBOOK, layers=("conv3:16", "conv3:32", "pool", "conv1:16", "conv3:16", "conv3:32")
)

# Name, output shape, parameters (weights + 2 per channel of BatchNorm), multiply-accumulates
# (weights x pixels that come out), worked out by hand.
STAGES = [
    ("conv3:16", (16, 26, 26), 1 * 16 * 9 + 32, 144 * 676),
    ("conv3:32", (32, 24, 24), 16 * 32 * 9 + 64, 4608 * 576),
    ("pool", (32, 12, 12), 0, 0),
    ("conv1:16", (16, 12, 12), 32 * 16 + 32, 512 * 144),
    ("conv3:32", (32, 10, 10), 16 * 32 * 9 + 64, 4608 * 100),
    ("conv3:32", (32, 8, 8), 32 * 32 * 9 + 64, 9216 * 64),
    ("global average pooling", (32, 1, 1), 0, 0),
    ("classes", (10, 1, 1), 320, 320),
]


@pytest.mark.parametrize("i", range(len(STAGES)), ids=lambda i: f"{i}-{STAGES[i][0]}")
def test_stage_has_the_shape_parameters_and_macs_computed_by_hand(i: int):
    assert tuple(summarise(NOTEBOOK)[i]) == STAGES[i]


def test_summary_has_no_other_stages():
    assert len(summarise(NOTEBOOK)) == len(STAGES)


def test_described_network_has_19664_parameters():
    assert count_parameters(build_model(NOTEBOOK)) == 19_664


def test_narrow_reading_of_the_description_has_12720_parameters():
    assert count_parameters(build_model(NARROW)) == 12_720


def test_described_network_needs_3876224_macs():
    assert sum(stage.macs for stage in summarise(NOTEBOOK)) == 3_876_224


def test_a_block_is_convolution_batchnorm_relu_dropout_in_that_order():
    block = build_model(NOTEBOOK).features[0]
    kinds = [type(layer) for layer in block.children()]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout]


def test_no_convolution_has_a_bias_or_padding():
    for layer in build_model(NOTEBOOK).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            assert layer.padding == (0, 0)


def test_dropout_is_the_configured_one():
    drops = [m.p for m in build_model(NOTEBOOK).modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.05] * 5


def test_outputs_are_log_probabilities():
    out = build_model(NOTEBOOK).eval()(torch.randn(3, 1, 28, 28))
    assert out.shape == (3, 10)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(3))


def test_first_stage_is_what_numpy_computes():
    torch.manual_seed(0)
    model = Network(("conv3:2",)).eval()
    x = torch.randn(1, 1, 28, 28)
    weight = model.state_dict()["features.0.0.weight"].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0].numpy(), (3, 3))
    by_hand = np.einsum("yxij,cij->cyx", windows, weight[:, 0]) / np.sqrt(1 + 1e-5)
    out = model.features(x)[0].detach().numpy()
    np.testing.assert_allclose(out, np.maximum(by_hand, 0), atol=1e-5)


@pytest.mark.parametrize("layers", [("conv1:1",), ("pool", "conv7:3"), ("conv5:4",) * 6])
def test_same_class_takes_other_widths_and_depths(layers: tuple[str, ...]):
    assert Network(layers)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_layer_words_are_read():
    words = ("conv3:16", "depthwise5", "again", "pool", "separable3:8")
    assert parse_layers(words) == [
        ("conv", 3, 16),
        ("depthwise", 5, 0),
        ("again", 5, 0),
        ("pool", 2, 0),
        ("separable", 3, 8),
    ]


@pytest.mark.parametrize("before", [(), ("pool",), ("conv3:4",), ("conv3:4", "separable3:5")])
def test_only_what_keeps_the_channels_can_be_repeated(before: tuple[str, ...]):
    with pytest.raises(Misuse, match="again repeats the convolution before it"):
        parse_layers((*before, "again"))


def test_separable_convolution_is_a_depthwise_and_a_pointwise_one():
    separable = Network(("conv3:3", "separable3:5"))
    apart = nn.Sequential(
        *Network(("conv3:3",)).features,
        nn.Conv2d(3, 3, 3, groups=3, bias=False),
        nn.Conv2d(3, 5, 1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
    )
    weights = separable.features.state_dict().values()
    apart.load_state_dict(dict(zip(apart.state_dict(), weights, strict=True)))
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(separable.features(x), apart(x))


def test_again_applies_the_same_weights_and_its_own_batch_norm():
    repeating = Network(("conv3:4", "separable3:4", "pool", "again", "again")).eval()
    unrolled = Network(("conv3:4", "separable3:4", "pool", "separable3:4", "separable3:4")).eval()
    weights = unrolled.state_dict()
    for name, tensor in repeating.state_dict().items():
        stage, _, rest = name.removeprefix("features.").partition(".")
        if stage in ("3", "4"):  # an again has no convolution, so its BatchNorm comes first
            tensor.copy_(torch.rand(tensor.shape) + 1)
            weights[f"features.{stage}.1.{rest.partition('.')[2]}"] = tensor
        else:
            weights[name] = tensor
    for stage in ("3", "4"):
        for part in ("0", "1"):
            weights[f"features.{stage}.0.{part}.weight"] = weights[f"features.1.0.{part}.weight"]
    unrolled.load_state_dict(weights)
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(repeating(x), unrolled(x))


def test_repeated_weights_are_counted_and_saved_once_and_trained_by_every_use(tmp_path):
    config = Config(layers=("conv3:4", "separable3:4", "pool", "again"))
    stages = {stage.name: stage for stage in summarise(config)}
    assert stages["separable3:4"].parameters == 9 * 4 + 4 * 4 + 4  # BatchNorm only shifts
    assert stages["separable3:4"].macs == (9 * 4 + 4 * 4) * 24 * 24
    assert stages["again"].parameters == 4
    assert stages["again"].macs == (9 * 4 + 4 * 4) * 10 * 10
    model = build_model(config)
    assert total(summarise(config))[0] == count_parameters(model)
    twin = copy.deepcopy(model)  # as the running average makes one
    with torch.no_grad():
        twin.get_parameter("features.1.0.0.weight").zero_()
    x = torch.randn(2, 1, 28, 28)
    assert not torch.equal(model.eval()(x), twin.eval()(x))
    torch.testing.assert_close(twin.features[3](x.expand(2, 4, 28, 28)), torch.zeros(2, 4, 26, 26))
    save_model(tmp_path / "again.safetensors", model, config)
    torch.testing.assert_close(load_model(tmp_path / "again.safetensors")(x), model(x))


WORDS_WITHOUT_SENSE = """
    conv conv2:4 conv3:0 conv3:-1 conv3:10000 conv:3 Pool pool2 depthwise3:4 separable3
    separable3:4:4 separable1:4 depthwise1 again3 again:4 💥
"""


@pytest.mark.parametrize("word", [*WORDS_WITHOUT_SENSE.split(), "", "conv3:4\n"])
def test_word_that_is_no_layer_is_named(word: str):
    with pytest.raises(Misuse, match=r"^layers: ") as refusal:
        parse_layers(("conv3:2", word))
    assert repr(word) in str(refusal.value)


def test_network_that_leaves_nothing_of_the_image_is_refused():
    with pytest.raises(Misuse, match=r"nothing is left of the 28x28 image after 'conv5:1'"):
        parse_layers(("pool", "pool", "pool", "conv5:1"))


def test_network_of_endless_depth_is_refused():
    """A file could ask for it in a few kilobytes: 1x1 windows leave the image as large as it is."""
    with pytest.raises(Misuse, match="at most 100 words"):
        parse_layers(("conv1:1", *["again"] * 100))


def test_network_that_leaves_one_pixel_is_not_refused():
    parse_layers(("pool", "pool", "pool", "conv3:1"))


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("tiny20k", 20_000),
        ("tiny10k", 10_000),
        ("tiny4k", 4_000),
        ("tiny2k", 2_000),
        ("tiny1k", 1_000),
        ("dash", 20_000),
        ("sprint", 20_000),
    ],
)
def test_presets_are_as_small_as_their_names_say(name: str, limit: int):
    assert count_parameters(build_model(preset(name))) < limit


@pytest.mark.parametrize("layers", [(), "pool", ("pool",), ("pool", "pool")])
def test_layers_without_a_convolution_are_refused(layers: tuple[str, ...]):
    with pytest.raises(Misuse, match=r"^layers must"):
        parse_layers(layers)


# ------------------------------------------------------------------------------ model files


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(3)
    model = build_model(NARROW)
    save_model(path, model, NARROW)
    return model.eval(), path


def test_loaded_model_says_what_the_saved_one_said(saved):
    model, path = saved
    x = torch.randn(4, 1, 28, 28)
    assert torch.equal(load_model(path)(x), model(x))


def test_loaded_model_is_in_eval_mode(saved):
    assert not any(module.training for module in load_model(saved[1]).modules())


def test_a_folder_stands_for_the_model_in_it(saved):
    load_model(saved[1].parent)


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    model, path = saved
    for _ in range(20):
        save_model(tmp_path / "again", model, NARROW)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_missing_model_is_named(tmp_path):
    with pytest.raises(Misuse, match=r"There is no model .*nowhere"):
        load_model(tmp_path / "nowhere")


def test_unfinished_run_is_told_how_to_finish(tmp_path):
    with pytest.raises(Misuse, match="tinydigits train --resume"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x80\x05K\x01."])
def test_file_that_is_no_safetensors_is_named(tmp_path, content: bytes):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(Failure, match=r"odd.safetensors is not a readable safetensors file"):
        load_model(path)


def test_truncated_model_is_named(saved):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failure, match=r"model.safetensors is not a readable safetensors file"):
        load_model(path)


def test_safetensors_of_another_program_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(Failure, match="not one that tinydigits wrote"):
        load_model(path)


@pytest.mark.parametrize("layers", ["conv3:2", "conv3:16 pool", "nonsense", ""])
def test_weights_that_do_not_fit_the_header_are_refused(tmp_path, layers: str):
    path = tmp_path / "m.safetensors"
    save_file({"classes.weight": np.zeros((10, 9, 1, 1), np.float32)}, path, {"tinydigits": layers})
    with pytest.raises(Failure, match="do not fit the network that its header names"):
        load_model(path)


SHIPPED = sorted(path.stem for path in SHIPPED_FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_those_of_the_certified_seed_0(name: str):
    study = json.loads((ROOT / "results" / f"{name}.json").read_text())
    weights = (SHIPPED_FOLDER / f"{name}.safetensors").read_bytes()
    assert study["seeds"][0]["seed"] == 0
    assert study["seeds"][0]["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_is_as_accurate_as_certified(name: str, mnist: Mnist):
    study = json.loads((ROOT / "results" / f"{name}.json").read_text())
    result = evaluate(load_model(name), mnist.test_images, mnist.test_labels)
    # Another processor rounds otherwise, which can turn a digit or two.
    tolerance = 0 if study["processor"] == processor_name() else 0.02
    assert result.accuracy == pytest.approx(study["seeds"][0]["accuracy"], rel=0, abs=tolerance)


def test_shipped_weights_take_little_space():
    assert sorted(PRESETS) == SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED_FOLDER.glob("*.safetensors")) < 500_000
