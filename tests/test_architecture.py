"""The plan: by hand, against a real forward pass of random networks, and what it refuses."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.claims import BUDGETS
from tinydigits import Network, UsageError, preset, summarize
from tinydigits.network.architecture import SIZE, parse, plan, stored, total
from tinydigits.network.model import count_parameters
from tinydigits.training.config import PARAMETER_GOAL
from tinydigits.training.presets import PRESETS

BASELINE = preset("baseline").layers

# Name, output shape, parameters (weights + 2 per channel of BatchNorm), multiply-accumulates
# (weights x pixels that come out), worked out by hand. A device stores as many numbers.
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
    stage = plan(BASELINE)[i]
    assert (stage.name, stage.shape, stage.parameters, stage.macs) == STAGES[i]


def test_there_are_no_other_stages():
    assert len(plan(BASELINE)) == len(STAGES)


def test_totals_of_the_baseline_are_those_computed_by_hand():
    assert total(plan(BASELINE)) == (19_664, 3_876_224)


def test_a_plan_says_what_each_stage_is_and_whose_weights_it_shares():
    stages = plan(("conv3:4", "separable3:4", "pool", "again", "again", "depthwise3", "again"), 3)
    assert [(stage.kind, stage.kernel_size, stage.shares_weights_with) for stage in stages] == [
        ("conv", 3, None),
        ("separable", 3, None),
        ("pool", 2, None),
        ("separable", 3, 1),
        ("separable", 3, 1),
        ("depthwise", 3, None),
        ("depthwise", 3, 5),
        ("average", 4, None),
        ("classes", 1, None),
    ]


def test_a_device_stores_weights_once_and_a_scale_and_a_shift_a_channel_and_pass():
    stages = plan(("conv3:8", "separable3:16", "pool", "separable3:16", "again", "depthwise3"))
    assert [stage.stored for stage in stages] == [
        *(9 * 8 + 16, 9 * 8 + 8 * 16 + 32, 0, 9 * 16 + 16 * 16 + 32, 32, 9 * 16 + 32, 0, 160)
    ]
    assert stored(plan(BASELINE)) == total(plan(BASELINE))[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stays_under_its_budget_however_one_counts(name: str):
    stages = plan(preset(name).layers)
    assert total(stages)[0] < BUDGETS[name] <= PARAMETER_GOAL
    assert stored(stages) < BUDGETS[name]


# ------------------------------------------------------------------- against a real forward pass


words = st.one_of(
    st.sampled_from(["pool", "again", "depthwise3", "depthwise5", "depthwise7"]),
    st.builds("conv{}:{}".format, st.sampled_from([1, 3, 5, 7]), st.integers(1, 6)),
    st.builds("separable{}:{}".format, st.sampled_from([3, 5, 7]), st.integers(1, 6)),
)
"""Every word of the language, mostly with few channels."""


@st.composite
def legal_layers(draw: st.DrawFn) -> tuple[str, ...]:
    """Layers that the plan accepts: words that do not fit where they would stand are left out."""
    layers: tuple[str, ...] = (draw(st.sampled_from(["conv3:3", "conv1:2", "separable3:4"])),)
    for word in draw(st.lists(words, max_size=10)):
        try:
            plan((*layers, word))
        except UsageError:
            continue
        layers = (*layers, word)
    return layers


def convolutions(block: nn.Module) -> list[nn.Conv2d]:
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)]


def new_parameters(block: nn.Module, seen: set[int]) -> int:
    """How many numbers of a block training may change that no block before it has."""
    new = [p for p in block.parameters() if p.requires_grad and id(p) not in seen]
    seen |= {id(p) for p in new}
    return sum(p.numel() for p in new)


@given(legal_layers(), st.integers(2, 12))
@settings(max_examples=60)
@torch.no_grad()
def test_a_plan_is_what_the_network_does(layers: tuple[str, ...], classes: int):
    network = Network(layers, class_names=tuple(map(str, range(classes)))).eval()
    stages = plan(layers, classes)
    assert network.plan == stages
    assert [stage.name for stage in stages[: len(layers)]] == list(layers)
    ran: list[tuple[Any, torch.Tensor]] = []  # the convolutions, each with what came out of it

    def count(convolution: nn.Module, _: Any, out: torch.Tensor) -> None:
        ran.append((convolution, out))

    for convolution in convolutions(network):
        convolution.register_forward_hook(count)
    x = images = torch.randn(1, 1, SIZE, SIZE)
    activations = network.activations(images)
    parts = [*network.features, network.gap, network.classes]
    seen: set[int] = set()
    for stage, part in zip(stages, parts, strict=True):
        ran.clear()
        assert x.shape == (1, stage.channels_in, stage.size_in, stage.size_in)
        x = part(x) if stage.kind in ("average", "classes") else next(activations)
        assert x.shape == (1, *stage.shape)
        # Each pixel that comes out of a convolution takes all of its weights once.
        macs = sum(used.weight.numel() * out.shape[2] * out.shape[3] for used, out in ran)
        assert (new_parameters(part, seen), macs) == (stage.parameters, stage.macs)
        used = [convolution for convolution, _ in ran]
        assert len(used) == {"pool": 0, "average": 0, "separable": 2}.get(stage.kind, 1)
        assert not used or used[0].kernel_size == (stage.kernel_size, stage.kernel_size)
        assert stage.kind not in ("depthwise", "separable") or used[0].groups == stage.channels_in
        if stage.shares_weights_with is not None:
            assert stages[stage.shares_weights_with].shares_weights_with is None
            assert used == convolutions(parts[stage.shares_weights_with])
    assert total(stages)[0] == count_parameters(network)
    torch.testing.assert_close(network(images), x.flatten(1).log_softmax(1))


@given(legal_layers())
@settings(max_examples=30)
def test_weights_are_saved_once_for_each_that_the_plan_counts(layers: tuple[str, ...]):
    network = Network(layers)
    scales = {
        name.removesuffix("bias") + "weight"
        for name, _ in network.named_parameters()
        if name.endswith(".bias")
    }
    fixed = {name for name in scales if not network.get_parameter(name).requires_grad}
    state = network.state_dict()
    learned = {name for name in state if "running" not in name and "batches" not in name} - fixed
    assert sum(state[name].numel() for name in learned) == total(plan(layers))[0]
    assert not any("repeated" in name for name in state)
    places = Counter(tensor.data_ptr() for tensor in state.values())
    assert set(places.values()) == {1}


@pytest.mark.parametrize("name", PRESETS)
def test_a_plan_of_a_preset_is_that_of_its_network(name: str):
    config = preset(name)
    network = Network(config.layers)
    assert summarize(name) == summarize(config) == summarize(network) == plan(config.layers)
    assert total(plan(config.layers))[0] == count_parameters(network)


# ------------------------------------------------------------------------- words, and refusals


@given(st.lists(st.one_of(words, st.text(max_size=8)), max_size=6), st.integers(2, 100))
def test_any_words_are_a_plan_or_usage_error(layers: list[str], classes: int):
    stages, refusal = (), "layers"
    try:
        stages = plan(tuple(layers), classes)
    except UsageError as error:
        refusal = str(error)
    assert refusal.startswith("layers")
    assert refusal.count("\n") == 0
    assert all(stage.size_out >= 1 for stage in stages)
    for before, after in itertools.pairwise(stages):
        assert (before.channels_out, before.size_out) == (after.channels_in, after.size_in)
    assert not stages or stages[-1].shape == (classes, 1, 1)


def test_layer_words_are_read():
    layers = ("conv3:16", "depthwise5", "again", "pool", "separable3:8")
    assert [parse(word) for word in layers] == [
        ("conv", 3, 16),
        ("depthwise", 5, 0),
        ("again", 0, 0),
        ("pool", 0, 0),
        ("separable", 3, 8),
    ]


@pytest.mark.parametrize("before", [(), ("pool",), ("conv3:4",), ("conv3:4", "separable3:5")])
def test_only_what_keeps_the_channels_can_be_repeated(before: tuple[str, ...]):
    with pytest.raises(UsageError, match="again repeats the convolution before it"):
        plan((*before, "again"))


WORDS_WITHOUT_SENSE = """
    conv conv2:4 conv3:0 conv3:-1 conv3:10000 conv:3 Pool pool2 depthwise3:4 separable3
    separable3:4:4 separable1:4 depthwise1 again3 again:4 💥
