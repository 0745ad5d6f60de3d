"""The messages of structlog and Loguru on the bus."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from loguru import logger
from support.run_reader import read_events

from trainwire import open_bus
from trainwire.integrations.loguru import TrainwireSink
from trainwire.integrations.structlog import TrainwireProcessor
from trainwire_protocol.errors import OptionError


def messages(folder: Path) -> list[dict[str, Any]]:
    """Return the messages of a run."""
    return [event.value for event in read_events(folder) if event.type == "log"]


def test_structlog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message is recorded with its level, fields and traceback, and passed on unchanged."""
    with open_bus(tmp_path, quiet=True) as bus:
        structlog.configure(
            [structlog.processors.add_log_level, TrainwireProcessor(bus), structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(),
        )
        log = structlog.get_logger().bind(logger="train")
        log.bind(epoch=1).warning("loss is high", loss=2.5, path=tmp_path)
        try:
            raise ValueError("bad batch")
        except ValueError:
            log.exception("skipped")
    log.info("after the end")
    structlog.reset_defaults()
    high, skipped = messages(tmp_path)
    assert high == {
        "level": "WARNING", "logger": "train", "message": "loss is high", "exception": None,
        "fields": {"epoch": 1, "loss": 2.5, "path": str(tmp_path)},
    }  # fmt: skip
    assert (skipped["level"], skipped["exception"].splitlines()[-1]) == ("ERROR", "ValueError: bad batch")
    assert capsys.readouterr().out.count('"event"') == 3


def test_structlog_on_top_of_logging(tmp_path: Path) -> None:
    """With loggers of the standard library, the name is that of the logger."""
    with open_bus(tmp_path, quiet=True) as bus:
        structlog.configure(
            [structlog.stdlib.add_log_level, TrainwireProcessor(bus), structlog.stdlib.render_to_log_kwargs],
            logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
        )  # fmt: skip
        structlog.get_logger("train.loop").error("failed", step=3)
    structlog.reset_defaults()
    assert [(found["logger"], found["level"], found["fields"]) for found in messages(tmp_path)] == [
        ("train.loop", "ERROR", {"step": 3})
    ]
    assert logging.getLogger("train.loop").handlers == []


def test_loguru(tmp_path: Path) -> None:
    """A message is recorded with its level, place, fields and traceback; after the end of the run, none is."""
    with open_bus(tmp_path, quiet=True) as bus:
        number = logger.add(TrainwireSink(bus), level="INFO")
        logger.debug("not recorded")
        logger.bind(epoch=1).success("loss is {loss}", loss=2.5)
        try:
            raise ValueError("bad batch")
        except ValueError:
            logger.exception("skipped")
    logger.info("after the end")
    logger.remove(number)
    success, skipped = messages(tmp_path)
    assert success.pop("source").startswith("test_loggers.py:")
    assert success == {
        "level": "SUCCESS", "logger": __name__, "message": "loss is 2.5", "exception": None,
        "fields": {"epoch": 1, "loss": 2.5},
    }  # fmt: skip
    assert (skipped["level"], skipped["exception"].splitlines()[-1]) == ("ERROR", "ValueError: bad batch")


@pytest.mark.parametrize("make", [TrainwireProcessor, TrainwireSink])
def test_bad_input(make: Any, tmp_path: Path) -> None:
    """What is no bus is refused, such as a folder."""
    with pytest.raises(OptionError, match="is not a bus"):
        make(tmp_path)
