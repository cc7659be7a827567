"""The two rules for everything that tinydigits does with files, and the errors that it raises.

Files appear whole or not at all (`write_atomically`), and whatever a user can cause ends in one
sentence (`Failure`, `Misuse`), which the command line prints without a traceback.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Failure(Exception):
    """Something went wrong that the user can mend: the message says what and how. Exit code 1."""

    exit_code = 1


class Misuse(Failure, ValueError):
    """The request itself makes no sense: the message says what would. Exit code 2."""

    exit_code = 2


def reason(error: BaseException) -> str:
    """What went wrong, for the inside of a sentence: "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def say(message: str) -> None:
    """Tell a person something that is not the result, on standard error."""
    print(message, file=sys.stderr, flush=True)


def expand(path: str | Path) -> Path:
    """`path` with ~ replaced by the home folder.

    Raises:
        Misuse: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise Misuse(f"{path} cannot be resolved: {reason(error)}.") from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Put `content` at `path` so that a reader finds the old file or the new one, never a half.

    Text is written as UTF-8. The bytes go to a temporary file in the same folder, reach the disk,
    and only then take the name; a failure or a kill on the way leaves what was at `path` alone.

    Raises:
        Failure: the folder cannot be written, or the disk is full.
    """
    if isinstance(content, str):
        content = content.encode()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # NamedTemporaryFile makes files that only their owner can read; give the usual rights.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise Failure(
            f"Cannot write {path}: {reason(error)}. Free the space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    except ValueError as error:
        raise Failure(f"{path} is not valid JSON: {reason(error)}.") from error
