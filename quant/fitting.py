"""Integer weights of one product, fitted to what it should give on the inputs it will read.

The passes, each by its name:

* "absorption" moves the real weights towards least squares of the wanted results, so that they make up for errors of
  the inputs as far as the other half of the samples confirms it;
* "rounding" rounds weights one after another, each taking over the errors of those before it (`quant.rounding`);
* "bias" gives each output the mean it should have;
* "affine" gives it the gain it should have, too, through the scale of its weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tpu_deploy.quant.moments import Moments
from tpu_deploy.quant.plan import ChosenWeights, TensorQuantization
from tpu_deploy.quant.rounding import second_order_rounding
from tpu_deploy.quant.weights import ACCUMULATOR_LIMIT, WEIGHT_LIMIT, accumulator_reach, channel_scales

Array = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
Halves = tuple[Moments, Moments]

PASSES = ("absorption", "rounding", "bias", "affine")

RIDGES = (1.0, 0.3, 0.1, 0.03)
"""How strongly least squares are held to the given weights, as shares of the mean variance of a term."""

DAMPING = 0.01
"""What is added to the diagonal of second moments before rounding, as a share of its mean."""

GAIN_PRIOR = 0.01
"""Share of an output's variance that speaks for a gain of 1."""

GAINS = (0.5, 2.0)
"""Least and greatest gain that an output is corrected by."""

WIDENINGS = 3
"""How often scales are widened for sums that could leave the accumulator."""


