"""Sketches: short versions of vectors, whose products rule out most pairs and never rule out a near one.

A sketch is a vector's first principal components, and the length of the rest as one more component. Two sketches are
never farther apart than their vectors, so a pair whose sketches are far apart needs no second look. Where the processor
computes in bfloat16 the sketches are rounded to it, which is four times as fast; `slack` allows for the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie import machine
from magpie.neighbors.vectors import LARGE, Floats, Positions, UnitVectors, in_parallel

if TYPE_CHECKING:
    import torch

_LENGTHS = (12, 16, 20, 24, 32, 48)
_SAMPLE = 4096
_PAIRED = 2048
_ROUNDS = 6
_COST_OF_CANDIDATE = 250_000
"""Measuring a pair takes as long as a dimension more in so many products: 7 µs and 0.03 ns on a processor with AVX2."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """The sketches of all vectors: `values` (vectors, dimensions), a numpy array or a PyTorch tensor.

    The product of two sketches is at least the product of their vectors minus `slack`. So vectors nearer than a squared
    distance of t have sketches with a product above 1 - t / 2 - `slack`.
    """

    values: Any
    slack: float

    @classmethod
    def of(cls, units: UnitVectors, *, near: float | None = None, quick: bool | None = None) -> Sketch:
        """Sketches of all vectors, as short as is best to find the pairs within the squared distance `near`.

        With None they keep every dimension, and products are also at most `slack` more.

        `quick` rounds to bfloat16. None decides: not below LARGE vectors, else where the processor computes in it.
        """
        few = quick is None and len(units) < LARGE
        # Twice the error bound of a float32 product, and 1e-5 for vectors and a basis of length 1 to float32 only.
        rounding = (units.width + 8) * 2.0**-22 + 1e-5
        if few:
            return cls(units[:], rounding)
        import torch

        quick = machine.computes_in_bfloat16() if quick is None else quick
        basis = None
        if near is not None and min(units.width, len(units)) > _LENGTHS[-1]:
            # Rounding to bfloat16 lets more pairs pass: by about 2^-7, in the terms of the slack below.
            bar = 1 - near / 2 - rounding - (2.0**-7 if quick else 0.0)
            basis = _best_length(units, principal_components(units, _LENGTHS[-1] - 1), bar)
        values = torch.empty(
            (len(units), units.width if basis is None else basis.shape[1] + 1),
            dtype=torch.bfloat16 if quick else torch.float32,
        )

        def fill(start: int) -> float:
            """Write one block of sketches; return the largest squared length of what rounding changed in one."""
            block = torch.from_numpy(units[start : start + _SAMPLE])
            exact = block if basis is None else _shortened(block, basis)
            values[start : start + _SAMPLE] = exact.to(values.dtype)
            return float((values[start : start + _SAMPLE].float() - exact).square().sum(1).max())

        blocks = range(0, len(units), _SAMPLE)
        error = max(in_parallel(fill, blocks, rows=len(units)), default=0.0) ** 0.5
        # Two vectors of length 1, each moved by at most `error`, have a product that is off by at most
        # 2 error + error^2. The product is rounded to bfloat16 too: by at most half of 2^-8, its spacing below 1.
        return cls(values, rounding + (2 * error + error**2 + 2.0**-8 if quick else 0.0))

    def products(self, rows: slice | Positions, columns: slice, buffer: Any) -> np.ndarray[Any, Any]:
        """The products of the sketches at `rows` with those at `columns`, in codes, written into `buffer`.

        A code is the product in float32, or the bits of a bfloat16 product as int16. `as_products` decodes them.
        """
        a, b = self.values[rows], self.values[columns]
        into = buffer[: len(a) * len(b)].reshape(len(a), len(b))
        if isinstance(self.values, np.ndarray):
            return np.asarray(np.matmul(a, b.T, out=into))
        import torch

        torch.mm(a, b.T, out=into)
        # numpy has no bfloat16, but its bits can be compared as they are: read as int16, the bits of positive numbers
        # are in the numbers' order, and negative numbers, which have the sign bit set, are below all of them.
        return np.asarray((into.view(torch.int16) if into.element_size() == 2 else into).numpy())

    def new_buffer(self, products: int) -> Any:
        """Memory that `products` can write a tile of so many products into. Threads must not share one."""
        if isinstance(self.values, np.ndarray):
            return np.empty(products, np.float32)
        return self.values.new_empty(products)


def principal_components(units: UnitVectors, count: int) -> torch.Tensor:
    """The directions in which a sample of the vectors varies most: an orthonormal basis (dimensions, count)."""
    import torch

    def find(step: int) -> torch.Tensor:
        sample = torch.from_numpy(units[::step])
        sample -= sample.mean(dim=0)
        covariance = sample.T @ sample
        basis = torch.randn(units.width, count, generator=torch.Generator().manual_seed(0))
        # Subspace iteration. A few rounds do: any orthonormal basis gives correct bounds, a better one sharper bounds.
        for _ in range(_ROUNDS):
            basis, _ = torch.linalg.qr(covariance @ basis)
        return basis

    # One task only, but run by `in_parallel` for its thread that keeps PyTorch on one core.
    (basis,) = in_parallel(find, [-(-len(units) // _SAMPLE)], rows=len(units))
    return basis


def _best_length(units: UnitVectors, basis: torch.Tensor, bar: float) -> torch.Tensor:
    """As many directions of the basis as make the search quickest: the fewer they are, the more pairs pass the bar."""
    import torch

    def choose(step: int) -> int:
        # From the second vector on: the basis was fitted to others, which it says more of.
        sample = torch.from_numpy(units[1::step])

        def cost(length: int) -> float:
            sketches = _shortened(sample, basis[:, : length - 1])
            passing = int((sketches @ sketches.T > bar).sum()) - len(sample)  # each passes with itself
            return length + _COST_OF_CANDIDATE * passing / len(sample) ** 2

        return min(_LENGTHS, key=cost)

    (length,) = in_parallel(choose, [-(-len(units) // _PAIRED)], rows=len(units))
    return basis[:, : length - 1]


def ordered_bar(bar: Any, dtype: Any) -> Any:
    """A limit for products, or an array of them, as codes of this dtype. bfloat16: rounded down, at least zero."""
    if dtype != np.int16:
        return bar
    # The upper half of a float32's bits is a bfloat16, rounded down: no product above the limit is lost by that.
    # Negative limits have no place in the order of the bits, so zero stands for them.
    return (np.maximum(np.float32(bar), np.float32(0)).view(np.uint32) >> 16).astype(np.int16)


def as_products(codes: np.ndarray[Any, Any]) -> Floats:
    """The float32 products that codes stand for. Negative bfloat16 products come out as zero."""
    if codes.dtype != np.int16:
        return np.asarray(codes, np.float32)
    return np.asarray((np.maximum(codes, 0).astype(np.uint32) << 16).view(np.float32))


def _shortened(vectors: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Coordinates along the basis, and the length of the rest as the last one."""
    import torch

    inside = vectors @ basis
    # By Cauchy-Schwarz the rests of two vectors add at most the product of their lengths: a sketch's product is never
    # below the vectors' own. In float64, since 1 minus a sum near 1 would lose most of its digits.
    rest = (1 - inside.double().square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([inside, rest.float()], dim=1)
