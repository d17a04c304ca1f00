"""Integer weights of one product, fitted to what it should give on the inputs it will read.

The passes, each by its name:

* "reconstruction" moves the real weights towards least squares of the wanted results, so that they make up for errors
  of the inputs as far as the other half of the samples confirms it;
* "rounding" rounds weights one after another, each taking over the errors of those before it (`quant.rounding`);
* "bias" gives each output the mean it should have;
* "affine" gives it the gain it should have, too, through the scale of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from tpu_deploy.quant.moments import Moments
from tpu_deploy.quant.plan import ChosenWeights, TensorQuantization
from tpu_deploy.quant.rounding import second_order_rounding
from tpu_deploy.quant.weights import ACCUMULATOR_LIMIT, WEIGHT_LIMIT, accumulator_reach, channel_scales

Array = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Halves = tuple[Moments, Moments]

PASSES = ("reconstruction", "rounding", "bias", "affine")

ONLY_MEANS = frozenset({"bias"})
"""Passes that need no more than the mean of what a product reads."""

WITHOUT_TARGETS = frozenset({"bias", "rounding"})
"""Passes that do not need what the product should give."""

RIDGES = (1.0, 0.2, 0.05)
"""How strongly least squares are held to the given weights, as shares of the mean variance of a term."""

JUDGING_OUTPUTS = 64
"""Outputs of a group that choose its ridge."""

DAMPING = 0.01
"""What is added to the diagonal of second moments before rounding, as a share of its mean."""

GAIN_PRIOR = 0.01
"""Share of an output's variance that speaks for a gain of 1."""

GAINS = (0.5, 2.0)
"""Least and greatest gain that an output is corrected by."""

UNUSUAL = 4.0
"""How many times the median error rows may have that weights are fitted to."""

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

    def results(self, x: Float32Array) -> Float32Array:
        """What it gives for `x` (K, rows, G), before it is stored: (J, rows, G)."""
        weights, bias = self.weights.astype(np.float32), self.bias.astype(np.float32).T[:, None, :]
        if x.shape[2] == 1:
            return np.asarray((weights[0] @ x[:, :, 0])[:, :, None] + bias)
        if weights.shape[1] == 1:
            found = np.zeros_like(x[:1])
            for term, values in enumerate(x):
                found[0] += values * weights[:, 0, term]
            return found + bias
        return np.asarray((weights @ x.transpose(2, 0, 1)).transpose(1, 2, 0) + bias)

    def telling(self, x: Float32Array, y: Float32Array) -> tuple[Float32Array, Float32Array]:
        """The rows of `x` (K, rows, G) and wanted `y` (J, rows, G) that tell something, and as far as they do.

        Where `y` lies beyond what its type can hold, any result beyond the same end is as good, and the product's own
        is wanted. Rows that err far more than usual, because what they read was cut off, are left out.
        """
        own, low, high = self.results(x), np.float32(self.y.low), np.float32(self.y.high)
        wanted = np.where(y > high, np.maximum(own, high), np.where(y < low, np.minimum(own, low), y))
        errors = np.square(wanted - own).sum((0, 2))
        usual = errors <= UNUSUAL * np.median(errors)
        return x[:, usual], wanted[:, usual]

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
    real = (
        reconstructed(product, halves)
        if "reconstruction" in passes and halves[0].count and halves[1].count
        else product
    )
    scales = real.scales("max" if "rounding" in passes else method)
    for _ in range(WIDENINGS):
        found = _fitted(real, scales, halves, passes)
        reach = accumulator_reach(found, product.channel_axis, product.x).reshape(scales.shape)
        if (reach <= ACCUMULATOR_LIMIT).all():
            return found
        scales = scales * np.maximum(1.0, 1.01 * reach / ACCUMULATOR_LIMIT)
    return _fitted(product, product.scales(method), halves, ())


