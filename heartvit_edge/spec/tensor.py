"""What goes into a graph and comes out of it."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from heartvit_edge.spec.base import Spec


def num_keep_name(site: int) -> str:
    """Return the name of the input that says how many patch tokens go on from a site."""
    return f"num_keep_{site}"


class TensorInfo(Spec):
    """One input or output of a graph.

    Attributes:
        name: The tensor's name in the graph.
        dtype: numpy's name of the element type.
        shape: Dimensions; None where it is dynamic (the batch).
    """

    name: str
    dtype: Literal["float32", "float16", "int32", "int64"]
    shape: tuple[PositiveInt | None, ...]
