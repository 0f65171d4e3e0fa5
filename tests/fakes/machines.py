"""Machines that engines are built on in tests."""

from __future__ import annotations

from heartvit_edge.spec.machine import Machine

DESKTOP = Machine(
    system="Linux x86_64",
    cpu="Some Processor 9000",
    num_cpus=1,
    versions=(("python", "3.11.7"), ("numpy", "2.1.0"), ("onnxruntime", "1.20.0")),
)


def orin(tensorrt: str, **changes: object) -> Machine:
    """Return an AGX Orin with that TensorRT, changed as told."""
    return Machine.model_validate(
        {
            "system": "Linux aarch64",
            "cpu": "Arm Cortex-A78AE",
            "num_cpus": 12,
            "board": "NVIDIA Jetson AGX Orin (p3701-0005)",
            "l4t": "36.4.3",
            "power_mode": "MAXN",
            "gpu": "Orin",
            "compute_capability": "8.7",
            "num_sms": 16,
            "cuda": "12.6",
            "versions": (("python", "3.10.12"), ("tensorrt", tensorrt)),
            **changes,
        }
    )
