"""The connections of a ``ChipNetwork``: dataclasses over integer arrays, each docstring the specification of its part.

``sim/network.py`` has the layers, and the network that both make. Construction validates and names the offending place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from ottt_loihi.sim import arithmetic, checks

from ottt_loihi.errors import ChipError

INPUT = -1  # the index that stands for the network's input where a layer's index is expected
WEIGHT_FORMATS = ("inference8", "learning9")


@dataclass(frozen=True, eq=False)
class Part:
    """Equality by value for dataclasses that hold arrays."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)


class _Link(Part):
    """A connection between two layers; the fields that all kinds have, or a constant in their place."""

    pre: int
    post: int
    weight: np.ndarray
    weight_exp: int
    num_weight_bits: int
    num_message_bits: int
    delay: int
    weight_format: str

    @property
    def label(self) -> str:
        """The name that error messages use."""
        pre = "input" if self.pre == INPUT else f"layer[{self.pre}]"
        return f"connection {pre}→layer[{self.post}]"

    def _check(self, ndim: int) -> None:
        """Check these fields; the weight becomes a read-only array of ``ndim`` dimensions."""
        where = self.label
        for attribute, low, high in (
            ("pre", INPUT, 10**6),
            ("post", 0, 10**6),
            ("weight_exp", -8, 7),
            ("num_weight_bits", 1, 8),
            ("num_message_bits", 0, 24),
            ("delay", 0, 62),
        ):
            checks.integer(getattr(self, attribute), f"{where}.{attribute}", low, high)
        if self.weight_format not in WEIGHT_FORMATS:
            raise ChipError(f"{where}.weight_format: expected one of {WEIGHT_FORMATS}, got {self.weight_format!r}")
        weight = checks.integers(self.weight, f"{where}.weight", -256, 255)
        if weight.ndim != ndim or 0 in weight.shape:
            raise ChipError(f"{where}.weight: expected {ndim} non-empty dimension(s), got shape {weight.shape}")
        # Lava's Conv keeps halves of even 8-bit weights as they are, the chip stores 2·w with exponent −1
        halved = isinstance(self, Conv) and weight.max() <= 127 and weight.min() >= -128
        if self.weight_format == "inference8" and not halved:
            _check_truncation(weight, self.num_weight_bits, f"{where}.weight")
        object.__setattr__(self, "weight", checks.read_only(weight))


@dataclass(frozen=True, eq=False)
class _Synapses(_Link):
    """The fields of :class:`Dense` and :class:`Diagonal`."""

    pre: int
    post: int
    weight: np.ndarray
    weight_exp: int = 0
    num_weight_bits: int = 8
    num_message_bits: int = 0
    delay: int = 0
    weight_format: str = "inference8"

    ndim: ClassVar[int]

    def __post_init__(self) -> None:
        self._check(self.ndim)


@dataclass(frozen=True, eq=False)
class Dense(_Synapses):
    """An all-to-all connection: Lava's ``Dense`` process in ``fixed_pt``.

    ``a = (W·x) << weight_exp`` (``>>`` for a negative exponent, floor), where x is the spike vector, 0 or 1, or with
    ``num_message_bits > 0`` the graded message.

    ================  ==========================  =================================================================
    symbol            dtype, range                meaning
    ================  ==========================  =================================================================
    pre, post         int                         layer indices; ``INPUT`` (−1) is the network's input
    weight            int32 ``(post, pre)``       mixed signs: multiples of 2^(9 − num_weight_bits) in −256 … 254;
                                                  one sign: multiples of 2^(8 − num_weight_bits) up to ±255
    weight_exp        int, −8 … 7                 common exponent
    num_weight_bits   int, 1 … 8                  bits a weight is stored in
    num_message_bits  int, 0 … 24                 0: binary spikes
    delay             int, 0 … 62                 extra steps on the chip beyond the one every connection takes
    weight_format     ``"inference8"`` or         ``learning9``: a plastic connection, −256 … 255, odd weights too,
                      ``"learning9"``             because the learning engine moves weights by single LSBs
    ================  ==========================  =================================================================
    """

    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, int]:
        """``(post, pre)`` sizes, as Lava writes them."""
        return self.weight.shape  # type: ignore[return-value]

    def matrix(self) -> np.ndarray:
        """The weights, int32 ``(post, pre)``."""
        return self.weight


