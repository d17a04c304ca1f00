"""A network in either dialect: an xDSL module of one function, and the weights its `top.Weight` operations name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import (
    ArrayAttr,
    BFloat16Type,
    Float16Type,
    Float32Type,
    FusedLoc,
    IntegerType,
    ModuleOp,
    NameLoc,
    NoneAttr,
    NoneType,
    Signedness,
    StringAttr,
    TensorType,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue

from tpu_deploy.ir import dialect, top, tpu
from tpu_deploy.ir.quant_types import CalibratedType, UniformType
from tpu_deploy.ir.weights import Array, WeightStore
from tpu_deploy.numbers import BFLOAT16

STRUCTURAL = frozenset({"top.Weight", "top.None", "top.Input", "func.return"})
"""Operations that hold the network together and compute nothing."""

_FLOATS: dict[np.dtype[Any], Attribute] = {
    np.dtype(np.float32): Float32Type(),
    np.dtype(np.float16): Float16Type(),
    BFLOAT16: BFloat16Type(),
}


def element_type(dtype: npt.DTypeLike) -> Attribute:
    """The IR element type of a plain numpy dtype: f32, f16, bf16 or an integer type."""
    kind = np.dtype(dtype)
    if kind in _FLOATS:
        return _FLOATS[kind]
    if kind.kind not in "iu":
        raise TypeError(f"no element type for {kind}")
    return IntegerType(kind.itemsize * 8, Signedness.UNSIGNED if kind.kind == "u" else Signedness.SIGNLESS)


def tensor_type(shape: Sequence[int], element: Attribute) -> TensorType[Any]:
    """`tensor<shape x element>`."""
    return TensorType(element, [int(k) for k in shape])


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The static shape of a tensor value."""
    assert isinstance(value.type, TensorType), value
    return tuple(value.type.get_shape())


def element_of(value: SSAValue) -> Attribute:
    """The element type of a tensor value: a float, an integer, `!quant.calibrated` or `!quant.uniform`."""
    assert isinstance(value.type, TensorType), value
    element: Attribute = value.type.element_type
    return element


def uniform_of(value: SSAValue) -> UniformType | None:
    """The quantized element type of a value, None for a float or plain integer one."""
    element = element_of(value)
    return element if isinstance(element, UniformType) else None


def dtype_of(value: SSAValue) -> np.dtype[Any]:
    """The numpy dtype of what memory holds for a value."""
    element = element_of(value)
    if isinstance(element, UniformType):
        return element.dtype
    if isinstance(element, CalibratedType):
        return np.dtype(np.float32)
    for dtype, float_type in _FLOATS.items():
        if element == float_type:
            return dtype
    assert isinstance(element, IntegerType), element
    sign = "u" if element.signedness.data is Signedness.UNSIGNED else "i"
    return np.dtype(f"{sign}{element.width.data // 8}")


def is_absent(value: SSAValue) -> bool:
    """Whether a value is the `top.None` that stands for an absent operand."""
    return isinstance(value.type, NoneType)


def named(*names: str) -> NameLoc | FusedLoc:
    """The location that names the results of an operation."""
    places = [NameLoc(StringAttr(n), NoneAttr()) for n in names]
    return places[0] if len(places) == 1 else FusedLoc(ArrayAttr(places), NoneAttr())


def name_of(value: SSAValue | Operation) -> str:
    """The ONNX (or derived) name of a value; for an operation, of its first result."""
    if isinstance(value, OpResult):
        location, index = value.op.location, value.index
    elif isinstance(value, BlockArgument):
        location, index = value.location, 0
    else:
        assert isinstance(value, Operation)
        location, index = value.location, 0
    if isinstance(location, FusedLoc):
        assert isinstance(location.locations, ArrayAttr)
        location = location.locations.data[index]
    if not isinstance(location, NameLoc):
        raise ValueError(f"{value} has no name")
    return location.desc.data


