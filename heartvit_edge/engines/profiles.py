"""Optimization profiles: the range of shapes, and of values that are shapes, that TensorRT tunes an engine for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heartvit_edge.engines.tensorrt_module import Log
from heartvit_edge.errors import CheckError
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.pack import TensorInfo

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, best and largest."""


class Profile(NamedTuple):
    """One optimization profile.

    Attributes:
        shapes: Shapes of each input whose batch is open.
        values: Values of each input that says how many tokens stay (int64, one a site); those of a profile are the same
            three times, as a budget keeps one number.
    """

    shapes: Mapping[str, Range]
    values: Mapping[str, Range]


def make_profiles(
    inputs: Sequence[TensorInfo], batch: BatchRange, kept: Sequence[Mapping[str, int]] = ({},)
) -> tuple[Profile, ...]:
    """Return one profile a budget; none where every shape is a constant, and nothing is left to be tuned for.

    Args:
        inputs: The graph's.
        batch: Its batch sizes.
        kept: For each budget, tokens kept by name of the int64 input that says so; one budget without any such input
            for a graph whose token counts are constants.

    Raises:
        CheckError: If an int64 input has no count in a budget.
    """
    shaped = {info.name: _shapes(info, batch) for info in inputs if info.dtype != "int64" and None in info.shape}
    counts = [info for info in inputs if info.dtype == "int64"]
    profiles: list[Profile] = []
    if not shaped and not counts:
        return ()
    for budget in kept:
        if missing := [info.name for info in counts if info.name not in budget]:
            raise CheckError(f"a budget says no number of kept tokens for {', '.join(missing)}")
        values = {info.name: (budget[info.name],) * max(1, len(info.shape)) for info in counts}
        profiles.append(Profile(shaped, {name: (value, value, value) for name, value in values.items()}))
    return tuple(profiles)


def add_profiles(builder: Any, config: Any, profiles: Sequence[Profile], log: Log) -> None:  # noqa: ANN401
    """Give the profiles to a builder's configuration, in order.

    Args:
        builder: A tensorrt.Builder.
        config: A tensorrt.IBuilderConfig.
        profiles: None where every shape is a constant.
        log: What TensorRT says.

    Raises:
        CheckError: If TensorRT refuses one.
    """
    for number, wanted in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for setter, ranges in ((profile.set_shape, wanted.shapes), (profile.set_shape_input, wanted.values)):
            for name, (smallest, best, largest) in ranges.items():
                try:
                    setter(name, smallest, best, largest)
                except RuntimeError as err:  # the binding raises where the C++ call answers false
                    raise CheckError(
                        f"TensorRT refuses {smallest}, {best}, {largest} for input {name!r}: {err}"
                    ) from err
        if config.add_optimization_profile(profile) != number:
            raise CheckError(f"TensorRT refuses optimization profile {number}: {log.said()}")


def _shapes(info: TensorInfo, batch: BatchRange) -> Range:
    smallest, best, largest = (
        tuple(size if known is None else known for known in info.shape) for size in (batch.min, batch.opt, batch.max)
    )
    return smallest, best, largest
