"""Writes checkpoints on a thread of its own, so that the training waits for no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainwire.bus.bus import EventBus
from trainwire.checkpointing.checkpoint import FOLDER, Label, write_data, write_label

logger = logging.getLogger("trainwire")


class Snapshot(NamedTuple):
    """What is to be written, and its label."""

    label: Label
    state: Mapping[str, Any]


class CheckpointWriter(threading.Thread):
    """Writes the snapshots it is given; one that waits when the next comes is left out.

    A checkpoint gets its label only when the journal holds the mark that was recorded with it.

    Args:
        after: Called, on this thread, after each checkpoint.
    """

    def __init__(self, bus: EventBus, folder: Path, after: Callable[[], object]) -> None:
        super().__init__(name="trainwire-checkpoints", daemon=True)
        self._bus, self._folder, self._after = bus, folder, after
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._is_writing = False
        self._deadline: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written, nor waits for it."""
        return self._waiting is None and not self._is_writing

    def submit(self, snapshot: Snapshot) -> None:
        """Have a snapshot written; this does not wait."""
        with self._changed:
            if self._waiting:
                logger.warning("a checkpoint was left out at step %d: the disk is slow", self._waiting.label.step)
            self._waiting = snapshot
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what waits, and end; after `timeout` seconds it is left alone."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._changed.notify()
        self.join(timeout + 1.0)

    def run(self) -> None:
        """Write until closed."""
        while snapshot := self._take():
            try:
                self._write(snapshot)
                self._after()
            except Exception as error:
                logger.exception("the checkpoint of step %d could not be written: %s", snapshot.label.step, error)
            finally:
                self._is_writing = False

    def _take(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._deadline is not None)
            self._is_writing = self._waiting is not None
            snapshot, self._waiting = self._waiting, None
        return snapshot

    def _write(self, snapshot: Snapshot) -> None:
        label = write_data(self._folder, snapshot.label, snapshot.state)
        while not self._bus.wait_until_journaled(snapshot.state["bus"], 1.0):
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise TimeoutError("the journal does not hold what was recorded before it")
        write_label(self._folder, label)
        if label.rank == 0:
            about = {"path": f"{FOLDER}/{label.name}", "kind": "resume", "epoch": label.epoch, "step": label.step}
            self._bus.publish("checkpoint/saved", about, "lifecycle", label.step)
