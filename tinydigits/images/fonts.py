"""A font that has the characters of a name, if this computer has one."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

FOLDERS = {
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
}
"""Where systems keep fonts; all others as below."""
ELSEWHERE = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")

NONE = "\U0010ffff"
"""A character that no font has: it is drawn as what is missing."""


@functools.cache
def font_path(characters: str) -> Path | None:
    """The first font of this computer, by name, that has all of some characters, or None."""
    for folder in FOLDERS.get(sys.platform, ELSEWHERE):
        for path in sorted(Path(folder).expanduser().rglob("*.[ot]t[fc]")):
            if has_all(path, characters):
                return path
    return None


def has_all(path: Path, characters: str) -> bool:
    """Whether a font, a file, has all of some characters."""
    from PIL import ImageFont

    try:
        return lacking(ImageFont.truetype(str(path), 16), characters) == ""
    except (OSError, ValueError):  # a damaged one
        return False


def lacking(font: Any, characters: str) -> str:
    """Which of some characters a font of Pillow's lacks."""
    missing = bytes(font.getmask(NONE))
    return "".join(c for c in characters if not c.isspace() and bytes(font.getmask(c)) == missing)
