"""The networks of integers that come with the package: what the results say of them holds."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tinydigits
from lab import footprint, integers
from tinydigits.data.mnist import Mnist
from tinydigits.network.checkpoint import SHIPPED, find_model, read_description
from tinydigits.training.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "results"

RAM = {
    "tiny1k": 3200,
    "tiny2k": 4600,
    "tiny4k": 7000,
    "tiny10k": 12_000,
    "tiny20k": 13_000,
    "classic": 4608,
}
FLASH = {"tiny1k": 6500, "tiny2k": 8000, "tiny4k": 10_500, "tiny10k": 18_000}
INSTRUCTIONS = {"tiny1k": 1.5e6, "tiny2k": 2.7e6, "tiny4k": 6e6, "tiny10k": 14e6}


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_integers_are_those_that_were_measured(name: str) -> None:
    row = results("integers")["presets"][name]
    content = (SHIPPED / f"{name}.tdq").read_bytes()
    assert hashlib.sha256(content).hexdigest() == row["sha256"]
    network = tinydigits.load_quantized(name)
    assert network.layers == read_description(find_model(name)).layers
    assert network.temperature == pytest.approx(row["temperature"])
    assert row["integer"]["accuracy"] >= row["float"]["accuracy"] - 0.05
    assert row["integer"]["calibration_error"] <= 0.5


@pytest.mark.parametrize("name", ["tiny1k", "tiny2k"])
def test_measuring_again_gives_the_same(name: str, mnist: Mnist) -> None:
    measured = tinydigits.evaluate(
        tinydigits.load_quantized(name), mnist.test_images[:2000], mnist.test_labels[:2000]
    )
    assert measured.accuracy == pytest.approx(
        results("integers")["presets"][name]["integer"]["accuracy"], abs=1.0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_shipped_integers_on_all_test_digits(name: str, mnist: Mnist) -> None:
    row = results("integers")["presets"][name]
    measured = tinydigits.evaluate(
        tinydigits.load_quantized(name), mnist.test_images, mnist.test_labels
    )
    assert integers.figures_of(measured) == pytest.approx(row["integer"])


def test_the_footprint_is_within_what_is_asked() -> None:
    made = results("footprint")
    assert made["code"]["predict"] <= 4500
    assert made["code"]["object"] <= 7500
    for name, most in RAM.items():
        assert made["presets"][name]["ram"] <= most, name
    for name, most in FLASH.items():
        assert made["presets"][name]["flash"] <= most, name
    for name, most in INSTRUCTIONS.items():
        assert made["presets"][name]["instructions_cortex-m0"]["-Os"] <= most, name
    assert "`tiny2k`" in footprint.table(made)


def test_parity_was_complete_and_found_no_difference() -> None:
    made = results("parity")
    assert {name for name, make in PRESETS.items() if not make().drawn} <= {*made["models"]}
    assert made["random_networks"] == 200
    for engine in ("gcc", "clang", "wasm", "cortex-m0", "cortex-m4"):
        assert made["engines"][engine]["differing"] == 0
        assert made["engines"][engine]["networks"] > 0


def test_first_answer_comes_soon_and_without_pytorch() -> None:
    program = (
        "import sys, time, tinydigits, numpy as np\n"
        "tinydigits.load_quantized('tiny2k').log_probs(np.zeros((1, 28, 28), np.uint8))\n"
        "assert not {'torch', 'scipy', 'matplotlib', 'joblib'} & sys.modules.keys()\n"
        "print(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0  # the processor's time, since a busy machine takes longer
