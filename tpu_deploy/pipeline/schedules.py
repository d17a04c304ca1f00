"""Found schedules, kept in the user's cache folder by the content of what they were found for.

A schedule's name is a digest of all that the search depends on: the network with its weights, the chip, the level of
optimization and the source of code generation. So a bmodel has the same bytes whether its schedule was found or kept.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from importlib import resources
from pathlib import Path

import numpy as np

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.bmodel import KernelModule
from tpu_deploy.codegen.compile import Compiled, compile_network
from tpu_deploy.codegen.schedule import InvalidSchedule, Schedule
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.ir import text
from tpu_deploy.ir.network import Network

LEVELS = (0, 1, 2, 3)
"""Levels of optimization; a schedule of level 0 is found as fast as it is read, and not kept."""
SWITCH = "TPU_DEPLOY_NO_CACHE"
"""The environment variable that, set to anything, keeps schedules from being read and written."""


def cache_folder() -> Path:
    """Where schedules are kept: `tpu-deploy/schedules` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tpu-deploy" / "schedules"


def compiled(
    network: Network, chip: str, *, optimize: int = 1, cache: bool = True, kernel_module: KernelModule | None = None
) -> Compiled:
    """The bmodel of a TPU network, its schedule taken from the cache or found and put there.

    A cache that cannot be read or written, or holds something else under the name, is passed over.
    """
    if not cache or not optimize or os.environ.get(SWITCH):
        return compile_network(network, chip, optimize=optimize, kernel_module=kernel_module)
    name = digest(network, chip, optimize)
    path = cache_folder() / f"{name}.json"
    kept = _read(path, name)
    if kept is not None:
        try:
            return compile_network(network, chip, schedule=kept, kernel_module=kernel_module)
        except InvalidSchedule:
            pass
    made = compile_network(network, chip, optimize=optimize, kernel_module=kernel_module)
    _write(path, name, made.schedule)
    return made


def digest(network: Network, chip: str, optimize: int) -> str:
    """A name for the search of a schedule: equal names, equal schedules."""
    found = hashlib.blake2b(digest_size=20)
    for part in (_source(), repr(chip_named(chip)), str(optimize), text.to_text(network)):
        found.update(f"{len(part)}:{part}".encode())
    for name, array in sorted(network.weights.items()):
        found.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


@functools.cache
def _source() -> str:
    """A digest of the source of code generation."""
    found = hashlib.blake2b(digest_size=20)
    folders = [resources.files("tpu_deploy.codegen")]
    while folders:
        for file in sorted(folders.pop().iterdir(), key=lambda f: f.name):
            if file.is_dir():
                folders.append(file)
            elif file.name.endswith(".py"):
                found.update(file.name.encode() + b":" + file.read_bytes())
    return found.hexdigest()


def _content(name: str, schedule: Schedule) -> bytes:
    """What a file of the cache holds; `check` tells whether it is whole."""
    data = schedule.to_json()
    check = hashlib.blake2b(json.dumps([name, data]).encode()).hexdigest()
    return json.dumps({"name": name, "schedule": data, "check": check}).encode()


def _read(path: Path, name: str) -> Schedule | None:
    """The schedule kept under a name; None where there is none, or the file is not what was written."""
    try:
        content = path.read_bytes()
        schedule = Schedule.from_json(json.loads(content)["schedule"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InvalidSchedule):
        return None
    return schedule if content == _content(name, schedule) else None


def _write(path: Path, name: str, schedule: Schedule) -> None:
    """Keeps a schedule, if the cache can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(_content(name, schedule))
    except (OSError, BadInput):
        return
