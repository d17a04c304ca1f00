from __future__ import annotations

import numpy as np
import pytest

from tpu_deploy.pipeline.agreement import units_apart

ONE = np.float32(1)
NEXT = np.nextafter(ONE, np.float32(2))


@pytest.mark.parametrize(
    ("actual", "expected", "apart"),
    [
        ([1, 2], [1, 2], 0),
        ([1.0], [NEXT], 1),
        ([NEXT], [np.nextafter(NEXT, np.float32(2))], 1),
        ([0.25], [np.float32(0.25) * NEXT * NEXT], 2),
        ([np.nan], [np.nan], 0),
        ([-np.nan, np.inf, 1], [np.nan, np.inf, NEXT], 1),
        ([-np.nan], [np.nan], 0),
    ],
)
def test_units_in_the_last_place_are_counted(actual: list[float], expected: list[float], apart: int) -> None:
    assert units_apart(np.array(actual, np.float32), np.array(expected, np.float32)) == apart


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.array([1], np.int8), np.array([2], np.int8)),
        (np.array([1], np.int8), np.array([1], np.uint8)),
        (np.array([1, 1], np.int8), np.array([[1, 1]], np.int8)),
        (np.array([1], np.float32), np.array([np.nan], np.float32)),
        (np.array([np.inf], np.float32), np.array([np.finfo(np.float32).max], np.float32)),
        (np.array([np.inf], np.float32), np.array([-np.inf], np.float32)),
        (np.array([1e-45], np.float32), np.array([-1e-45], np.float32)),
        (np.array([0.0], np.float32), np.array([-0.0], np.float32)),
    ],
)
def test_anything_else_is_far_apart(actual: np.ndarray, expected: np.ndarray) -> None:
    assert units_apart(actual, expected) > 1000
