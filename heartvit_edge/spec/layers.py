"""The layers that an engine was built of, as TensorRT's engine inspector names them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeInt

from heartvit_edge.spec.base import Artefact, Spec


class EngineLayer(Spec):
    """One layer: a kernel, or several.

    Attributes:
        name: Its name, which lists what was fused into it or names a region of the compiler's.
        kind: TensorRT's word for its type, such as ``gemm`` or ``kgen``.
        tactic: The kernel that was chosen; empty where it is not told.
        precision: Element type of what it gives, such as ``fp16``; several are joined by ``+``.
        nodes: The graph's nodes that it carries out.
    """

    name: str
    kind: str
    tactic: str
    precision: str
    nodes: tuple[str, ...]


class EngineLayers(Artefact):
    """``layers.json`` beside an engine.

    Attributes:
        engine_sha256: Hash of the engine.
        layers: In the order in which they run.
        num_fused_attention: Layers that are a whole attention in one kernel; None where the engine has regions whose
            inside is not told.
        budget: Entry whose layers these are, where the engine has an optimization profile for each of several.
    """

    schema_name: ClassVar[str] = "engine-layers"

    engine_sha256: str
    layers: tuple[EngineLayer, ...]
    num_fused_attention: NonNegativeInt | None
    budget: str | None = None

    def by_precision(self) -> dict[str, int]:
        """Return how many layers there are of each precision, the most frequent first."""
        precisions = [layer.precision for layer in self.layers]
        return {
            name: precisions.count(name) for name in sorted(set(precisions), key=lambda p: (-precisions.count(p), p))
        }
