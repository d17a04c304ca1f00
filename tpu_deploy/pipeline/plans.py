"""The plan that a table and a scheme lead to: made from its thresholds, or what `auto` tuned, which lies beside it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.mixing import mixed_plan

AUTO = "auto"
"""The method of a table that a plan was tuned with."""


def plan_of(network: Network, table: CalibrationTable, scheme: Scheme) -> QuantizationPlan:
    """The plan of a canonical network: everything that takes a table makes it here.

    It follows from the thresholds of the table, unless a plan was tuned with it: then it is that, with what the scheme
    names in float (`mixed_plan`). Raises BadInput for what cannot be planned, and for a tuned table without its plan.
    """
    if table.method != AUTO:
        return make_plan(network, table, scheme)
    if table.plan is None:
        raise BadInput(f"{table.source}: was tuned, but the plan is not with it; give its path, or calibrate again")
    _check_network(table.plan, network, table.source)
    return mixed_plan(network, table.plan, scheme)


def plan_path(table: str | os.PathLike[str]) -> Path:
    """Where the plan that was tuned with a table lies."""
    path = Path(table)
    return path.with_name(f"{path.name}.plan.json")


def tuned_table(table: CalibrationTable, plan: QuantizationPlan) -> CalibrationTable:
    """The table with the plan that was tuned with it."""
    return replace(table, method=AUTO, plan=plan, plan_hash=plan_hash(plan))


def with_plan(table: CalibrationTable, path: str | os.PathLike[str]) -> CalibrationTable:
    """A table that was read from `path` with the plan beside it, where one was tuned with it.

    Raises BadInput when that is missing, damaged or another table's.
    """
    if table.method != AUTO:
        return table
    beside = plan_path(path)
    if not beside.exists():
        raise BadInput(f"{path}: its plan {beside.name} is missing; put it beside the table, or calibrate again")
    try:
        plan = QuantizationPlan.load(beside)
    except BadInput as error:
        raise BadInput(f"{path}: its plan is damaged: {error}, or calibrate again") from error
    if plan_hash(plan) != table.plan_hash:
        raise BadInput(f"{beside}: is not the plan that was tuned with {path}; put that there, or calibrate again")
    return replace(table, plan=plan)


def plan_hash(plan: QuantizationPlan) -> str:
    """What tells a plan from others: "sha256:" and the digest of everything it says."""
    found = hashlib.sha256(json.dumps(plan.to_json(), sort_keys=True).encode())
    for name, array in sorted(plan.arrays().items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return f"sha256:{found.hexdigest()}"


def _check_network(plan: QuantizationPlan, network: Network, source: str) -> None:
    """Raises BadInput when a plan is of other tensors than the network's."""
    known = {name_of(value) for value in network.values()}
    other = sorted(known ^ plan.tensors.keys())
    if other:
        raise BadInput(f"{source}: its plan is of another network: {other[0]!r} is not in both; calibrate this model")
