"""Bmodels and inputs that cannot be run: one line that names the culprit, exit code 2, nothing left behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import SHAPE, samples

Refused = Callable[..., str]


# ---- bmodels


def wrong_magic(content: bytearray) -> bytes:
    content[0] ^= 0xFF
    return bytes(content)


def cut(content: bytearray) -> bytes:
    return bytes(content[:-5000])


def cut_in_the_header(content: bytearray) -> bytes:
    return bytes(content[:20])


def nothing(content: bytearray) -> bytes:
    return b""


def oversized_table(content: bytearray) -> bytes:
    struct.pack_into("<I", content, 8, 0xFFFFFFF0)
    return bytes(content)


def changed_coefficient(content: bytearray) -> bytes:
    """Flips a bit of a weight: coefficients lie in the binary section, before the commands."""
    header, tables = struct.unpack_from("<II", content, 4)
    content[header + tables + 40] ^= 1
    return bytes(content)


READERS = {
    "run": ("--inputs", "one.npz", "-o", "out.npz"),
    "disassemble": (),
    "info": (),
    "profile": ("--html", "out.html"),
}


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("spoil", [wrong_magic, cut, cut_in_the_header, nothing, oversized_table])
def test_a_damaged_bmodel_is_named(
    folder: Path, refused: Refused, spoil: Callable[[bytearray], bytes], verb: str
) -> None:
    content = bytearray((folder / "model.bmodel").read_bytes())
    (folder / "bad.bmodel").write_bytes(spoil(content))
    assert refused(verb, "bad.bmodel", *READERS[verb]).startswith("bad.bmodel: ")


@pytest.mark.parametrize("verb", ["run", "disassemble"])
def test_coefficients_that_do_not_match_their_checksum_are_refused(folder: Path, refused: Refused, verb: str) -> None:
    content = bytearray((folder / "model.bmodel").read_bytes())
    (folder / "bad.bmodel").write_bytes(changed_coefficient(content))
    assert "do not match their checksum" in refused(verb, "bad.bmodel", *READERS[verb])


def test_info_shows_a_damaged_bmodel_and_still_says_no(folder: Path, command: Callable[..., Any]) -> None:
    content = bytearray((folder / "model.bmodel").read_bytes())
    (folder / "bad.bmodel").write_bytes(changed_coefficient(content))
    finished = command("info", "bad.bmodel")
    assert finished.code == 2 and "checksum mismatch" in finished.out
    assert len(finished.told) == 1 and "do not match their checksum" in finished.told[0]


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("target", ["nothing.bmodel", "a_folder", "model.onnx"])
def test_what_is_no_bmodel_is_named(folder: Path, refused: Refused, target: str, verb: str) -> None:
    (folder / "a_folder").mkdir()
    assert refused(verb, target, *READERS[verb]).startswith(f"{target}: ")


# ---- inputs of a run


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"imag": samples(1)}, "has no input 'imag'; did you mean 'image'?"),
        ({}, "input 'image' is not given"),
        ({"image": samples(2)}, "has shape 2x3x16x16, the bmodel takes 1x3x16x16"),
        ({"image": samples(1).astype(np.int64)}, "is int64, the bmodel stores float32"),
        ({"image": np.full(SHAPE, np.nan, np.float32)}, "holds NaN"),
    ],
)
def test_unusable_inputs_of_a_run_are_named(folder: Path, refused: Refused, arrays: dict[str, Any], told: str) -> None:
    np.savez(folder / "in.npz", **arrays)
    line = refused("run", "model.bmodel", "--inputs", "in.npz", "-o", "out.npz")
    assert line.startswith("model.bmodel: ") and told in line


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00"])
def test_an_unreadable_file_of_inputs_is_named(folder: Path, refused: Refused, content: bytes | None) -> None:
    if content is not None:
        (folder / "in.npz").write_bytes(content)
    assert "--inputs in.npz: " in refused("run", "model.bmodel", "--inputs", "in.npz", "-o", "out.npz")


def test_a_bare_array_is_refused_as_inputs(folder: Path, refused: Refused) -> None:
    np.save(folder / "in.npy", samples(1))
    assert "single array" in refused("run", "model.bmodel", "--inputs", "in.npy", "-o", "out.npz")
