"""The system monitor."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from support.run_reader import read_events, wait_until
from support.tiny_training import make_trainer, train

from trainwire.plugins.system_monitor import SystemMonitor
from trainwire.training.hooks.payloads import AfterTrainingBatch
from trainwire_protocol.errors import MissingExtraError, OptionError

HOST = {"system/cpu_percent", "system/memory_percent", "process/cpu_percent", "process/memory"}


class Driver:
    """A fake driver of two GPUs, the second of which supports few values."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802  # the driver's name
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802  # the driver's name
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        def read(gpu: int | None = None, *_: object) -> Any:
            if gpu == 1 and name != "nvmlDeviceGetMemoryInfo" and "Handle" not in name:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return {
                "nvmlDeviceGetCount": 2, "nvmlDeviceGetHandleByIndex": gpu, "nvmlDeviceGetPowerUsage": 70_500,
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=90, memory=30),
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=2**30), "nvmlDeviceGetTemperature": 61,
            }[name]  # fmt: skip

        return read


def recorded(folder: Path) -> dict[str, float]:
    """Return the last value of each metric of the machine."""
    names = ("system/", "process/", "gpu")
    return {event.name: event.value for event in read_events(folder) if event.name.startswith(names)}


def monitored(folder: Path, **options: Any) -> None:
    """Train until the monitor has recorded something."""
    trainer = make_trainer()

    @trainer.on("after_training_batch")
    def wait(batch: AfterTrainingBatch) -> None:
        if batch.step == 1:
            wait_until(lambda: recorded(folder))

    train(folder, SystemMonitor(seconds=0.01), trainer=trainer, **options)


def test_host_and_process_are_recorded(tmp_path: Path) -> None:
    """Values are recorded during the training, and the thread ends with it."""
    monitored(tmp_path)
    found = recorded(tmp_path)
    assert found.keys() >= HOST
    assert 0 < found["system/memory_percent"] <= 100
    assert 10**7 < found["process/memory"] < psutil.virtual_memory().total
    assert "trainwire-system" not in {thread.name for thread in threading.enumerate()}


def test_gpus_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that a GPU does not support are omitted, and the driver is shut down at the end."""
    driver = Driver()
    monkeypatch.setattr("trainwire.plugins.system_monitor.pynvml", driver)
    monitored(tmp_path)
    assert {name: value for name, value in recorded(tmp_path).items() if name.startswith("gpu")} == {
        "gpu0/utilization": 90, "gpu0/memory_utilization": 30, "gpu0/memory": 2**30, "gpu0/power": 70.5,
        "gpu0/temperature": 61, "gpu1/memory": 2**30,
    }  # fmt: skip
    assert driver.open == 0


def test_a_failure_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a value cannot be read, one warning is logged, and the training continues."""

    def fail() -> float:
        raise OSError("/proc is not mounted")

    monkeypatch.setattr(psutil, "cpu_percent", fail)
    with caplog.at_level(logging.WARNING, "trainwire"):
        result = train(tmp_path, SystemMonitor(seconds=0.01))
    assert result.status == "finished"
    assert [record.getMessage() for record in caplog.records] == ["the system monitor failed and has stopped recording"]


@pytest.mark.parametrize("package", ["psutil", "pynvml"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Importing the module without one of its packages raises an error that says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "trainwire.plugins.system_monitor")
    with pytest.raises(MissingExtraError, match=r"pip install 'trainwire\[system\]'"):
        import trainwire.plugins.system_monitor  # noqa: F401  # importing it is the test


def test_an_interval_of_zero_is_refused() -> None:
    """An interval of 0 seconds raises OptionError."""
    with pytest.raises(OptionError, match="seconds is 0"):
        SystemMonitor(seconds=0)