class Network:
    """One function of operations in topological order, with its weights."""

    def __init__(self, module: ModuleOp, weights: WeightStore) -> None:
        self.module = module
        self.weights = weights

    @classmethod
    def create(cls, name: str, inputs: Sequence[tuple[str, Sequence[int]]], state: str = "TOP_F32") -> Network:
        """An empty network with float32 `inputs` (name, shape), each behind a `top.Input`; close it with `finish`."""
        types = [tensor_type(shape, Float32Type()) for _, shape in inputs]
        block = Block(arg_types=types)
        function = FuncOp("main", (types, []), Region(block))
        attributes: dict[str, Attribute] = {
            "module.weight_file": StringAttr(f"{name}_weight.npz"),
            "module.platform": StringAttr("ONNX"),
            "module.state": StringAttr(state),
            "module.chip": StringAttr("ALL"),
            "module.top_run_mode": StringAttr("STATIC"),
        }
        module = ModuleOp([function], attributes, sym_name=StringAttr(name))
        network = cls(module, WeightStore())
        for argument, (input_name, _), kind in zip(block.args, inputs, types, strict=True):
            argument.location = named(input_name)
            network.append("top.Input", [argument], [kind], [input_name])
        return network

    # ---- reading

    @property
    def name(self) -> str:
        """The name of the module."""
        symbol = self.module.sym_name
        return symbol.data if symbol is not None else "main"

    @property
    def function(self) -> FuncOp:
        """The function that holds the operations."""
        function = self.module.body.block.first_op
        assert isinstance(function, FuncOp)
        return function

    @property
    def block(self) -> Block:
        """The block of operations."""
        return self.function.body.block

    @property
    def state(self) -> str:
        """The vendor's name of the stage: TOP_F32, TOP_CALIBRATED, TPU_LOWERED, ..."""
        attribute = self.module.attributes["module.state"]
        assert isinstance(attribute, StringAttr)
        return attribute.data

    @state.setter
    def state(self, value: str) -> None:
        self.module.attributes["module.state"] = StringAttr(value)

    @property
    def operations(self) -> list[Operation]:
        """The operations that compute, in order (no weights, inputs, absent operands, return)."""
        return [op for op in self.block.ops if op.name not in STRUCTURAL]

    @property
    def inputs(self) -> list[SSAValue]:
        """Results of the `top.Input` operations, in the order of the ONNX inputs."""
        return [op.results[0] for op in self.block.ops if op.name == "top.Input"]

    @property
    def outputs(self) -> list[SSAValue]:
        """The returned values, in the order of the ONNX outputs; a value may stand there twice."""
        last = self.block.last_op
        assert isinstance(last, ReturnOp), "the network is not finished"
        return list(last.operands)

    @property
    def output_names(self) -> list[str]:
        """The ONNX names of the outputs, in order. They may differ from the names of the values (an Identity)."""
        attribute = self.module.attributes["module.output_names"]
        assert isinstance(attribute, ArrayAttr)
        return [n.data for n in attribute.data]

    def values(self) -> Iterator[SSAValue]:
        """Inputs and all results of computing operations, in order: what calibration and reports speak of."""
        for op in self.block.ops:
            if op.name == "top.Input" or op.name not in STRUCTURAL:
                yield from op.results

    def weight(self, value: SSAValue) -> Array | None:
        """The array behind a value that is a `top.Weight`, else None."""
        owner = value.owner
        if isinstance(owner, Operation) and owner.name == "top.Weight":
            return self.weights[name_of(owner)]
        return None

    # ---- changing

    def append(
        self,
        name: str,
        operands: Sequence[SSAValue],
        types: Sequence[Attribute],
        names: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        before: Operation | None = None,
    ) -> Operation:
        """A new operation at the end (or before `before`), its results of the given types and names."""
        row = dialect.ROWS[name]
        kind = CLASSES[name]
        built = dialect.build_attributes(row, attributes or {})
        op = kind.create(operands=list(operands), result_types=list(types), attributes=built)
        if names:
            op.location = named(*names)
        if before is not None:
            self.block.insert_op_before(op, before)
        else:
            self.block.add_op(op)
        return op

    def add_weight(self, name: str, array: Array, before: Operation | None = None) -> SSAValue:
        """A `top.Weight` holding `array`, under `name` or a free variation of it."""
        free = self.weights.unused_name(name)
        self.weights[free] = array
        kind = tensor_type(array.shape, element_type(array.dtype))
        return self.append("top.Weight", [], [kind], [free], before=before).results[0]

    def absent(self, before: Operation | None = None) -> SSAValue:
        """A `top.None` for an operand that is absent."""
        return self.append("top.None", [], [NoneType()], [], before=before).results[0]

    def finish(self, outputs: Sequence[SSAValue], output_names: Sequence[str]) -> None:
        """Returns `outputs` under their ONNX names."""
        self.block.add_op(ReturnOp(*outputs))
        self.module.attributes["module.output_names"] = ArrayAttr([StringAttr(n) for n in output_names])
        self.update_signature()

    def update_signature(self) -> None:
        """Makes the type of the function that of its arguments and returned values."""
        self.function.update_function_type()  # type: ignore[no-untyped-call]

    def replace(self, old: Operation, new: Sequence[SSAValue]) -> None:
        """Puts `new` values wherever the results of `old` are used and removes `old`."""
        for result, value in zip(old.results, new, strict=True):
            result.replace_all_uses_with(value)
        old.detach()  # type: ignore[no-untyped-call]
        old.erase()

    def remove_unused(self) -> None:
        """Removes operations (not inputs) whose results nobody reads, and arrays no weight names."""
        for op in reversed(list(self.block.ops)):
            if op.name in ("func.return", "top.Input"):
                continue
            if all(not any(True for _ in r.uses) for r in op.results):
                op.detach()  # type: ignore[no-untyped-call]
                op.erase()
        kept = {name_of(op) for op in self.block.ops if op.name == "top.Weight"}
        for name in [n for n in self.weights if n not in kept]:
            del self.weights[name]

    def copy(self) -> Network:
        """An independent module with the same (shared, read-only) arrays."""
        return Network(self.module.clone(), WeightStore(dict(self.weights)))

    def verify(self) -> None:
        """Raises ValueError naming the tensor when an operation breaks the rules of its dialect."""
        from xdsl.utils.exceptions import VerifyException

        try:
            self.module.verify()
        except VerifyException as whole:
            for op in self.block.ops:
                try:
                    op.verify()
                except VerifyException as error:
                    where = name_of(op) if op.name not in ("func.return", "top.None") else op.name
                    raise ValueError(f"{where}: {error}") from error
            raise ValueError(f"{self.name}: {whole}") from whole


CLASSES = {kind.name: kind for kind in [*top.OPERATIONS, *tpu.OPERATIONS]}
