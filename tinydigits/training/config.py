"""Everything that can be set about a training run, in one flat dataclass."""

import dataclasses
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tinydigits.errors import UsageError
from tinydigits.network.architecture import SIZE, plan
from tinydigits.terminal import is_printable_name

if TYPE_CHECKING:
    from tinydigits.data.dataset import DataSource

ACCURACY_GOAL = 99.4
"""Percent of the test digits that must be exceeded: the first of the project's three goals."""
PARAMETER_GOAL = 20_000
"""Trainable parameters that must not be reached."""
EPOCH_GOAL = 15
"""Epochs that must not be exceeded."""

Device = Literal["auto", "cuda", "mps", "cpu"]
Schedule = Literal["constant", "one-cycle"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Config:
    """One training run, from the network to the folder that it leaves behind.

    Raises:
        UsageError: (a ValueError) a value is impossible; the message names the field.
    """

    layers: tuple[str, ...]
    """The network: conv3:N (a 3x3 convolution to N channels), separable3:N, depthwise3, pool.

    again is a weight-tied layer: it uses the convolution before it once more, with the same
    weights, as in conv3:8 conv3:8 pool again.
    """

    name: str = "custom"
    """What to call the run: letters, digits, dots, dashes and underscores."""

    dropout: float = 0.0
    """Share of the activations that each convolution block drops in training, 0 to under 1."""

    epochs: int = 15
    """Full passes over the training digits."""

    batch_size: int = 128
    """Digits between two updates of the weights, 2 to 60,000."""

    lr: float = 0.01
    """Step size of the optimizer (SGD)."""

    momentum: float = 0.9
    """Share of the last step that the next one keeps, 0 to under 1."""

    nesterov: bool = False
    """Look ahead along the momentum before each step (Nesterov 1983)."""

    muon_lr: float = 0.0
    """Step size of Muon, which then trains the convolutions inside the network; 0: SGD does."""

    weight_decay: float = 0.0
    """Share of the weights that SGD, times its learning rate, takes away at each step."""

    schedule: Schedule = "constant"
    """one-cycle: the learning rate climbs from 0 in the warm-up, then falls straight to 0."""

    warm_up: float = 0.25
    """Share of all steps in which a one-cycle schedule climbs, 0 to under 1."""

    rotation: float = 0.0
    """Augmentation: rotate each training digit by up to so many degrees either way."""

    scale: float = 0.0
    """Augmentation: stretch or squeeze each axis by up to this share, 0 to under 1."""

    shear: float = 0.0
    """Augmentation: slant by up to this share of the height, 0 to under 1."""

    shift: float = 0.0
    """Augmentation: move by up to so many pixels along each axis, at most 14."""

    undistorted_end: float = 0.0
    """Share of all steps, at the end, that see the digits in their own shape, 0 to 1."""

    background: float = 0.0
    """Augmentation: half of the digits get a gray background.

    Up to this share of white, 0 to under 1.
    """

    ink_fade: float = 0.0
    """Augmentation: the same digits lose up to this share of their ink, 0 to under 1."""

    ema_decay: float = 0.0
    """Use an exponential moving average (EMA) of the weights: the share that it keeps at each step.

    0 (off) to under 1.
    """

    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes in training, 0 to under 1."""

    qat_epochs: int = 0
    """Epochs, at the end, of quantization-aware training (QAT).

    They compute as the network in integers will: with rounded numbers.
    """

    activation_bits: int = 8
    """Bits of the activations in that network, 1 to 8."""

    weight_bits: int = 8
    """Bits of the weights in that network, 2 to 8; depthwise weights always have 8."""

    seed: int = 1
    """Decides the first weights, the order of the digits and every other random number."""

    precision: Precision = "auto"
    """Arithmetic of the training; auto is bfloat16 where the processor has units for it."""

    channels_last: bool = True
    """Keep the channels of a pixel side by side in memory, which makes training faster."""

    device: Device = "auto"
    """Where to compute; auto takes CUDA, then Apple's MPS, then the CPU."""

    threads: int = 0
    """CPU threads; 0 for OMP_NUM_THREADS or, where that is not set, as many as help.

    That is one per core, or one where the convolutions of a training step have too little to
    compute for several. A run keeps its number, because another may give other last bits.
    """

    validation: bool = False
    """Train on the first 50,000 digits and report on the last 10,000, not on the test set."""

    drawn: int = 0
    """Digits drawn by rule that are trained on beside MNIST's, 0 or more.

    They are of many hands, pens and fonts, which MNIST has not: for reading what people write.
    """

    data: Path | None = None
    """A folder that holds MNIST or data of yours, and the only place to look then.

    MNIST: the four IDX files (.gz or not), mnist.npz, or mnist_train.csv and mnist_test.csv; by
    default it is found or fetched. Yours: a subfolder of pictures for each class, of which a fifth
    is held out, unless they are in the folders train and test; or files of those same forms.
    """

    dataset: str = ""
    """What to call data of yours; needed where they come in a form that MNIST has.

    By default pictures are called after their folder.
    """

    as_is: bool = False
    """Take pictures of 28x28, light ink on black, as they are; others are brought to that."""

    init: str = ""
    """A trained network to start from: a preset, a run folder or a .safetensors file.

    It must have the same layers. All of its weights are kept or, where its classes are others, all
    but those of the classes.
    """

    out: Path | None = None
    """The run folder to make; by default a new one under runs/."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "seed": 0, "threads": 0}
        least |= {"qat_epochs": 0, "activation_bits": 1, "weight_bits": 2, "drawn": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise UsageError(f"{name} must be a whole number from {minimum} up, not {value!r}.")
        limits = {"seed": 2**63, "batch_size": 60_001, "threads": 1025}
        limits |= {"activation_bits": 9, "weight_bits": 9, "drawn": 1_000_001}
        for name, limit in limits.items():
            if getattr(self, name) >= limit:
                raise UsageError(f"{name} must be below {limit:,}, not {getattr(self, name)}.")
        require_number(self, "lr", above=0)
        shares = "dropout momentum warm_up scale shear background ink_fade ema_decay"
        for name in (*shares.split(), "label_smoothing"):
            require_number(self, name, minimum=0, below=1)
        require_number(self, "muon_lr", minimum=0)
        for name, maximum in (("weight_decay", 1), ("undistorted_end", 1), ("rotation", 180)):
            require_number(self, name, minimum=0, maximum=maximum)
        require_number(self, "shift", minimum=0, maximum=SIZE // 2)
        choices_of = {"device": Device, "precision": Precision, "schedule": Schedule}
        for name, choices in choices_of.items():
            choices = get_args(choices)
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}."
                )
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            raise UsageError(
                "name must be 1 to 100 letters, digits, dots, dashes or underscores, "
                f"not {self.name!r}."
            )
        for name in ("nesterov", "channels_last", "validation", "as_is"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        for name in ("data", "out"):
            if not isinstance(getattr(self, name), Path | None):
                raise UsageError(f"{name} must be a Path, not {getattr(self, name)!r}.")
        if self.dataset != "" and not is_printable_name(self.dataset):
            raise UsageError(
                "dataset must be a name of 1 to 100 characters, none of them a control character, "
                f"not {self.dataset!r}."
            )
        if not isinstance(self.init, str) or "\0" in self.init:
            raise UsageError(f"init must be the name or the path of a network, not {self.init!r}.")
        if self.data is None and (self.dataset or self.as_is):
            raise UsageError(
                "dataset and as_is are about data of yours: name their folder by data."
            )
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov needs a momentum above 0: it looks ahead along it.")
        if self.muon_lr and not self.nesterov:
            raise UsageError("muon_lr needs nesterov, for Muon looks ahead along its momentum.")
        if self.qat_epochs > self.epochs:
            raise UsageError(
                f"qat_epochs must be at most the {self.epochs} epochs that there are, "
                f"not {self.qat_epochs}."
            )
        if not self.qat_epochs and (self.activation_bits, self.weight_bits) != (8, 8):
            raise UsageError(
                "activation_bits and weight_bits need qat_epochs above 0, the epochs that "
                "are trained for them."
            )
        plan(self.layers)

    @property
    def data_source(self) -> "DataSource":
        """What it is trained and measured on."""
        from tinydigits.data.dataset import DataSource

        return DataSource(self.data, self.dataset, self.as_is, self.validation, self.drawn)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, the inverse of `from_json`."""
        values = dataclasses.asdict(self) | {"layers": list(self.layers)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Any) -> "Config":
        """Rebuild a configuration from what `to_json` gave.

        Raises:
            UsageError: a field is unknown, missing or impossible.
        """
        if not isinstance(values, dict):
            raise UsageError(f"A configuration is a JSON object, not {type(values).__name__}.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := values.keys() - fields.keys():
            raise UsageError(f"A configuration has no field {', '.join(sorted(unknown))}.")
        if "layers" not in values:
            raise UsageError("A configuration needs the field layers.")
        values = dict(values)
        if not isinstance(values["layers"], list | tuple):
            raise UsageError(f"layers must be a list of words, not {values['layers']!r}.")
        values["layers"] = tuple(values["layers"])
        for name in ("data", "out"):
            if isinstance(values.get(name), str):
                values[name] = Path(values[name])
        return cls(**values)


def require_number(
    config: Config,
    name: str,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    below: float = math.inf,
    maximum: float = math.inf,
) -> None:
    """Refuse, by name, a field that is not a finite number within the bounds."""
    value = getattr(config, name)
    wanted = [
        f"{words} {bound:g}"
        for words, bound in (
            ("above", above),
            ("at least", minimum),
            ("below", below),
            ("at most", maximum),
        )
        if math.isfinite(bound)
    ]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (
        is_number
        and abs(value) <= sys.float_info.max  # neither NaN nor a whole number beyond all floats
        and value > above
        and minimum <= value < below
        and value <= maximum
    ):
        raise UsageError(f"{name} must be a number {' and '.join(wanted)}, not {value!r}.")
