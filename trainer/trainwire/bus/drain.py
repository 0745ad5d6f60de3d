"""From the queue to the publisher: takes out what is ready, has it packed, and hands it on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from trainwire.bus.batcher import SLICE_EVENTS, Batcher
from trainwire.bus.publisher import Publisher
from trainwire.bus.queue import FLOATS, Record, Recorder, names_of, values_of
from trainwire.bus.watchers import Watchers
from trainwire.bus.writer import SLICE_BYTES
from trainwire_protocol.wire import Batch

PAUSE_SECONDS: Final = 1e-4
"""Between two slices: a thread that waits for the interpreter takes that long to wake, and gets nothing if this one is
back sooner."""

LONG_QUEUE: Final = 2000
"""Records from which on there is no such pause: to keep up matters more then."""

PORTION_SECONDS: Final = 0.1
"""How long is taken out at most before it is handed to the journal: what is refused fills nothing."""

DROP_SECONDS: Final = 0.5
"""How much longer than its deadline it may take, to tell what it has dropped, and the journal to write that."""


class Drain:
    """Empties the queue, for the journal's thread, and for the bus's own where a disk holds that one up."""

    def __init__(self, recorder: Recorder, batcher: Batcher, watchers: Watchers) -> None:
        self.deadline = math.inf
        """When, on the monotonic clock, no more is taken out."""
        self._recorder, self._batcher, self._watchers = recorder, batcher, watchers
        self._dropped = 0
        self._is_over = False
        self._lock = threading.Lock()

    def carry(self, publisher: Publisher) -> bool:
        """Publish about as much as is written at once; whether there is more that could be."""
        with self._lock:
            return not self._is_over and self._carry(publisher)

    def finish(self, publisher: Publisher, status: str, reason: str | None) -> int:
        """Publish what is ready, name the rest as dropped, and publish the last event `run/<status>`; its seq."""
        with self._lock:
            self.deadline += DROP_SECONDS
            if not self._is_ready():  # to look at all of a long queue takes time, too
                self._drop("not computed in time", lambda record: not self._batcher.is_ready(record))
            while self._carry(publisher):
                pass
            self._drop("not written in time", lambda record: record[2] != "lifecycle")
            self._drop("not computed in time", lambda record: not self._batcher.is_ready(record))
            while self._is_ready():
                self._pack_slice()
                publisher.publish(self._taken())
            last_seq = self._batcher.seq
            value = {"last_seq": last_seq, "reason": reason}
            self._batcher.add((f"run/{status}", value, "lifecycle", time.time(), self._recorder.last_step, 0))
            publisher.publish(self._taken())
            self._is_over = True
            return last_seq

    def _carry(self, publisher: Publisher) -> bool:
        self._report_drops()
        publisher.show_unjournaled()
        # At once, as every turn of a thread takes the interpreter's lock from those that train.
        publisher.publish(self._take_portion())
        if not self._recorder.queue:
            self._recorder.emptied()
        return self._is_ready() and time.monotonic() <= self.deadline

    def _take_portion(self) -> list[Batch]:
        """As much as is written at once, in slices between which other threads get the interpreter."""
        batches, until = list[Batch](), time.monotonic() + PORTION_SECONDS
        while self._is_ready() and time.monotonic() <= self.deadline:
            self._pack_slice()
            if not self._recorder.queue or self._batcher.size > SLICE_BYTES or time.monotonic() > until:
                break
            if self._watchers.are_there:  # a slice by itself, since it is decoded
                batches += self._taken()
            time.sleep(0 if self._is_behind() else PAUSE_SECONDS)
        return batches + self._taken()

    def _is_behind(self) -> bool:
        """Whether the queue fills up, or is to be emptied soon."""
        recorder = self._recorder
        return len(recorder.queue) >= LONG_QUEUE or recorder.is_half_full or self.deadline < math.inf

    def _taken(self) -> list[Batch]:
        """The batches of what was packed, which watchers have seen."""
        batches = self._batcher.take()
        self._watchers.send(batches)
        return batches

    def _is_ready(self) -> bool:
        """Whether there is a record, and the oldest one's value is known."""
        queue = self._recorder.queue
        return bool(queue) and self._batcher.is_ready(queue[0])

    def _pack_slice(self) -> None:
        """Pack what is ready, of as much as may be packed at once."""
        queue, batcher = self._recorder.queue, self._batcher
        batcher.begin_slice()
        for _ in range(SLICE_EVENTS):
            if batcher.left <= 0 or not queue or not (queue[0][2] is FLOATS or batcher.is_ready(queue[0])):
                break
            batcher.add(self._recorder.take())

    def _report_drops(self) -> None:
        dropped = self._recorder.dropped
        if dropped > self._dropped:
            self._record({"count": dropped - self._dropped, "total": dropped, "reason": "queue full"})
            self._dropped = dropped

    def _drop(self, reason: str, is_dropped: Callable[[Record], bool]) -> None:
        dropped = self._recorder.remove(is_dropped)
        if dropped:
            names = sorted({name for record in dropped[:1000] for name in names_of(record)})
            count = sum(map(values_of, dropped))
            self._record({"count": count, "names": names[:100], "reason": reason})

    def _record(self, value: dict[str, Any]) -> None:
        self._recorder.append("events/dropped", value, "lifecycle", None)
