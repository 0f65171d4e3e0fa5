"""Whether this machine has a CUDA device, its multiprocessors and its free memory, asked of the driver itself."""

from __future__ import annotations

import ctypes

from heartvit_edge.errors import MachineError

MULTIPROCESSOR_COUNT = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT of cuda.h


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


def count_sms(library: str = "libcuda.so.1") -> int | None:
    """Return the streaming multiprocessors of the first GPU that are switched on; None without a GPU.

    Args:
        library: The driver's file name, as the loader finds it.

    Raises:
        MachineError: If the driver reports an error.
    """
    if why_no_cuda_device(library):
        return None
    driver = ctypes.CDLL(library)
    device, count = ctypes.c_int(0), ctypes.c_int(0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(count), MULTIPROCESSOR_COUNT, device)
    return count.value


def gpu_memory(library: str = "libcuda.so.1") -> tuple[int, int]:
    """Return free and total bytes of the first GPU, asked in its primary context.

    Args:
        library: The driver's file name, as the loader finds it.

    Raises:
        MachineError: If there is no driver or no GPU, or the driver reports an error.
    """
    if reason := why_no_cuda_device(library):
        raise MachineError(reason, hint="heartvit-edge doctor")
    driver = ctypes.CDLL(library)
    context, former = ctypes.c_void_p(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    device = ctypes.c_int(0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(driver, "cuCtxPushCurrent_v2", context)
        _call(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        _call(driver, "cuCtxPopCurrent_v2", ctypes.byref(former))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return free.value, total.value


def _call(driver: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Call the driver.

    Raises:
        MachineError: If it reports an error.
    """
    if code := getattr(driver, name)(*arguments):
        raise MachineError(f"the NVIDIA driver answers {name} with error {code}", hint="heartvit-edge doctor")
