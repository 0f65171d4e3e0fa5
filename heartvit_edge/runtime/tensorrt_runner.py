"""Running a TensorRT engine, through the tensor names that every version from 8.6 on knows.

image batch -> page-locked memory -> device: plain enqueue the first time, one CUDA graph a shape from then on -> arrays
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from heartvit_edge.engines.signals import held_back
from heartvit_edge.runtime.cuda import Cuda
from heartvit_edge.runtime.plans import Plans
from heartvit_edge.runtime.runner import check_images
from heartvit_edge.runtime.scratch import Scratch
from heartvit_edge.runtime.slot import Slot, StepTimes
from heartvit_edge.runtime.tensorrt_context import REBUILD, BoundContext, check_tensors, scratch_bytes
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.route import Arrays


class TensorRTRunner:
    """One engine, whose scratch is shared with the engines that take turns with it."""

    def __init__(
        self,
        manifest: EngineManifest,
        folder: Path,
        cuda: Cuda,
        scratch: Scratch,
        plans: Plans | None = None,
        *,
        use_graphs: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Remember the engine; nothing is loaded before ``with``.

        Args:
            manifest: The engine's.
            folder: Where both lie.
            cuda: The device; closed by whoever opened it, after the runner.
            scratch: Shared with other runners on the same device.
            plans: Shared likewise, and closed by whoever made it, after the runner; None for the runner's own.
            use_graphs: Launch a captured graph where a shape has run before; False enqueues anew each time.
            clock: Seconds, never backwards.
        """
        self._manifest = manifest
        self._folder = folder
        self._cuda = cuda
        self._scratch = scratch
        self._plans = plans or Plans()
        self._owns_plans = plans is None
        self._use_graphs = use_graphs
        self._clock = clock
        self._slots: list[Slot] = []
        self._contexts: dict[tuple[int, int], BoundContext] = {}  # by slot and batch
        self._bind: Callable[[Slot], BoundContext] | None = None

    def __enter__(self) -> Self:
        """Load the engine, make its context and allocate the buffers of one inference.

        Raises:
            InputError: If its file cannot be read.
            MachineError: If TensorRT or memory is missing, or this TensorRT refuses the engine.
            CheckError: If it was altered, or its tensors are not those of the manifest.
        """
        try:
            with held_back():
                self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Let the contexts go, and then the engine."""
        self._bind = None
        self._contexts.clear()
        self._slots.clear()
        if self._owns_plans:
            self._plans.close()

    def infer(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output by name; see :class:`heartvit_edge.runtime.runner.Runner`."""
        check_images(images, self._manifest)
        return self.run({self._manifest.inputs[0].name: images})

    def run(self, given: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output by name, of inputs by name; see :class:`heartvit_edge.runtime.runner.PartRunner`."""
        self._submit(0, given, timed=False)
        return self._collect(0)

    def infer_many(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the outputs of each batch in order; one batch is copied in while the one before it runs."""
        waiting: int | None = None
        try:
            for number, images in enumerate(batches):
                check_images(images, self._manifest)
                self._submit(number % 2, {self._manifest.inputs[0].name: images}, timed=False)
                former, waiting = waiting, number % 2
                if former is not None:
                    yield self._collect(former)
            if waiting is not None:
                last, waiting = waiting, None
                yield self._collect(last)
        finally:
            if waiting is not None:  # left early: nothing may still be running
                for slot in self._slots:
                    self._cuda.synchronize(slot.stream)

    def time_steps(self, images: NDArray[np.float32]) -> StepTimes:
        """Run one batch and return what it spent its time on.

        Raises:
            As :meth:`infer`.
        """
        check_images(images, self._manifest)
        self._submit(0, {self._manifest.inputs[0].name: images}, timed=True)
        self._collect(0)
        slot = self._slots[0]
        latency_ms = 1000 * (self._clock() - slot.began)
        return StepTimes(*slot.step_ms(), 1000 * slot.enqueue_s, latency_ms)

    def _load(self) -> None:
        trt, log, engine, _ = self._plans.load(self._manifest, self._folder, self._cuda)
        check_tensors(trt, engine, self._manifest, REBUILD)
        self._scratch.reserve(scratch_bytes(trt, engine))
        self._bind = partial(BoundContext, trt, engine, self._manifest, self._cuda, log)
        self._context(0, self._manifest.batch.opt)  # what cannot be made is known now

    def _context(self, number: int, batch: int) -> BoundContext:
        """Return the context of a slot and a batch size, made when it is first asked for."""
        if self._bind is None:
            raise RuntimeError("infer is called outside of with")
        while len(self._slots) <= number:
            images = (info for info in self._manifest.inputs if info.dtype != "int64")  # counts stay with the host
            tensors = (*images, *self._manifest.outputs)
            self._slots.append(Slot(self._cuda, tensors, self._manifest.batch.max))
        self._slots[number].batch = batch
        if (number, batch) not in self._contexts:
            self._contexts[number, batch] = self._bind(self._slots[number])
        return self._contexts[number, batch]

    def _submit(self, number: int, given: Arrays, *, timed: bool) -> None:
        """Enqueue a batch on a slot on which nothing runs."""
        began = self._clock()
        context = self._context(number, len(next(iter(given.values()))))
        block = self._scratch.block()
        slot = self._slots[number]
        slot.timed, slot.began = timed, began
        inputs = [info for info in self._manifest.inputs if info.name in given]
        for info in inputs:
            np.copyto(slot.view(info), given[info.name])
        slot.mark(0)
        for info in inputs:
            slot.to_device(info)
        slot.mark(1)
        for other in self._slots:  # they share the scratch: the engine runs once at a time
            if other is not slot:
                self._cuda.wait(slot.stream, other.computed)
        began = self._clock()
        context.launch(block, use_graph=self._use_graphs and self._cuda.has_graphs)
        slot.enqueue_s = self._clock() - began
        slot.mark(2)
        self._cuda.record(slot.computed, slot.stream)
        for output in self._manifest.outputs:
            slot.to_host(output)
        slot.mark(3)

    def _collect(self, number: int) -> dict[str, NDArray[Any]]:
        slot = self._slots[number]
        self._cuda.synchronize(slot.stream)
        return {info.name: slot.view(info).copy() for info in self._manifest.outputs}
