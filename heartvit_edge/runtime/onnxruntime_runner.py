"""Running an engine on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from heartvit_edge.engines.onnxruntime_session import open_session
from heartvit_edge.engines.store import option
from heartvit_edge.errors import MachineError
from heartvit_edge.runtime.runner import check_images, count_feeds, read_engine
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.route import Arrays


class OnnxRuntimeRunner:
    """Runs the optimised graph as it stands, on the provider and threads that it was built for."""

    def __init__(self, manifest: EngineManifest, folder: Path) -> None:
        """Remember the engine; nothing is loaded before ``with``."""
        self._manifest = manifest
        self._folder = folder
        self._input = manifest.inputs[0].name
        self._outputs = [info.name for info in manifest.outputs]
        self._session: Any = None
        self._counts = count_feeds(manifest)
        self._failures: tuple[type[Exception], ...] = ()
        self._accepted: set[tuple[object, ...]] = set()

    def __enter__(self) -> Self:
        """Load the engine.

        Raises:
            InputError: If its file cannot be read.
            MachineError: If onnxruntime or the provider is missing.
            CheckError: If it was altered or cannot be loaded.
        """
        self._session = open_session(
            read_engine(self._manifest, self._folder),
            option(self._manifest, "provider"),
            int(option(self._manifest, "intra_op_num_threads")),
            optimise=False,
            weights_in=self._folder if self._manifest.weights else None,
        )
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        self._failures = (state.EPFail, state.Fail, state.RuntimeException)
        return self

    def __exit__(self, *exception: object) -> None:
        """Let the session go."""
        self._session = None

    def infer(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output by name; see :class:`heartvit_edge.runtime.runner.Runner`."""
        kind = (images.shape, images.dtype)
        if kind not in self._accepted:  # after a call caches are cold, and the check costs 20 microseconds
            check_images(images, self._manifest)
            self._accepted.add(kind)
        return self.run({self._input: images})

    def run(self, given: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output by name, of inputs by name; see :class:`heartvit_edge.runtime.runner.PartRunner`."""
        if self._session is None:
            raise RuntimeError("infer is called outside of with")
        try:
            values = self._session.run(self._outputs, {**given, **self._counts})
        except self._failures as err:
            raise MachineError(f"ONNX Runtime cannot run {self._manifest.entry}: {err}") from err
        return dict(zip(self._outputs, values, strict=True))

    def infer_many(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the outputs of each batch, one after the other: ONNX Runtime has no way to overlap them."""
        return map(self.infer, batches)
