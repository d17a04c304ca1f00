"""What a user gets: a wheel with all of the package and nothing else, documents that lead somewhere, the CI script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

import tpu_deploy

ROOT = Path(__file__).parents[1]
WHEEL_LIMIT = 3_000_000
IGNORED = ("build", "dist", "*.egg-info", "__pycache__", ".*cache", ".hypothesis", ".git", ".venv", "tpu-deploy-demo")
DOCUMENTS = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "SUPPORTED_OPS.md"]

PLACES = re.compile(r"(?<![\w.}$*])/(?:home|root|work|mnt|Users|tmp|farm)(?:/|\b)|(?<![\w/])\.\./(?!\w*\.bin)")
"""Folders of one machine, and what lies beside the project rather than in it."""


def project_files() -> Iterator[Path]:
    """The files of the project, found without git: what builds and caches leave behind is not among them."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if not any(Path(f).match(pattern) for pattern in IGNORED)]
        yield from (Path(folder) / file for file in files)


def packaged_files() -> set[str]:
    """What the package consists of, as paths in a wheel."""
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    found = set()
    for package, folder in mapping.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the project, as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*IGNORED))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(folder / "source")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == packaged_files()


@pytest.mark.slow
def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < WHEEL_LIMIT


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        information = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        about = Parser().parsestr(archive.read(information["METADATA"]).decode())
        commands = archive.read(information["entry_points.txt"]).decode()
    assert (about["Name"], about["Version"]) == ("tpu-deploy", tpu_deploy.__version__)
    assert about["License-Expression"] == "Apache-2.0"
    assert "LICENSE" in information
    assert "tpu-deploy = tpu_deploy.cli:main" in commands


def test_no_file_leans_on_the_machine_it_was_written_on() -> None:
    found = []
    for path in project_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT).as_posix()
        if name not in ("LICENSE", "tests/test_packaging.py"):
            found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PLACES.search(line)]
    assert found == []


def headings(text: str) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_of_a_document_lead_to_files_and_sections_of_the_project(document: str) -> None:
    path = ROOT / document
    text = path.read_text()
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, section = target.partition("#")
        if "://" in target:
            continue
        linked = path.parent / file if file else path
        if not linked.exists() or (section and section not in headings(linked.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_a_document_names_exist(document: str) -> None:
    named = re.findall(
        r"(?<![\w/])(?:benchmarks|tests|codegen|quant|lowering|docs)/[\w/]+\.(?:py|md|svg)",
        (ROOT / document).read_text(),
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_has_a_section_for_this_version() -> None:
    assert f"## [{tpu_deploy.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_ci_script_is_executable_and_valid() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