def _fitted(product: Product, scales: Float64Array, halves: Halves, passes: Collection[str]) -> ChosenWeights:
    moments = halves[0] + halves[1]
    if "rounding" in passes:
        centred = "bias" in passes or "affine" in passes
        hessians = moments.covariance if centred else moments.second
        integers = second_order_rounding(product.weights, scales, hessians, DAMPING)
    else:
        nearest = np.rint(product.weights / scales[:, :, None])
        integers = np.clip(nearest, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    real = integers * scales[:, :, None]
    gains = fitted_gains(real, halves) if "affine" in passes else np.ones(scales.shape)
    bias = product.bias
    if "affine" in passes:
        bias = fitted_bias(product, gains[:, :, None] * real, halves)
    elif "bias" in passes:
        bias = bias + np.einsum("gjk,gk->gj", product.weights - real, moments.x / moments.count)
    return product.chosen(integers, scales * gains, bias)


def reconstructed(product: Product, halves: Halves) -> Product:
    """The product with weights moved towards least squares of the wanted results.

    With ridge r they minimize the squared error plus r times the mean variance of a term times the squared change. The
    ridge of each group is the one with which weights fitted on one half, for some outputs, err least on the other; or
    none moves.
    """
    given = product.weights
    some = np.linspace(0, given.shape[1] - 1, min(given.shape[1], JUDGING_OUTPUTS)).astype(int)
    fitted, judging = (half.of_outputs(some) for half in halves)
    errors = [judging.errors(given[:, some])]
    errors += [judging.errors(_least_squares(given[:, some], fitted, ridge)) for ridge in RIDGES]
    best = np.array([e.sum(1) for e in errors]).argmin(0)
    weights, whole = given.copy(), halves[0] + halves[1]
    for index, ridge in enumerate(RIDGES, 1):
        chosen = best == index
        if chosen.any():
            weights[chosen] = _least_squares(given[chosen], whole.of_groups(chosen), ridge)
    return replace(product, weights=weights)


def _least_squares(weights: Float64Array, moments: Moments, ridge: float) -> Float64Array:
    covariance = moments.covariance
    missing = moments.cross_covariance - covariance @ weights.transpose(0, 2, 1)
    terms = np.arange(covariance.shape[1])
    damped = covariance.copy()
    damped[:, terms, terms] += ridge * covariance[:, terms, terms].mean(1, keepdims=True) + 1e-30
    if len(damped) > 1:
        changes = np.linalg.solve(damped, missing)
    else:
        changes = cho_solve(
            cho_factor(damped[0], overwrite_a=True, check_finite=False), missing[0], check_finite=False
        )[None]
    return np.asarray(weights + changes.transpose(0, 2, 1))


def fitted_gains(weights: Float64Array, halves: Halves) -> Float64Array:
    """The factors (G, J) with which outputs of real `weights` (G, J, K) err least, as far as both halves agree."""

    def best(moments: Moments) -> Float64Array:
        cross = np.einsum("gjk,gkj->gj", weights, moments.cross_covariance)
        own = np.einsum("gjk,gjk->gj", weights @ moments.covariance, weights)
        prior = GAIN_PRIOR * own + 1e-30
        return np.asarray(np.clip((cross + prior) / (own + prior), *GAINS))

    return 1 + _borne_out(lambda moments: best(moments) - 1, halves)


def fitted_bias(product: Product, weights: Float64Array, halves: Halves) -> Float64Array:
    """The bias (G, J) that gives outputs of real `weights` their mean, as far as both halves agree."""

    def missing(moments: Moments) -> Float64Array:
        found = np.einsum("gjk,gk->gj", weights, moments.x / moments.count) + product.bias
        return np.asarray(moments.y / moments.count - found)

    return product.bias + _borne_out(missing, halves)


def _borne_out(correction: Callable[[Moments], Float64Array], halves: Halves) -> Float64Array:
    """A correction (G, J) found on all samples, less of it where it is no larger than what chance makes of it.

    How much that is, the two halves tell: by how far theirs are apart, on an average of all outputs.
    """
    whole = correction(halves[0] + halves[1])
    if not (halves[0].count and halves[1].count):
        return np.zeros_like(whole)
    chance = np.mean((correction(halves[0]) - correction(halves[1])) ** 2) / 4
    return np.asarray(whole * np.maximum(0.0, 1.0 - chance / np.maximum(whole**2, 1e-60)))
