import hashlib
import zipfile
from pathlib import Path

import pytest

from tpu_deploy.errors import BadInput
from tpu_deploy.runtime import chip_model_install
from tpu_deploy.runtime.chip_model_install import available, default_home, install, libraries, tpuc_opt

SCRIPT = '#!/bin/sh\nif [ "$1" = --fail ]; then echo bad >&2; exit 3; fi\necho "$TPUC_ROOT|$PWD|$LD_LIBRARY_PATH|$*"\n'


@pytest.fixture(autouse=True)
def linux(monkeypatch):
    monkeypatch.setattr(chip_model_install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(chip_model_install.platform, "machine", lambda: "x86_64")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel of the right shape with a few bytes in each file, and a C library that must stay behind."""
    path = tmp_path / "wheel.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member in chip_model_install._FILES:
            archive.writestr(member, SCRIPT if member.endswith("tpuc-opt") else member)
        archive.writestr("tpu_mlir/lib/third_party/libc.so.6", "another distribution's")
    monkeypatch.setattr(chip_model_install, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def refusal(**arguments):
    with pytest.raises(BadInput) as caught:
        install(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_install_unpacks_the_libraries_and_an_executable_tpuc_opt(tmp_path, wheel):
    home = install(tmp_path / "deep" / "home", wheel)
    assert available(home) and libraries(home) == home / "lib"
    assert (home / "lib/libcmodel.so").read_text() == "tpu_mlir/lib/libcmodel_bm1684x.so"
    assert not list(home.rglob("libc.so.6"))
    assert wheel.is_file(), "a wheel the user gave is theirs"
    assert {p.name for p in home.parent.iterdir()} == {"home"}, "scratch folders are gone"


def test_a_second_install_does_nothing(tmp_path, wheel):
    home = install(tmp_path / "home", wheel)
    (home / "lib/libbmlib.so.0").write_text("touched")
    wheel.unlink()
    assert install(home, wheel) == home
    assert (home / "lib/libbmlib.so.0").read_text() == "touched"


def test_an_incomplete_or_earlier_installation_is_replaced(tmp_path, wheel):
    home = install(tmp_path / "home", wheel)
    (home / "lib/libbmlib.so.0").unlink()
    assert not available(home)
    install(home, wheel)
    assert available(home)


def test_tpuc_opt_runs_in_the_given_folder_with_its_own_libraries(tmp_path, wheel, monkeypatch):
    home = install(tmp_path / "home", wheel)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    done = tpuc_opt(["a.mlir", "--canonicalize"], tmp_path, home)
    assert done.stdout == f"{home / 'tpuc'}|{tmp_path}||a.mlir --canonicalize\n"
    assert tpuc_opt(["--fail"], home=home).returncode == 3
    with pytest.raises(BadInput, match="chip-model install"):
        tpuc_opt([], home=tmp_path)


def test_a_wheel_with_another_checksum_is_refused_and_nothing_stays(tmp_path, wheel):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    assert "sha256" in refusal(home=tmp_path / "home", wheel=wheel)
    assert not (tmp_path / "home").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"wheel.whl"}


def test_a_folder_with_other_files_is_left_alone(tmp_path, wheel):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("mine")
    assert "other files" in refusal(home=home, wheel=wheel)
    assert [p.name for p in home.iterdir()] == ["thesis.tex"]
    assert "not a folder" in refusal(home=home / "thesis.tex", wheel=wheel)


def test_an_empty_folder_is_filled(tmp_path, wheel):
    home = tmp_path / "home"
    home.mkdir()
    install(home, wheel)
    assert available(home)


def test_other_systems_are_refused(tmp_path, wheel, monkeypatch):
    monkeypatch.setattr(chip_model_install.platform, "machine", lambda: "arm64")
    assert "Linux x86-64" in refusal(home=tmp_path / "home", wheel=wheel)
    assert not available(tmp_path / "home")


def test_a_python_without_pip_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chip_model_install.importlib.util, "find_spec", lambda name: None)
    assert "ensurepip" in refusal(home=tmp_path / "home")


def test_a_failed_download_says_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    message = refusal(home=tmp_path / "home")
    assert "cannot be downloaded" in message and "ERROR" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_wheel_is_named(tmp_path):
    assert "no such wheel" in refusal(home=tmp_path / "home", wheel=tmp_path / "absent.whl")


def test_the_home_follows_the_environment(monkeypatch):
    monkeypatch.delenv("TPU_MLIR_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_home() == Path("/cache/tpu-deploy/chip-model")
    monkeypatch.setenv("TPU_MLIR_HOME", "/elsewhere")
    assert default_home() == Path("/elsewhere")
    monkeypatch.delenv("TPU_MLIR_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_home() == Path.home() / ".cache/tpu-deploy/chip-model"
