"""What a machine is, as far as engines and measurements depend on it."""

from __future__ import annotations

from pydantic import PositiveInt

from heartvit_edge.spec.base import Spec


class Machine(Spec):
    """The fingerprint of a machine: an engine built on one is refused on another.

    No serial number, host name or user name is ever part of it.

    Attributes:
        system: Operating system and architecture, such as ``Linux x86_64``.
        cpu: Processor model as the system names it.
        num_cpus: Processors that this process may use.
        board: Jetson module name and part number from the device tree; None elsewhere.
        l4t: L4T release such as ``36.4.3``; None off Jetson.
        power_mode: nvpmodel's mode name; None where there is none.
        gpu: GPU name; None without one.
        compute_capability: Such as ``8.7``; None without a GPU.
        num_sms: Streaming multiprocessors that the GPU has switched on; None without a GPU, and in artefacts of older
            versions.
        driver: NVIDIA driver version such as ``540.4.0``; None without one, and in artefacts of older versions.
        cuda: CUDA runtime or driver version; None without one.
        versions: Version of each package that bears on engines: python, numpy, onnxruntime, tensorrt.
    """

    system: str
    cpu: str
    num_cpus: PositiveInt
    board: str | None = None
    l4t: str | None = None
    power_mode: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    num_sms: PositiveInt | None = None
    driver: str | None = None
    cuda: str | None = None
    versions: tuple[tuple[str, str], ...]
