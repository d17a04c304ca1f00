"""From ranges to types: `make_plan` turns a calibration table into a quantization plan."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import STRUCTURAL, Network, is_absent, name_of
from tpu_deploy.quant.add_scales import align_add_scales
from tpu_deploy.quant.plan import (
    FLOAT32,
    FLOAT_TYPES,
    FLOATS,
    INTEGER_PRODUCTS,
    PRECISIONS,
    QuantizationPlan,
    TensorQuantization,
)
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
    `weight_method` is one of `weights.WEIGHT_METHODS`. Operations are computed in `precision`, those that `operations`
    names in another one; `results` names INT8 operations (`plan.INTEGER_PRODUCTS`) whose sums become floats of the
    precision it gives.
    """

    asymmetric: bool | Collection[str] = False
    weight_method: str = "mse"
    precision: str = "INT8"
    operations: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)

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
    (`add_scales.align_add_scales`). A tensor that no INT8 operation makes or reads is a float and needs no range.
    Raises BadInput, naming the tensor, when the table has no range for it or the scheme names what is not there.
    """
    options = scheme or Scheme()
    if options.weight_method not in WEIGHT_METHODS:
        raise BadInput(f"weight method {options.weight_method}: is unknown; choose {' or '.join(WEIGHT_METHODS)}")
    _check_names(network, options)
    check_precisions(network, options)
    precisions = precisions_of(network, options.precision, options.operations, options.results)
    made = precisions | dict(options.results)
    quantized = quantized_values(network, precisions, made)
    ranges = _own_ranges(network, precisions, table, quantized)
    ranges |= _unclipped_ranges(network, precisions, made, table, quantized)
    groups = tied_values(network, precisions, ranges)
    makers = {name_of(result): op for op in network.operations for result in op.results}
    spread = read_with_zeros_between(network)
    types = {}
    for root, members in groups.sets().items():
        if root in quantized:
            own = [ranges[m] for m in members if m in ranges]
            joined = _joined_range(network, [makers[m] for m in members if m in makers], own)
            types[root] = quantization_of(joined, options.is_asymmetric(members) and spread.isdisjoint(members))
    types = align_add_scales(network, precisions, groups, types)
    tensors = {
        name_of(v): types[groups.find(name_of(v))] if name_of(v) in quantized else float_type(v, made)
        for v in network.values()
    }
    return QuantizationPlan(tensors, precisions, options.weight_method, results=dict(options.results))


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


def check_precisions(network: Network, scheme: Scheme) -> None:
    """Raises BadInput where the scheme names a precision, or an operation of the network, that is not there."""
    kinds = {name_of(op): op.name for op in network.operations}
    _check_known(scheme.precision, "the network", PRECISIONS)
    for named, known in ((scheme.operations, PRECISIONS), (scheme.results, tuple(FLOATS))):
        for name, precision in named.items():
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, 1, 0)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise BadInput(f"precision of {name}: the network has no such operation{hint}")
            _check_known(precision, name, known)
    for name in scheme.results:
        if kinds[name] not in INTEGER_PRODUCTS:
            known_kinds = ", ".join(sorted(kind.removeprefix("top.") for kind in INTEGER_PRODUCTS))
            kind = kinds[name].removeprefix("top.")
            raise BadInput(f"float result of {name}: is a {kind}; only INT8 operations {known_kinds} have one")
        computed = scheme.operations.get(name, scheme.precision)
        if computed != "INT8":
            raise BadInput(f"float result of {name}: is computed in {computed} anyway; give one of the two")


def _check_known(precision: str, where: str, known: Sequence[str]) -> None:
    if precision not in known:
        raise BadInput(f"precision {precision} of {where}: is unknown; choose {', '.join(known)}")


def _maker(value: SSAValue) -> Operation | None:
    """The operation that computes a value; None for an input of the network."""
    owner = value.owner
    return owner if isinstance(owner, Operation) and owner.name not in STRUCTURAL else None


def float_type(value: SSAValue, made: Mapping[str, str]) -> TensorQuantization:
    """The type of a value that is made as a float."""
    maker = _maker(value)
    return FLOAT32 if maker is None else FLOAT_TYPES[made[name_of(maker)]]


def read_with_zeros_between(network: Network) -> set[str]:
    """Names of what convolutions put zeros between: the zeros are stored as 0, which must then be what stands for 0."""
    spread = [op for op in network.operations if op.name == "top.Conv" and any(attributes_of(op)["inserts"])]
    return {name_of(op.operands[0]) for op in spread}


def quantized_values(network: Network, precisions: Mapping[str, str], made: Mapping[str, str]) -> set[str]:
    """Names of the values that an INT8 operation reads, or makes as integers."""
    found = set()
    for op in network.operations:
        if precisions[name_of(op)] == "INT8":
            found |= {name_of(v) for v in _read(network, op)}
        if made[name_of(op)] == "INT8":
            found |= {name_of(v) for v in op.results}
    return found


def _read(network: Network, op: Operation) -> list[SSAValue]:
    """The operands of `op` that are neither constant nor absent."""
    return [v for v in op.operands if network.weight(v) is None and not is_absent(v)]


def _unclipped_ranges(
    network: Network,
    precisions: Mapping[str, str],
    made: Mapping[str, str],
    table: Mapping[str, TensorRange],
    quantized: set[str],
) -> dict[str, Range]:
    """Ranges by value name of the integers that the network returns or a float operation reads: up to the largest
    value seen.

    Saturation would make equals of the largest values, which is what a classifier's answer or a Softmax depends on.
    """
    values = {name_of(v): v for v in network.outputs}
    for op in network.operations:
        if precisions[name_of(op)] != "INT8":
            values |= {name_of(v): v for v in _read(network, op)}
    integers = {n: v for n, v in values.items() if n in quantized and not _is_made_float(v, made)}
    return {n: value_range(v, table.get(n)).unclipped() for n, v in integers.items()}


def _is_made_float(value: SSAValue, made: Mapping[str, str]) -> bool:
    maker = _maker(value)
    return maker is not None and made[name_of(maker)] != "INT8"


def _own_ranges(
    network: Network, precisions: Mapping[str, str], table: Mapping[str, TensorRange], quantized: set[str]
) -> dict[str, Range]:
    """Ranges by value name. Integers that are moved need none: they are tied to what they were before."""
    found = {}
    for value in network.values():
        name, maker = name_of(value), _maker(value)
        if name not in quantized:
            continue
        is_moved = maker is not None and maker.name in MOVEMENTS - {"top.Concat"}
        if maker is None or not is_moved or precisions[name_of(maker)] != "INT8":
            source = _with_a_range(value, table)
            found[name] = value_range(source, table.get(name_of(source)))
    return found


def _with_a_range(value: SSAValue, table: Mapping[str, TensorRange]) -> SSAValue:
    """The value itself, or what it is a movement of where the table has no row for it."""
    maker = _maker(value)
    while name_of(value) not in table and maker is not None and maker.name in MOVEMENTS - {"top.Concat", "top.Pad"}:
        value = maker.operands[0]
        maker = _maker(value)
    return value


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
