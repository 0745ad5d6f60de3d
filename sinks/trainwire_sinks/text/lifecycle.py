"""Describes lifecycle events in sentences, each on one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import number, one_line, plain

Fields = Mapping[str, Any]
"""The value of a lifecycle event. Any field may be missing or have another type."""


def describe_lifecycle(event: Event) -> str:
    """Return what a lifecycle event reports, on one line; empty if people need not see it."""
    if event.name in _SILENT:
        return ""
    describe = _DESCRIPTIONS.get(event.name, _describe_other)
    return one_line(describe({"event": event.name, **event.value}))


def lifecycle_level(event: Event) -> str:
    """Return the severity of a lifecycle event, as a level of Python's `logging`."""
    return "WARNING" if event.name in _WARNINGS else "INFO"


def _describe_start(fields: Fields) -> str:
    details = _list(fields, leave_out=("event", "run", "rank", "world_size", "resumed"))
    rank = f"rank {plain(fields.get('rank', 0))} of {plain(fields.get('world_size', 1))}"
    return f"run {plain(fields.get('run', ''))} started, {rank}" + (f" ({details})" if details else "")


def _describe_resumption(fields: Fields) -> str:
    origin = fields.get("from")
    if not isinstance(origin, Mapping):
        return "======== new start of the run: everything above is superseded, and shown by --attempt ========"
    position = f"attempt {plain(origin.get('attempt'))}, event {plain(origin.get('seq'))}"
    step = plain(fields.get("from_step", "?"))
    return f"======== run resumed from step {step} ({position}): anything logged after it is superseded ========"


def _describe_epoch_start(fields: Fields) -> str:
    last = fields.get("max_epochs")
    return f"epoch {plain(fields.get('epoch'))}" + (f" of {plain(last)}" if last is not None else "") + " started"


def _describe_epoch_end(fields: Fields) -> str:
    end = "finished" if fields.get("complete", True) else "cut short"
    bad = fields.get("bad_epochs")
    facts = [_list(fields.get("metrics")), f"bad epochs {plain(bad)}" if bad is not None else ""]
    return f"epoch {plain(fields.get('epoch'))} {end}{_duration(fields)}" + _after_colon(facts)


def _describe_step_evaluation(fields: Fields) -> str:
    batch, batches = fields.get("batch"), fields.get("batches")
    of = f"/{plain(batches)}" if batches is not None else ""
    at = f", batch {plain(batch)}{of}" if batch is not None else ""
    bad = fields.get("bad_epochs")
    facts = [_list(fields.get("metrics")), f"bad evaluations {plain(bad)}" if bad is not None else ""]
    return f"epoch {plain(fields.get('epoch'))}{at} evaluated" + _after_colon(facts)


def _describe_evaluation(fields: Fields) -> str:
    metrics = _after_colon([_list(fields.get("metrics"))])
    return f"evaluation on {plain(fields.get('split', '?'))}{_duration(fields)}" + metrics


def _describe_checkpoint(fields: Fields) -> str:
    score = _list({str(fields.get("metric")): fields.get("score")}) if "score" in fields else ""
    saved = f"{plain(fields.get('kind', 'model'))} model saved: {plain(fields.get('path', '?'))}"
    return saved + (f" ({score})" if score else "")


def _describe_learning_rate(fields: Fields) -> str:
    reason = fields.get("reason")
    owner = f" of {plain(fields['optimizer'])}" if "optimizer" in fields else ""
    change = f"learning rate{owner} changed from {plain(fields.get('from'))} to {plain(fields.get('to'))}"
    return change + (f" ({plain(reason)})" if reason else "")


def _describe_command(fields: Fields) -> str:
    outcome = str(fields["event"]).removeprefix("command/")
    return f"command {plain(fields.get('verb', '?'))} {outcome}" + _reason(fields)


def _describe_end(fields: Fields) -> str:
    return str(fields["event"]).replace("/", " ") + _reason(fields)


def _describe_other(fields: Fields) -> str:
    return str(fields["event"]) + _after_colon([_list(fields, leave_out=("event",))])


def _list(fields: object, leave_out: Sequence[str] = ()) -> str:
    if not isinstance(fields, Mapping):
        return ""
    return ", ".join(f"{name} {plain(value)}" for name, value in fields.items() if name not in leave_out)


def _duration(fields: Fields) -> str:
    seconds = fields.get("seconds")
    if not isinstance(seconds, float):
        return ""
    return f" in {seconds * 1000:.0f} ms" if 0 <= seconds < 1 else f" in {number(round(seconds, 1))} s"


def _reason(fields: Fields) -> str:
    reason = fields.get("reason")
    return f": {plain(reason)}" if reason else ""


def _after_colon(facts: Sequence[str]) -> str:
    text = ", ".join(fact for fact in facts if fact)
    return f": {text}" if text else ""


_DESCRIPTIONS: Final[dict[str, Callable[[Fields], str]]] = {
    "run/started": _describe_start,
    "run/resumed": _describe_resumption,
    "run/finished": _describe_end,
    "run/failed": _describe_end,
    "run/interrupted": _describe_end,
    "epoch/started": _describe_epoch_start,
    "epoch/evaluated": _describe_step_evaluation,
    "epoch/finished": _describe_epoch_end,
    "evaluation/finished": _describe_evaluation,
    "checkpoint/saved": _describe_checkpoint,
    "learning_rate/changed": _describe_learning_rate,
    "command/applied": _describe_command,
    "command/rejected": _describe_command,
}
"""Any other event is described by its name and fields."""

_SILENT: Final = frozenset({"run/marked", "evaluation/started", "checkpoint/deleted", "command/received"})
_WARNINGS: Final = frozenset(
    {
        "run/failed",
        "run/interrupted",
        "anomaly/detected",
        "plugin/failed",
        "command/rejected",
        "events/dropped",
        "journal/missing",
    }
)
