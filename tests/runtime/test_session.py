from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpu_deploy.codegen.bmodel import Bmodel, CommandGroup, Net, Stage, TensorInfo, write_bmodel
from tpu_deploy.codegen.isa import encode
from tpu_deploy.errors import BadInput
from tpu_deploy.runtime.session import Session, load, real


class Echo:
    """A machine that remembers what it was given and answers with fixed arrays."""

    def __init__(self, answer: dict[str, np.ndarray]) -> None:
        self.answer = answer
        self.given: dict[str, np.ndarray] = {}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.given = inputs
        return self.answer


def session(dtype: str, scale: float = 1.0, zero_point: int = 0) -> tuple[Session, Echo]:
    """A session with one input `x` and one output `y` of that type, both (4,)."""
    stored = "uint16" if dtype == "bfloat16" else dtype
    infos = [TensorInfo(name, dtype, (4,), 0, scale, zero_point) for name in "xy"]
    machine = Echo({"y": np.array([0, 1, 2, 100]).astype(stored)})
    stage = Stage((infos[0],), (infos[1],), 0, 0, None, ())
    return Session(stage, machine, "m.bmodel"), machine  # type: ignore[arg-type]


def test_floats_are_quantized_by_scale_and_zero_point_half_away_from_zero() -> None:
    one, machine = session("int8", scale=2.0, zero_point=3)
    one.run({"x": np.array([0.25, -0.25, 1000, -1000], np.float32)})
    assert machine.given["x"].dtype == np.int8
    assert machine.given["x"].tolist() == [4, 2, 127, -128]


def test_integers_of_the_stored_type_are_taken_as_they_are() -> None:
    one, machine = session("uint8", scale=2.0)
    given = np.array([0, 1, 254, 255], np.uint8)
    one.run({"x": given})
    assert np.array_equal(machine.given["x"], given)


@pytest.mark.parametrize(
    ("stored", "given"), [("uint8", np.int8), ("int8", np.uint8), ("int8", np.int32), ("int32", np.float32)]
)
def test_nothing_is_reinterpreted(stored: str, given: Any) -> None:
    one, _ = session(stored)
    with pytest.raises(BadInput, match=rf"m\.bmodel: input 'x' is {np.dtype(given)}, the bmodel stores {stored}"):
        one.run({"x": np.ones(4, given)})


@pytest.mark.parametrize("given", [np.float64, np.float16, np.uint8, np.int16])
def test_what_float32_holds_exactly_or_rounded_feeds_a_float_input(given: Any) -> None:
    one, machine = session("float32")
    one.run({"x": np.ones(4, given)})
    assert machine.given["x"].dtype == np.float32


def test_quantized_outputs_are_floats_unless_asked_otherwise() -> None:
    one, _ = session("int8", scale=0.5, zero_point=2)
    feed = {"x": np.zeros(4, np.float32)}
    assert one.run(feed)["y"].tolist() == [-1.0, -0.5, 0.0, 49.0]
    raw = one.run(feed, dequantize=False)["y"]
    assert raw.dtype == np.int8 and raw.tolist() == [0, 1, 2, 100]


def test_bfloat16_goes_in_rounded_and_comes_out_widened() -> None:
    one, machine = session("bfloat16")
    machine.answer = {"y": np.array([0x3F80, 0x4000, 0xBF80, 0], np.uint16)}
    out = one.run({"x": np.array([1.0, 1.001, 3.14159, -2], np.float32)})["y"]
    assert out.tolist() == [1.0, 2.0, -1.0, 0.0]
    assert machine.given["x"].astype(np.float32).tolist() == [1.0, 1.0, 3.140625, -2.0]


def test_plain_integers_stay_integers() -> None:
    info = TensorInfo("y", "int32", (2,), 0)
    assert real(info, np.array([1, 2], np.int32)).dtype == np.int32


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ({"X": np.ones(4)}, "has no input 'X'; did you mean 'x'?"),
        ({}, "input 'x' is not given"),
        ({"x": np.ones(5)}, "has shape 5, the bmodel takes 4"),
        ({"x": np.array([1, np.inf, 1, 1])}, "holds infinity"),
    ],
)
def test_feeds_that_do_not_fit_are_named(feeds: dict[str, np.ndarray], told: str) -> None:
    one, _ = session("float32")
    with pytest.raises(BadInput) as caught:
        one.run(feeds)
    assert told in str(caught.value)


def test_an_unknown_place_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean chip-model"):
        load(tmp_path / "nothing.bmodel", on="chipmodel")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device_addr": 0xFA0100011000}, "lies outside the model's memory"),
        ({"device_addr": 90}, "lies outside the model's memory"),
        ({"shape": (1,) * 9 + (4,)}, "has 10 dimensions"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    good = TensorInfo("x", "float32", (4,), 0)
    group = CommandGroup(encode("SYSID", {"tsk_eu_typ": 31, "cmd_id": 1}), encode("sDMA_sys", {"cmd_id": 1}), 1, 1)
    for inputs, outputs in (((good,), (replace(good, **changes),)), ((replace(good, **changes),), (good,))):
        stage = Stage(inputs, outputs, 0, 100, None, (group,))
        write_bmodel(Bmodel("BM1684X", (Net("net", (stage,)),)), tmp_path / "m.bmodel")
        with pytest.raises(BadInput, match=told):
            load(tmp_path / "m.bmodel")
