"""What `auto` may vary, and the passes that vary it, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.options import choice
from tpu_deploy.quant.fitting import PASSES as WEIGHT_PASSES


@dataclass(frozen=True)
class Recipe:
    """How a plan is made: the names of the passes that are applied."""

    passes: frozenset[str] = frozenset()

    @property
    def weights(self) -> tuple[str, ...]:
        """The passes over weights, in order."""
        return tuple(name for name in WEIGHT_PASSES if name in self.passes)


@dataclass(frozen=True)
class Pass:
    """A pass by its name: what it does, and the recipes it turns one into."""

    name: str
    does: str
    recipes: Callable[[Recipe], list[Recipe]]


def _adding(name: str) -> Callable[[Recipe], list[Recipe]]:
    return lambda recipe: [replace(recipe, passes=recipe.passes | {name})]


def _adding_over_bias(name: str) -> Callable[[Recipe], list[Recipe]]:
    """As it is, and with biases corrected where an earlier trial of that failed: it may have failed by chance, and
    what weights are off in the mean would be taken for the types' fault.
    """
    return lambda recipe: [replace(recipe, passes=recipe.passes | {name, *more}) for more in ((), ("bias",))]


def _switch(name: str, does: str) -> Pass:
    return Pass(name, does, _adding(name))


PASSES: tuple[Pass, ...] = (
    _switch("zero_points", "zero points for tensors of both signs, so that their grid covers what occurs"),
    _switch("float_outputs", "the sums of the last products as floats"),
    _switch("float_sums", "tensors added up in float32"),
    _switch("bias", "biases that give every channel its mean"),
    _switch("rounding", "weights rounded one after another, each making up for those before"),
    Pass("equalization", "scales of channels, taken in by the convolutions around", _adding_over_bias("equalization")),
    _switch("migration", "scales of the channels that matrix products read, taken in by their weights"),
    Pass("thresholds", "each tensor's range by what it costs the results", _adding_over_bias("thresholds")),
    _switch("affine", "gain and mean of each channel corrected in its multiplier and bias"),
    _switch("reconstruction", "weights moved to make up for errors of what they read"),
)
"""All passes, in the order in which they are tried."""

NAMES = tuple(each.name for each in PASSES)

ASYMMETRIC = "zero_points"


def chosen_passes(
    passes: Sequence[str] | None = None, without: Sequence[str] = (), symmetric: bool = False
) -> tuple[Pass, ...]:
    """The passes that are to be tried: those named (default: all) and not excluded.

    Raises BadInput for other names.
    """
    wanted = {choice("--passes", name, NAMES) for name in (NAMES if passes is None else passes)}
    wanted -= {choice("--without", name, NAMES) for name in without}
    if symmetric and passes is not None and ASYMMETRIC in wanted:
        raise BadInput(f"--symmetric: leaves no {ASYMMETRIC}, which --passes names; give one of the two")
    return tuple(each for each in PASSES if each.name in wanted and not (symmetric and each.name == ASYMMETRIC))
