"""A short run with everything that a sink must handle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainwire_protocol.events import Event

START_TIME = 1_767_323_045.0
"""2026-01-02 03:04:05 UTC."""

Attempt = Sequence[Sequence[Event]]


def sample_attempts() -> tuple[Attempt, ...]:
    """Return an attempt that is killed after its third epoch, and one that resumes from the end of the first."""
    killed = _Recorder()
    killed.lifecycle("run/started", run="recorded", rank=0, world_size=1, python="3.11.7", resumed=False)
    killed.add("hparams", {"learning_rate": 5e-05, "layers": [8, 4], "device": "cpu", "note": None}, "hparams")
    killed.odd_events()
    killed.epoch(1, loss=0.5)
    mark = killed.mark()
    killed.epoch(2, loss=9.0)
    killed.epoch(3, loss=9.5)
    resumed = _Recorder(START_TIME + 1000, step=killed.mark_step)
    resumed.lifecycle("run/resumed", **{"from": {"attempt": 0, "seq": mark}, "from_step": killed.mark_step})
    resumed.epoch(2, loss=0.25, extra={"test/accuracy": 0.75})
    resumed.mark()
    resumed.epoch(3, loss=0.125)
    resumed.lifecycle("run/finished", last_seq=resumed.count, reason=None)
    return killed.batches, resumed.batches


def sample_restarts() -> tuple[Attempt, ...]:
    """Return attempts that follow those of the sample: a new start, an addition to it, and a return to the first."""
    anew = _Recorder(START_TIME + 2000)
    anew.lifecycle("run/resumed", **{"from": None, "from_step": 0})
    anew.add("hparams", {"learning_rate": 1e-3}, "hparams")
    anew.epoch(1, loss=0.75, extra={"dev/recall": 0.5})
    anew.mark()
    anew.epoch(2, loss=0.7)
    anew.lifecycle("run/failed", last_seq=anew.count, reason="ValueError: odd")
    added = _Recorder(START_TIME + 3000, step=anew.step)
    added.lifecycle("run/resumed", **{"from": {"attempt": 2, "seq": anew.count - 1}, "from_step": anew.step})
    added.add("test/accuracy", 0.875, "scalar")
    added.lifecycle("run/finished", last_seq=added.count, reason=None)
    old = sample_attempts()[1]
    origin = old[0][0].value["from"]
    back = _Recorder(START_TIME + 4000, step=old[0][0].step)
    back.lifecycle("run/resumed", **{"from": origin, "from_step": old[0][0].step})
    back.epoch(2, loss=0.375)
    return anew.batches, added.batches, back.batches


class _Recorder:
    """Collects the events of an attempt, a second apart, in batches."""

    def __init__(self, walltime: float = START_TIME, step: int = 0) -> None:
        self.batches: list[list[Event]] = [[]]
        self.count = 0
        self.step = step
        self.mark_step = 0
        self._walltime = walltime

    def add(self, name: str, value: Any, kind: str) -> None:
        self._walltime += 1
        self.batches[-1].append(Event(name, value, kind, self._walltime, self.step))
        self.count += 1

    def lifecycle(self, name: str, **fields: object) -> None:
        self.add(name, fields, "lifecycle")

    def mark(self) -> int:
        """End the batch with a mark; return its seq."""
        self.lifecycle("run/marked", mark=self.count)
        self.mark_step = self.step
        self.batches.append([])
        return self.count - 1

    def epoch(self, number: int, loss: float, extra: dict[str, float] | None = None) -> None:
        self.lifecycle("epoch/started", epoch=number, max_epochs=3, batches=4)
        for _ in range(4):
            self.step += 1
            self.add("train/batch_loss", loss, "scalar")
            if self.step % 2:
                self.batches.append([])
        metrics = {"train/loss": loss, "learning_rate": 5e-05, "dev/micro avg/f1-score": 1 - loss, **(extra or {})}
        for name, value in metrics.items():
            self.add(name, value, "scalar")
        self.lifecycle("epoch/finished", epoch=number, complete=True, bad_epochs=0, seconds=4.5, metrics=metrics)
        self.lifecycle("checkpoint/saved", path="best.pt", kind="best", epoch=number, metric="dev/loss", score=loss)

    def odd_events(self) -> None:
        """Add an event of each type, and some with unusual names and values."""
        self.add("odd/nan", math.nan, "scalar")
        self.add("odd/infinite", -math.inf, "scalar")
        self.add("odd/large", 2**63, "scalar")
        self.add("../../odd\tname\n\x1b[31m", 1.0, "scalar")
        self.add("dev/odd\tname\n\x1b[31m", 1.0, "scalar")
        self.add("learning_rate", [0.1, 0.01], "scalars")
        self.add("losses", {"a": 1.0, "b/c": 2}, "scalars")
        self.add("note", "# Märkt\nand more", "text")
        self.add("weights", _HISTOGRAM, "histogram")
        self.add("digit", {"data": b"\x89PNG", "format": "png", "width": 8, "height": 8}, "image")
        self.add("sound", {"data": b"RIFF", "format": "wav", "sample_rate": 8000}, "audio")
        self.add("scores", {"columns": ["class", "f1"], "rows": [["zero", 0.5]]}, "table")
        self.add("points", {"format": "summary", "plugin": "mesh", "data": b"\n\x06points\x15\x00\x00\x80?"}, "summary")
        self.add("curve", {"format": "summary", "plugin": "", "data": _CURVE, "run": "below/it"}, "summary")
        self.add("tensors", {"format": "file", "plugin": "projector", "path": "a/t.tsv", "data": b"1\t2\n"}, "summary")
        self.add("log", {"level": "INFO", "logger": "root", "message": "two\nlines \x1b[31m"}, "log")
        self.add("log", {"level": "ERROR", "logger": "a.b", "message": "oh", "exception": "Traceback:\n  x\n"}, "log")
        self.add("of a later version", {"anything": 1}, "hologram")
        self.lifecycle("of/a/later/version", anything=1)
        self.batches.append([])


_CURVE = b"\n\x05curve\x15\x00\x00\x80?"
"""A value of a summary: the tag `curve`, and the number 1."""

_HISTOGRAM = {"edges": [0.0, 1.0, 2.0], "counts": [3, 4], "min": 0.1, "max": 1.9, "sum": 7.0, "sum_squares": 9.0}