@dataclass(frozen=True, eq=False)
class Diagonal(_Synapses):
    """A one-to-one connection, ``a_i = (w_i·x_i) << weight_exp``: Lava's ``Sparse`` process with a diagonal matrix.

    Fields as in :class:`Dense`, but ``weight`` is int32 ``(n,)``. From a layer to itself with weight −λ·vth it is the
    reset by subtraction.
    """

    ndim: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int]:
        """``(post, pre)`` sizes, as Lava writes them."""
        return (self.weight.shape[0],) * 2


@dataclass(frozen=True, eq=False)
class Sparse(_Link):
    """Single synapses: Lava's ``Sparse`` process. ``a_i = (Σ_k w_k·x[columns_k] over rows_k = i) << weight_exp``.

    ================  ======================  =====================================================================
    symbol            dtype, range            meaning
    ================  ======================  =====================================================================
    size              (post, pre)             sizes of the two layers
    rows, columns     int32 ``(synapses,)``   post- and presynaptic neuron of each synapse, every pair at most once
    weight            int32 ``(synapses,)``   as in :class:`Dense`, like all other fields
    ================  ======================  =====================================================================

    A synapse whose weight is 0 is there all the same: where the connection is plastic it can grow, others cannot.
    """

    pre: int
    post: int
    size: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    weight: np.ndarray
    weight_exp: int = 0
    num_weight_bits: int = 8
    num_message_bits: int = 0
    delay: int = 0
    weight_format: str = "inference8"

    def __post_init__(self) -> None:
        self._check(ndim=1)
        object.__setattr__(self, "size", checks.shape(self.size, f"{self.label}.size", length=2))
        for attribute, limit in (("rows", self.size[0]), ("columns", self.size[1])):
            where = f"{self.label}.{attribute}"
            index = checks.integers(getattr(self, attribute), where, 0, limit - 1)
            if index.shape != self.weight.shape:
                raise ChipError(f"{where}: expected one for each of {self.weight.size} weights, got {index.shape}")
            object.__setattr__(self, attribute, checks.read_only(index))
        flat = self.rows.astype(np.int64) * self.size[1] + self.columns
        values, counts = np.unique(flat, return_counts=True)
        if counts.max() > 1:
            row, column = divmod(int(values[counts.argmax()]), self.size[1])
            raise ChipError(f"{self.label}: synapse {column}→{row} appears {counts.max()} times; add them up")

    @property
    def shape(self) -> tuple[int, int]:
        """``(post, pre)`` sizes, as Lava writes them."""
        return self.size

    @cached_property
    def sources(self) -> int:
        """Return the presynaptic neurons that have a synapse."""
        return int(np.count_nonzero(np.bincount(self.columns)))

    def matrix(self) -> np.ndarray:
        """The weights as a dense int32 ``(post, pre)`` matrix."""
        full = np.zeros(self.size, np.int32)
        full[self.rows, self.columns] = self.weight
        return full

    def mask(self) -> np.ndarray:
        """The mask of the synapses, bool ``(post, pre)``."""
        full = np.zeros(self.size, bool)
        full[self.rows, self.columns] = True
        return full

    def with_matrix(self, matrix: np.ndarray) -> Sparse:
        """The same synapses with the weights of a dense ``(post, pre)`` matrix."""
        return replace(self, weight=matrix[self.rows, self.columns])


