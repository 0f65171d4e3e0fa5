"""What one block costs on a device, measured over token and head counts: what plans under a latency budget rest on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt, field_validator, model_validator
from typing_extensions import Self

from heartvit_edge.spec.base import Artefact
from heartvit_edge.spec.engine import Backend, Precision
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.model import ModelShape

Cells = tuple[tuple[PositiveFloat, ...], ...]
"""A positive number for each token count (rows) and head count (columns)."""


class DeviceTable(Artefact):
    """Latency and energy of one inference, in parts, at one batch size on one machine.

    A model's latency is ``fixed_ms`` plus ``block_ms`` of each of its blocks. What is stored is what was measured: a
    block may come out faster with more tokens, where the device is faster there or a timing is off.

    Attributes:
        shape: Dimensions of the dense model; blocks of a deeper or shallower one cost the same, but for caches.
        machine: Where it was measured.
        backend: What ran the engines.
        precision: Element type of their matrix products.
        options: What their builder was told, as name and value.
        batch_size: Images an inference.
        tokens: Token counts, prefix included, ascending; the last is all of them.
        heads: Head counts, ascending; the last is all of them.
        num_chained: Blocks in a row, each with weights of its own, in the graph that was timed for a cell.
        num_copies: Times that each chain was loaded; calls take the copies in turn, so that weights come from memory.
        num_rounds: Windows of each graph, those of all graphs in turn.
        block_ms: Latency of one block: the median over the windows of the median call of the chain, less the same of a
            call without blocks, over ``num_chained``.
        block_low_ms: The same for the window with the smallest median.
        block_high_ms: The same for the window with the largest median.
        call_ms: What was subtracted at each token count: a call that only carries the tokens to the device.
        fixed_ms: Latency of all that is not a block: the call, patch embedding, norm and classifier.
        num_samples: Calls timed for each cell, over all windows.
        seconds: Length of these windows together.
        block_mj: Gross energy of one block, taken as block_ms is, but from the windows' mean; None without a source.
        fixed_mj: Gross energy of all that is not a block; None where ``block_mj`` is.
        energy_source: What was read and which rails add up; None where ``block_mj`` is.
        no_energy_reason: Why there is no energy; None where there is.
        created: UTC time at the start, ISO 8601.
        command: What measures this again.
        tool_version: heartvit-edge's own version.
    """

    schema_name: ClassVar[str] = "device-table"

    shape: ModelShape
    machine: Machine
    backend: Backend
    precision: Precision
    options: tuple[tuple[str, str], ...]
    batch_size: PositiveInt
    tokens: tuple[PositiveInt, ...]
    heads: tuple[PositiveInt, ...]
    num_chained: PositiveInt
    num_copies: PositiveInt
    num_rounds: PositiveInt
    block_ms: Cells
    block_low_ms: Cells
    block_high_ms: Cells
    call_ms: tuple[PositiveFloat, ...]
    fixed_ms: PositiveFloat
    num_samples: tuple[tuple[PositiveInt, ...], ...]
    seconds: Cells
    block_mj: Cells | None
    fixed_mj: PositiveFloat | None
    energy_source: str | None
    no_energy_reason: str | None
    created: str
    command: str
    tool_version: str

    @field_validator("tokens", "heads")
    @classmethod
    def _ascending(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if not counts or list(counts) != sorted(set(counts)):
            raise ValueError(f"counts must ascend without repeats and not be empty, found {counts}")
        return counts

    @model_validator(mode="after")
    def _ends_at_the_dense_block(self) -> Self:
        found, expected = (self.tokens[-1], self.heads[-1]), (self.shape.num_tokens, self.shape.num_heads)
        if found != expected:
            raise ValueError(
                f"the last cell must be the dense block of {expected[0]} tokens and {expected[1]} heads, "
                f"found {found[0]} and {found[1]}"
            )
        return self

    @model_validator(mode="after")
    def _has_every_cell(self) -> Self:
        tables = {"block_ms": self.block_ms, "block_low_ms": self.block_low_ms, "block_high_ms": self.block_high_ms}
        sizes = {name: [len(row) for row in table] for name, table in tables.items()}
        sizes |= {"num_samples": [len(row) for row in self.num_samples], "seconds": [len(row) for row in self.seconds]}
        if self.block_mj is not None:
            sizes["block_mj"] = [len(row) for row in self.block_mj]
        for name, found in sizes.items():
            if found != [len(self.heads)] * len(self.tokens):
                raise ValueError(
                    f"{name} must have {len(self.tokens)} rows of {len(self.heads)}, found rows of {found}"
                )
        if len(self.call_ms) != len(self.tokens):
            raise ValueError(f"call_ms must have {len(self.tokens)} entries, found {len(self.call_ms)}")
        for rows in zip(self.block_low_ms, self.block_ms, self.block_high_ms, strict=True):
            for low, value, high in zip(*rows, strict=True):
                if not low <= value <= high:
                    raise ValueError(f"block_ms must lie between its low and high, found {low}, {value}, {high}")
        return self

    @model_validator(mode="after")
    def _energy_or_a_reason(self) -> Self:
        given = {value is not None for value in (self.block_mj, self.fixed_mj, self.energy_source)}
        if given != {self.no_energy_reason is None}:
            raise ValueError("expected block_mj, fixed_mj and energy_source together, or no_energy_reason alone")
        return self
