"""What the tests share: outside tools, the real data, and runs of the command line."""

import os
import shutil

import pytest
import torch

from tinydigits.data import Mnist, load_mnist

PACKAGES = {"chromium": "chromium", "npm": "npm"}
"""The Debian package of each command that `need_tool` is asked for, where the names are known."""

TINY = ("--layers", "conv3:2", "pool", "pool", "conv1:2", "--dropout", "0.1", "--threads", "1")
"""Options of a network that trains on the real data in a second and still draws random numbers."""


def need_tool(name: str) -> str:
    """The path of a command that is no Python package; skips the test where it is missing.

    TINYDIGITS_REQUIRE_TOOLS in the environment (as in CI) turns the skip into a failure.
    """
    if path := shutil.which(name):
        return path
    missing = f"needs {name}: install the Debian package {PACKAGES.get(name, name)}"
    if os.environ.get("TINYDIGITS_REQUIRE_TOOLS"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors are quicker on one thread, and the sums come out alike on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist() -> Mnist:
    """The real data, found or fetched once."""
    return load_mnist()
