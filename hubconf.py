"""For PyTorch Hub: an entry point for each preset, which gives its trained network.

model = torch.hub.load("path/to/a/clone", "classic", source="local")
"""

import collections.abc

from tinydigits.network.checkpoint import SHIPPED as _SHIPPED
from tinydigits.network.model import Network as _Network
from tinydigits.network.model import load_model as _load_model
from tinydigits.training.presets import PRESETS as _PRESETS

dependencies = ["numpy", "safetensors", "torch"]


def _entry_point(preset: str) -> collections.abc.Callable[[], _Network]:
    def load() -> _Network:
        # By its path, so that a folder of the preset's name in the working directory is left alone.
        return _load_model(_SHIPPED / f"{preset}.safetensors")

    load.__name__ = preset
    load.__doc__ = f"""The trained network `{preset}`, in eval mode, on the CPU.

    It takes raw pixels, uint8 (B, 28, 28), bright ink on dark paper, and gives log-probabilities
    (B, 10); floats must be normalized first, see `tinydigits.normalize`.
    """
    return load


globals().update({name: _entry_point(name) for name in _PRESETS})
