"""What runs an engine, and what it may be fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.files import check_sha256, sha256_bytes
from heartvit_edge.spec.route import Arrays
from heartvit_edge.spec.tensor import num_keep_name


class Runner(Protocol):
    """An engine that is open between ``__enter__`` and ``__exit__``."""

    def __enter__(self) -> Self:
        """Load the engine and take what it needs of the device."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Give everything back."""
        ...

    def infer(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output by name, in host memory, after the device has finished.

        Args:
            images: Preprocessed batch, shape (B, 3, H, W), B within the engine's batch range.

        Returns:
            ``logits`` (B, num_classes) float32, then ``kept_<block>`` (B, K) int32 for each site. The arrays are the
            caller's: a later call does not change them.

        Raises:
            InputError: If the shape, the element type or the batch size is not the engine's.
            MachineError: If the device fails.
        """
        ...

    def infer_many(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield what :meth:`infer` returns for each batch, in order, the next one under way where that is faster.

        It must be read to its end, or closed, before :meth:`infer` is called again.

        Args:
            batches: As for :meth:`infer`, of any sizes within the engine's range.
        """
        ...


class PartRunner(Runner, Protocol):
    """What runs one graph, which may be a stem or a tail."""

    def run(self, given: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output by name, as :meth:`infer` does.

        Args:
            given: Every input but counts by name, C-contiguous, of a batch within the engine's range.
        """
        ...


def check_images(images: NDArray[Any], manifest: EngineManifest) -> None:
    """Return only if the engine can take this batch.

    Args:
        images: Any array.
        manifest: The engine's.

    Raises:
        InputError: If the shape, the element type or the batch size is not the engine's.
    """
    wanted = manifest.inputs[0]
    only = manifest.fixed_batch
    if only is not None and images.ndim and len(images) != only:
        raise InputError(
            f"found a batch of {len(images)} images, the graph of {manifest.entry} has a constant batch of {only}",
            hint=f"give it {only} at a time, or export the pack again without --fixed-batch {only}",
        )
    fits = len(images.shape) == len(wanted.shape) and all(
        known in (None, size) for known, size in zip(wanted.shape, images.shape, strict=True)
    )
    if not fits or images.dtype != wanted.dtype:
        expected = "(" + ", ".join("B" if size is None else str(size) for size in wanted.shape) + f") {wanted.dtype}"
        raise InputError(f"found images of {images.shape} {images.dtype}, engine {manifest.entry} takes {expected}")
    batch = manifest.batch
    if not batch.min <= images.shape[0] <= batch.max:
        raise InputError(
            f"found a batch of {images.shape[0]} images, engine {manifest.entry} serves {batch.min} to {batch.max}",
            hint=f"build it for more: heartvit-edge build-engine PACK --batch-size "
            f"{min(batch.min, images.shape[0])}:{batch.opt}:{max(batch.max, images.shape[0])}",
        )


def count_feeds(manifest: EngineManifest) -> dict[str, NDArray[np.int64]]:
    """Return what the engine's inputs beside the images are fed, by name."""
    return {num_keep_name(site): np.array(count, dtype=np.int64) for site, count in manifest.num_keep.items()}


def read_engine(manifest: EngineManifest, folder: Path) -> bytes:
    """Return the bytes of the engine file if they, and the weights beside it, are those that were built.

    Loading an engine executes code from it, so the bytes that are hashed are the bytes that are loaded.

    Args:
        manifest: The engine's.
        folder: Where both lie.

    Raises:
        InputError: If the file cannot be read.
        CheckError: If the file was altered.
    """
    again = "build it again: heartvit-edge build-engine PACK --force"
    if manifest.weights is not None and manifest.weights_sha256 is not None:
        check_sha256(folder / manifest.weights, manifest.weights_sha256, hint=again)
    path = folder / manifest.file
    try:
        engine = path.read_bytes()
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    found = sha256_bytes(engine)
    if found != manifest.sha256:
        raise CheckError(
            f"{path} was altered: SHA-256 is {found}, its manifest says {manifest.sha256}",
            hint=again,
        )
    return engine
