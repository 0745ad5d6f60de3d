"""The thread that writes checkpoints, so that the training does not wait for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import ProcessGroup

from trainwire.bus.bus import EventBus
from trainwire.checkpointing.checkpoint import FOLDER, Label, write_data, write_label
from trainwire.checkpointing.shards import write_shards

logger = logging.getLogger("trainwire")


class Snapshot(NamedTuple):
    """A state to write, and its label."""

    label: Label
    state: Mapping[str, Any]
    shards: Mapping[str, Any] | None = None
    """This process's part of the sharded tensors, on the CPU; None if the model is not sharded."""


class CheckpointWriter(threading.Thread):
    """Writes snapshots. One that is still pending when the next is submitted is dropped.

    A checkpoint's label is written only once the journal contains the mark that was recorded with it.

    Args:
        after: Called, on this thread, after each checkpoint.
        group: For what the threads of all processes must agree on when they write a sharded model.
    """

    def __init__(
        self, bus: EventBus, folder: Path, after: Callable[[], object], group: ProcessGroup | None = None
    ) -> None:
        super().__init__(name="trainwire-checkpoints", daemon=True)
        self._bus, self._folder, self._after, self._group = bus, folder, after, group
        self._changed = threading.Condition()
        self._pending: Snapshot | None = None
        self._is_writing = False
        self._deadline: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no snapshot is pending or being written."""
        return self._pending is None and not self._is_writing

    def submit(self, snapshot: Snapshot) -> None:
        """Submit a snapshot, without waiting until it is written."""
        with self._changed:
            if self._pending:
                logger.warning(
                    "the checkpoint of step %d was dropped, because the disk is too slow", self._pending.label.step
                )
            self._pending = snapshot
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write the pending snapshot and end the thread; wait for that at most `timeout` seconds."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._changed.notify()
        self.join(timeout + 1.0)
        if self.is_alive():
            logger.error("the last checkpoint was not written within %d seconds", timeout)

    def wait_until_idle(self) -> None:
        """Wait until nothing is pending or being written."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_idle)

    def run(self) -> None:
        """Write until closed."""
        while snapshot := self._take():
            try:
                self._write(snapshot)
                self._after()
            except Exception as error:
                logger.exception("the checkpoint of step %d could not be written: %s", snapshot.label.step, error)
            finally:
                with self._changed:
                    self._is_writing = False
                    self._changed.notify_all()

    def _take(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._deadline is not None)
            self._is_writing = self._pending is not None
            snapshot, self._pending = self._pending, None
        return snapshot

    def _write(self, snapshot: Snapshot) -> None:
        parts: list[Path] = []
        if snapshot.shards is not None and self._group is not None:
            folder = self._folder / FOLDER / snapshot.label.name
            parts = write_shards(folder, snapshot.shards, self._group, snapshot.label.rank)
        label = write_data(self._folder, snapshot.label, snapshot.state, parts)
        while not self._bus.wait_until_journaled(snapshot.state["bus"], 1.0):
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise TimeoutError("the journal does not contain everything that was recorded before it")
        write_label(self._folder, label)
        if label.rank == 0:
            about = {"path": f"{FOLDER}/{label.name}", "kind": "resume", "epoch": label.epoch, "step": label.step}
            # Without a step: a training that has continued meanwhile must not appear to go back to an earlier one.
            self._bus.publish("checkpoint/saved", about, "lifecycle")
