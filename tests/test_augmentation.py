"""Batches: the augmentation (identity at zero, known distortions, its price) and the shuffling."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from tinydigits import preset
from tinydigits.network.architecture import MEAN, STD
from tinydigits.network.model import normalize
from tinydigits.training.augmentation import augment, distort, shade
from tinydigits.training.batches import Digits, shuffled_batches

PAPER = -MEAN / STD
STILL = dataclasses.replace(
    preset("classic"), rotation=0, scale=0, shear=0, shift=0, background=0, ink_fade=0
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_without_any_amount_nothing_changes(images: torch.Tensor) -> None:
    torch.testing.assert_close(distort(images, STILL), images, atol=1e-4, rtol=0)


def test_a_shift_moves_by_at_most_its_pixels_and_brings_in_paper() -> None:
    dots = torch.full((200, 1, 28, 28), PAPER)
    dots[:, 0, 14, 14] = 1.0
    moved = distort(dots, dataclasses.replace(STILL, shift=3.0)) - PAPER
    mass = moved.sum((1, 2, 3))
    torch.testing.assert_close(mass, torch.full((200,), 1.0 - PAPER), atol=1e-3, rtol=0)
    pixels = torch.arange(28.0)
    for axis in (2, 3):
        center = (moved.sum(axis).squeeze(1) * pixels).sum(1) / mass
        assert (center - 14).abs().max() <= 3.001
        assert (center - 14).abs().max() > 2  # of 200 uniform draws, some are far out


def test_a_rotation_keeps_the_center_and_turns_by_at_most_its_degrees() -> None:
    bars = torch.full((200, 1, 28, 28), PAPER)
    bars[:, 0, 13:15, 2:26] = 1.0
    turned = distort(bars, dataclasses.replace(STILL, rotation=20.0))[:, 0] - PAPER
    offset = torch.arange(28.0) - 13.5
    xy = (turned * offset[:, None] * offset[None, :]).sum((1, 2))
    xx = (turned * (offset**2)[None, :]).sum((1, 2))
    degrees = torch.rad2deg(torch.atan2(xy, xx))
    assert degrees.abs().max() < 21
    assert degrees.min() < -10
    assert degrees.max() > 10


def test_each_image_gets_amounts_of_its_own() -> None:
    same = torch.rand(1, 1, 28, 28).expand(20, -1, -1, -1).contiguous()
    distorted = distort(same, preset("classic"))
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 20


def test_the_seed_decides_the_amounts(images: torch.Tensor) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(distort(images, preset("classic")))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_it_costs_less_than_a_fifth_of_a_training_step() -> None:
    from tinydigits import build_model

    config = preset("classic")
    model = build_model(config).train()
    images = torch.rand(128, 1, 28, 28)

    def step() -> None:
        model(images).mean().backward()

    def shortest(work) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times)

    assert shortest(lambda: augment(images, config)) < shortest(step) / 5


# ----------------------------------------------------------------------------- paper and ink


@pytest.fixture
def halves() -> torch.Tensor:
    """Normalized images with paper on their left side and full ink on their right."""
    pixels = torch.zeros(4000, 1, 28, 28)
    pixels[..., 14:] = 1
    return (pixels - MEAN) / STD


def shaded(
    images: torch.Tensor, background: float, ink_fade: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper and the ink of each image after `shade`, from 0 to 1."""
    config = dataclasses.replace(STILL, background=background, ink_fade=ink_fade)
    pixels = shade(images, config)[:, 0] * STD + MEAN
    for side in (pixels[..., :14], pixels[..., 14:]):
        assert (side.amax((1, 2)) - side.amin((1, 2)) < 1e-5).all()
    return pixels[:, 0, 0], pixels[:, 0, 27]


def test_half_of_the_images_get_paper_of_up_to_its_share(halves: torch.Tensor) -> None:
    paper, ink = shaded(halves, 0.3, 0.0)
    gray = paper > 1e-6
    assert 0.45 < gray.float().mean() < 0.55
    assert 0.29 < paper.max() <= 0.3
    assert paper[gray].mean() == pytest.approx(0.15, abs=0.01)
    torch.testing.assert_close(ink, torch.ones(len(ink)))


