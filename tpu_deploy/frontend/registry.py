"""The tables of the frontend: one converter for an ONNX operator, one exporter for a TOP operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xdsl.ir import SSAValue

if TYPE_CHECKING:
    from tpu_deploy.frontend.exported import ExportedOperation
    from tpu_deploy.frontend.node import Node

Converter = Callable[["Node"], SSAValue | Sequence[SSAValue]]
"""Emits TOP for one ONNX node and gives the values of its outputs."""

Exporter = Callable[["ExportedOperation"], None]
"""Emits ONNX for one TOP operation."""

CONVERTERS: dict[str, Converter] = {}
EXPORTERS: dict[str, Exporter] = {}


def converts(*op_types: str) -> Callable[[Converter], Converter]:
    """Registers a converter for operators of the default ONNX domain."""

    def register(converter: Converter) -> Converter:
        for op_type in op_types:
            if op_type in CONVERTERS:
                raise ValueError(f"{op_type} has two converters")
            CONVERTERS[op_type] = converter
        return converter

    return register


def exports(*names: str) -> Callable[[Exporter], Exporter]:
    """Registers an exporter for TOP operations."""

    def register(exporter: Exporter) -> Exporter:
        for name in names:
            if name in EXPORTERS:
                raise ValueError(f"{name} has two exporters")
            EXPORTERS[name] = exporter
        return exporter

    return register
