"""The command line as a process that meets its end at a chosen moment.

    python child.py MOMENT END ARGUMENT ...

MOMENT is one of

    step:9                   at the 9th step of the optimizer, of which an epoch has 6
    open:checkpoint.pt:2     when the second checkpoint is about to be written
    half:checkpoint.pt:2     with half of its bytes in the temporary file
    before:checkpoint.pt:2   with all of them, before the file takes its name
    after:checkpoint.pt:2    and after it has taken it
    never                    not at all

END is the name of a signal, or FULL for a disk that is full from then on. A tenth of the digits is
trained on, and the report is left out, because its pictures take longer than that.
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from tinydigits import Mnist, load_mnist, runs
from tinydigits.cli import main
from tinydigits.data import dataset

moment, end, *arguments = sys.argv[1:]
seen: dict[str, int] = {}


def reach(place: str) -> bool:
    """Count a moment that could be the chosen one; tell whether it is."""
    seen[place] = seen.get(place, 0) + 1
    return moment == f"{place}:{seen[place]}"


def meet_end() -> None:
    if end == "FULL":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    else:
        os.kill(os.getpid(), signal.Signals[end])


class Hooks:
    """The functions that are called at those moments, before they were wrapped."""

    backward = staticmethod(torch.Tensor.backward)
    open = staticmethod(Path.open)
    fsync = staticmethod(os.fsync)
    replace = staticmethod(os.replace)
    writing_half = False


def backward(*args: Any, **options: Any) -> None:
    if reach("step"):
        meet_end()
    Hooks.backward(*args, **options)


def open_temporary(path: Path, *args: Any, **options: Any) -> Any:
    if args == ("xb",):
        name = path.name[1:].rsplit(".", 2)[0]
        if reach(f"open:{name}"):
            meet_end()
        Hooks.writing_half = reach(f"half:{name}")
    return Hooks.open(path, *args, **options)


def fsync(file: int) -> None:
    if Hooks.writing_half:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        meet_end()
    Hooks.fsync(file)


def replace(source: Any, target: Any, **options: Any) -> None:
    name = Path(target).name
    if reach(f"before:{name}"):
        meet_end()
    Hooks.replace(source, target, **options)
    if reach(f"after:{name}"):
        meet_end()


torch.Tensor.backward = backward  # pyright: ignore[reportAttributeAccessIssue]
Path.open = open_temporary  # pyright: ignore[reportAttributeAccessIssue]
os.fsync, os.replace = fsync, replace
mnist = load_mnist()
dataset.load_mnist = lambda root: Mnist(*(part[::10] for part in mnist))
runs.write_report = lambda *_: Path()
main(arguments)
