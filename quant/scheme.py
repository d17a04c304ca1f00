"""From ranges to types: `make_plan` turns a calibration table into a quantization plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, is_absent, name_of
from tpu_deploy.quant.add_scales import align_add_scales
from tpu_deploy.quant.plan import FLOAT32, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.precision import precisions_of
from tpu_deploy.quant.ranges import Range, TensorRange, padding_value, range_of_array, value_range
from tpu_deploy.quant.ties import MOVEMENTS, tied_values
from tpu_deploy.quant.weights import WEIGHT_METHODS

DEAD = 1e-30
"""Thresholds below this belong to tensors that were zero throughout; they get scale 1 / 127, any would do."""


@dataclass(frozen=True)
class Scheme:
    """Options of quantization.

    `asymmetric` names the tensors (True: all) that use a zero point where they are not non-negative anyway.
    `weight_method` is one of `weights.WEIGHT_METHODS`.
    """

    asymmetric: bool | Collection[str] = False
    weight_method: str = "mse"

    def is_asymmetric(self, names: Collection[str]) -> bool:
        """Whether a group of tied tensors uses a zero point: if any member was asked to."""
        if isinstance(self.asymmetric, bool):
            return self.asymmetric
        return not set(names).isdisjoint(self.asymmetric)


def make_plan(network: Network, table: Mapping[str, TensorRange], scheme: Scheme | None = None) -> QuantizationPlan:
    """The quantization plan of a canonical TOP network for the ranges of `table` (value name to threshold, min, max).

    Tensors are symmetric INT8 with scale threshold / 127, non-negative ones uint8 with threshold / 255. Tied tensors
    (`ties.tied_values`) share the widest of their ranges, and what the network returns keeps its whole range. Scales
    around additions are then moved by at most 0.5 % so that the chip's 8-bit multipliers represent their ratios
    (`add_scales.align_add_scales`).
    Raises BadInput, naming the tensor, when the table has no range for it or names an unknown tensor in the scheme.
    """
    options = scheme or Scheme()
    if options.weight_method not in WEIGHT_METHODS:
        raise BadInput(f"weight method {options.weight_method}: is unknown; choose {' or '.join(WEIGHT_METHODS)}")
    _check_names(network, options)
    precisions = precisions_of(network)
    quantized = _quantized_values(network, precisions)
    ranges = _own_ranges(network, table, quantized) | _unclipped_ranges(network, precisions, table, quantized)
    groups = tied_values(network, precisions, ranges)
    makers = {name_of(result): op for op in network.operations for result in op.results}
    types = {}
    for root, members in groups.sets().items():
        if root in quantized:
            own = [ranges[m] for m in members if m in ranges]
            joined = _joined_range(network, [makers[m] for m in members if m in makers], own)
            types[root] = quantization_of(joined, options.is_asymmetric(members))
    types = align_add_scales(network, precisions, groups, types)
    tensors = {n: types[groups.find(n)] if n in quantized else FLOAT32 for n in map(name_of, network.values())}
    return QuantizationPlan(tensors, precisions, options.weight_method)


def quantization_of(values: Range, asymmetric: bool = False) -> TensorQuantization:
    """The 8-bit type that covers a range up to its threshold."""
    threshold = values.threshold if values.threshold > DEAD else 1.0
    if values.low >= -0.5 * threshold / 255:
        return TensorQuantization("uint8", threshold / 255)
    if not asymmetric:
        return TensorQuantization("int8", threshold / 127)
    low, high = max(values.low, -threshold), max(min(values.high, threshold), 0.0)
    scale = (high - low) / 255
    return TensorQuantization("int8", scale, min(max(round(-128 - low / scale), -128), 127))


def _check_names(network: Network, scheme: Scheme) -> None:
    if isinstance(scheme.asymmetric, bool):
        return
    known = {name_of(v) for v in network.values()}
    for name in sorted(set(scheme.asymmetric) - known):
        raise BadInput(f"asymmetric tensor {name}: is no tensor of the network")


def _quantized_values(network: Network, precisions: Mapping[str, str]) -> set[str]:
    """Names of the values that an INT8 operation makes or reads."""
    found = set()
    for op in network.operations:
        if precisions[name_of(op)] == "INT8":
            found |= {name_of(v) for v in [*_read(network, op), *op.results]}
    return found


def _read(network: Network, op: Operation) -> list[SSAValue]:
    """The operands of `op` that are neither constant nor absent."""
    return [v for v in op.operands if network.weight(v) is None and not is_absent(v)]


def _unclipped_ranges(
    network: Network, precisions: Mapping[str, str], table: Mapping[str, TensorRange], quantized: set[str]
) -> dict[str, Range]:
    """Ranges by value name of what the network returns or a float operation reads: up to the largest value seen.

    Saturation would make equals of the largest values, which is what a classifier's answer or a Softmax depends on.
    """
    values = {name_of(v): v for v in network.outputs}
    for op in network.operations:
        if precisions[name_of(op)] == "F32":
            values |= {name_of(v): v for v in _read(network, op)}
    ranges = {n: value_range(v, table.get(n)) for n, v in values.items() if n in quantized}
    return {n: r.unclipped() for n, r in ranges.items()}


def _own_ranges(network: Network, table: Mapping[str, TensorRange], quantized: set[str]) -> dict[str, Range]:
    """Ranges by value name. Results of movements need none: they are tied to what is moved."""
    found = {}
    for value in network.values():
        name, owner = name_of(value), value.owner
        if name not in quantized:
            continue
        moved = isinstance(owner, Operation) and owner.name in MOVEMENTS - {"top.Concat"}
        if not moved:
            found[name] = value_range(value, table.get(name))
    return found


def _joined_range(network: Network, makers: list[Operation], own: list[Range]) -> Range:
    """The widest of the `own` ranges, with constants that a Concat joins and paddings among their `makers`."""
    joined = own[0]
    for one in own[1:]:
        joined = joined.joined(one)
    for op in makers:
        if op.name == "top.Concat":
            constants = [c for c in map(network.weight, op.operands) if c is not None]
            for constant in constants:
                joined = joined.joined(range_of_array(constant))
    for op in makers:
        padding = padding_value(op)
        if padding is not None:
            joined = joined.with_padding(padding)
    return joined
