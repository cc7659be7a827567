"""PyTorch Hub gives every network that comes with the package."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run

from tinydigits import load_model
from tinydigits.training.presets import PRESETS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", PRESETS)
def test_the_hub_gives_the_shipped_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_model(name)
    (tmp_path / name).mkdir()  # a folder of that name is none of the hub's business
    monkeypatch.chdir(tmp_path)
    network: Any = torch.hub.load(str(ROOT), name, source="local")
    digits = torch.randint(256, (8, 28, 28), dtype=torch.uint8)
    assert not network.training
    assert torch.equal(network(digits), expected(digits))


def test_the_hub_lists_the_presets_and_nothing_else() -> None:
    # What torch.hub.list and torch.hub.help show, which themselves read from GitHub only.
    listed = {
        name: value.__doc__
        for name, value in runpy.run_path(str(ROOT / "hubconf.py")).items()
        if callable(value) and not name.startswith("_")
    }
    assert list(listed) == [*PRESETS]
    assert all(f"`{name}`" in (about or "") for name, about in listed.items())


WITHOUT = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*sys.stdlib_module_names, *sys.modules, "tinydigits"}:
            return None
        if name.partition(".")[0] in {"numpy", "safetensors", "torch"}:
            return None
        raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent())
print(len(torch.hub.load(sys.argv[1], "tiny1k", source="local").state_dict()))
"""


@pytest.mark.slow
def test_the_hub_needs_only_the_packages_that_it_names(tmp_path: Path) -> None:
    """torch.hub checks these and installs nothing."""
    outcome = run(
        sys.executable, "-c", WITHOUT, ROOT, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}
    )
    assert int(outcome.out) > 0, outcome.err
