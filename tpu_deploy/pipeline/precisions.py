"""Which operation is computed in which precision: one for all, and a quantize table's own words for some."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from onnx import GraphProto

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering.to_tpu import refusals
from tpu_deploy.pipeline.source import Source
from tpu_deploy.pipeline.tpu_mlir_names import names_by_value
from tpu_deploy.quant.plan import QuantizationPlan
from tpu_deploy.quant.precision import precisions_of
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.quant.scheme import Scheme, check_precisions


def scheme_of(precision: str, qtable: QuantizeTable | None, source: Source, network: Network) -> Scheme:
    """The scheme that computes a canonical network in `precision`, what `qtable` names in its own.

    The table may name an operation by the ONNX tensor or node, or as TPU-MLIR does; one that was folded into another is
    taken for that. Raises BadInput for a name the network does not have, a precision an operation does not have, and
    for two that would be of one operation.
    """
    if qtable is None:
        return Scheme(precision=precision.upper())
    names = Names(source.file.proto.graph, network)
    operations = _resolved(qtable.operations, names, qtable.source)
    results = _resolved(qtable.results, names, qtable.source)
    scheme = Scheme(precision=precision.upper(), operations=operations, results=results)
    check_precisions(network, scheme)
    planned = precisions_of(network, scheme.precision, operations, results)
    refused = {r.name: r for r in refusals(network, QuantizationPlan({}, planned))}
    for name in operations:
        if name in refused:
            kind = refused[name].operation.removeprefix("top.")
            raise BadInput(f"{qtable.source}: {name} ({kind}) cannot be {operations[name]}: {refused[name].reason}")
    return scheme


def _resolved(given: Mapping[str, str], names: Names, source: str) -> dict[str, str]:
    """Precisions by our names of operations."""
    found: dict[str, str] = {}
    words: dict[str, str] = {}
    for word, precision in given.items():
        name = names.operation(word, source)
        if found.get(name, precision) != precision:
            raise BadInput(
                f"{source}: {word} {precision} and {words[name]} {found[name]} are one operation here; remove one"
            )
        found[name], words[name] = precision, word
    return found


class Names:
    """What an operation of a canonical network may be called."""

    def __init__(self, graph: GraphProto, network: Network) -> None:
        self._operations = {name_of(v): name_of(op) for op in network.operations for v in op.results}
        nodes = {node.name: node.output[0] for node in graph.node if node.name and node.output}
        tensors = {name: name for node in graph.node for name in node.output if name}
        theirs = {word: name for name, word in names_by_value(graph).items() if name in tensors}
        self._tensors = nodes | theirs | tensors
        self._readers: dict[str, set[str]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self._readers.setdefault(name, set()).update(node.output[:1])

    def operation(self, word: str, source: str) -> str:
        """Our name of the operation that `word` of the file `source` means. Raises BadInput when there is none."""
        if word in self._operations:
            return self._operations[word]
        if word not in self._tensors:
            near = difflib.get_close_matches(word, [*self._operations, *self._tensors], 1, 0)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"{source}: names {word}, which is no operation of the network{hint}")
        tensor = self._tensors[word]
        while tensor not in self._operations:
            readers = self._readers.get(tensor, set())
            if len(readers) != 1:
                raise BadInput(f"{source}: names {word}, of which nothing is left to compute; remove the line")
            tensor = next(iter(readers))
        return self._operations[tensor]


def is_integer(network: Network, scheme: Scheme) -> bool:
    """Whether any operation is computed in INT8, so that ranges are needed."""
    return "INT8" in precisions_of(network, scheme.precision, scheme.operations, scheme.results).values()
