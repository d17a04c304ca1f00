"""What a bmodel holds, as plain data and as lines of text."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tpu_deploy.codegen.bmodel.model import Bmodel, Coefficients, CommandGroup, Net, Stage, TensorInfo
from tpu_deploy.codegen.isa import Command, Engine, decode_stream, disassemble, opcode
from tpu_deploy.errors import BadInput

DECODED_CHIP = "BM1684X"
"""The chip whose commands `codegen.isa` decodes; of others only the numbers of commands are known."""

_ENGINES: tuple[Engine, ...] = ("TIU", "GDMA")


def describe(model: Bmodel) -> dict[str, Any]:
    """The model as dictionaries, lists, text and numbers, ready for JSON; sizes in bytes.

    Keys: chip, version, time, memory (coefficients, neurons, kernel_module) and nets, each with its stages: inputs,
    outputs, memory, checksum ("ok", "mismatch", "none") and commands by engine and opcode. Reads all coefficients.
    Raises BadInput when a queue of a BM1684X model cannot be decoded.
    """
    coefficients = {
        bytes(stage.coefficients.sha256) or index: len(stage.coefficients.data)
        for index, stage in enumerate(stage for net in model.nets for stage in net.stages)
        if stage.coefficients is not None
    }
    module = model.kernel_module
    return {
        "chip": model.chip,
        "version": model.version,
        "time": model.time,
        "memory": {
            "coefficients": sum(coefficients.values()),
            "neurons": model.neuron_size,
            "kernel_module": len(module.data) if module else 0,
        },
        "kernel_module": module.file_name if module else None,
        "nets": [_describe_net(model, net) for net in model.nets],
    }


def _describe_net(model: Bmodel, net: Net) -> dict[str, Any]:
    places = [_place(model, net, number) for number in range(len(net.stages))]
    stages = [_describe_stage(model, stage, place) for stage, place in zip(net.stages, places, strict=True)]
    return {"name": net.name, "addr_mode": net.addr_mode, "stages": stages}


def _place(model: Bmodel, net: Net, stage: int) -> str:
    return f"{model.source}: net {net.name!r} stage {stage}"


def _describe_stage(model: Bmodel, stage: Stage, where: str) -> dict[str, Any]:
    coefficients = stage.coefficients
    return {
        "inputs": [_describe_tensor(tensor) for tensor in stage.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in stage.outputs],
        "memory": {
            "coefficients": len(coefficients.data) if coefficients else 0,
            "coefficients_address": coefficients.address if coefficients else None,
            "neurons": stage.ctx_size,
            "neurons_address": stage.ctx_addr,
        },
        "checksum": _checksum_verdict(coefficients),
        "is_dynamic": stage.is_dynamic,
        "cores": stage.core_count,
        "sub_nets": [{"number": part.number, "kind": part.kind} for part in stage.sub_nets],
        "groups": [name for name, _ in stage.command_groups()],
        "commands": _count_commands(model, stage, where),
    }


def _checksum_verdict(coefficients: Coefficients | None) -> str:
    matches = coefficients.matches_checksum if coefficients is not None else None
    return "none" if matches is None else "ok" if matches else "mismatch"


def _describe_tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "scale": tensor.scale,
        "zero_point": tensor.zero_point,
        "size": tensor.size,
        "address": tensor.device_addr,
    }


def _count_commands(model: Bmodel, stage: Stage, where: str) -> dict[str, Any]:
    """Numbers of commands by engine; by opcode too where they can be decoded."""
    groups = stage.command_groups()
    if model.chip != DECODED_CHIP:
        totals = {"TIU": sum(g.tiu_count for _, g in groups), "GDMA": sum(g.gdma_count for _, g in groups)}
        return {engine: {"total": total, "opcodes": None} for engine, total in totals.items()}
    counts: dict[str, Counter[str]] = {engine: Counter() for engine in _ENGINES}
    for name, group in groups:
        for engine, commands in zip(_ENGINES, decode_group(group, f"{where} {name}"), strict=True):
            counts[engine].update(opcode(command) for command in commands)
    return {
        engine: {"total": count.total(), "opcodes": dict(sorted(count.items()))} for engine, count in counts.items()
    }


def decode_group(group: CommandGroup, where: str = "command group") -> tuple[list[Command], list[Command]]:
    """The commands of the TIU and of the GDMA queue, end commands included; empty where there is no queue.

    Raises BadInput naming `where`, queue and offset of what cannot be decoded, or when the numbers of commands are not
    those the file claims.
    """
    tiu = _decode_queue(group.tiu, "TIU", group.tiu_count, where)
    return tiu, _decode_queue(group.gdma, "GDMA", group.gdma_count, where)


def _decode_queue(data: bytes, engine: Engine, count: int, where: str) -> list[Command]:
    try:
        commands = decode_stream(data, engine) if data or count else []
    except ValueError as error:
        raise BadInput(f"{where}: {error}; the file is damaged or for another chip") from error
    if len(commands) != count:
        raise BadInput(f"{where}: {engine} queue: has {len(commands)} commands, not {count}; the file is damaged")
    return commands


def disassembly(model: Bmodel) -> Iterator[str]:
    """The commands of every group as lines, each after the command of the other engine it waits for.

    Lines that begin with # name net, stage and group. Raises BadInput for another chip or a queue that cannot be
    decoded.
    """
    if model.chip != DECODED_CHIP:
        raise BadInput(f"{model.source}: is for {model.chip!r}; only {DECODED_CHIP} commands can be disassembled")
    for net in model.nets:
        for number, stage in enumerate(net.stages):
            for name, group in stage.command_groups():
                yield f"# net {net.name!r} stage {number} {name}"
                for command in _in_running_order(*decode_group(group, f"{_place(model, net, number)} {name}")):
                    yield disassemble(command)


def _in_running_order(tiu: list[Command], gdma: list[Command]) -> Iterator[Command]:
    """Both queues merged: transfers as early as their dependencies allow, as the engines would start them.

    Queues that wait for each other, which only a damaged file has, are listed all the same.
    """
    done = {"TIU": 0, "GDMA": 0}
    queues = {"TIU": iter(tiu), "GDMA": iter(gdma)}
    heads = {engine: next(queue, None) for engine, queue in queues.items()}
    other = {"TIU": "GDMA", "GDMA": "TIU"}
    while any(heads.values()):
        waiting = [engine for engine in ("GDMA", "TIU") if heads[engine]]
        ready = [engine for engine in waiting if _waits_for(heads[engine]) <= done[other[engine]]]
        engine = (ready or waiting)[0]
        command = heads[engine]
        assert command is not None
        yield command
        done[engine] = command.fields.get("cmd_id", done[engine])
        heads[engine] = next(queues[engine], None)


def _waits_for(command: Command | None) -> int:
    return command.fields.get("cmd_id_dep", 0) if command is not None else 0
