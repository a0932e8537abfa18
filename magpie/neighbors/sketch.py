"""Short stand-ins for vectors, whose products tell most pairs apart and never hide a near one.

A sketch is the first principal components, and the length of the rest as one component more: distances of sketches are
never larger than those of the vectors. Where the processor computes in bfloat16 they are rounded to it, which is four
times as fast, and the bound is lowered by what the rounding can be off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.neighbors.vectors import LARGE, Floats, Positions, UnitVectors, in_parallel

if TYPE_CHECKING:
    import torch

_DIMENSIONS = 48
_SAMPLE = 4096
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Sketch:
    """Short stand-ins for vectors: a product of two is at most `slack` less than that of any two vectors as near.

    So vectors nearer than a squared distance of t have sketches with a product above 1 - t / 2 - `slack`.
    """

    values: Any
    slack: float

    @classmethod
    def of(cls, units: UnitVectors, *, whole: bool = False, quick: bool | None = None) -> Sketch:
        """Sketches of all vectors; `whole` leaves no dimension out, so that products are also at most `slack` more.

        `quick` rounds to bfloat16; None does for many vectors, where the processor computes in it, and leaves few
        vectors as they are.
        """
        few = quick is None and len(units) < LARGE
        rounding = (units.width + 8) * 2.0**-22 + 1e-5
        if few:
            return cls(units[:], rounding)
        import torch

        quick = computes_in_bfloat16() if quick is None else quick
        whole = whole or units.width <= _DIMENSIONS or len(units) < _DIMENSIONS
        basis = None if whole else principal_components(units, _DIMENSIONS - 1)
        values = torch.empty(
            (len(units), units.width if whole else _DIMENSIONS),
            dtype=torch.bfloat16 if quick else torch.float32,
        )

        def fill(start: int) -> float:
            """Sketch some of them; the largest squared length of what rounding took off one."""
            some = torch.from_numpy(units[start : start + _SAMPLE])
            exact = some if basis is None else _shortened(some, basis)
            values[start : start + _SAMPLE] = exact.to(values.dtype)
            return float((values[start : start + _SAMPLE].float() - exact).square().sum(1).max())

        off = max(in_parallel(fill, range(0, len(units), _SAMPLE), rows=len(units)), default=0.0) ** 0.5
        return cls(values, rounding + (2 * off + off**2 + 2.0**-8 if quick else 0.0))

    def products(self, rows: slice | Positions, columns: slice, room: Any) -> np.ndarray[Any, Any]:
        """The products of some sketches with others, in the numbers of `as_products`, written into `room`."""
        a, b = self.values[rows], self.values[columns]
        into = room[: len(a) * len(b)].reshape(len(a), len(b))
        if isinstance(self.values, np.ndarray):
            return np.asarray(np.matmul(a, b.T, out=into))
        import torch

        torch.mm(a, b.T, out=into)
        # numpy knows no bfloat16. The bits of positive ones, read as integers, are in the order of what they stand for.
        return np.asarray((into.view(torch.int16) if into.element_size() == 2 else into).numpy())

    def room(self, products: int) -> Any:
        """Where so many products can be written: one for each thread."""
        if isinstance(self.values, np.ndarray):
            return np.empty(products, np.float32)
        return self.values.new_empty(products)


def principal_components(units: UnitVectors, count: int) -> torch.Tensor:
    """The directions in which a sample of the vectors varies most: an orthonormal basis (dimensions, count).

    Found by subspace iteration on their covariance, which costs little in any number of dimensions. Any basis gives
    right bounds; a better one gives sharper bounds.
    """
    import torch

    def find(step: int) -> torch.Tensor:
        sample = torch.from_numpy(units[::step])
        sample -= sample.mean(dim=0)
        covariance = sample.T @ sample
        basis = torch.randn(units.width, count, generator=torch.Generator().manual_seed(0))
        for _ in range(_ROUNDS):
            basis, _ = torch.linalg.qr(covariance @ basis)
        return basis

    (basis,) = in_parallel(find, [-(-len(units) // _SAMPLE)], rows=len(units))
    return basis


def computes_in_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX512-BF16 or AMX); others only imitate it."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())


def ordered_bar(bar: Any, dtype: Any) -> Any:
    """A bar, or an array of them, in the numbers of such products: of bits, rounded down and not below zero."""
    if dtype != np.int16:
        return bar
    return (np.maximum(np.float32(bar), np.float32(0)).view(np.uint32) >> 16).astype(np.int16)


def as_products(codes: np.ndarray[Any, Any]) -> Floats:
    """The products behind what `Sketch.products` gives, in float32; of bits, zero for negative ones."""
    if codes.dtype != np.int16:
        return np.asarray(codes, np.float32)
    return np.asarray((np.maximum(codes, 0).astype(np.uint32) << 16).view(np.float32))


def _shortened(some: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Coordinates along the basis, and the length of what is left."""
    import torch

    inside = some @ basis
    left = (1 - inside.double().square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([inside, left.float()], dim=1)
