"""The few CUDA driver calls that running an engine takes, through ctypes.

The driver library comes with the driver itself, so running an engine needs no other package.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

from eqnet.spec.errors import EqnetError

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76


class CudaError(EqnetError):
    """A call that the CUDA driver refused."""


class Cuda:
    """The first GPU: memory, copies and one stream. Raises CudaError where there is none."""

    def __init__(self) -> None:
        self._library = _load()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise CudaError("no NVIDIA GPU in this machine")
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def capability(self) -> str:
        """The GPU's compute capability, such as ``SM89``."""
        parts = []
        for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            parts.append(str(value.value))
        return "SM" + "".join(parts)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of GPU memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, host: int, size: int) -> None:
        """Queue a copy of `size` bytes from host memory to the GPU."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(host), size)

    def download(self, host: int, address: int, size: int) -> None:
        """Queue a copy of `size` bytes from the GPU to host memory."""
        self._copy("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host), ctypes.c_uint64(address), size)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _copy(self, name: str, to: object, source: object, size: int) -> None:
        self._call(name, to, source, ctypes.c_size_t(size), ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise CudaError(f"CUDA driver: {name} failed with error {code}")


def _load() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CudaError("no NVIDIA GPU driver on this machine")


@lru_cache(maxsize=1)
def gpu_problem() -> str | None:
    """Why nothing can run on an NVIDIA GPU here, or None if it can."""
    try:
        Cuda()
    except CudaError as error:
        return f"no NVIDIA GPU to run on ({error})"
    return None
