"""`tpu_deploy.inspect`: what a model holds, and every node of it that cannot be compiled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import Finding
from tpu_deploy.frontend.input_shapes import resolve_input_shapes, text
from tpu_deploy.frontend.model_file import DEFAULT_DOMAINS
from tpu_deploy.pipeline.source import InputShapes, Model, Source, unsupported


@dataclass(frozen=True)
class Inspection:
    """What was found: inputs with their shapes as the model states them, nodes by operator, what cannot be compiled."""

    model: str
    chip: str
    opset: int
    inputs: tuple[tuple[str, str], ...]
    operators: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def is_supported(self) -> bool:
        """Whether all of the model can be compiled."""
        return not self.findings


def inspect(model: Model, chip: str = "bm1684x", input_shapes: InputShapes | None = None) -> Inspection:
    """Every node of `model` that cannot be compiled for `chip`, found without calibrating or compiling anything.

    Open dimensions are given a likely size. Raises BadInput for a model that cannot be read.
    """
    name = chip_named(chip).name
    source = Source.of(model)
    file = source.file
    findings = unsupported(source, input_shapes, name)
    if not findings:
        _check_shapes(source, input_shapes)
    counts = Counter(_operator(node.domain, node.op_type) for node in file.proto.graph.node)
    return Inspection(source.label, name, file.opset, _inputs(source), dict(counts.most_common()), tuple(findings))


def _operator(domain: str, op_type: str) -> str:
    return op_type if domain in DEFAULT_DOMAINS else f"{domain}.{op_type}"


def _inputs(source: Source) -> tuple[tuple[str, str], ...]:
    graph = source.file.proto.graph
    weights = {weight.name for weight in graph.initializer}
    shapes = {
        value.name: [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    return tuple((name, text(shape)) for name, shape in shapes.items() if name not in weights)


def _check_shapes(source: Source, input_shapes: InputShapes | None) -> None:
    """Raises BadInput for shapes that do not fit the model, unless they are only assumed."""
    resolved = resolve_input_shapes(source.file, input_shapes, assume=True)
    try:
        source.network({each.name: each.shape for each in resolved})
    except BadInput:
        if not _is_open(source, input_shapes):
            raise


def _is_open(source: Source, input_shapes: InputShapes | None) -> bool:
    """Whether a dimension of an input is left to be given."""
    try:
        resolve_input_shapes(source.file, input_shapes)
    except BadInput:
        return True
    return False
