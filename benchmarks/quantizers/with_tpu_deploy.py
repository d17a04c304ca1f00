"""Quantizes with tpu_deploy, SETTING being a `--method`; its integer reference computes what the chip would.

Plans of plain methods are the symmetric ones that `deploy` makes of a table; `auto` brings its own. The setting
"symmetric ranges" is `auto` with nothing but ranges to choose: `--symmetric --passes thresholds`.
"""

from pathlib import Path

from job import Feed, Quantized, serve

import tpu_deploy
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.plans import plan_of
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.quant import Scheme
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.workers import available_threads


def quantize(model: Path, feeds: list[Feed], setting: str, folder: Path) -> Quantized:
    source = Source.of(model)
    network = canonical_network(source, source.shapes_for_batch(None, 1))
    if setting == "symmetric ranges":
        table = tpu_deploy.calibrate(model, feeds, method="auto", passes=["thresholds"], symmetric=True)
    else:
        table = tpu_deploy.calibrate(model, feeds, method=setting)
    reference = Reference(lower_to_tpu(network, plan_of(network, table, Scheme())), threads=1)
    reference.load()
    return Quantized(lambda feed: list(reference.run(feed).values()), tpu_deploy.__version__, available_threads())


if __name__ == "__main__":
    serve(quantize)
