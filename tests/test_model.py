"""The network: its parts, its modes, its input, PyTorch's tools, and the files that keep it."""

import copy
import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from tinydigits import (
    Failure,
    Mnist,
    Network,
    UsageError,
    build_model,
    evaluate,
    load_model,
    normalize,
    preset,
    summarize,
)
from tinydigits.files import read_json
from tinydigits.network.architecture import DIGITS, MEAN, STD, plan
from tinydigits.network.checkpoint import SHIPPED as SHIPPED_FOLDER
from tinydigits.network.checkpoint import Description, find_model, parse_header, read_model_file
from tinydigits.network.model import count_parameters, model_bytes, save_model
from tinydigits.training.hardware import processor_name
from tinydigits.training.presets import PRESETS

ROOT = Path(__file__).parents[1]

BASELINE = preset("baseline")
NARROW = dataclasses.replace(
    BASELINE, layers=("conv3:16", "conv3:32", "pool", "conv1:16", "conv3:16", "conv3:32")
)
REPEATING = ("conv3:4", "separable3:4", "pool", "again", "again")
NAMES = ("ant", "bee", "cicada")


def raw_images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)


def shaken(model: Network) -> Network:
    """The network with statistics and scales that differ from channel to channel, in eval mode."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "bias", "running_mean")):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def test_the_baseline_has_19664_parameters():
    assert count_parameters(build_model(BASELINE)) == 19_664


def test_the_narrow_reading_of_the_course_notebook_has_12720_parameters():
    assert count_parameters(build_model(NARROW)) == 12_720


def test_a_block_is_convolution_batchnorm_relu_dropout_in_that_order():
    block = build_model(BASELINE).features[0]
    kinds = [type(layer) for layer in block.children()]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout]


def test_no_convolution_has_a_bias_or_padding():
    for layer in build_model(BASELINE).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            assert layer.padding == (0, 0)


def test_dropout_is_the_configured_one():
    drops = [m.p for m in build_model(BASELINE).modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.05] * 5


def test_outputs_are_log_probabilities():
    out = build_model(BASELINE).eval()(torch.randn(3, 1, 28, 28))
    assert out.shape == (3, 10)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(3))


def test_first_stage_is_what_numpy_computes():
    torch.manual_seed(0)
    model = Network(("conv3:2",)).eval()
    x = torch.randn(1, 1, 28, 28)
    weight = model.state_dict()["features.0.0.weight"].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0].numpy(), (3, 3))
    by_hand = np.einsum("yxij,cij->cyx", windows, weight[:, 0]) / np.sqrt(1 + 1e-5)
    (out,) = model.activations(x)
    np.testing.assert_allclose(out[0].detach().numpy(), np.maximum(by_hand, 0), atol=1e-5)


@pytest.mark.parametrize("layers", [("conv1:1",), ("pool", "conv7:3"), ("conv5:4",) * 6])
def test_same_class_takes_other_widths_and_depths(layers: tuple[str, ...]):
    assert Network(layers)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


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
    *_, out = separable.activations(x)
    torch.testing.assert_close(out, apart(x))


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


# ------------------------------------------------------------------------------- how it is called


def test_raw_pixels_are_normalized_by_the_network():
    model = shaken(Network(REPEATING, mean=0.5, std=0.25))
    images = torch.from_numpy(raw_images(5))
    expected = model(normalize(images, 0.5, 0.25))
    assert torch.equal(model(images), expected)
    assert torch.equal(model(images[:, None]), expected)
    assert not torch.allclose(model(normalize(images)), expected)


def test_normalized_pixels_have_the_mean_and_deviation_of_the_training_digits(mnist: Mnist):
    pixels = normalize(torch.from_numpy(mnist.train_images[:10_000]))
    assert pixels.shape == (10_000, 1, 28, 28)
    assert pixels.mean().abs() < 0.01
    assert (pixels.std() - 1).abs() < 0.01


def test_raw_pixels_are_left_as_they_are():
    images = torch.from_numpy(raw_images(2))
    before = images.clone()
    Network(REPEATING).eval()(images)
    assert torch.equal(images, before)


class Witness(Network):
    """Remembers how it was called."""

    def __init__(self):
        super().__init__(("conv3:2",))
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return super().forward(x)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_log_probs_are_those_of_the_network_in_eval_mode(batch_size: int):
    model = Network(("conv3:2",), dropout=0.5).train()
    images = raw_images(7)
    expected = copy.deepcopy(model).eval()(normalize(torch.from_numpy(images))).detach().numpy()
    log_probs = model.log_probs(images, batch_size)
    assert (log_probs.dtype, log_probs.shape) == (np.float32, (7, 10))
    np.testing.assert_allclose(log_probs, expected, atol=1e-6)


def test_last_batch_holds_what_is_left_over():
    model = Witness()
    model.log_probs(raw_images(7), batch_size=3)
    assert [n for n, _, _ in model.calls] == [3, 3, 1]


def test_network_reads_in_eval_mode_and_without_gradients():
    model = Witness().train()
    model.log_probs(raw_images(2))
    assert model.calls == [(2, False, False)]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool):
    model = Network(("conv3:2",)).train(training)
    model.log_probs(raw_images(2))
    assert model.training is training


def test_mode_is_restored_after_an_error():
    class Broken(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    model = Broken(("conv3:2",)).train()
    with pytest.raises(RuntimeError, match="broken"):
        model.log_probs(raw_images(2))
    assert model.training


def test_weights_do_not_change():
    model = Network(REPEATING, dropout=0.1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, raw_images(5), [0] * 5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 27, 28), np.uint8),
        np.zeros((2, 784), np.uint8),
        np.zeros((2, 28, 28), np.float32),
        np.zeros((2, 1, 28, 28), np.uint8),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_images_of_another_kind_are_refused(images: np.ndarray):
    with pytest.raises(UsageError, match=r"The network reads uint8 \(N, 28, 28\), not "):
        Network(("conv3:2",)).log_probs(images)


def read_only(images: np.ndarray) -> np.ndarray:
    images.flags.writeable = False
    return images


@pytest.mark.parametrize(
    "view", [lambda x: x[::-1, :, ::-1], lambda x: x.transpose(0, 2, 1), read_only]
)
def test_any_view_of_images_is_read_like_its_copy(view: Any):
    model, images = shaken(Network(REPEATING)), raw_images(4)
    expected = model.log_probs(view(images).copy())
    np.testing.assert_array_equal(model.log_probs(view(images)), expected)


def test_repeated_weights_are_counted_once_and_trained_by_every_use():
    stages = {stage.name: stage for stage in plan(REPEATING)}
    assert stages["separable3:4"].parameters == 9 * 4 + 4 * 4 + 4  # BatchNorm only shifts
    assert stages["separable3:4"].macs == (9 * 4 + 4 * 4) * 24 * 24
    assert stages["again"].parameters == 4
    assert stages["again"].macs == (9 * 4 + 4 * 4) * 8 * 8  # of the last again
    model = shaken(Network(REPEATING))
    copied = copy.deepcopy(model)  # as the running average makes one
    with torch.no_grad():
        copied.get_parameter("features.1.0.0.weight").zero_()
    x = torch.randn(2, 1, 28, 28)
    assert not torch.equal(model(x), copied(x))
    _, _, _, *activations = copied.activations(x)
    for block, out in zip(copied.features[3:], activations, strict=True):
        torch.testing.assert_close(out, block(torch.zeros_like(out)))  # only the shift is left


def test_repeated_weights_are_saved_once_and_loaded_in_every_use():
    model = shaken(Network(REPEATING))
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert sum(name.startswith("features.3.") for name in state) == 5  # of BatchNorm
    x = torch.randn(2, 1, 28, 28)
    for assign in (False, True):
        other = Network(REPEATING).eval()
        other.load_state_dict({name: value.clone() for name, value in state.items()}, assign=assign)
        assert torch.equal(other(x), model(x))
        # A step of training still reaches every use.
        with torch.no_grad():
            other.get_parameter("features.1.0.1.weight").zero_()
        _, _, _, *activations = other.activations(x)
        for block, out in zip(other.features[3:], activations, strict=True):
            assert torch.equal(out, block(torch.zeros_like(out)))


def test_weights_that_are_missing_are_missed_by_name_and_once():
    state = Network(REPEATING).state_dict()
    del state["features.1.0.0.weight"]
    missing, unexpected = Network(REPEATING).load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["features.1.0.0.weight"], [])


def test_a_network_can_be_pickled():
    model = shaken(Network(REPEATING))
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


# --------------------------------------------------------------------------------- PyTorch's tools


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classic", "tiny2k"])
def test_torch_export_gives_the_same_answers(name: str):
    model, images = load_model(name), torch.from_numpy(raw_images(3))
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def test_torch_fx_traces_a_network_without_shared_weights():
    model, images = load_model("classic"), torch.from_numpy(raw_images(3))
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(images), model(images))
    assert torch.equal(traced(normalize(images)), model(images))


@pytest.mark.parametrize(
    "name", [name for name, make in PRESETS.items() if "again" in make().layers]
)
def test_torch_fx_is_refused_a_network_with_shared_weights(name: str):
    with pytest.raises(
        UsageError, match=r"^torch\.fx, and PyTorch's quantizer with it, folds"
    ) as refusal:
        torch.fx.symbolic_trace(load_model(name))
    assert str(refusal.value).count("\n") == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_pytorchs_quantizer_is_refused_a_network_with_shared_weights():
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    images = (torch.from_numpy(raw_images(3)),)
    with pytest.raises(UsageError, match=r"tinydigits\.quantize for integers"):
        quantize_fx.prepare_fx(load_model("tiny2k"), get_default_qconfig_mapping(), images)


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


# ------------------------------------------------------------------------------ model files


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Network, Path]:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(3)
    model = shaken(build_model(NARROW))
    save_model(path, model, "narrow")
    return model, path


def test_loaded_model_says_what_the_saved_one_said(saved):
    model, path = saved
    x = torch.randn(4, 1, 28, 28)
    assert torch.equal(load_model(path)(x), model(x))


def test_loaded_model_is_in_eval_mode(saved):
    assert not any(module.training for module in load_model(saved[1]).modules())


def test_a_folder_stands_for_the_model_in_it(saved):
    model, path = saved
    assert find_model(path.parent) == path
    x = torch.randn(4, 1, 28, 28)
    assert torch.equal(load_model(path.parent)(x), model(x))


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    model, path = saved
    for _ in range(20):
        save_model(tmp_path / "again", model, "narrow")
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_missing_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"There is no model .*nowhere"):
        load_model(tmp_path / "nowhere")


def test_unfinished_run_is_told_how_to_finish(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="tinydigits train --resume"):
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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("conv3:2", "do not fit the network that its header names"),
        ("conv3:16 pool", "do not fit the network that its header names"),
        ("nonsense", "names no network"),
        ("", "names no network"),
        ("pool", "names no network"),
    ],
)
def test_weights_that_do_not_fit_the_header_are_refused(tmp_path, header: str, message: str):
    path = tmp_path / "m.safetensors"
    save_file({"classes.weight": np.zeros((10, 9, 1, 1), np.float32)}, path, {"tinydigits": header})
    with pytest.raises(Failure, match=rf"m\.safetensors.* {message}"):
        load_model(path)


def header_of(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        (header,) = file.metadata().values()
    return header


def test_the_header_is_one_json_value_that_says_all_that_the_weights_do_not(tmp_path: Path):
    path = tmp_path / "insects.safetensors"
    save_model(path, Network(("conv3:2", "pool"), 0.1, NAMES, mean=0.25, std=0.5), "insects")
    assert json.loads(header_of(path)) == {
        "layers": ["conv3:2", "pool"],
        "class_names": ["ant", "bee", "cicada"],
        "mean": 0.25,
        "std": 0.5,
        "name": "insects",
    }


def test_names_of_classes_and_normalization_go_with_the_model(tmp_path: Path):
    path = tmp_path / "insects.safetensors"
    model = shaken(Network(("conv3:2", "pool"), 0.1, NAMES, mean=0.25, std=0.5))
    save_model(path, model)
    loaded = load_model(path)
    assert (loaded.class_names, loaded.mean, loaded.std) == (NAMES, 0.25, 0.5)
    images = raw_images(6)
    np.testing.assert_array_equal(loaded.log_probs(images), model.log_probs(images))
    result = evaluate(loaded, images, [0, 1, 2, 0, 1, 2])
    assert result.class_names == NAMES
    assert result.log_probs.shape == (6, 3)
    with pytest.raises(UsageError, match="from 0 to 2"):
        evaluate(loaded, images, [0, 1, 2, 3, 1, 2])
    assert summarize(path) == summarize(loaded) == plan(("conv3:2", "pool"), 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant",), "2 to 100 classes apart"),
        (tuple(map(str, range(101))), "2 to 100 classes apart"),
        (("ant", "bee", "ant"), "each once"),
        (("ant", ""), "1 to 100 characters"),
        (("ant", "b" * 101), "1 to 100 characters"),
        (("ant", 3), "1 to 100 characters"),
    ],
)
def test_classes_that_no_network_has_are_not_saved(tmp_path: Path, names: Any, message: str):
    with pytest.raises(UsageError, match=message):
        save_model(tmp_path / "m.safetensors", Network(("conv3:2",), class_names=names))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"mean": float("nan")}, {"std": 0.0}, {"std": -1.0}])
def test_a_normalization_that_is_none_is_not_saved(tmp_path: Path, change: dict[str, Any]):
    with pytest.raises(UsageError, match=r"normalization|std must be above 0"):
        save_model(tmp_path / "m.safetensors", Network(("conv3:2",), **change))
    assert list(tmp_path.iterdir()) == []


def test_an_early_header_of_words_alone_is_of_a_network_of_digits():
    description = parse_header("conv3:1 pool")
    assert description == Description(("conv3:1", "pool"), DIGITS, MEAN, STD, "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["layers", "class_names", "mean", "std", "name", "other"]),
        json_values | st.sampled_from([["conv3:2"], ["a", "b"], "conv3:2", 0.5, 10**400]),
    )
)
def test_any_header_describes_a_network_or_is_damaged(values: dict[str, Any]):
    header = json.dumps({"layers": ["conv3:2"], "class_names": ["a", "b"]} | values)
    try:
        description = parse_header(header)
    except (KeyError, TypeError, ValueError):
        return
    assert len(description.plan()) == len(description.layers) + 2
    assert json.loads(json.dumps(dataclasses.asdict(description)))["name"] == description.name


@pytest.mark.parametrize(
    "header", ['{"layers": ', "{}", '{"layers":' + '{"a":' * 50_000, '{"layers": ["conv3:2"]}']
)
def test_a_damaged_header_is_one_sentence(tmp_path: Path, header: str):
    path = tmp_path / "m.safetensors"
    save_file({"classes.weight": np.zeros((10, 9, 1, 1), np.float32)}, path, {"tinydigits": header})
    for read in (load_model, summarize):
        with pytest.raises(Failure, match=r"The header of .*m\.safetensors names no network"):
            read(path)


# -------------------------------------------------------------------- the networks that come along


SHIPPED = sorted(path.stem for path in SHIPPED_FOLDER.glob("*.safetensors"))


def certified(name: str) -> dict[str, Any]:
    """What was measured of the seed whose weights come along."""
    study = read_json(ROOT / "results" / f"{name}.json")
    (seed,) = (row for row in study["seeds"] if row["seed"] == 0)
    return {"processor": study["processor"], **seed}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_those_of_the_certified_seed_0(name: str):
    weights = (SHIPPED_FOLDER / f"{name}.safetensors").read_bytes()
    assert certified(name)["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_of_the_network_of_their_preset(name: str):
    description, weights = read_model_file(SHIPPED_FOLDER / f"{name}.safetensors")
    assert description.layers == preset(name).layers
    assert description.class_names == DIGITS
    assert (description.mean, description.std) == (MEAN, STD)
    assert weights.keys() == Network(description.layers).state_dict().keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_reads_nearly_all_of_some_digits(name: str, mnist: Mnist):
    """A look at each in the fast tests; the whole test set is in the slow one below."""
    some = slice(None, None, 50)
    result = evaluate(load_model(name), mnist.test_images[some], mnist.test_labels[some])
    assert result.accuracy >= 97.5


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_is_as_accurate_as_certified(name: str, mnist: Mnist):
    result = evaluate(load_model(name), mnist.test_images, mnist.test_labels)
    # Another processor rounds otherwise, which can turn a digit or two.
    tolerance = 0 if certified(name)["processor"] == processor_name() else 0.02
    assert result.accuracy == pytest.approx(certified(name)["accuracy"], rel=0, abs=tolerance)


@pytest.mark.parametrize(
    ("every", "accuracy"), [(10, 99.6), pytest.param(1, 99.6, marks=pytest.mark.slow)]
)
def test_classic_reads_raw_digits(mnist: Mnist, every: int, accuracy: float):
    """The first thing that `load_model` shows, and what it was certified to reach."""
    images, labels = (torch.from_numpy(part[::every]) for part in mnist[2:])
    model = load_model("classic")
    with torch.no_grad():
        predictions = torch.cat([model(part).argmax(1) for part in images.split(1000)])
    assert round(100 * (predictions == labels).double().mean().item(), 1) == accuracy


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_saved_anew_keeps_its_weights(name: str, tmp_path: Path):
    """With the header of today, which says more."""
    path = SHIPPED_FOLDER / f"{name}.safetensors"
    (tmp_path / "new.safetensors").write_bytes(model_bytes(load_model(path), name))
    before, after = (read_model_file(file) for file in (path, tmp_path / "new.safetensors"))
    assert dataclasses.replace(after[0], name="") == dataclasses.replace(before[0], name="")
    assert after[1].keys() == before[1].keys()
    for key, array in before[1].items():
        np.testing.assert_array_equal(after[1][key], array)


def test_shipped_weights_take_little_space():
    assert sorted(PRESETS) == SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED_FOLDER.glob("*.safetensors")) < 600_000


def test_a_folder_with_the_name_of_a_preset_goes_first(tmp_path: Path, monkeypatch):
    (tmp_path / "tiny1k").mkdir()
    save_model(tmp_path / "tiny1k" / "model.safetensors", Network(REPEATING))
    assert load_model("tiny1k").layers == preset("tiny1k").layers
    monkeypatch.chdir(tmp_path)
    assert load_model("tiny1k").layers == REPEATING
    assert summarize("tiny1k") == plan(REPEATING)
