"""Compares runs: their hyperparameters, their last metrics, and the steps at which their metrics diverge."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from trainwire_protocol.errors import IncompleteError
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch

Metrics: TypeAlias = Mapping[str, Any]
"""Values by name: numbers, or lists and maps of numbers."""

Recording: TypeAlias = AsyncIterator[tuple[Batch, Sequence[Event]]]
"""The batches of a run, each with its events to compare, which are metrics."""


class Divergence(NamedTuple):
    """The first step at which two runs recorded a metric with different values."""

    step: int
    values: tuple[Any, Any]


@dataclass
class Summary:
    """One run, and how it differs from the run that it is compared with."""

    hparams: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """The last value of each metric."""
    last_step: int | None = None
    divergences: dict[str, Divergence] = field(default_factory=dict)
    """By metric."""
    gap: IncompleteError | None = None
    """The error if events are missing from the record."""

    @property
    def first_divergence(self) -> tuple[int, list[str]] | None:
        """The first step at which any metric diverges, and the metrics that do; None if none diverges."""
        step = min((divergence.step for divergence in self.divergences.values()), default=None)
        if step is None:
            return None
        return step, [name for name, divergence in self.divergences.items() if divergence.step == step]


class _Step(NamedTuple):
    step: int
    metrics: Metrics


async def compare_runs(recordings: Sequence[Recording]) -> list[Summary]:
    """Read several runs in parallel, step by step, and compare each with the first."""
    summaries = [Summary() for _ in recordings]
    streams = [_read_steps(recording, summary) for recording, summary in zip(recordings, summaries, strict=True)]
    upcoming = [await anext(stream, None) for stream in streams]
    while pending := [following.step for following in upcoming if following]:
        step = min(pending)
        current = [index for index, following in enumerate(upcoming) if following and following.step == step]
        if first := upcoming[0] if 0 in current else None:
            for index in current:
                _add_divergences(summaries[index].divergences, step, first.metrics, upcoming[index])
        for index in current:
            upcoming[index] = await anext(streams[index], None)
    return summaries


async def _read_steps(recording: Recording, summary: Summary) -> AsyncIterator[_Step]:
    """Yield a run's metrics step by step, and add what is read to `summary`."""
    step, metrics = 0, dict[str, Any]()
    try:
        async for batch, events in recording:
            _add_batch(summary, batch)
            for event in events:
                if event.step != step and metrics:
                    summary.metrics |= metrics
                    yield _Step(step, metrics)
                    metrics = {}
                step = event.step
                metrics[event.name] = event.value
    except IncompleteError as error:
        summary.gap = error
    summary.metrics |= metrics
    yield _Step(step, metrics)


def _add_batch(summary: Summary, batch: Batch) -> None:
    if b"hparams" in batch.body:
        for event in batch.events:
            if event.type == "hparams":
                summary.hparams |= event.value
    for event in batch.events:
        summary.last_step = event.step if summary.last_step is None else max(summary.last_step, event.step)


def _add_divergences(divergences: dict[str, Divergence], step: int, first: Metrics, other: _Step | None) -> None:
    if other is None or first == other.metrics:
        return
    for name, value in other.metrics.items():
        if name in first and name not in divergences and not _is_same(first[name], value):
            divergences[name] = Divergence(step, (first[name], value))


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; NaN equals NaN."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[label], other[label]) for label in one)
    return bool(one == other) or (_is_nan(one) and _is_nan(other))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
