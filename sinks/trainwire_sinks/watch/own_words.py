"""What this process itself logs, while a terminal is drawn on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from trainwire_sinks.text import one_line, timestamp
from trainwire_sinks.watch.logs import MAX_CHARACTERS, Line
from trainwire_sinks.watch.reader import Reader


@contextlib.contextmanager
def logging_into_views(readers: Sequence[Reader]) -> Iterator[None]:
    """Have what is logged about a run stand in the log that is shown of it, and nowhere else on the screen."""
    logger = logging.getLogger("trainwire")
    handlers, logger.handlers = logger.handlers, [_ViewHandler(readers)]
    try:
        yield
    finally:
        logger.handlers = handlers


class _ViewHandler(logging.Handler):
    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self._readers = readers

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        line = Line(
            timestamp(record.created, separator=" "),
            record.levelname,
            one_line(f"trainwire watch: {text}"[:MAX_CHARACTERS]),
        )
        about = [reader for reader in self._readers if str(reader.target) in text]
        for reader in about or self._readers:
            reader.view.log.put(line)
