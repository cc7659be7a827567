"""What a terminal shows."""

import unicodedata
from typing import Any


def is_printable_name(value: Any) -> bool:
    """Whether a value may name a class or a data set: 1 to 100 characters that can be printed.

    Control characters could make a terminal do things; halves of characters are no text.
    """
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 100
        and all(unicodedata.category(character) not in ("Cc", "Cs") for character in value)
    )