def test_the_same_half_loses_up_to_its_share_of_the_ink(halves: torch.Tensor) -> None:
    paper, ink = shaded(halves, 0.3, 0.4)
    left = (ink - paper) / (1 - paper)  # of the ink
    assert left[paper > 1e-6].mean() == pytest.approx(0.8, abs=0.02)
    assert 0.6 - 1e-5 <= left.min() < 0.61
    untouched = paper <= 1e-6
    torch.testing.assert_close(left[untouched], torch.ones(int(untouched.sum())))


def test_ink_fades_on_paper_that_stays(halves: torch.Tensor) -> None:
    paper, ink = shaded(halves, 0.0, 0.4)
    assert paper.abs().max() < 1e-6
    assert 0.45 < (ink < 1 - 1e-6).float().mean() < 0.55
    assert 0.6 - 1e-5 <= ink.min() < 0.61


def test_other_data_are_shaded_by_their_own_mean_and_spread() -> None:
    config = dataclasses.replace(STILL, background=0.3)
    white = torch.full((500, 1, 28, 28), (1 - 0.5) / 0.2)
    torch.testing.assert_close(augment(white, config, 0.5, 0.2), white)
    paper = augment(torch.full((500, 1, 28, 28), -0.5 / 0.2), config, 0.5, 0.2) * 0.2 + 0.5
    assert paper.min() == pytest.approx(0, abs=1e-6)
    assert 0.28 < paper.max() <= 0.3 + 1e-6


def test_paper_and_ink_are_drawn_apart(halves: torch.Tensor) -> None:
    paper, ink = shaded(halves, 0.3, 0.4)
    gray = paper > 1e-6
    both = torch.stack([paper[gray], ((ink - paper) / (1 - paper))[gray]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1


def test_without_background_and_ink_fade_an_image_stays_as_it_is(images: torch.Tensor) -> None:
    torch.testing.assert_close(shade(images, STILL), images, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------- batches


@pytest.fixture
def digits() -> Digits:
    return Digits(np.zeros((1000, 28, 28), np.uint8), np.arange(1000), "cpu")


def order(digits: Digits, seed: int, epoch: int, batch_size: int = 64) -> list[int]:
    batches = shuffled_batches(digits, batch_size, seed, epoch)
    return torch.cat([labels for _, labels in batches]).tolist()


def test_every_digit_comes_exactly_once_per_epoch(digits: Digits):
    assert sorted(order(digits, 1, 1)) == list(range(1000))


def test_order_is_shuffled(digits: Digits):
    assert order(digits, 1, 1) != list(range(1000))


def test_order_depends_on_seed_and_epoch_alone(digits: Digits):
    torch.manual_seed(1)
    first = order(digits, 1, 1)
    torch.manual_seed(2)
    assert order(digits, 1, 1, batch_size=100) == first


@pytest.mark.parametrize(("seed", "epoch"), [(1, 2), (2, 1), (0, 2), (2**63 - 1, 1)])
def test_other_seed_or_epoch_gives_another_order(digits: Digits, seed: int, epoch: int):
    assert order(digits, seed, epoch) != order(digits, 1, 1)


def test_drawing_an_order_leaves_torchs_generator_alone(digits: Digits):
    before = torch.get_rng_state()
    order(digits, 1, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_last_batch_holds_what_is_left_over(digits: Digits):
    sizes = [len(labels) for _, labels in shuffled_batches(digits, 300, 1, 1)]
    assert sizes == [300, 300, 300, 100]


def test_batch_holds_normalized_images_with_their_labels():
    images = np.arange(3, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    ((batch, labels),) = shuffled_batches(Digits(images, np.arange(3), "cpu"), 3, 1, 1)
    assert batch.shape == (3, 1, 28, 28)
    expected = (labels / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(batch, expected[:, None, None, None].expand(3, 1, 28, 28))


def test_normalize_leaves_the_bytes_alone():
    images = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    normalize(images)
    assert (images == 255).all()
