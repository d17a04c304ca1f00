"""ONNX in, TOP out, and TOP back out to ONNX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tpu_deploy.frontend.export import export_onnx
    from tpu_deploy.frontend.findings import Finding, UnsupportedOperators
    from tpu_deploy.frontend.importer import find_unsupported, import_onnx, import_supported

_HOMES = {
    "export_onnx": "export",
    "find_unsupported": "importer",
    "import_onnx": "importer",
    "import_supported": "importer",
    "Finding": "findings",
    "UnsupportedOperators": "findings",
}

__all__ = ["Finding", "UnsupportedOperators", "export_onnx", "find_unsupported", "import_onnx", "import_supported"]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that importing the package does not import onnx."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
