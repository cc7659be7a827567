"""What people see beside the results: messages, progress bars, characters that can be printed."""

import io
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def say(message: str) -> None:
    """Tell a person something that is not the result, on standard error."""
    print(plain(message), file=sys.stderr, flush=True)


def plain(text: object) -> str:
    """Text with its control characters as escapes: a file's name may hold any, a terminal obeys."""
    return "".join(
        c if unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def printable_streams() -> None:
    r"""Let standard output and error print any text, whatever encoding the environment asks for.

    A character that the encoding lacks is printed as its escape, like \u0107: better than an
    error in the middle of a table.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    """`items`, with a bar on standard error after two seconds, where a person watches."""
    if len(items) < 2:
        return items
    from tqdm import tqdm

    return tqdm(items, what, leave=False, disable=None, delay=2)


def is_printable_name(value: Any) -> bool:
    """Whether a value may name a class or a data set: 1 to 100 characters that can be printed.

    Control characters could make a terminal do things; halves of characters are no text.
    """
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 100
        and all(unicodedata.category(character) not in ("Cc", "Cs") for character in value)
    )
