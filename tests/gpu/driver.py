"""What the NVIDIA driver says of the GPUs that this process sees. Needs Python alone, so that it can be asked first."""

import ctypes
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Tuple

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100
#: Attributes of a device, as the driver's interface numbers them.
MEMORY_CLOCK_KHZ, MEMORY_BUS_BITS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 36, 37, 75, 76


class NoGpu(Exception):
    """There is none, and why."""


class Gpu(NamedTuple):
    """One GPU."""

    name: str
    #: Compute capability.
    capability: Tuple[int, int]
    total_bytes: int
    #: What its memory can move in a second; 0 when the driver does not say.
    bandwidth: float


class Driver:
    """The driver, with at least one GPU."""

    def __init__(self):
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NoGpu(f"no NVIDIA driver: {error}") from None
        try:
            if self._library.cuInit(0) == NO_DEVICE:
                raise NoGpu("the NVIDIA driver is there, but no GPU that this process may see")
            self._call("cuInit", 0)
            self.cuda = "{0[0]}.{0[1]}".format(divmod(self._number("cuDriverGetVersion") // 10, 100))
            count = self._number("cuDeviceGetCount")
        except (RuntimeError, AttributeError) as error:
            raise NoGpu(f"the NVIDIA driver does not work: {error}; see nvidia-smi") from None
        if count == 0:
            raise NoGpu("the NVIDIA driver sees no GPU; look at CUDA_VISIBLE_DEVICES")
        self.gpus: List[Gpu] = [self._gpu(index) for index in range(count)]

    def free_bytes(self, index: int = 0) -> int:
        """Bytes of a GPU's memory that no process uses, this one's context set aside alike in every call."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self._context(index):
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _gpu(self, index: int) -> Gpu:
        device = self._number("cuDeviceGet", index)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        total = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(total), device)

        def attribute(which: int) -> int:
            return self._number("cuDeviceGetAttribute", which, device)

        # Two transfers a clock.
        bandwidth = 2 * attribute(MEMORY_CLOCK_KHZ) * 1e3 * attribute(MEMORY_BUS_BITS) / 8
        capability = (attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR))
        return Gpu(name.value.decode(errors="replace"), capability, total.value, bandwidth)

    @contextmanager
    def _context(self, index: int) -> Iterator[None]:
        device, context = self._number("cuDeviceGet", index), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            yield
            self._call("cuCtxPopCurrent_v2", ctypes.byref(context))
        finally:
            self._call("cuDevicePrimaryCtxRelease_v2", device)

    def _number(self, function: str, *arguments) -> int:
        """The number that a function writes through its first argument."""
        value = ctypes.c_int()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, function: str, *arguments) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise RuntimeError(f"{function} failed with {status}")
