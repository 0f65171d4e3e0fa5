"""A whole model as an ONNX file, by the package's own exporter."""

from __future__ import annotations

from heartvit_edge.export.graph import store_graph, whole_model
from heartvit_edge.spec.target import DEFAULT_TARGET, TARGETS


def write_graph(model, shape, path, target=TARGETS[DEFAULT_TARGET]):
    """Store a GatedViT, or one that is told its counts, of a dense model of that shape."""
    store_graph(whole_model(model, shape), path, target=target)
