"""What the README tells people to type is typed here, in its order and in one folder."""

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import run

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Lines of shell and blocks of Python. CI runs what installs, `pip install ...`, as written."""
    found: list[str] = []
    for language, text in BLOCKS:
        if language == "python":
            found.append(f"python -c '{text.replace(chr(39), chr(34))}'")
        elif language in ("", "sh", "console"):
            lines = [line.removeprefix("$ ") for line in text.splitlines()]
            found += [line for line in lines if line.startswith(("tinydigits", "python"))]
    return [f"{line} --epochs 1" if line == "tinydigits train" else line for line in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clone's examples in it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(Path(__file__).parents[1] / "examples")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_command_works_as_written(folder: Path, line: str):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outcome = run("bash", "-c", line, cwd=folder, env=os.environ | {"PATH": path}, timeout=900)
    assert outcome.exit_code == 0, outcome.err


@pytest.mark.parametrize(
    "command",
    [
        "pip install -c constraints.txt '.[train]' && tinydigits train",
        "pip install -c constraints.txt -e '.[dev]' && pytest",
    ],
)
def test_the_two_commands_stand_at_the_top(command: str):
    above = README.partition("\n## ")[0]
    assert re.search(rf"^{re.escape(command)}$", above, re.MULTILINE)
