"""How fast an engine could be at the most: the time to read its weights once, and the time that its arithmetic takes.

Neither counts activations, launches or copies. Token pruning lowers the second floor alone, head pruning both. Where an
INT8 engine has layers of another precision its floors are lower than need be, and so still hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from heartvit_edge.power.choose import Processor
from heartvit_edge.spec.engine import Precision
from heartvit_edge.spec.machine import Machine
from heartvit_edge.spec.measurement import EntryMeasurement, MachineLimits, Measurement

ELEMENT_BYTES: dict[Precision, int] = {"int8": 1, "fp16": 2, "fp32": 4}

ORIN = "NVIDIA Jetson Orin series data sheets; 1,024 fp16 multiply-accumulates a clock and SM"


@dataclass(frozen=True)
class KnownMachine:
    """One board or GPU of the table.

    Attributes:
        named: What its fingerprint's ``board`` or ``gpu`` contains.
        bandwidth_gb_s: Memory bandwidth in GB/s.
        fp16_tmac_s: fp16 multiply-accumulates in 10^12 a second, tensor cores at the highest clock, without sparsity.
        fp32_tmac_s: The same in TF32, which is the fastest that an fp32 engine may use.
        source: Where the figures are from.
    """

    named: str
    bandwidth_gb_s: float
    fp16_tmac_s: float
    fp32_tmac_s: float
    source: str

    def peak_tmac_s(self, precision: Precision) -> float:
        """Return the most multiply-accumulates of a precision, in 10^12 a second; INT8 runs at twice FP16's rate."""
        return {"int8": 2 * self.fp16_tmac_s, "fp16": self.fp16_tmac_s, "fp32": self.fp32_tmac_s}[precision]


def _orin(named: str, bandwidth_gb_s: float, num_sm: int, mhz: int) -> KnownMachine:
    fp16 = num_sm * 1024 * mhz * 1e-6
    return KnownMachine(named, bandwidth_gb_s, fp16, fp16 / 2, f"{ORIN}, {num_sm} SM at {mhz} MHz")


MACHINES = (
    _orin("p3701-0004", 204.8, 14, 930),
    _orin("p3701-", 204.8, 16, 1300),
    _orin("p3767-0001", 102.4, 8, 765),
    _orin("p3767-0000", 102.4, 8, 918),
    _orin("p3767-0004", 51.0, 4, 1020),
    _orin("p3767-", 102.0, 8, 1020),
    KnownMachine("H200", 4800.0, 494.7, 247.4, "NVIDIA H200 data sheet (SXM), dense"),
    KnownMachine("H100 80GB HBM3", 3350.0, 494.7, 247.4, "NVIDIA H100 data sheet (SXM), dense"),
    KnownMachine("A100-SXM4-80GB", 2039.0, 156.0, 78.0, "NVIDIA A100 data sheet (SXM), dense"),
)
"""The first that fits counts, so a module's own part number stands before its family's."""


@dataclass(frozen=True)
class Floors:
    """The least time of one inference.

    Attributes:
        weights_ms: To read the weights of the matrix products once, in ms; None where it is not known.
        arithmetic_ms: To carry out the multiply-accumulates, in ms; None where it is not known.
    """

    weights_ms: float | None
    arithmetic_ms: float | None

    @property
    def least_ms(self) -> float | None:
        """The larger of the two, which no engine can beat; None where neither is known."""
        return max((ms for ms in (self.weights_ms, self.arithmetic_ms) if ms is not None), default=None)


def find_limits(
    machine: Machine,
    precision: Precision,
    processor: Processor,
    bandwidth_gb_s: float | None = None,
    peak_tmac_s: float | None = None,
) -> MachineLimits | None:
    """Return what a machine can do at the most, by the table or as given; None where neither knows anything.

    Args:
        machine: Its fingerprint.
        precision: Of the engines' matrix products.
        processor: What runs the engines; the table is of GPUs, and says nothing of a CPU beside one.
        bandwidth_gb_s: In place of the table's.
        peak_tmac_s: In place of the table's.
    """
    name = f"{machine.board or ''} {machine.gpu or ''}"
    known = next((one for one in MACHINES if one.named in name), None) if processor == "gpu" else None
    given = [f"{what} was given" for what, value in (("bandwidth", bandwidth_gb_s), ("peak", peak_tmac_s)) if value]
    if known is None and not given:
        return None
    sources = ([] if known is None or len(given) == 2 else [known.source]) + given
    return MachineLimits(
        bandwidth_gb_s=bandwidth_gb_s or (known.bandwidth_gb_s if known else None),
        peak_tmac_s=peak_tmac_s or (known.peak_tmac_s(precision) if known else None),
        source="; ".join(sources),
    )


def floors(measurement: Measurement, row: EntryMeasurement) -> Floors:
    """Return the least time of one inference of a row on the measured machine."""
    limits = measurement.limits
    if limits is None:
        return Floors(None, None)
    plan = measurement.pack.entry(row.entry).plan
    weights_ms = arithmetic_ms = None
    if limits.bandwidth_gb_s and plan.params:
        weights_ms = plan.params * ELEMENT_BYTES[measurement.precision] / (1e6 * limits.bandwidth_gb_s)
    if limits.peak_tmac_s:
        arithmetic_ms = row.batch_size * plan.macs / (1e9 * limits.peak_tmac_s)
    return Floors(weights_ms, arithmetic_ms)
