"""What each preset claims, and which bounds it keeps."""

from tinydigits.training.config import PARAMETER_GOAL
from tinydigits.training.presets import PRESETS

CLAIMS = {
    "classic": 99.50,
    "tiny20k": 99.66,
    "tiny10k": 99.58,
    "tiny4k": 99.45,
    "tiny2k": 99.28,
    "tiny1k": 98.85,
    "reader": 99.40,
    "dash": 99.40,
    "sprint": 99.40,
}
"""The mean accuracy on the test set, in percent, that a preset claims to reach.

It holds for the network of integers with 8 bits as well.
"""

BUDGETS = dict.fromkeys(PRESETS, PARAMETER_GOAL) | {
    "tiny10k": 10_000,
    "tiny4k": 4_000,
    "tiny2k": 2_000,
    "tiny1k": 1_000,
}
"""What a preset stays under, whether one counts its parameters or the numbers that are stored."""

CORRUPTION_CLAIMS = {
    name: {"background of 10 %": 99.3, "background of 20 %": 99.0, "half the ink": 99.0}
    for name in ("classic", "tiny20k", "tiny10k")
} | {"tiny4k": {"background of 10 %": 99.0, "background of 20 %": 98.5, "half the ink": 99.0}}
"""The same on corrupted test digits that nobody prepared, by corruption: `lab.study.RAW`."""
