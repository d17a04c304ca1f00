"""Real MLIR text of a network, out and in."""

from __future__ import annotations

import io
import os
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, StringAttr
from xdsl.dialects.func import Func
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.ir.network import Network
from tpu_deploy.ir.quant_types import Quant
from tpu_deploy.ir.top import Top
from tpu_deploy.ir.tpu import Tpu
from tpu_deploy.ir.weights import WeightStore


class _Utf8Parser(Parser):
    """Takes escaped bytes in a string literal for UTF-8, as they are written; xDSL takes them for a BytesAttr."""

    def parse_optional_str_literal(self) -> str | None:
        plain = super().parse_optional_str_literal()
        encoded = self.parse_optional_bytes_literal() if plain is None else None
        return plain if encoded is None else encoded.decode("utf-8", "replace")


def context() -> Context:
    """An xDSL context that knows our dialects."""
    made = Context()
    for one in (Builtin, Func, Quant, Top, Tpu):
        made.load_dialect(one)
    return made


def to_text(network: Network) -> str:
    """MLIR text with a location naming every value; `from_text` reads it back to the same module."""
    stream = io.StringIO()
    Printer(stream, print_generic_format=False, print_debuginfo=True).print_op(network.module)
    return stream.getvalue() + "\n"


def from_text(text: str, weights: WeightStore, file_name: str = "<text>") -> Network:
    """The network that `to_text` wrote. BadInput, naming file and place, for text that is not MLIR of our dialects."""
    try:
        module = _Utf8Parser(context(), text, file_name).parse_module()
    except ParseError as error:
        raise BadInput(f"{file_name}: is not readable MLIR ({str(error).splitlines()[0]})") from error
    network = Network(module, weights)
    try:
        network.verify()
    except ValueError as error:
        raise BadInput(f"{file_name}: {error}") from error
    return network


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Writes the text to `path` and the weights beside it, under the name the text carries (`module.weight_file`)."""
    target = Path(path)
    weight_file = f"{target.stem}_weight.npz"
    network.module.attributes["module.weight_file"] = StringAttr(weight_file)
    network.weights.save(target.with_name(weight_file))
    with replacing(target) as stream:
        stream.write(to_text(network).encode())


def load(path: str | os.PathLike[str]) -> Network:
    """The network saved at `path`, weights memory-mapped."""
    source = Path(path)
    try:
        text = source.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source}: cannot be read ({error})") from error
    network = from_text(text, WeightStore(), str(source))
    attribute = network.module.attributes["module.weight_file"]
    assert isinstance(attribute, StringAttr)
    network.weights = WeightStore.load(source.with_name(attribute.data))
    return network
