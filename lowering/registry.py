"""How each TOP operation becomes TPU operations: a table filled by a decorator in the family files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.ir import Operation

from tpu_deploy.ir.network import Network

if TYPE_CHECKING:
    from tpu_deploy.lowering.builder import Builder

Lowering = Callable[["Builder", Operation], None]
Refusal = Callable[[Network, Operation], bool]
"""Says whether an operation cannot be lowered; the first line of its docstring tells the user why."""


@dataclass(frozen=True)
class Rule:
    """The function that builds the TPU operations for one TOP operation in one precision, and what it refuses."""

    lower: Lowering
    refusals: tuple[Refusal, ...]


RULES: dict[tuple[str, str], Rule] = {}


def lowers(name: str, *precisions: str, refuse: tuple[Refusal, ...] = ()) -> Callable[[Lowering], Lowering]:
    """Registers a function for `top.{name}` in the given precisions (INT8 when none is given)."""

    def register(function: Lowering) -> Lowering:
        for precision in precisions or ("INT8",):
            key = (f"top.{name}", precision)
            if key in RULES:
                raise ValueError(f"{key} is registered twice")
            RULES[key] = Rule(function, refuse)
        return function

    return register


def reason(refusal: Refusal) -> str:
    """The sentence a refusal tells the user: the first line of its docstring."""
    return (refusal.__doc__ or "").strip().splitlines()[0]
