"""For PyTorch Hub: an entry point for each preset, which gives its trained network.

model = torch.hub.load("path/to/a/clone", "classic", source="local")
"""

import collections.abc

from tinydigits.config import PRESETS as _PRESETS
from tinydigits.model import Network as _Network
from tinydigits.model import load_model as _load_model
from tinydigits.modelfile import SHIPPED as _SHIPPED

dependencies = ["numpy", "safetensors", "torch"]


def _entry_point(preset: str) -> collections.abc.Callable[[], _Network]:
    def load() -> _Network:
        # By its path, so that a folder of the preset's name in the working directory is left alone.
        return _load_model(_SHIPPED / f"{preset}.safetensors")

    load.__name__ = preset
    load.__doc__ = f"""The trained network `{preset}`, in eval mode, on the CPU.

    It takes raw pixels, uint8 (B, 28, 28), bright ink on dark paper, and gives log-probabilities
    (B, 10); floats must be normalised first, see `tinydigits.normalise`.
    """
    return load


globals().update({name: _entry_point(name) for name in _PRESETS})
