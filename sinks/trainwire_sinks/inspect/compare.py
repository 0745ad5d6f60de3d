"""Compares runs: what they were given, what came of them, and where their metrics first part."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainwire_protocol.errors import IncompleteError
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch

Metrics = Mapping[str, Any]
"""Name to number, or to several."""


class Parting(NamedTuple):
    """The first step at which two runs both recorded a metric, and not with the same value."""

    step: int
    values: tuple[Any, Any]


@dataclass
class Summary:
    """What a run was given, and what came of it."""

    hparams: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """The last value of each."""
    last_step: int | None = None
    partings: dict[str, Parting] = field(default_factory=dict)
    """By metric: where this run parts from the one that it is compared with."""
    gap: IncompleteError | None = None
    """Why this is not all of it, if it is not."""

    @property
    def first_parting(self) -> tuple[int, list[str]] | None:
        """The first step at which any metric parts, and those that do there; None if none does."""
        step = min((parting.step for parting in self.partings.values()), default=None)
        if step is None:
            return None
        return step, [name for name, parting in self.partings.items() if parting.step == step]


class Step(NamedTuple):
    """What a run recorded at one step."""

    step: int
    metrics: Metrics


async def compare_runs(recordings: Sequence[AsyncIterator[tuple[Batch, Sequence[Event]]]]) -> list[Summary]:
    """Read several runs at once, step by step, and compare each with the first.

    Args:
        recordings: of each run its batches, each with those of its events that are wanted as metrics.
    """
    summaries = [Summary() for _ in recordings]
    streams = [_steps(recording, summary) for recording, summary in zip(recordings, summaries, strict=True)]
    heads = [await anext(stream, None) for stream in streams]
    while waiting := [head.step for head in heads if head]:
        step = min(waiting)
        for place, head in enumerate(heads):
            if head and head.step == step and heads[0] and heads[0].step == step:
                _note_partings(summaries[place].partings, heads[0], head)
        for place, head in enumerate(heads):
            if head and head.step == step:
                heads[place] = await anext(streams[place], None)
    return summaries


async def _steps(recording: AsyncIterator[tuple[Batch, Sequence[Event]]], summary: Summary) -> AsyncIterator[Step]:
    """What a run recorded step by step; `summary` learns of it."""
    step, metrics = 0, dict[str, Any]()
    try:
        async for batch, wanted in recording:
            _note_batch(summary, batch)
            for event in wanted:
                if event.step != step and metrics:
                    summary.metrics |= metrics
                    yield Step(step, metrics)
                    metrics = {}
                step = event.step
                metrics[event.name] = event.value
    except IncompleteError as error:
        summary.gap = error
    summary.metrics |= metrics
    yield Step(step, metrics)


def _note_batch(summary: Summary, batch: Batch) -> None:
    if b"hparams" in batch.body:
        for event in batch.events:
            if event.type == "hparams":
                summary.hparams |= event.value
    if batch.events:
        summary.last_step = batch.events[-1].step


def _note_partings(partings: dict[str, Parting], first: Step, other: Step) -> None:
    if first.metrics == other.metrics:
        return
    for name, value in other.metrics.items():
        if name in first.metrics and name not in partings and not _same(first.metrics[name], value):
            partings[name] = Parting(first.step, (first.metrics[name], value))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same; NaN is the same as NaN."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[label], other[label]) for label in one)
    return bool(one == other) or (_is_nan(one) and _is_nan(other))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
