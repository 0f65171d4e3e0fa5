"""Device tables with chosen cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fakes.machines import DESKTOP
from fakes.tiny_pack import SHAPE

from heartvit_edge.spec.device_table import DeviceTable
from heartvit_edge.spec.model import ModelShape

NO_ENERGY = "no power source was found: there is no sensor"
Cost = Callable[[int, int], float]


def product_ms(tokens: int, heads: int) -> float:
    """Return a block's latency that is linear in tokens and in heads, as a bilinear interpolation has it exactly."""
    return 0.5 + 0.125 * tokens + 0.0625 * tokens * heads


def make_device_table(
    ms: Cost = product_ms,
    mj: Cost | None = None,
    *,
    shape: ModelShape = SHAPE,
    tokens: Sequence[int] = (4, 8, 16, 17),
    heads: Sequence[int] = (1, 2),
    **changes: object,
) -> DeviceTable:
    """Return a table whose cells are what the functions say; 0.25 ms and, where there is energy, 2 mJ are fixed."""

    def cells(cost: Cost) -> list[list[float]]:
        return [[cost(count, width) for width in heads] for count in tokens]

    return DeviceTable.model_validate(
        {
            "shape": shape,
            "machine": DESKTOP,
            "backend": "onnxruntime",
            "precision": "fp32",
            "options": (("provider", "CPUExecutionProvider"),),
            "batch_size": 1,
            "tokens": tokens,
            "heads": heads,
            "num_chained": 4,
            "num_copies": 1,
            "num_rounds": 3,
            "block_ms": cells(ms),
            "block_low_ms": cells(lambda count, width: 0.75 * ms(count, width)),
            "block_high_ms": cells(lambda count, width: 1.5 * ms(count, width)),
            "call_ms": [0.01] * len(tokens),
            "fixed_ms": 0.25,
            "num_samples": cells(lambda *_: 100),
            "seconds": cells(lambda *_: 9.0),
            "block_mj": cells(mj) if mj else None,
            "fixed_mj": 2.0 if mj else None,
            "energy_source": "constant; a test" if mj else None,
            "no_energy_reason": None if mj else NO_ENERGY,
            "created": "2025-01-01T00:00:00+00:00",
            "command": "heartvit-edge bench pack --profile-table table.json",
            "tool_version": "0",
            **changes,
        }
    )
