"""The float32 algorithms of the chip's units, every operation rounded as they round it.

Source: found on the vendor's chip model and compared with it bit for bit.
"""

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.simulator.elements import flushed

Floats = npt.NDArray[np.float32]

_ROOT_SEED = np.uint32(0x5F3759DF)
_SIGN = np.uint32(1 << 31)
_HALF, _THREE_HALVES = np.float32(0.5), np.float32(1.5)


def reciprocal_root(values: Floats, iterations: int) -> Floats:
    """About 1/sqrt of non-negative values: a guess from their bits (of denormals too), then Newton steps."""
    guess = (_ROOT_SEED - (values.view(np.uint32) >> np.uint32(1))).view(np.float32)
    half = flushed(flushed(values) * _HALF)
    for _ in range(iterations):
        guess = flushed(guess * (_THREE_HALVES - flushed(flushed(guess * half) * guess)))
    return guess


def divide(dividend: Floats, divisor: Floats, iterations: int) -> Floats:
    """About `dividend / divisor`: the dividend times the square of the divisor's reciprocal root."""
    dividend, divisor = (np.ascontiguousarray(side) for side in np.broadcast_arrays(dividend, divisor))
    top, bottom = dividend.view(np.uint32), divisor.view(np.uint32)
    root = reciprocal_root((bottom & ~_SIGN).view(np.float32), iterations)
    signed = ((top & ~_SIGN) | ((top ^ bottom) & _SIGN)).view(np.float32)
    result: Floats = flushed(root * root) * flushed(signed)
    return result


def polynomial(values: Floats, coefficients: Floats) -> Floats:
    """Horner's scheme from the last coefficient down, product and sum each rounded.

    `coefficients` has the terms on its last axis and broadcasts against the values otherwise.
    """
    terms = coefficients.shape[-1]
    result: Floats = np.broadcast_to(coefficients[..., terms - 1 :], values.shape)
    for term in range(terms - 2, -1, -1):
        result = flushed(flushed(result * values) + coefficients[..., term : term + 1])
    return result
