"""Integer weights of a whole network, product by product, each fitted to what those before it really give."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.pipeline.tuning_execution import Execution, frontier_bytes
from tpu_deploy.pipeline.tuning_rows import Rows, batch_of, has_rows
from tpu_deploy.pipeline.tuning_targets import FloatTargets
from tpu_deploy.quant.fitting import ONLY_MEANS, PASSES, WITHOUT_TARGETS, Product, fit
from tpu_deploy.quant.moments import Moments
from tpu_deploy.quant.plan import ChosenWeights, QuantizationPlan

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]

HELD_BYTES = 1 << 28
"""Bytes of values that all samples together may take: where they would take more, fewer samples are used."""

FOR_MEANS, FOR_OPERANDS, FOR_TARGETS = 32, 40, 48
"""Images that are enough to know means of what products read by, its second moments, and those with what is wanted."""

GATHERED = 1 << 22
"""Terms that are gathered before their moments are taken."""


def fit_weights(
    network: Network, plan: QuantizationPlan, feeds: Sequence[Feed], passes: Collection[str] = PASSES,
    chip: str = "bm1684x",
) -> QuantizationPlan:  # fmt: skip
    """`plan` with the weights of its INT8 products fitted on `feeds` (whole batches) by passes of `quant.fitting`.

    Each product is fitted to the float network's result before the ReLU, on what the quantized network gives it with
    the weights of all earlier products fitted. As many feeds are used, evenly spread, as HELD_BYTES have room for.
    """
    means_suffice, needs_targets = ONLY_MEANS.issuperset(passes), not WITHOUT_TARGETS.issuperset(passes)
    room = HELD_BYTES // max(1, frontier_bytes(network, plan))
    enough = FOR_MEANS if means_suffice else FOR_TARGETS if needs_targets else FOR_OPERANDS
    used = _spread(feeds, min(room, -(-enough // batch_of(network))))
    images = len(used) * batch_of(network)
    products = [op for op in network.operations if plan.operations[name_of(op)] == "INT8" and has_rows(network, op)]
    rows = {name_of(op): Rows.of(network, op, images, seed) for seed, op in enumerate(products)}
    targets = FloatTargets(network, used, rows) if needs_targets else None

    def choose(op: Operation, product: Product, stored: Sequence[Array]) -> ChosenWeights | None:
        name = name_of(op)
        if name not in rows:
            return None
        wanted = None if targets is None else targets.take(name)
        moments = _halves(rows[name], product, stored, wanted, means_suffice)
        return fit(product, moments, passes, plan.weight_method)

    return Execution(network, plan, chip, used, choose).run()


def _spread(feeds: Sequence[Feed], most: int) -> list[Feed]:
    count = min(len(feeds), max(most, 2))
    return [feeds[i * len(feeds) // count] for i in range(count)]


def _halves(
    rows: Rows, product: Product, stored: Sequence[Array], wanted: Sequence[Float32Array] | None, means_suffice: bool
) -> tuple[Moments, Moments]:
    """Moments of the product's rows over the feeds of even and of odd number; without `wanted` those of x alone."""
    groups, outputs, terms = product.weights.shape
    factors = np.array(product.y.factors or (1.0,), np.float32)
    inverse = np.broadcast_to(1 / factors, (groups * outputs,)).reshape(groups, outputs).T[:, None, :]
    per_call = max(1, GATHERED // max(1, rows.per_image * len(stored[0]) * groups * terms))
    found = []
    for half in (0, 1):
        total = Moments.nothing(groups, terms, outputs)
        numbers = range(half, len(stored), 2)
        for start in range(0, len(numbers), per_call):
            chosen = numbers[start : start + per_call]
            x = np.concatenate([rows.read(n, stored[n], product.x) for n in chosen], 1)
            if wanted is None:
                total += Moments.of_operand(x, outputs, means_suffice)
            else:
                y = np.concatenate([wanted[n] for n in chosen], 1)
                y *= inverse
                total += Moments.of(*product.telling(x, y))
        found.append(total)
    return found[0], found[1]
