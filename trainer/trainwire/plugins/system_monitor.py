"""Records the load of processors, memory and GPUs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trainwire.bus.logging_context import in_this_context
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, TrainingFinally
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import MissingExtraError, OptionError

try:
    import psutil
    import pynvml
except ModuleNotFoundError as error:
    raise MissingExtraError("the system monitor", "system", "psutil and nvidia-ml-py") from error

if TYPE_CHECKING:
    from trainwire.bus.bus import EventBus

JOIN_SECONDS = 1.0
"""How long the end of a training waits for the thread, which may hang in the driver."""

logger = logging.getLogger("trainwire")


class SystemMonitor(Plugin):
    """Records the load of processors, memory and GPUs at regular intervals, from a separate thread.

    - `system/cpu_percent` and `system/memory_percent` of the host, from 0 to 100
    - `process/cpu_percent`, 100 for one core, and `process/memory`, the resident set in bytes
    - `gpu<n>/utilization` and `gpu<n>/memory_utilization`, from 0 to 100; `gpu<n>/memory` in bytes; `gpu<n>/power` in
      watts; `gpu<n>/temperature` in °C: for each NVIDIA GPU of the host, numbered as by `nvidia-smi`. The load includes
      that of other programs. Values that a GPU does not support are omitted.

    The events have the latest recorded step.

    Args:
        seconds: The time between records.

    Raises:
        OptionError: if `seconds` is not above 0.
        MissingExtraError: if psutil or nvidia-ml-py is not installed; raised when this module is imported.
    """

    essential = False

    def __init__(self, seconds: float = 10.0) -> None:
        if not 0 < seconds < threading.TIMEOUT_MAX:
            raise OptionError(f"SystemMonitor: seconds is {seconds}; it must be a finite time above 0")
        self.seconds = seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Start the thread."""
        self._stopping = threading.Event()
        arguments = (self.run.bus, self._stopping)
        self._thread = threading.Thread(target=self._record, args=arguments, name="trainwire-system", daemon=True)
        in_this_context(self._thread).start()

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Stop the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
            self._thread = None

    def _record(self, bus: EventBus, stopping: threading.Event) -> None:
        try:
            process = psutil.Process()
            read_host(process)  # the first call only starts the measurement
            with open_gpus() as read_gpus:
                while not stopping.wait(self.seconds):
                    bus.log({**read_host(process), **read_gpus()})
        except Exception:
            logger.warning("the system monitor failed and has stopped recording", exc_info=True)


def read_host(process: psutil.Process) -> dict[str, float]:
    """Return the load of the host and of the process since the last call."""
    return {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/memory_percent": psutil.virtual_memory().percent,
        "process/cpu_percent": process.cpu_percent(),
        "process/memory": float(process.memory_info().rss),
    }


@contextmanager
def open_gpus() -> Iterator[Callable[[], dict[str, float]]]:
    """Return a function that reads the load of the host's GPUs: an empty dict without an NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield dict
        return
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        yield lambda: {
            key: value for number, gpu in enumerate(handles) for key, value in _read_gpu(f"gpu{number}", gpu)
        }
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(name: str, gpu: object) -> Iterator[tuple[str, float]]:
    with suppress(pynvml.NVMLError):
        rates = pynvml.nvmlDeviceGetUtilizationRates(gpu)
        yield f"{name}/utilization", float(rates.gpu)
        yield f"{name}/memory_utilization", float(rates.memory)
    with suppress(pynvml.NVMLError):
        yield f"{name}/memory", float(pynvml.nvmlDeviceGetMemoryInfo(gpu).used)
    with suppress(pynvml.NVMLError):
        yield f"{name}/power", pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000  # milliwatts
    with suppress(pynvml.NVMLError):
        yield f"{name}/temperature", float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
