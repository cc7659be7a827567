"""The way in: what it does to pictures, and that C gives the bits of NumPy."""

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lab import engines
from tinydigits import UsageError, evaluate, load_model, prepare
from tinydigits.data.mnist import Mnist
from tinydigits.images import preprocess
from tinydigits.training.presets import PRESETS

HEADER = (engines.ENGINE / "tinydigits.h").read_text()
SCRATCH = int(re.findall(r"PREPARE_SCRATCH (\d+)", HEADER)[0])
PREPARED, NO_INK, BAD_SIDE = 0, 1, 2

Prepare = Callable[..., tuple[int, np.ndarray]]


@pytest.fixture(scope="module", params=engines.COMPILERS)
def in_c(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """`tinydigits_prepare` of a native build: from a crop to the code and the image."""
    need_tool(request.param)
    library = engines.build_native(request.param, tmp_path_factory.mktemp("prepare"))
    engine = engines.open_native(library)

    def call(gray: np.ndarray, paper: int | None = None) -> tuple[int, np.ndarray]:
        gray = np.ascontiguousarray(gray)
        height, width = gray.shape
        # Neither the image nor the scratch is clean when a program calls.
        image = np.full((28, 28), 77, np.uint8)
        scratch = np.full(SCRATCH // 4, 0xDEADBEEF, np.uint32)
        code = engine.tinydigits_prepare(
            *(gray.ctypes.data, width, height, -1 if paper is None else paper),
            *(image.ctypes.data, scratch.ctypes.data),
        )
        return code, image

    return call


def spoil(images: np.ndarray, contrast: float, paper: float, sigma: float = 0) -> np.ndarray:
    """The digits on gray paper, pale or inverted, under noise of `sigma` gray levels."""
    noise = np.random.default_rng(3).normal(0, sigma, images.shape)
    return np.rint(paper + float(contrast) * images + noise).clip(0, 255).astype(np.uint8)


def random_crop(rng: np.random.Generator) -> np.ndarray:
    """A crop of one of many kinds: noise, two levels, few levels, a block, a gradient."""
    shape = tuple(int(side) for side in np.exp(rng.uniform(0, 4.5, 2)))
    gray = rng.integers(0, 256, shape)
    kind = rng.integers(5)
    if kind == 1:
        gray = np.where(rng.random(shape) < rng.random() ** 2, gray, rng.integers(256))
    elif kind == 2:
        gray = gray // rng.integers(1, 200) + rng.integers(56)
    elif kind == 3:
        gray = np.full(shape, rng.integers(256))
        y, x = rng.integers(0, shape)
        gray[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = rng.integers(256)
    elif kind == 4:
        light = np.linspace(rng.uniform(0, 255), rng.uniform(0, 255), shape[1])
        gray = np.where(rng.random(shape) < 0.1, gray // 3, light + rng.normal(0, 5, shape))
    return np.clip(gray, 0, 255).astype(np.uint8)


@given(seed=st.integers(0, 2**32 - 1), paper=st.none() | st.integers(0, 255))
@settings(max_examples=300)
def test_c_gives_the_bits_of_numpy(in_c: Prepare, seed: int, paper: int | None) -> None:
    crop = random_crop(np.random.default_rng(seed))
    image = prepare(crop, paper)
    code, its_image = in_c(crop, paper)
    assert (its_image == image).all()
    assert code == (PREPARED if image.any() else NO_INK)
    assert image.max() in (0, 255)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (7, 1), (1, 4096), (4096, 1), (300, 4096), (4096, 21), (28, 28)]
)
def test_c_gives_the_bits_of_numpy_at_every_size(in_c: Prepare, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for crop in (
        rng.integers(0, 256, shape),
        np.where(rng.random(shape) < 0.01, 0, 255),  # specks, and strokes that fade
        255 * (np.indices(shape).sum(axis=0) % 2),  # sums as great as they come
    ):
        gray = crop.astype(np.uint8)
        for paper in (None, 0, 255):
            assert (in_c(gray, paper)[1] == prepare(gray, paper)).all()


@pytest.mark.parametrize("sigma", [0, 8])
def test_c_gives_the_bits_of_numpy_on_digits(in_c: Prepare, mnist: Mnist, sigma: float) -> None:
    crops = spoil(mnist.test_images[:200], -0.7, 210, sigma)
    assert all((in_c(crop)[1] == prepare(crop)).all() for crop in crops)


@pytest.mark.slow
def test_the_largest_crop(in_c: Prepare) -> None:
    crop = np.random.default_rng(2).integers(0, 256, (4096, 4096)).astype(np.uint8)
    code, image = in_c(crop, paper=255)
    assert code == PREPARED
    assert (image == prepare(crop, paper=255)).all()


def test_no_sum_leaves_32_bits() -> None:
    """The bound that allows int32 in C, over all sides that occur together."""
    greatest = gain = 0.0
    for longer in (*range(1, 48), 205, 1023, 4095, 4096):
        for n in {*range(1, min(longer, 400) + 1), *range(1, longer + 1, 97), longer}:
            weights = preprocess._weights(n, max(1, (40 * n + longer) // (2 * longer)))
            assert (weights.sum(axis=0) > 0).all()
            sums = np.abs(weights).sum(axis=0)
            greatest = max(greatest, sums.max())
            gain = max(gain, (sums / weights.sum(axis=0)).max())
    after_rows = 255 * preprocess.FRACTION * gain + 1
    assert after_rows * greatest + greatest / 2 < 2**31


def test_scratch_is_small() -> None:
    assert SCRATCH <= 3000


def test_codes(in_c: Prepare) -> None:
    assert in_c(np.full((9, 9), 100, np.uint8))[0] == NO_INK
    assert in_c(np.full((9, 9), 100, np.uint8), 100)[0] == NO_INK
    assert in_c(np.full((9, 9), 100, np.uint8), 0)[0] == PREPARED
    assert in_c(np.full((9, 9), 100, np.uint8), -7)[0] == NO_INK, "no level: find it"
    for shape in [(0, 5), (5, 0), (4097, 1), (1, 4097)]:
        code, image = in_c(np.zeros(shape, np.uint8))
        assert code == BAD_SIDE
        assert (image == 77).all(), "untouched"


SANITIZED = """
#include <stdio.h>
#include <stdlib.h>
#include "tinydigits.h"

int main(void)
{
    int head[3]; /* width, height, paper */
    while (fread(head, sizeof head, 1, stdin)) {
        size_t size = (size_t)head[0] * (size_t)head[1];
        uint8_t *gray = malloc(size), *image = malloc(784);
        void *scratch = malloc(TINYDIGITS_PREPARE_SCRATCH);
        if (fread(gray, 1, size, stdin) != size)
            return 1;
        tinydigits_prepare(gray, head[0], head[1], head[2], image, scratch);
        fwrite(image, 1, 784, stdout);
        free(gray), free(image), free(scratch);
    }
    return 0;
}
"""


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(SANITIZED)
    engines.run(
        *(need_tool("gcc"), "-std=c99", "-g", "-O1"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        *(f"-I{engines.ENGINE}", engines.ENGINE / "prepare.c"),
        *(tmp_path / "main.c", "-o", tmp_path / "main"),
    )
    rng = np.random.default_rng(4)
    crops = [random_crop(rng) for _ in range(300)]
    crops += [rng.integers(0, 256, shape).astype(np.uint8) for shape in [(1, 4096), (4096, 1)]]
    cases = b"".join(struct.pack("3i", *crop.shape[::-1], -1) + crop.tobytes() for crop in crops)
    done = subprocess.run([tmp_path / "main"], input=cases, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    images = np.frombuffer(done.stdout, np.uint8).reshape(-1, 28, 28)
    assert (images == [prepare(crop) for crop in crops]).all()


def test_filter_is_lanczos() -> None:
    """Pillow's, but for rounding; within a range in which Pillow's first pass clips nothing."""
    rng = np.random.default_rng(5)
    for shape in [(37, 20), (8, 5), (3, 4), (19, 3), (1, 7), (61, 200), (500, 333)]:
        ink = rng.integers(100, 140, shape)
        ours = preprocess._fit(ink) / preprocess.FRACTION
        theirs = Image.fromarray(ink.astype(np.uint8)).resize(
            ours.shape[::-1], Image.Resampling.LANCZOS
        )
        assert np.abs(ours - np.asarray(theirs)).max() < 1.5


def test_digits_come_back(mnist: Mnist) -> None:
    full = mnist.test_images[:1000][mnist.test_images[:1000].max(axis=(1, 2)) == 255]
    assert sum((prepare(digit) != digit).any() for digit in full) <= 1


def test_a_digit_is_the_same_wherever_it_lies(mnist: Mnist) -> None:
    for digit in mnist.test_images[:50]:
        image = prepare(digit)
        padded = np.pad(digit, ((3, 40), (11, 0)))
        rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
        cut = np.pad(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
        assert (prepare(padded) == image).all()
        assert (prepare(cut) == image).all()
        assert (prepare(255 - padded) == image).all()
        assert (prepare(255 - padded, paper=255) == image).all()
        # A view with any strides is a picture like another.
        assert (prepare(np.repeat(padded, 2, axis=1)[:, ::2]) == image).all()


def test_paper_is_found_around_a_digit_that_touches_the_border(mnist: Mnist) -> None:
    """Bold digits cut out exactly, so that most pixels are ink."""
    wrong = 0
    for digit in mnist.test_images[:300]:
        bold = np.max([np.roll(digit, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (0, 1)], axis=0)
        rows, columns = np.flatnonzero(bold.any(axis=1)), np.flatnonzero(bold.any(axis=0))
        cut = bold[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inverted = prepare(255 - cut).astype(int)
        wrong += np.abs(inverted - prepare(cut, paper=0)).mean() > 30
    assert wrong <= 2


def test_a_thin_frame_does_not_hide_the_paper(mnist: Mnist) -> None:
    digit = 255 - np.pad(mnist.test_images[0], 11)
    digit[[0, -1]] = digit[:, [0, -1]] = 0
    assert (prepare(digit) == prepare(digit, paper=255)).all()


def test_a_noisy_sheet_has_no_ink() -> None:
    for side in (28, 100, 1000):
        assert not prepare(spoil(np.zeros((side, side)), 1, 190, 6)).any()


def test_a_thin_pen_is_as_black_as_a_thick_one() -> None:
    picture = np.full((500, 400), 255, np.uint8)
    picture[50:450, 200] = 100  # one pixel wide
    image = prepare(picture)
    assert image.max() == 255
    assert (image[4:24, 14] == 255).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((9, 9), bool), r"np.uint8\(255\) \* array"),
        (np.zeros((9, 9)), "if it goes from 0 to 1"),
        (np.zeros((9, 9), int), "int64"),
        (np.zeros((9, 9, 3), np.uint8), "no colors"),
        (np.zeros((1, 9, 9), np.uint8), "one picture"),
        (np.zeros(9, np.uint8), "shape"),
        (np.zeros((0, 9), np.uint8), "1 to 4096"),
        (np.zeros((9, 4097), np.uint8), "1 to 4096"),
        ([[1, 2], [3]], "no picture"),
        ("seven.png", "uint8 array"),
        (None, "uint8 array"),
    ],
)
def test_usage_error_of_the_picture(array: object, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        prepare(array)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("paper", [-1, 256, 0.5, True, "white", np.float64(3)])
def test_usage_error_of_the_paper(paper: object) -> None:
    with pytest.raises(UsageError, match="gray level"):
        prepare(np.zeros((9, 9), np.uint8), paper)  # pyright: ignore[reportArgumentType]


def prepared(images: np.ndarray) -> np.ndarray:
    return np.stack([prepare(image) for image in images])


@pytest.mark.slow
def test_all_digits_come_back(mnist: Mnist) -> None:
    full = mnist.test_images[mnist.test_images.max(axis=(1, 2)) == 255]
    assert len(full) == 8979
    assert (prepared(full) == full).all(axis=(1, 2)).mean() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reads_prepared_digits(mnist: Mnist, name: str) -> None:
    """It keeps its answers, and gray paper, pale ink, inversion and noise cost next to nothing."""
    network, labels = load_model(name), mnist.test_labels
    plain = evaluate(network, mnist.test_images, labels)
    same = evaluate(network, prepared(mnist.test_images), labels)
    assert (same.predictions == plain.predictions).mean() >= 0.9995
    for contrast, paper, sigma in [
        *((1 - p, 255 * p, 0) for p in (0.1, 0.2, 0.3, 0.5)),
        *((0.5, 0, 0), (-1, 255, 0), (-0.5, 255, 0), (-0.5, 200, 5)),
        *((1, 0, 5), (1, 0, 10), (-0.6, 200, 10)),
    ]:
        spoiled = prepared(spoil(mnist.test_images, contrast, paper, sigma))
        accuracy = evaluate(network, spoiled, labels).accuracy
        assert accuracy >= plain.accuracy - 0.3, (contrast, paper, sigma)


@pytest.mark.slow
def test_digits_of_8_pixels_are_read() -> None:
    from sklearn.datasets import load_digits  # here, since it takes a second

    digits: Any = load_digits()
    images = prepared(np.rint(digits.images * 255 / 16).astype(np.uint8))
    assert evaluate(load_model("tiny20k"), images, digits.target).accuracy >= 96
