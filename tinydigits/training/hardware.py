"""What this computer is and can do: device, precision, threads, and their description."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import joblib
import torch

from tinydigits import __version__
from tinydigits.errors import UsageError
from tinydigits.network.architecture import plan, total
from tinydigits.training.config import Config

WORTHWHILE = 100_000_000
"""Multiply-accumulates of a training step, forward, from which on several threads help."""

SLOWED, COMPARED = 3, 20
"""How many times as long as before steps take where other programs hold the cores, and of how many
steps the median is compared."""


def choose_device(config: Config) -> torch.device:
    """The device that `config` names; for "auto" CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: this computer has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if config.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[config.device]:
        raise UsageError(
            f"device: PyTorch finds no {config.device} here; use --device auto or cpu."
        )
    return torch.device(config.device)


def choose_precision(config: Config, device: torch.device) -> torch.dtype:
    """The arithmetic of the training: for "auto", bfloat16 where there are units for it.

    A processor without such units emulates bfloat16 and would only get slower.
    """
    if config.precision == "auto":
        return torch.bfloat16 if has_bfloat16_units(device) else torch.float32
    return torch.float32 if config.precision == "float32" else torch.bfloat16


def precision_name(config: Config, device: torch.device) -> str:
    """What `choose_precision` chooses, for people and files: "bfloat16"."""
    return str(choose_precision(config, device)).removeprefix("torch.")


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # These probes of torch.cpu are private and newer than our oldest torch; without them: no.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def count_cores() -> int:
    """The CPU cores that this process may use; a container or a batch system may hold some back."""
    return joblib.cpu_count()


def choose_threads(config: Config) -> int:
    """The number of CPU threads that `config` asks for; for 0, as many as help.

    That is the number in OMP_NUM_THREADS where the user has set it. Else it is one per core for a
    training step with at least `WORTHWHILE` multiply-accumulates (`step_macs`), and one for a step
    with fewer, which several threads make no quicker; the figures are in docs/performance.md.
    """
    if config.threads:
        return config.threads
    # A list is for nested loops, of which only the outer one counts here.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked):
        return int(asked)
    return count_cores() if step_macs(config) >= WORTHWHILE else 1


def step_macs(config: Config) -> int:
    """Multiply-accumulates for one batch, forward: what there is to do for several threads."""
    return config.batch_size * total(plan(config.layers))[1]


def use_threads(config: Config) -> int:
    """Set the number of CPU threads that `choose_threads` chooses, and return it."""
    threads = choose_threads(config)
    torch.set_num_threads(threads)
    return threads


def processor_name() -> str:
    """The processor as its maker calls it, or its architecture where that is hidden."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, instruction set, system and versions, for whoever wants to repeat a run."""
    return {
        "processor": processor_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "tinydigits": __version__,
            **{name: version_of(name) for name in ("torch", "numpy", "safetensors")},
        },
    }


def version_of(package: str) -> str:
    """The version of an installed package; a copy without metadata doesn't tell."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def slowed(paces: Sequence[float]) -> bool:
    """Whether steps have come to take over `SLOWED` times as long as they did.

    Args:
        paces: the median seconds of each `COMPARED` steps, one after another.
    """
    return len(paces) > 1 and paces[-1] > SLOWED * min(paces[:-1])
