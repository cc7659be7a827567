"""The augmentation: identity at zero, known distortions, paper from beyond the edge, its price."""

import dataclasses
import time

import pytest
import torch

from tinydigits import preset
from tinydigits.augment import distort
from tinydigits.data import MEAN, STD

PAPER = -MEAN / STD
STILL = dataclasses.replace(preset("classic"), rotation=0, scale=0, shear=0, shift=0)


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
        centre = (moved.sum(axis).squeeze(1) * pixels).sum(1) / mass
        assert (centre - 14).abs().max() <= 3.001
        assert (centre - 14).abs().max() > 2  # of 200 uniform draws, some are far out


def test_a_rotation_keeps_the_centre_and_turns_by_at_most_its_degrees() -> None:
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

    assert shortest(lambda: distort(images, config)) < shortest(step) / 5
