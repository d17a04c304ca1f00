"""What TPU-MLIR calls the tensors of a model in its tables: the ONNX name with the operator behind it, `relu1_Relu`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnx import GraphProto

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

FOLLOWERS = frozenset({"Add", "BatchNormalization", "Clip", "Div", "Identity", "Mul", "Relu", "Sub"})
"""What we fold into the product before it, which then is called after the last of them. TPU-MLIR keeps the product's
name where it folds constants, and both where it does not."""


def names_by_value(graph: GraphProto) -> dict[str, str]:
    """TPU-MLIR's name of each tensor by its ONNX name; inputs keep theirs."""
    names = {value.name: value.name for value in graph.input}
    return names | {name: f"{name}_{node.op_type}" for node in graph.node for name in node.output if name}


def folded_tensors(graph: GraphProto, values: Iterable[str]) -> dict[str, list[str]]:
    """The tensors that are no values of ours because they were folded into one, by that value; the product last.

    `values` names all values of the canonical network.
    """
    known = set(values)
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    found: dict[str, list[str]] = {}
    for value in known:
        chain, name = [], value
        while name in makers and makers[name].op_type in FOLLOWERS:
            inner = [n for n in makers[name].input if n in makers and n not in known and readers[n] == 1]
            products = [n for n in inner if makers[n].op_type in FOLLOWERS | LINEAR]
            if len(products) != 1:
                break
            name = products[0]
            chain.append(name)
        if chain and makers[chain[-1]].op_type in LINEAR:
            found[value] = chain
    return found
