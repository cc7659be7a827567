"""IDX files: what is read is what was written, and no bytes end in anything but an array or a word.

The forms as MNIST has them are tried in `test_mnist`, from the folders in which people keep them.
"""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinydigits import Failure
from tinydigits.data.formats import parse_idx, to_idx


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=6)))
def test_idx_images_come_back_as_they_were(values: np.ndarray):
    parsed = parse_idx(idx(values))
    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, values)
    assert to_idx(values) == idx(values)


@given(st.lists(st.integers(0, 255)))
def test_idx_labels_come_back_as_int64(labels: list[int]):
    parsed = parse_idx(idx(np.array(labels, np.uint8)))
    assert parsed.dtype == np.int64
    assert parsed.tolist() == labels


@given(
    st.binary()
    | st.builds(
        lambda dimensions, rest: bytes([0, 0, 8, dimensions]) + rest,
        st.integers(0, 255),
        st.binary(max_size=1100),
    )
)
def test_any_bytes_are_an_array_or_a_failure(raw: bytes):
    with contextlib.suppress(Failure):
        assert isinstance(parse_idx(raw), np.ndarray)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "labels is not an IDX file"),
        (b"\0\0\x0d\1\0\0\0\0", "labels is not an IDX file"),  # floats
        (b"\0\0\x08\0", "labels is not an IDX file"),  # no dimensions
        (b"\0\0\x08\2\0\0\0\0", "labels ends inside its header"),
        (b"\0\0\x08\1\0\0\0\3ab", r"labels holds 2 values where its header says \[3\]"),
        (b"\0\0\x08\1\0\0\0\1ab", r"labels holds 2 values where its header says \[1\]"),
        (b"\0\0\x08\3" + b"\xff" * 12, "labels holds 0 values"),  # 2 to the power of 96
    ],
)
def test_damaged_idx_is_described(raw: bytes, message: str):
    with pytest.raises(Failure, match=message):
        parse_idx(raw, "labels")
