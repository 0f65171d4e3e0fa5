"""Whether this machine has a CUDA device, asked of the driver itself."""

from __future__ import annotations

import ctypes


def why_no_cuda_device(library: str = "libcuda.so.1") -> str | None:
    """Return why CUDA cannot be used here, or None where it can.

    Packages say little: onnxruntime-gpu and TensorRT install and import on machines without a GPU.

    Args:
        library: The driver's file name, as the loader finds it.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver: {library} cannot be loaded"
    if code := driver.cuInit(0):
        return f"the NVIDIA driver answers cuInit with error {code}"
    count = ctypes.c_int(0)
    if code := driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver answers cuDeviceGetCount with error {code}"
    return None if count.value else "the NVIDIA driver finds no GPU"
