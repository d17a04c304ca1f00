"""The process that loads the vendor's libraries: answers requests on its standard input until that is closed.

It runs as a script with the folder of the libraries as its argument, and imports nothing of this package. A failing
assertion of the libraries ends the process; what they print goes to its standard error. Requests and replies are
pickled tuples, each after its length in 8 bytes.
"""

import ctypes
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

LANES, LANE_BYTES, STATIC_BYTES, L2_BYTES, GLOBAL_BYTES = 64, 0x4_0000, 0x4000, 0x1F_B000, 1 << 26

# bm_data_type_t: float32, float16, int8, uint8, int16, uint16, int32, uint32, bfloat16 (as its bits)
_DTYPES = ("f4", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "u2")

Bytes = npt.NDArray[np.uint8]


class _Shape(ctypes.Structure):
    _fields_ = [("rank", ctypes.c_int), ("dims", ctypes.c_int * 8)]


class _DeviceMemory(ctypes.Structure):
    _fields_ = [
        ("address", ctypes.c_uint64),
        ("reserved", ctypes.c_uint32),
        ("descriptor", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    ]


class _Stage(ctypes.Structure):
    _fields_ = [
        ("input_shapes", ctypes.POINTER(_Shape)),
        ("output_shapes", ctypes.POINTER(_Shape)),
        ("input_memories", ctypes.POINTER(_DeviceMemory)),
        ("output_memories", ctypes.POINTER(_DeviceMemory)),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("is_dynamic", ctypes.c_bool),
        ("input_count", ctypes.c_int),
        ("input_names", ctypes.POINTER(ctypes.c_char_p)),
        ("input_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("input_scales", ctypes.POINTER(ctypes.c_float)),
        ("output_count", ctypes.c_int),
        ("output_names", ctypes.POINTER(ctypes.c_char_p)),
        ("output_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("output_scales", ctypes.POINTER(ctypes.c_float)),
        ("stage_count", ctypes.c_int),
        ("stages", ctypes.POINTER(_Stage)),
        ("max_input_bytes", ctypes.POINTER(ctypes.c_size_t)),
        ("max_output_bytes", ctypes.POINTER(ctypes.c_size_t)),
    ]


class _LocalMemory(ctypes.Structure):
    _fields_ = [
        ("bytes", ctypes.c_void_p),
        ("lanes", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("size_of_lane", ctypes.c_int32),
        ("alignment", ctypes.c_int32),
        ("is_owner", ctypes.c_int32),
    ]


TensorRow = tuple[str, str, tuple[int, ...]]


class Networks:
    """Whole bmodels on the vendor's runtime."""

    def __init__(self, folder: Path) -> None:
        os.environ["TPUKERNEL_FIRMWARE_PATH"] = str(folder / "libcmodel.so")
        os.environ.pop("CMODEL_GLOBAL_MEM_SIZE", None)
        self._driver = ctypes.CDLL(str(folder / "libbmlib.so.0"), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(folder / "libbmrt.so.1.0"), mode=ctypes.RTLD_GLOBAL)
        self._handle = ctypes.c_void_p()
        status = self._driver.bm_dev_request(ctypes.byref(self._handle), 0)
        if status:
            raise RuntimeError(f"the chip model cannot be opened (status {status})")
        self._declare()
        self._runtime = self._library.bmrt_create(self._handle)

    def _declare(self) -> None:
        pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        arrays: list[Any] = [pointer, pointer, integer]
        library = self._library
        library.bmrt_create.restype = pointer
        library.bmrt_create.argtypes = [pointer]
        library.bmrt_load_bmodel.restype = ctypes.c_bool
        library.bmrt_load_bmodel.argtypes = [pointer, text]
        library.bmrt_get_network_info.restype = ctypes.POINTER(_Network)
        library.bmrt_get_network_info.argtypes = [pointer, text]
        library.bmrt_get_network_number.argtypes = [pointer]
        library.bmrt_get_network_names.argtypes = [pointer, ctypes.POINTER(ctypes.POINTER(text))]
        library.bmrt_launch_data.restype = ctypes.c_bool
        library.bmrt_launch_data.argtypes = [pointer, text, *arrays, *arrays, ctypes.c_bool]

    def load(self, path: str) -> list[str]:
        """The names of the networks in the file, loaded."""
        if not self._library.bmrt_load_bmodel(self._runtime, path.encode()):
            raise RuntimeError("the vendor's runtime refuses the file")
        names = ctypes.POINTER(ctypes.c_char_p)()
        count = self._library.bmrt_get_network_number(self._runtime)
        self._library.bmrt_get_network_names(self._runtime, ctypes.byref(names))
        return [(names[index] or b"").decode() for index in range(count)]

    def tensors(self, name: str, stage: int) -> tuple[int, list[TensorRow], list[TensorRow]]:
        """How many stages the network has, then name, dtype and shape of this stage's inputs and of its outputs."""
        info = self._library.bmrt_get_network_info(self._runtime, name.encode()).contents
        shapes = info.stages[min(stage, info.stage_count - 1)]
        inputs = _rows(info.input_count, info.input_names, info.input_dtypes, shapes.input_shapes)
        outputs = _rows(info.output_count, info.output_names, info.output_dtypes, shapes.output_shapes)
        return info.stage_count, inputs, outputs

    def run(self, name: str, stage: int, feeds: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The outputs for inputs that have the stage's dtypes and shapes, in its order."""
        _, inputs, outputs = self.tensors(name, stage)
        results = [np.zeros(shape, dtype) for _, dtype, shape in outputs]
        given = (_pointers(feeds), _shapes(inputs), len(inputs))
        taken = (_pointers(results), _shapes(outputs), len(outputs))
        if not self._library.bmrt_launch_data(self._runtime, name.encode(), *given, *taken, True):
            raise RuntimeError("the vendor's runtime refuses to start the network")
        status = self._driver.bm_thread_sync(self._handle)
        if status:
            raise RuntimeError(f"the network did not finish (status {status})")
        return results


def _rows(count: int, names: Any, dtypes: Any, shapes: Any) -> list[TensorRow]:
    rows = range(count)
    return [(names[i].decode(), _DTYPES[dtypes[i]], tuple(shapes[i].dims[: shapes[i].rank])) for i in rows]


def _pointers(arrays: Sequence[npt.NDArray[Any]]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])


def _shapes(rows: Sequence[TensorRow]) -> Any:
    found = (_Shape * len(rows))()
    for entry, (_, _, shape) in zip(found, rows, strict=True):
        entry.rank = len(shape)
        entry.dims[: len(shape)] = shape
    return found


class Commands:
    """Single encoded commands on the chip model, with its memories open."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(str(folder / "libcmodel.so"))
        library.cmodel_init.argtypes = [ctypes.c_int, ctypes.c_int64]
        library.execute_command.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
        library.get_local_mem.restype = ctypes.POINTER(_LocalMemory)
        for name in ("get_global_memaddr", "get_static_memaddr_by_node", "get_l2_sram"):
            getattr(library, name).restype = ctypes.c_void_p
        if status := library.cmodel_init(0, GLOBAL_BYTES):
            raise RuntimeError(f"the chip model cannot be opened (status {status})")
        self._library = library
        local = library.get_local_mem(0).contents.bytes
        self._memories: Mapping[str, Bytes] = {
            "local": _memory(local, LANES * LANE_BYTES),
            "lanes": _memory(local, LANES * LANE_BYTES).reshape(LANES, LANE_BYTES),
            "static": _memory(library.get_static_memaddr_by_node(0), STATIC_BYTES),
            "l2": _memory(library.get_l2_sram(0), L2_BYTES),
            "global": _memory(library.get_global_memaddr(0), GLOBAL_BYTES),
        }

    def batch(self, steps: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """What the "read" steps found.

        Steps are ("write", memory, offset, bytes), ("execute", engine, command) and ("read", memory, offset, size); the
        memory "lanes" is the local one seen as the same offset in all lanes.
        """
        found = []
        for kind, *rest in steps:
            if kind == "write":
                memory, offset, data = rest
                place = self._memories[memory]
                values = np.frombuffer(data, np.uint8).reshape(len(place), -1)
                place[:, offset : offset + values.shape[1]] = values
            elif kind == "read":
                memory, offset, size = rest
                found.append(self._memories[memory][:, offset : offset + size].tobytes())
            else:
                self._execute(*rest)
        return found

    def _execute(self, engine: str, command: bytes) -> None:
        padded = command.ljust(128, b"\0")
        held = (ctypes.c_uint8 * len(padded)).from_buffer_copy(padded)
        self._library.execute_command(0, ctypes.cast(held, ctypes.c_void_p), 0 if engine == "TIU" else 1)


def _memory(address: int, size: int) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).reshape(1, size)


def serve(requests: BinaryIO, replies: BinaryIO, sessions: Mapping[str, Callable[[], object]]) -> None:
    """Answers (method, arguments) with ("ok", result) or ("error", message); the first request names a session."""
    session: object = None
    while header := requests.read(8):
        method, arguments = pickle.loads(requests.read(int.from_bytes(header, "little")))
        answer: tuple[str, object] = ("ok", None)
        try:
            if session is None:
                session = sessions[method]()
            else:
                answer = ("ok", getattr(session, method)(*arguments))
        except Exception as error:
            answer = ("error", f"{error}")
        data = pickle.dumps(answer, protocol=5)
        replies.write(len(data).to_bytes(8, "little") + data)
        replies.flush()


def main() -> None:
    """Serves until the other side goes away; then ends at once, for the libraries crash in their own clean-up."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    libc = ctypes.CDLL(None)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 2, 0)  # unbuffered: _exit would lose the last words
    folder = Path(sys.argv[1])
    serve(requests, replies, {"networks": lambda: Networks(folder), "commands": lambda: Commands(folder)})
    os._exit(0)


if __name__ == "__main__":
    main()
