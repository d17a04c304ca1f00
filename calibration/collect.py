"""One pass over the samples through onnxruntime: exact ranges and sampled histograms of all tensors of interest.

Every stream (a Python thread with single-threaded onnxruntime) decodes its own samples, runs the network into buffers
it owns, reduces them while they are in the cache and keeps its own record; the records are merged at the end.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from tpu_deploy.calibration.activations import observe
from tpu_deploy.calibration.network import Model, Network
from tpu_deploy.calibration.recorder import Recorder
from tpu_deploy.calibration.samples import InputSpec, Samples, open_samples
from tpu_deploy.calibration.shards import WHOLE, Shard
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.statistics import Statistics, merge
from tpu_deploy.calibration.streams import Array, BatchQueue, Progress, Stream, run_streams
from tpu_deploy.calibration.thresholds import thresholds
from tpu_deploy.errors import BadInput

VALUES_PER_TENSOR = 4096
"""Values of each tensor that a sample adds to its histogram; benchmarks/calibrate.py measures what that changes."""

TAIL = 0.1
"""Percent of the first sample's values whose magnitudes are beyond the cutoff from which all values are counted."""

STREAM_MEMORY = 1 << 28
"""Bytes of activations that all streams together may hold; cores beyond that become threads of a stream."""


def collect_statistics(
    model: Model,
    samples: Samples | Iterable[Any],
    *,
    tensors: Sequence[str] | None = None,
    batch_size: int = 1,
    progress: Progress | None = None,
    values_per_tensor: int = VALUES_PER_TENSOR,
    threads: int | None = None,
    model_hash: str | None = None,
    shard: Shard = WHOLE,
    spread: SpreadSamples | None = None,
) -> Statistics:
    """Ranges and histograms of `tensors` over all `samples`, the same for any number of threads.

    `tensors` are ONNX names (default: inputs and all computed real tensors but those fused into a convolution).
    `batch_size` samples run at once where the batch is dynamic; a fixed batch is always filled. `progress` is called
    with samples done, their number where known, and samples per second. Channels lie along axis 1, or the last axis of
    3-D tensors. `values_per_tensor` 0 puts every value into the histograms. `model_hash` identifies the model in the
    result (default: SHA-256 of `model`). Of the samples only those of `shard` are taken in, and a few kept in `spread`.
    Raises BadInput for unusable samples, model or names, and CheckFailed naming the first tensor with NaN or infinity.
    """
    network = Network.load(model)
    specs = network.inputs()
    names = network.chosen(tensors)
    opened = samples if isinstance(samples, Samples) else open_samples(samples, specs)
    queue = BatchQueue(opened, specs, batch_size, shard, spread)
    activations = observe(network, names, queue.example)
    names = _with_reals(names, specs, activations.tensors, tensors)
    identity = model_hash or network.model_hash()
    del network
    cutoffs = _cutoffs(names, {**queue.example, **activations.values}, values_per_tensor)
    count, threads_each = _shares(threads or _cores(), activations.nbytes, queue.total)
    session = activations.session_of(threads_each)
    blocks = activations.blocks
    recorders = [Recorder(names, values_per_tensor, cutoffs=cutoffs, blocks=blocks) for _ in range(count)]
    streams = [Stream(session, activations.tensors, recorder) for recorder in recorders]
    del activations
    done = run_streams(queue, streams, progress)
    used = [recorder.statistics(identity) for recorder in recorders if not recorder.is_empty]
    return replace(reduce(merge, used or [recorders[0].statistics(identity)]), samples=done)


def _with_reals(
    names: Sequence[str], specs: Mapping[str, InputSpec], computed: Sequence[str], asked: Sequence[str] | None
) -> list[str]:
    """Those of `names` that are real inputs or `computed`. Raises BadInput when one that was asked for is not."""
    real = {name for name, spec in specs.items() if spec.dtype.kind == "f"}.union(computed)
    for name in asked or ():
        if name not in real:
            raise BadInput(f"tensor {name!r} does not hold real numbers: it has no range to calibrate")
    return [name for name in names if name in real]


def _cutoffs(names: Sequence[str], example: Mapping[str, Array], values_per_tensor: int) -> list[float]:
    """The magnitude beyond which lies the TAIL of each tensor, by one sample; none when all values are counted."""
    if not values_per_tensor:
        return []
    recorder = Recorder(names, 4 * values_per_tensor)
    for index, name in enumerate(names):
        recorder.record(index, example[name], 0)
    found = thresholds(recorder.statistics(""), "percentile", percentile=100 - TAIL)
    return [entry.threshold for entry in found.values()]


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(cores: int, nbytes: int, samples: int | None) -> tuple[int, int]:
    """How many samples of `nbytes` of activations to run at the same time, and on how many threads each."""
    fitting = max(1, STREAM_MEMORY // max(1, nbytes))
    streams = max(1, min(cores, fitting, samples or cores))
    return streams, max(1, cores // streams)
