"""Rows of a product: for some positions of its result, the terms it sums there and what it should give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.quant.plan import INTEGER_PRODUCTS, TensorQuantization

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]

LEAST_ROWS = 4096
"""Rows of each product that are looked at, over all samples, where there are so many."""

ROWS_PER_TERM = 8
"""Rows for each term of a sum, where there are so many: second moments of K terms need more than K rows."""


@dataclass(frozen=True)
class Rows:
    """Where in an operation's result its rows are taken: a number of positions of each image, drawn for each batch."""

    op: Operation
    groups: int
    terms: int
    per_image: int
    seed: int

    @classmethod
    def of(cls, network: Network, op: Operation, images: int, seed: int) -> Rows:
        """The rows of a product over `images` images in all. For MatMul every row of its operand is a position."""
        groups, terms = group_count(op), term_count(op)
        wanted = max(LEAST_ROWS, ROWS_PER_TERM * terms)
        found = cls(op, groups, terms, 0, seed)
        return cls(op, groups, terms, min(found.positions, -(-wanted // max(images, 1))), seed)

    @property
    def ends_in_relu(self) -> bool:
        """Whether the operation carries a ReLU, which its rows come before."""
        return bool(attributes_of(self.op).get("do_relu"))

    @property
    def channels(self) -> int:
        """Outputs of all groups."""
        return shape_of(self.op.results[0])[-1 if self._by_last_axis else 1]

    @property
    def _by_last_axis(self) -> bool:
        return self.op.name == "top.MatMul"

    @property
    def positions(self) -> int:
        """Positions of one image."""
        shape = shape_of(self.op.results[0])
        return math.prod(shape[1:-1] if self._by_last_axis else shape[2:])

    def chosen(self, batch: int) -> npt.NDArray[np.int64]:
        """The positions of batch number `batch`, in order."""
        generator = np.random.default_rng([self.seed, batch])
        return np.sort(generator.choice(self.positions, self.per_image, replace=False))

    def wanted(self, batch: int, result: Array) -> Float32Array:
        """What the operation should give there, (outputs of a group, rows, groups)."""
        if self._by_last_axis:
            images = result.reshape(len(result), -1, result.shape[-1])[:, self.chosen(batch)]
        else:
            images = result.reshape(*result.shape[:2], -1)[:, :, self.chosen(batch)].transpose(0, 2, 1)
        rows = images.reshape(-1, self.groups, images.shape[-1] // self.groups)
        return np.ascontiguousarray(rows.transpose(2, 0, 1), np.float32)

    def read(self, batch: int, stored: Array, x: TensorQuantization) -> Float32Array:
        """The terms it sums there, (terms of a group, rows, groups), of stored integers as `scale * (q - zero)`."""
        chosen = self.chosen(batch)
        if self._by_last_axis:
            taken = stored.reshape(len(stored), -1, stored.shape[-1])[:, chosen].reshape(-1, 1, stored.shape[-1])
            found = _reals(taken.transpose(2, 0, 1), x)
        elif self.op.name == "top.Conv":
            found = self._windows(chosen, stored, x)
        else:
            flat = stored.reshape(*stored.shape[:2], -1)[:, :, chosen]
            found = _reals(flat.transpose(0, 2, 1).reshape(1, -1, flat.shape[1]), x)
        return np.ascontiguousarray(found)

    def _windows(self, chosen: npt.NDArray[np.int64], stored: Array, x: TensorQuantization) -> Float32Array:
        attributes = attributes_of(self.op)
        images, channels, height, width = stored.shape
        kernel, strides, dilations = (attributes[n] for n in ("kernel_shape", "strides", "dilations"))
        steps = [n + 1 for n in attributes.get("inserts", (0, 0))]
        top, left = attributes["pads"][:2]
        down, right = np.divmod(chosen, shape_of(self.op.results[0])[3])
        flat = stored.reshape(images, channels, height * width)
        taps = kernel[0] * kernel[1]
        per_group = channels // self.groups
        found = np.empty((per_group, taps, images, len(chosen), self.groups), np.float32)
        for tap in range(taps):
            row, column = divmod(tap, kernel[1])
            y, in_y = _source(down * strides[0] - top + row * dilations[0], steps[0], height)
            z, in_z = _source(right * strides[1] - left + column * dilations[1], steps[1], width)
            values = _reals(flat[:, :, y * width + z], x)
            values[:, :, ~(in_y & in_z)] = 0.0
            parts = values.reshape(images, self.groups, per_group, len(chosen))
            found[:, tap] = parts.transpose(2, 0, 3, 1)
        return found.reshape(self.terms, images * len(chosen), self.groups)


def _source(place: npt.NDArray[np.int64], step: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Which element lies at a place among inserted zeros and padding, and whether one does."""
    inside = (place >= 0) & (place <= (size - 1) * step) & (place % step == 0)
    return np.where(inside, place // step, 0), inside


def _reals(stored: Array, x: TensorQuantization) -> Float32Array:
    reals = stored.astype(np.float32)
    reals -= np.float32(x.zero_point)
    reals *= np.float32(x.scale)
    return reals


def has_rows(network: Network, op: Operation) -> bool:
    """Whether `op` is a product with constant weights whose rows can be taken."""
    return (
        op.name in INTEGER_PRODUCTS and network.weight(op.operands[1]) is not None and len(shape_of(op.results[0])) > 1
    )


def group_count(op: Operation) -> int:
    """Groups of a product: those of a convolution; a Scale has one for each channel."""
    if op.name == "top.Conv":
        return int(attributes_of(op)["group"])
    return 1 if op.name == "top.MatMul" else shape_of(op.results[0])[1]


def term_count(op: Operation) -> int:
    """Terms of each sum of a product."""
    weights = shape_of(op.operands[1])
    if op.name == "top.Conv":
        return math.prod(weights[1:])
    return shape_of(op.operands[0])[-1] if op.name == "top.MatMul" else 1


def batch_of(network: Network) -> int:
    """Images in one batch of the network."""
    return max(shape_of(v)[0] if shape_of(v) else 1 for v in network.inputs)
