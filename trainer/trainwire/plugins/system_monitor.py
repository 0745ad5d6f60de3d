"""What the training takes of the machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

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
"""How long the end of a training waits for the thread, which a driver may hold."""

logger = logging.getLogger("trainwire")


class SystemMonitor(Plugin):
    """Records every so many seconds how busy processors, memory and GPUs are, on a thread of its own.

    - `system/cpu_percent` and `system/memory_percent` of the host, from 0 to 100
    - `process/cpu_percent`, 100 for one core, and `process/memory`, the resident set in bytes
    - `gpu<n>/utilization` and `gpu<n>/memory_utilization`, from 0 to 100; `gpu<n>/memory` in bytes; `gpu<n>/power` in
      watts; `gpu<n>/temperature` in °C: of each NVIDIA GPU of the host, numbered as by `nvidia-smi`, others' work
      included. What a GPU does not tell is left out.

    The values have the last step that was recorded.

    Args:
        seconds: Time from one record to the next.

    Raises:
        OptionError: `seconds` is not above 0.
        MissingExtraError: psutil or nvidia-ml-py is not installed; raised by importing this module.
    """

    essential = False

    def __init__(self, seconds: float = 10.0) -> None:
        if not 0 < seconds < threading.TIMEOUT_MAX:
            raise OptionError(f"SystemMonitor: seconds is {seconds}: it has to be a time above 0")
        self.seconds = seconds
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Start the thread."""
        self._ending = threading.Event()
        arguments = (self.run.bus, self._ending)
        self._thread = threading.Thread(target=self._watch, args=arguments, name="trainwire-system", daemon=True)
        self._thread.start()

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """End it."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
            self._thread = None

    def _watch(self, bus: EventBus, ending: threading.Event) -> None:
        try:
            process = psutil.Process()
            read_host(process)  # the first call begins to measure, and tells nothing
            with gpus() as read_gpus:
                while not ending.wait(self.seconds):
                    bus.log({**read_host(process), **read_gpus()})
        except Exception:
            logger.warning("the system monitor has failed, and records nothing more", exc_info=True)


def read_host(process: psutil.Process) -> dict[str, float]:
    """How busy the host and the process are, since the last call."""
    return {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/memory_percent": psutil.virtual_memory().percent,
        "process/cpu_percent": process.cpu_percent(),
        "process/memory": float(process.memory_info().rss),
    }


@contextmanager
def gpus() -> Iterator[Callable[[], dict[str, float]]]:
    """A function that tells how busy the host's GPUs are; it tells nothing where there is no NVIDIA driver."""
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
