"""Sums of floats without any rounding: whatever the order they are added and merged in, the bits are the same.

A float64 is an integer of 53 bits times a power of two. It is cut at multiples of 2**32, and the pieces are added up as
integers, one for each place: like a sum on paper whose carries wait until somebody asks for the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

PLACE = 32
"""Bits of a place. 2**30 numbers fit the 64 bits a place is held in."""

MASK = (1 << PLACE) - 1
MANTISSA = 53

Integers = npt.NDArray[np.int64]


@dataclass
class ExactSums:
    """`size` sums at once: the sum over p of `places[p] * 2**(32 * p)`, int64 arrays of shape (size,)."""

    size: int
    places: dict[int, Integers] = field(default_factory=dict)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Adds finite floats of shape (..., size), each to the sum in its column."""
        mantissa, exponent = np.frexp(np.asarray(values, np.float64).reshape(-1, self.size))
        whole = np.ldexp(mantissa, MANTISSA).astype(np.int64)
        place, shift = np.divmod(exponent.astype(np.int64) - MANTISSA, PLACE)
        low, high = (whole & MASK) << shift, (whole >> PLACE) << shift
        pieces = low & MASK, (low >> PLACE) + (high & MASK), high >> PLACE
        for first in range(int(place.min()), int(place.max()) + 1):
            here = place == first
            for offset, piece in enumerate(pieces):
                self._carry(first + offset, np.where(here, piece, 0).sum(axis=0))

    def merge(self, other: "ExactSums") -> None:
        """Adds the sums of `other`, which are as many."""
        for place, numbers in other.places.items():
            self._carry(place, numbers)

    def copy(self) -> "ExactSums":
        """Sums of their own with the same values."""
        return ExactSums(self.size, dict(self.places))

    def _carry(self, place: int, numbers: Integers) -> None:
        held = self.places.get(place)
        self.places[place] = numbers if held is None else held + numbers

    def settled(self) -> Mapping[int, Integers]:
        """The places that hold anything, in order: equal for equal sequences of numbers in any order."""
        return {place: self.places[place] for place in sorted(self.places) if self.places[place].any()}

    def divided(self, count: int) -> npt.NDArray[np.float64]:
        """The sums over `count`, each rounded once, of shape (size,)."""
        places = self.settled()
        lowest = min(places, default=0)
        totals = [0] * self.size
        for place, numbers in places.items():
            totals = [t + (n << PLACE * (place - lowest)) for t, n in zip(totals, numbers.tolist(), strict=True)]
        over, under = (count << max(0, -PLACE * lowest)), max(0, PLACE * lowest)
        return np.array([(total << under) / over for total in totals], np.float64)
