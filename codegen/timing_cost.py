"""What a command costs, and tables of formulas that say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

Fields = Mapping[str, int]


class Cost(NamedTuple):
    """Cycles of one command; bytes it moves and between which memories ("global->local"), if the GDMA executes it.

    `estimated` says that no outside judge covers the command: its formula is put to a use it was not made for.
    """

    cycles: int
    bytes: int = 0
    direction: str = ""
    estimated: bool = False


Formula = Callable[[Fields], Cost]


class Formulas(dict[str, Formula]):
    """The cost of a command as a function of its fields, by instruction family."""

    def of(self, family: str) -> Callable[[Formula], Formula]:
        """A decorator that makes a function the formula of `family`."""
        assert family not in self, f"two formulas for {family}"

        def register(formula: Formula) -> Formula:
            self[family] = formula
            return formula

        return register
