"""Samples handed out in batches to streams, each of which runs the network and records what it computes."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from tpu_deploy.calibration.activations import RUNTIME_ERRORS
from tpu_deploy.calibration.network import first_line
from tpu_deploy.calibration.recorder import Recorder
from tpu_deploy.calibration.samples import Feed, InputSpec, Loader, Samples
from tpu_deploy.calibration.shards import WHOLE, Shard
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.errors import BadInput

Array = npt.NDArray[Any]
Progress = Callable[[int, int | None, float], None]


@dataclass(frozen=True)
class Batch:
    """`samples` samples from number `first` on, in a feed of `slots` samples: the last one fills the slots left.

    `number` is that of the batch among all.
    """

    number: int
    first: int
    samples: int
    slots: int
    feed: Feed

    def without_filling(self, values: Array) -> Array:
        """`values` of the samples alone, where the first axis is the batch."""
        if self.samples == self.slots or not values.ndim or values.shape[0] % self.slots:
            return values
        return values[: values.shape[0] // self.slots * self.samples]


class BatchQueue:
    """The batches of a shard of the samples, handed out to several threads."""

    def __init__(
        self,
        samples: Samples,
        specs: Mapping[str, InputSpec],
        batch_size: int,
        shard: Shard = WHOLE,
        spread: SpreadSamples | None = None,
    ) -> None:
        """Loads the first sample; each that is loaded is offered to `spread`.

        Raises BadInput when there is none, or it is unusable.
        """
        loaders = samples.loaders()
        first = next(loaders, None)
        if first is None:
            raise BadInput(f"{samples.source}: holds no samples")
        feed = first()
        self.taken = 0
        self._loaders = itertools.chain([lambda: feed], loaders)
        self._slots, self._must_fill = batch_slots(feed, specs, batch_size)
        self._shard = shard
        self._spread = spread or SpreadSamples(samples.count, most=0)
        self.total = None if samples.count is None else shard.share(samples.count, self._slots)
        self._lock = threading.Lock()
        self.example = _joined([feed] * self._slots)

    def take(self) -> tuple[int, list[Loader]]:
        """The number of the next sample and loaders for a batch; none when all are taken."""
        with self._lock:
            while True:
                first = self.taken
                loaders = list(itertools.islice(self._loaders, self._slots))
                self.taken += len(loaders)
                if not loaders or self._shard.owns(first // self._slots):
                    return first, loaders

    def load(self, first: int, loaders: Sequence[Loader]) -> Batch:
        """The batch of these samples, decoded by the thread that asks. Raises BadInput for an unusable sample."""
        feeds = [load() for load in loaders]
        for number, feed in enumerate(feeds, first):
            self._spread.offer(number, feed)
        if self._must_fill:
            feeds += feeds[-1:] * (self._slots - len(feeds))
        return Batch(first // self._slots, first, len(loaders), len(feeds), _joined(feeds))


def batch_slots(feed: Feed, specs: Mapping[str, InputSpec], batch_size: int) -> tuple[int, bool]:
    """How many samples like `feed` make a batch, and whether it must be full: the model's batch is fixed."""
    batches = {spec.shape[0] if spec.shape else 1 for spec in specs.values()}
    rows = {feed[name].shape[0] if feed[name].ndim else 1 for name in specs}
    if len(batches) != 1 or len(rows) != 1:
        return 1, False
    batch, row = batches.pop(), rows.pop()
    return (max(1, batch_size), False) if batch is None else (max(1, batch // row), True)


class Taker(Protocol):
    """What a thread does with each batch it is given."""

    def record(self, batch: Batch) -> None:
        """Takes in a batch."""


class Stream:
    """One thread's way through the network: a session shared with others, buffers and a record of its own."""

    def __init__(
        self, session: onnxruntime.InferenceSession | None, tensors: Sequence[str], recorder: Recorder
    ) -> None:
        """The outputs of `session` are the values of `tensors`; what else `recorder` names is an input.

        No session is needed where there are no tensors.
        """
        self._recorder = recorder
        self._session = session
        self._computed = [recorder.names.index(name) for name in tensors]
        self._inputs = [(index, name) for index, name in enumerate(recorder.names) if name not in tensors]
        self._bound: tuple[dict[str, tuple[int, ...]], onnxruntime.IOBinding, list[Array]] | None = None

    def record(self, batch: Batch) -> None:
        """Runs the batch and records its inputs and all computed tensors, in the order of the graph.

        Raises BadInput when onnxruntime refuses the batch, CheckFailed for NaN and infinity.
        """
        for index, name in self._inputs:
            self._record(index, batch.feed[name], batch)
        if self._session is None:
            return
        try:
            outputs = self._run(self._session, batch.feed)
        except RUNTIME_ERRORS as error:
            raise BadInput(f"onnxruntime cannot run sample {batch.first}: {first_line(error)}") from error
        for index, values in zip(self._computed, outputs, strict=True):
            self._record(index, values, batch)

    def _record(self, index: int, values: Array, batch: Batch) -> None:
        self._recorder.record(index, batch.without_filling(values), batch.first, batch.samples, batch.number)

    def _run(self, session: onnxruntime.InferenceSession, feed: Feed) -> list[Array]:
        """The outputs, in buffers that the next feed of the same shapes overwrites."""
        shapes = {name: array.shape for name, array in feed.items()}
        if self._bound is not None and self._bound[0] == shapes:
            _, binding, outputs = self._bound
            for name, array in feed.items():
                binding.bind_cpu_input(name, array)
            with contextlib.suppress(*RUNTIME_ERRORS):  # an output's shape may depend on values: run it without buffers
                session.run_with_iobinding(binding)
                return outputs
        outputs = list(session.run(None, dict(feed)))
        binding = session.io_binding()
        for value, array in zip(session.get_outputs(), outputs, strict=True):
            binding.bind_output(value.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._bound = shapes, binding, outputs
        return outputs


def run_streams(queue: BatchQueue, streams: Sequence[Taker], progress: Progress | None) -> int:
    """Takes every batch through one of the streams; returns the number of samples.

    Raises what the earliest unusable sample raised, whichever stream met another one first.
    """
    stop = threading.Event()
    lock = threading.Lock()
    errors: list[tuple[int, Exception]] = []
    done, started = 0, time.perf_counter()

    def work(stream: Taker) -> None:
        nonlocal done
        while not stop.is_set():
            first = queue.taken
            try:
                first, loaders = queue.take()
                if not loaders:
                    return
                stream.record(queue.load(first, loaders))
                with lock:
                    done += len(loaders)
                    if progress is not None:
                        progress(done, queue.total, done / max(1e-9, time.perf_counter() - started))
            except Exception as error:
                errors.append((first, error))
                stop.set()

    with ThreadPoolExecutor(len(streams), "calibration") as executor:
        try:
            for future in [executor.submit(work, stream) for stream in streams]:
                future.result()
        finally:
            stop.set()
    if errors:
        raise min(errors, key=lambda entry: entry[0])[1]
    return done


def _joined(feeds: Sequence[Feed]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    try:
        return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    except ValueError as error:
        raise BadInput(f"samples of different shapes cannot share a batch ({error}); use batch size 1") from error
