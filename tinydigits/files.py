"""How files are written and read: whole or not at all, and what goes wrong ends in one sentence."""

import contextlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from tinydigits.errors import Failure, UsageError, reason


def expand(path: str | Path) -> Path:
    """`path` with a leading ~ or ~user replaced by that home.

    Raises:
        UsageError: there is no such user, or this one has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        home = Path(path).parts[0]
        raise UsageError(
            f"Nobody knows which folder {home} in {path} is: write the path in full."
        ) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Put `content` at `path` so that a reader finds the old file or the new one, never a half.

    Text is written as UTF-8; what is no text, as in the name of a file that is none, as its
    escape. The bytes go to a temporary file in the same folder, reach the disk, and only then take
    the name; a failure or a kill on the way leaves what was at `path` alone. Threads may write at
    once, the same file too.

    Raises:
        Failure: the folder cannot be written, or the disk is full.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": nobody else has this file. Open leaves its rights to the umask, as is usual, where
        # the module tempfile makes files that only their owner can read.
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise Failure(
            f"Cannot write {path}: {reason(error)}. Free the space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # mostly it has taken its name, or was never made
            temporary.unlink()


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed processes left in `folder`; what is younger may still be in use."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - leftover.stat().st_mtime > 600:
                leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Failure: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure(f"{path} does not exist: is {path.parent} a run folder?") from error
    except OSError as error:
        raise Failure(f"Cannot read {path}: {reason(error)}.") from error
    except (RecursionError, ValueError) as error:
        raise Failure(f"{path} is not valid JSON: {reason(error)}.") from error
