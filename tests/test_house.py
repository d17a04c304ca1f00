"""The rules of the house: imports point down, folders are packaged, operations have every floor, help is cheap."""

from __future__ import annotations

import ast
import fnmatch
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tpu_deploy
from tpu_deploy import supported_ops

ROOT = Path(__file__).parents[1]

FLOORS = [
    [
        "tpu_deploy",
        "tpu_deploy.errors",
        "tpu_deploy.files",
        "tpu_deploy.chips",
        "tpu_deploy.numbers",
        "tpu_deploy.demo",
    ],
    ["tpu_deploy.ir"],
    ["tpu_deploy.frontend"],
    ["tpu_deploy.runtime", "tpu_deploy.runtime.feeds", "tpu_deploy.runtime.reference"],
    ["tpu_deploy.calibration"],
    ["tpu_deploy.quant"],
    ["tpu_deploy.lowering"],
    ["tpu_deploy.codegen"],
    [
        "tpu_deploy.runtime.simulator",
        "tpu_deploy.runtime.chip_model",
        "tpu_deploy.runtime.chip_model_child",
        "tpu_deploy.runtime.chip_model_install",
        "tpu_deploy.runtime.session",
    ],
    ["tpu_deploy.reports"],
    ["tpu_deploy.pipeline"],
    ["tpu_deploy.cli", "tpu_deploy.supported_ops", "tpu_deploy.testing"],
]
"""From the ground up; a module belongs to the longest of these names that it begins with."""

HEAVY = {"onnx", "onnxruntime", "xdsl", "pandas", "scipy", "numpy", "jinja2", "PIL", "flatbuffers", "ml_dtypes"}


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def mapped_folders() -> dict[str, Path]:
    """Folder by the package whose modules lie in it."""
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    return {name: ROOT / folder for name, folder in mapping.items()}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its file."""
    for package, folder in mapped_folders().items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def floor_of(module: str) -> int:
    """The number of the floor a module belongs to."""
    best = max(
        ((len(name), number) for number, names in enumerate(FLOORS) for name in names if _is_within(module, name)),
        default=(0, -1),
    )
    return best[1]


def _is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inner}
    return {name for name in found if _is_within(name, "tpu_deploy")}


KNOWN = dict(modules())


@pytest.mark.parametrize("module", [name for name in KNOWN if name != "tpu_deploy"])
def test_imports_point_down(module: str) -> None:
    floor = floor_of(module)
    assert floor > 0 or module.split(".")[1] in {"errors", "files", "chips", "numbers", "demo"}, "belongs to no floor"
    upward = [name for name in imported(KNOWN[module], set(KNOWN)) if floor_of(name) > floor]
    assert upward == []


def test_the_package_list_is_that_of_the_folders(configuration: dict[str, Any]) -> None:
    packages = {name for name, path in modules() if path.name == "__init__.py"}
    assert set(configuration["tool"]["setuptools"]["packages"]) == packages


def test_no_folder_of_modules_lacks_its_init() -> None:
    assert {path.parent for path in KNOWN.values()} == {p.parent for p in KNOWN.values() if p.name == "__init__.py"}


def test_every_file_that_is_no_module_is_packaged(configuration: dict[str, Any]) -> None:
    patterns = configuration["tool"]["setuptools"]["package-data"]
    lost = []
    for module, path in modules():
        if path.name == "__init__.py":
            for file in path.parent.iterdir():
                wanted = file.is_file() and file.suffix not in {".py", ".pyc"}
                if wanted and not any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns.get(module, [])):
                    lost.append(str(file.relative_to(ROOT)))
    assert lost == []


def test_the_version_is_written_once_and_twice_the_same(configuration: dict[str, Any]) -> None:
    assert configuration["project"]["version"] == tpu_deploy.__version__


def loaded_after(program: str) -> set[str]:
    """The top-level modules a fresh interpreter has after running `program`."""
    script = (
        f"{program}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "program",
    [
        "import tpu_deploy",
        "from tpu_deploy.cli import run; run(['--help'])",
        "from tpu_deploy.cli import run; run(['deploy', '--help'])",
        "from tpu_deploy.cli import run; run(['--version'])",
        "from tpu_deploy.cli import run; run(['deplyo'])",
        "import tpu_deploy.calibration",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    assert loaded_after(program) & HEAVY == set()


def test_building_a_bmodel_needs_no_tables_or_pages() -> None:
    assert loaded_after("import tpu_deploy; tpu_deploy.deploy") & {"pandas", "jinja2"} == set()


def test_the_public_names_can_all_be_loaded() -> None:
    assert all(getattr(tpu_deploy, name) is not None for name in tpu_deploy.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tpu_deploy.nonsense


def test_every_operation_has_every_floor() -> None:
    assert supported_ops.missing_floors() == []


def test_the_list_of_supported_operators_is_current() -> None:
    written = (ROOT / "SUPPORTED_OPS.md").read_text()
    assert written == supported_ops.markdown(), "run: python -m tpu_deploy.supported_ops > SUPPORTED_OPS.md"
