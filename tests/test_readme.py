"""What README and docs/use.md tell people to type is typed here, and prints what stands there."""

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {"README.md": README, "docs/use.md": (ROOT / "docs/use.md").read_text(encoding="utf-8")}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
"""A block of code, and the output that stands right below it."""


def commands(document: str) -> list[tuple[str, str | None]]:
    """Lines of shell and blocks of Python, and what they print, where it stands there.

    CI runs what installs, `pip install ...`, as written.
    """
    found: list[tuple[str, str | None]] = []
    for language, text, output in BLOCK.findall(document):
        if language == "python":
            found.append((f"python -c '{text.replace(chr(39), chr(34))}'", output or None))
        elif language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                line, _, printed = part.partition("\n")
                found.append((line, printed))
        elif language in ("", "sh"):
            lines = text.splitlines()
            found += [(x, None) for x in lines if x.startswith(("tinydigits", "python"))]
    return found


ALL = [(name, *command) for name, text in DOCUMENTS.items() for command in commands(text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clone's examples and pictures in it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("examples", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("document", "line", "printed"), ALL)
def test_command_works_as_written(folder: Path, document: str, line: str, printed: str | None):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outcome = run("bash", "-c", line, cwd=folder, env=os.environ | {"PATH": path}, timeout=900)
    assert outcome.exit_code == 0, outcome.err
    if printed is not None:
        assert outcome.out == printed


def test_every_command_is_found_and_some_say_what_they_print():
    """Else the test above would be content with anything."""
    lines = [line for _, line, _ in ALL]
    assert "tinydigits evaluate runs/first" in lines
    assert sum(printed is not None for *_, printed in ALL) >= 7


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
