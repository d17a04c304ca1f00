"""The user's model: its canonical TOP network, what its inputs take, and what it is called elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from xdsl.ir import Operation

from tpu_deploy.calibration.feeds import InputSpec
from tpu_deploy.chips import Chip, names
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.limits import refusal
from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import Finding, UnsupportedOperators, import_onnx, import_supported
from tpu_deploy.frontend.model_file import ModelFile, read_model
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, name_of, shape_of
from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.lowering.to_tpu import refusals
from tpu_deploy.pipeline.options import Progress

Model = str | os.PathLike[str] | onnx.ModelProto
InputShapes = Mapping[str, Sequence[int]]

FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Source:
    """A model as it was given: a path or an ONNX message."""

    given: Path | onnx.ModelProto

    @classmethod
    def of(cls, model: Model) -> Source:
        """The source in `model`; nothing is read yet."""
        return cls(model if isinstance(model, onnx.ModelProto) else Path(model))

    @property
    def path(self) -> Path | None:
        """Where the model lies; None for a message."""
        return self.given if isinstance(self.given, Path) else None

    @property
    def label(self) -> str:
        """What messages call the model."""
        return str(self.given) if isinstance(self.given, Path) else self.given.graph.name or "the model"

    @cached_property
    def file(self) -> ModelFile:
        """The model read and judged. Raises BadInput when it is no usable ONNX model."""
        return read_model(self.given)

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        weights = {weight.name for weight in self.file.proto.graph.initializer}
        return [value.name for value in self.file.proto.graph.input if value.name not in weights]

    @property
    def hash(self) -> str:
        """What identifies the model: "sha256:" and the digest of the file or of the message."""
        return self.hashing.result()

    @cached_property
    def hashing(self) -> Future[str]:
        """The hash on its way, in a thread of its own: begun early, it costs nothing."""
        executor = ThreadPoolExecutor(1, "hash")
        started = executor.submit(_hash, self.given)
        executor.shutdown(wait=False)
        return started

    def network(self, input_shapes: InputShapes | None, chip: str | None = None) -> Network:
        """The TOP network, not yet canonical.

        Raises BadInput, and UnsupportedOperators naming all nodes that cannot be compiled for `chip`.
        """
        try:
            return import_onnx(self.given, input_shapes)
        except UnsupportedOperators:
            raise UnsupportedOperators(self.label, unsupported(self, input_shapes, chip)) from None

    def shapes_for_batch(self, given: InputShapes | None, batch: int) -> dict[str, tuple[int, ...]]:
        """`given` completed by the inputs whose only open dimension is the batch, which is set to `batch`."""
        shapes = {name: tuple(shape) for name, shape in (given or {}).items()}
        return shapes | {name: (batch, *sizes) for name, sizes in self.open_batches(given).items()}

    def open_batches(self, given: InputShapes | None) -> dict[str, tuple[int, ...]]:
        """The inputs that leave nothing but their batch open, and that `given` does not settle: their other sizes."""
        given, graph = given or {}, self.file.proto.graph
        dims = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
        for weight in graph.initializer:
            dims.pop(weight.name, None)
        settled = {dims[name][0].dim_param for name in given if dims.get(name)} - {""}
        return {
            name: tuple(dim.dim_value for dim in sizes[1:])
            for name, sizes in dims.items()
            if name not in given
            and sizes
            and sizes[0].dim_value <= 0
            and sizes[0].dim_param not in settled
            and all(dim.dim_value > 0 for dim in sizes[1:])
        }


def check_batch(size: int) -> None:
    """Raises BadInput for a batch without a sample."""
    if size < 1:
        raise BadInput(f"--batch-size {size}: must be at least 1")


def settled_shapes(source: Source, given: InputShapes | None, batch: int, progress: Progress) -> InputShapes:
    """`given` completed as `Source.shapes_for_batch` does it; that 1 is taken where nobody chose is told to `progress`.

    Raises BadInput for a batch of less.
    """
    check_batch(batch)
    for name, sizes in source.open_batches(given).items() if batch == 1 else ():
        example = ",".join(map(str, (4, *sizes)))
        progress.note(f"{name}: the model leaves the batch open, 1 is taken (--input-shape {name}={example})")
    return source.shapes_for_batch(given, batch)


def _hash(given: Path | onnx.ModelProto) -> str:
    if isinstance(given, Path):
        with given.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    return "sha256:" + hashlib.sha256(given.SerializeToString(deterministic=True)).hexdigest()


def unsupported(source: Source, input_shapes: InputShapes | None, chip: str | None = None) -> list[Finding]:
    """Every node that cannot be compiled, in order: what the frontend refuses, and of the rest what comes after it."""
    network, findings = import_supported(source.given, input_shapes)
    canonicalize(network)
    findings = [*findings, *operation_findings(source, network, chip)]
    places = {name: index for index, node in enumerate(source.file.proto.graph.node) for name in node.output}
    return sorted(findings, key=lambda each: places.get(each.tensor, len(places)))


def check_operations(source: Source, network: Network, chip: str | None = None) -> None:
    """Raises UnsupportedOperators naming the nodes of a canonical network that have no form on the chip."""
    found = operation_findings(source, network, chip)
    if found:
        raise UnsupportedOperators(source.label, found)


def operation_findings(source: Source, network: Network, chip: str | None = None) -> list[Finding]:
    """The operations of a canonical network that cannot be lowered, or not be compiled for `chip`, by their ONNX nodes.

    Without a chip: not for any that we know.
    """
    reasons = {each.name: each.reason for each in refusals(network)}
    chips = [chip_named(name) for name in ([chip] if chip else names())]
    nodes = {name: node for node in source.file.proto.graph.node for name in node.output}
    found = []
    for op in network.operations:
        name = name_of(op)
        reason = reasons.get(name) or _limit(op, chips)
        if reason:
            node = nodes.get(name)
            kind = op.name.removeprefix("top.") if node is None else node.op_type
            found.append(Finding("" if node is None else node.name, kind, name, reason, ""))
    return found


def _limit(op: Operation, chips: Sequence[Chip]) -> str | None:
    """Why an operation that can be lowered is too large for all of `chips`."""
    shapes = [shape_of(operand) for operand in op.operands if not is_absent(operand)]
    attributes, results = attributes_of(op), [shape_of(result) for result in op.results]
    told = [next(filter(None, (refusal(op.name, shapes, r, attributes, c) for r in results)), None) for c in chips]
    return told[0] if all(told) else None


def canonical_network(source: Source, input_shapes: InputShapes | None) -> Network:
    """The canonical TOP network of a model, all of whose operations have a form on some chip.

    Raises BadInput for a model or shapes that cannot be used, UnsupportedOperators naming all nodes that cannot.
    """
    network = source.network(input_shapes)
    canonicalize(network)
    check_operations(source, network)
    return network


def input_specs(network: Network) -> dict[str, InputSpec]:
    """What samples for a network must be, by input name."""
    if not network.inputs:
        raise BadInput(f"{network.name}: has no inputs; there is nothing to calibrate or run")
    return {name_of(value): InputSpec(name_of(value), shape_of(value), FLOAT32) for value in network.inputs}
