import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydigits import Config, UsageError, preset
from tinydigits.training.presets import PRESETS

FIELDS = [field.name for field in dataclasses.fields(Config)]
SIMPLE = Config(layers=("conv3:2",))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
# Values that have a chance to be possible, next to those that have none.
likely = (
    st.sampled_from(["auto", "cpu", "constant", "float32", "pool", ["conv3:2", "pool"], "a/b"])
    | st.floats(0, 1)
    | st.integers(0, 20)
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308, "\0", "a\n"])
)


def through_json(config: Config) -> Config:
    return Config.from_json(json.loads(json.dumps(config.to_json())))


def refused_or_survives(field: str, make: Callable[[], Config]) -> None:
    refusal = None
    try:
        config = make()
        assert through_json(config) == config
    except UsageError as error:
        refusal = str(error)
    assert refusal is None or field in refusal


@pytest.mark.parametrize("name", PRESETS)
def test_preset_survives_json(name: str):
    assert through_json(preset(name)) == preset(name)


def test_paths_survive_json():
    config = dataclasses.replace(SIMPLE, data=Path("some") / "where", out=Path("/run"))
    assert through_json(config) == config


@given(st.sampled_from(FIELDS), json_values | likely)
def test_any_value_of_a_field_is_refused_by_its_name_or_survives_json(field: str, value: Any):
    refused_or_survives(field, lambda: Config.from_json(SIMPLE.to_json() | {field: value}))


@given(st.sampled_from(FIELDS), json_values | likely)
def test_any_value_given_in_python_is_refused_by_its_name_or_survives_json(field: str, value: Any):
    refused_or_survives(field, lambda: dataclasses.replace(SIMPLE, **{field: value}))


@given(json_values | st.dictionaries(st.sampled_from([*FIELDS, "other"]), json_values | likely))
def test_any_json_is_a_configuration_or_usage_error(values: Any):
    with contextlib.suppress(UsageError):
        assert isinstance(Config.from_json(values), Config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.0),
        ("epochs", True),
        ("batch_size", 0),
        ("lr", 0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("momentum", 1),
        ("momentum", -0.1),
        ("dropout", 1.0),
        ("dropout", "much"),
        ("background", 1),
        ("background", -0.1),
        ("ink_fade", 1.0),
        ("qat_epochs", -1),
        ("qat_epochs", 16),
        ("activation_bits", 4),  # without qat_epochs
        ("seed", -1),
        ("seed", 2**63),
        ("threads", -1),
        ("device", "tpu"),
        ("precision", "float8"),
        ("validation", "yes"),
        ("name", ""),
        ("name", "../up"),
        ("name", "a" * 101),
        ("layers", ()),
        ("layers", ("conv3:2", "dense")),
        ("data", 5),
        ("out", ["runs"]),
    ],
)
def test_impossible_value_is_refused_by_name(field: str, value: Any):
    with pytest.raises(UsageError, match=f"^{field}"):
        dataclasses.replace(SIMPLE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("activation_bits", 0, "from 1 up"),
        ("activation_bits", 9, "below 9"),
        ("weight_bits", 1, "from 2 up"),
        ("weight_bits", 9, "below 9"),
    ],
)
def test_impossible_bits_are_refused(field: str, value: int, bound: str):
    with pytest.raises(UsageError, match=f"^{field} must be .*{bound}"):
        dataclasses.replace(SIMPLE, qat_epochs=1, **{field: value})


def test_unknown_field_is_named():
    with pytest.raises(UsageError, match="no field color"):
        Config.from_json(SIMPLE.to_json() | {"color": "red"})


def test_missing_layers_are_named():
    with pytest.raises(UsageError, match="needs the field layers"):
        Config.from_json({"epochs": 3})


def test_missing_field_takes_its_default():
    values = SIMPLE.to_json()
    del values["epochs"]
    assert Config.from_json(values) == SIMPLE


def test_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SIMPLE.epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_the_baseline_is_that_of_the_course_notebook():
    config = preset("baseline")
    assert config.layers == ("conv3:16", "conv3:32", "pool", "conv1:16", "conv3:32", "conv3:32")
    assert (config.epochs, config.batch_size, config.dropout) == (15, 128, 0.05)
    assert (config.lr, config.momentum) == (0.01, 0.9)
    assert (config.seed, config.precision, config.validation) == (1, "float32", False)


def test_unknown_preset_is_told_the_known_ones():
    with pytest.raises(
        UsageError, match=r"There is no preset 'bestest'; the presets are .*tiny20k"
    ):
        preset("bestest")


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_named_after_its_function_and_says_what_it_is_for(name: str):
    assert PRESETS[name]().name == name
    assert PRESETS[name].__doc__