@dataclass(frozen=True, eq=False)
class Conv(_Link):
    """A convolution, Lava's ``Conv`` process in ``fixed_pt``.

    Layout and orientation are torch's: images are (channels, height, width), flattened in C order, and the operation is
    the cross-correlation of ``torch.nn.functional.conv2d``. (Lava has (width, height, channels) and flips the kernel;
    ``converters/lava/graph.py`` translates.) With g the group of output channel o::

        a[o, y, x] = wrap24( Σ_{c, i, j} w[o, c, i, j] · in[g·C/groups + c, y·s₀ − p₀ + i·d₀, x·s₁ − p₁ + j·d₁] )

    where ``in`` is 0 outside the image, and ``wrap24(a) = (a + 2²³) mod 2²⁴ − 2²³``.

    ==========================  ==================================  =================================================
    symbol                      dtype, range                        meaning
    ==========================  ==================================  =================================================
    input_shape                 (C, H, W)                           shape of a presynaptic image
    weight                      int32 ``(O, C / groups, kh, kw)``   as in :class:`Dense`; odd weights only if all have
                                                                    one sign, or lie in −128 … 127
    stride, padding, dilation   (vertical, horizontal)              s, p, d
    groups                      int ≥ 1                             divides C and O
    num_weight_bits             int, 1 … 8                          bits a weight is stored in
    num_message_bits            int, 0 … 24                         0: binary spikes
    ==========================  ==================================  =================================================

    Lava's Conv has neither weight exponents nor delays, so there are none here.
    """

    pre: int
    post: int
    weight: np.ndarray
    input_shape: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    num_weight_bits: int = 8
    num_message_bits: int = 0

    weight_exp: ClassVar[int] = 0
    delay: ClassVar[int] = 0
    weight_format: ClassVar[str] = "inference8"

    def __post_init__(self) -> None:
        self._check(ndim=4)
        int8 = 127  # what Lava keeps these in
        for name, length, low, high in (
            ("input_shape", 3, 1, 2**31 - 1),
            ("stride", 2, 1, int8),
            ("padding", 2, 0, int8),
            ("dilation", 2, 1, int8),
        ):
            object.__setattr__(self, name, checks.shape(getattr(self, name), f"{self.label}.{name}", length, low, high))
        checks.integer(self.groups, f"{self.label}.groups", 1, min(self.input_shape[0], int8))
        checks.shape(self.weight.shape[2:], f"{self.label}.weight's kernel", 2, 1, int8)
        out, per_group = self.weight.shape[:2]
        if self.input_shape[0] % self.groups or out % self.groups or per_group * self.groups != self.input_shape[0]:
            raise ChipError(
                f"{self.label}.weight: shape {self.weight.shape} does not fit {self.input_shape[0]} input channels in "
                f"{self.groups} group(s): expected (out, {self.input_shape[0] // self.groups}, height, width)"
            )
        if min(self.output_shape) < 1:
            raise ChipError(f"{self.label}: the kernel {self.weight.shape[2:]} is larger than {self.input_shape[1:]}")
        largest = int(np.abs(self.weight).sum(axis=(1, 2, 3)).max()) << self.num_message_bits
        if largest >= 2**31:
            raise ChipError(f"{self.label}: sums up to {largest} leave int32, where Lava's Conv is undefined")

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Return (O, Ho, Wo) with ``Ho = ⌊(H + 2·p₀ − d₀·(kh − 1) − 1) / s₀⌋ + 1``, and likewise Wo."""
        out, _, *kernel = self.weight.shape
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.input_shape[1:], self.padding, self.dilation, kernel, self.stride)
        )
        return out, height, width

    @property
    def shape(self) -> tuple[int, int]:
        """Return the sizes ``(post, pre)``."""
        return math.prod(self.output_shape), math.prod(self.input_shape)


Connection = Dense | Diagonal | Sparse | Conv


def _check_truncation(weight: np.ndarray, bits: int, where: str) -> None:
    """Refuse weights that Lava would change in silence at the first step."""
    bad = np.argwhere(arithmetic.truncate_weight(weight, bits) != weight)
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        mode = arithmetic.sign_mode(weight)
        step = 1 << (8 - bits + (mode == "mixed"))
        low, high = {"mixed": (-256, 256 - step), "excitatory": (0, 256 - step), "inhibitory": (step - 256, 0)}[mode]
        raise ChipError(
            f"{where}: expected multiples of {step} in [{low}, {high}] ({bits}-bit {mode}), "
            f"got {weight[place]} at {place}"
        )
