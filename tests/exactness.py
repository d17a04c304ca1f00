"""Holds compiled networks against the reference: on the simulator, and on the vendor's chip model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpu_deploy.codegen.bmodel import write_bmodel
from tpu_deploy.codegen.compile import Compiled, compile_network
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of
from tpu_deploy.runtime import chip_model_install
from tpu_deploy.runtime.chip_model import ChipModel
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator

Feeds = dict[str, np.ndarray[Any, Any]]

BEYOND = 3e38
"""A float32 input that saturates every quantized type, and overflows where a scale below 1 divides it."""

on_chip_model = [
    pytest.mark.referee,
    pytest.mark.skipif(not chip_model_install.available(), reason="the vendor's chip model is not installed"),
]
"""Marks of tests that ask the vendor's chip model."""


def noise(network: Network, seed: int = 1) -> Feeds:
    """Normal noise, or uniform stored integers for quantized inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in network.inputs:
        dtype, shape = dtype_of(value), shape_of(value)
        if dtype == np.float32:
            feeds[name_of(value)] = (rng.standard_normal(shape) * 3).astype(np.float32)
        else:
            limits = np.iinfo(dtype)
            feeds[name_of(value)] = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return feeds


def extremes(network: Network) -> Iterator[tuple[str, Feeds]]:
    """All zero, all at either end of the range, one element at the upper end, ends by turns."""
    for name in ("zero", "largest", "lowest", "one-hot", "alternating"):
        yield name, {name_of(v): _extreme(name, dtype_of(v), shape_of(v)) for v in network.inputs}


def _extreme(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    low, high = (-BEYOND, BEYOND) if dtype == np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    array = np.full(shape, {"largest": high, "lowest": low}.get(name, 0), dtype)
    flat = array.reshape(-1)
    if name == "one-hot":
        flat[flat.size // 3] = high
    if name == "alternating":
        flat[::2], flat[1::2] = low, high
    return array


def differing(expected: Feeds, found: Feeds) -> list[str]:
    """The outputs that are not the same bits, shape and type."""
    assert list(expected) == list(found), "other outputs"
    return [
        name
        for name, array in expected.items()
        if array.dtype != found[name].dtype
        or array.shape != found[name].shape
        or array.tobytes() != found[name].tobytes()
    ]


def assert_exact(network: Network, *inputs: Feeds) -> Compiled:
    """The simulator accepts the commands and gives the reference's bits for every input; noise if none is given."""
    compiled = compile_network(network, optimize=0)
    simulator, reference = Simulator(compiled.bmodel, uninitialized="fail"), Reference(network, 1)
    for feeds in inputs or (noise(network),):
        assert differing(reference.run(feeds), simulator.run(feeds)) == []
    return compiled


def assert_exact_on_chip_model(network: Network, folder: Path, *inputs: Feeds) -> None:
    """The vendor's chip model gives the reference's bits for every input; noise if none is given."""
    path = folder / f"{network.name}.bmodel"
    write_bmodel(compile_network(network, optimize=0).bmodel, path)
    reference = Reference(network, 1)
    with ChipModel(path) as chip_model:
        for feeds in inputs or (noise(network),):
            assert differing(reference.run(feeds), chip_model.run(feeds)) == []