@dataclass(frozen=True)
class Product:
    """Float64 `weights` (G, J, K) and `bias` (G, J) of y = W x + b in G groups, between x and y of these types.

    Weights lie along `channel_axis` of an array of `shape` in the operation.
    """

    weights: Float64Array
    bias: Float64Array
    x: TensorQuantization
    y: TensorQuantization
    shape: tuple[int, ...]
    channel_axis: int

    @classmethod
    def of(
        cls, weights: Array, bias: Array | None, channel_axis: int, groups: int, x: TensorQuantization,
        y: TensorQuantization,
    ) -> Product:  # fmt: skip
        """The product with weights and bias in an operation's own layout."""
        channels = weights.shape[channel_axis]
        rows = weights.reshape(channels, -1) if channel_axis == 0 else weights.T
        wide = rows.astype(np.float64).reshape(groups, channels // groups, -1)
        offsets = np.zeros(channels) if bias is None else bias.astype(np.float64)
        return cls(wide, offsets.reshape(wide.shape[:2]), x, y, weights.shape, channel_axis)

    def scales(self, method: str) -> Float64Array:
        """The scales (G, J) of the weights."""
        rows = self.weights.reshape(-1, self.weights.shape[2]).astype(np.float32)
        return channel_scales(rows, 1, self.bias.reshape(-1), self.x, self.y, method).reshape(self.bias.shape)

    def chosen(self, integers: npt.NDArray[np.int8], scales: Float64Array, bias: Float64Array) -> ChosenWeights:
        """Integers (G, J, K) with scales and bias (G, J) in the operation's layout."""
        rows = integers.reshape(-1, integers.shape[2])
        laid = rows.reshape(self.shape) if self.channel_axis == 0 else np.ascontiguousarray(rows.T)
        return ChosenWeights(laid, scales.reshape(-1), bias.reshape(-1))


def fit(product: Product, halves: Halves, passes: Collection[str], method: str) -> ChosenWeights:
    """The weights of `product` by the named passes; `halves` are moments of x in reals and of the wanted y before any
    ReLU, over two halves of the samples.

    `method` chooses scales, of weights rounded to nearest. No sum can leave the accumulator.
    """
    whole = halves[0] + halves[1]
    if not whole.count:
        passes = ()
    real = absorbed(product, halves) if "absorption" in passes and halves[0].count and halves[1].count else product
    scales = real.scales("max" if "rounding" in passes else method)
    for _ in range(WIDENINGS):
        found = _fitted(real, scales, whole, passes)
        reach = accumulator_reach(found, product.channel_axis, product.x).reshape(scales.shape)
        if (reach <= ACCUMULATOR_LIMIT).all():
            return found
        scales = scales * np.maximum(1.0, 1.01 * reach / ACCUMULATOR_LIMIT)
    return _fitted(product, product.scales(method), whole, ())


def _fitted(product: Product, scales: Float64Array, moments: Moments, passes: Collection[str]) -> ChosenWeights:
    if "rounding" in passes:
        centred = "bias" in passes or "affine" in passes
        hessians = moments.covariance if centred else moments.second
        integers = second_order_rounding(product.weights, scales, hessians, DAMPING)
    else:
        nearest = np.rint(product.weights / scales[:, :, None])
        integers = np.clip(nearest, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    real = integers * scales[:, :, None]
    gains = fitted_gains(real, moments) if "affine" in passes else np.ones(scales.shape)
    bias = product.bias
    if "affine" in passes:
        bias = fitted_bias(product, gains[:, :, None] * real, moments)
    elif "bias" in passes:
        bias = bias + np.einsum("gjk,gk->gj", product.weights - real, moments.x / moments.count)
    return product.chosen(integers, scales * gains, bias)


def absorbed(product: Product, halves: Halves) -> Product:
    """The product with weights moved towards least squares of the wanted results.

    With ridge r they minimize the squared error plus r times the mean variance of a term times the squared change. The
    ridge of each group is the one that errs least when fitting on one half and judging on the other; or none moves.
    """
    given = product.weights
    errors = [halves[0].errors(given) + halves[1].errors(given)]
    for ridge in RIDGES:
        errors.append(
            halves[1].errors(_least_squares(given, halves[0], ridge))
            + halves[0].errors(_least_squares(given, halves[1], ridge))
        )
    best = np.array([e.sum(1) for e in errors]).argmin(0)
    weights, whole = given.copy(), halves[0] + halves[1]
    for index, ridge in enumerate(RIDGES, 1):
        chosen = best == index
        if chosen.any():
            weights[chosen] = _least_squares(given[chosen], whole.of_groups(chosen), ridge)
    return replace(product, weights=weights)


def _least_squares(weights: Float64Array, moments: Moments, ridge: float) -> Float64Array:
    covariance = moments.covariance
    strength = ridge * np.einsum("gkk->g", covariance) / covariance.shape[1] + 1e-30
    missing = moments.cross_covariance - covariance @ weights.transpose(0, 2, 1)
    damped = covariance + strength[:, None, None] * np.eye(covariance.shape[1])
    change: Float64Array = np.linalg.solve(damped, missing).transpose(0, 2, 1)
    return weights + change


def fitted_gains(weights: Float64Array, moments: Moments) -> Float64Array:
    """The factors (G, J) with which outputs of real `weights` (G, J, K) err least; 1 where nothing varies."""
    cross = np.einsum("gjk,gkj->gj", weights, moments.cross_covariance)
    own = np.einsum("gjk,gjk->gj", weights @ moments.covariance, weights)
    prior = GAIN_PRIOR * own + 1e-30
    gains: Float64Array = np.clip((cross + prior) / (own + prior), *GAINS)
    return gains


def fitted_bias(product: Product, weights: Float64Array, moments: Moments) -> Float64Array:
    """The bias (G, J) that gives outputs of real `weights` their mean, moved less where few rows tell it.

    A difference of the means no larger than its standard error is taken for chance.
    """
    found = np.einsum("gjk,gk->gj", weights, moments.x / moments.count) + product.bias
    difference = moments.y / moments.count - found
    chance = moments.errors(weights) / moments.count
    trust = np.maximum(0.0, 1.0 - chance / np.maximum(difference**2, 1e-60))
    bias: Float64Array = product.bias + trust * difference
    return bias