"""


@pytest.mark.parametrize("word", [*WORDS_WITHOUT_SENSE.split(), "", "conv3:4\n"])
def test_word_that_is_no_layer_is_named(word: str):
    with pytest.raises(UsageError, match=r"^layers: ") as refusal:
        plan(("conv3:2", word))
    assert repr(word) in str(refusal.value)


def test_network_that_leaves_nothing_of_the_image_is_refused():
    with pytest.raises(UsageError, match=r"nothing is left of the 28x28 image after 'conv5:1'"):
        plan(("pool", "pool", "pool", "conv5:1"))


def test_network_that_leaves_one_pixel_is_not_refused():
    *_, last, _, _ = plan(("pool", "pool", "pool", "conv3:1"))
    assert (last.name, last.shape) == ("conv3:1", (1, 1, 1))


def test_network_of_endless_depth_is_refused():
    """A file could ask for it in a few kilobytes: 1x1 windows leave the image as large as it is."""
    with pytest.raises(UsageError, match="at most 100 words"):
        plan(("conv1:1", *["again"] * 100))


def test_network_of_endless_width_is_refused():
    with pytest.raises(
        UsageError, match="'conv7:9999' brings the network to over 10,000,000 weights"
    ):
        plan(("conv1:9999", "conv7:9999"))


@pytest.mark.parametrize("layers", [(), "pool", ("pool",), ("pool", "pool"), ["conv3:2"]])
def test_layers_without_a_convolution_are_refused(layers: Any):
    with pytest.raises(UsageError, match=r"^layers must"):
        plan(layers)
