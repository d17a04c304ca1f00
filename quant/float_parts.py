"""Parts of a network that lose most in 8 bits and are little to compute: sums of tensors, and what is returned."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, is_absent, name_of
from tpu_deploy.quant.plan import INTEGER_PRODUCTS
from tpu_deploy.quant.precision import FLOAT_ONLY
from tpu_deploy.quant.ties import MOVEMENTS

SUMS = frozenset({"top.Add", "top.Sub"})


def float_sums(network: Network) -> tuple[dict[str, str], dict[str, str]]:
    """Precisions, and precisions of results, with which tensors are added up in float32 instead of in 8 bits.

    Products that are added keep their sums as floats: no rounding is left between the inputs of one product and the
    next but that of what the next one reads.
    """
    operations: dict[str, str] = {}
    results: dict[str, str] = {}
    for op in network.operations:
        terms = [v for v in op.operands if not is_absent(v) and network.weight(v) is None]
        if op.name in SUMS and len(terms) > 1:
            operations[name_of(op)] = "F32"
            results |= {name_of(v): "F32" for v in terms if _is_product(v)}
    return operations, results


def float_outputs(network: Network) -> dict[str, str]:
    """Precisions of the results of products that are returned, or go to a float operation, and nowhere else."""
    found: dict[str, str] = {}
    for op in network.operations:
        if op.name in FLOAT_ONLY:
            found |= {name_of(v): "F32" for v in _sources(op.operands[0]) if _is_product(v)}
    for value in network.outputs:
        found |= {name_of(v): "F32" for v in _sources(value) if _is_product(v)}
    return found


def _sources(value: SSAValue) -> list[SSAValue]:
    """What a value is, before it was moved; nothing where that is read elsewhere too."""
    if len(list(value.uses)) > 1:
        return []
    owner = value.owner
    if isinstance(owner, Operation) and owner.name in MOVEMENTS and len(owner.results) == 1:
        return [source for v in owner.operands if not is_absent(v) for source in _sources(v)]
    return [value]


def _is_product(value: SSAValue) -> bool:
    return isinstance(value.owner, Operation) and value.owner.name in INTEGER_PRODUCTS
