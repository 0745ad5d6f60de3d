"""What happened to a run, in sentences: how lifecycle events are told to people, on one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import number, one_line, plain

Fields = Mapping[str, Any]
"""The value of a lifecycle event, whose fields may be missing."""


def describe_lifecycle(event: Event) -> str:
    """What a lifecycle event says, on one line; empty if it is no news to a person."""
    if event.name in _SILENT:
        return ""
    describe = _SENTENCES.get(event.name, _describe_other)
    return one_line(describe({"event": event.name, **event.value}))


def lifecycle_level(event: Event) -> str:
    """How much a lifecycle event matters, as a level of Python's `logging`."""
    return "WARNING" if event.name in _WARNINGS else "INFO"


def _describe_start(fields: Fields) -> str:
    rest = _list(fields, leave_out=("event", "run", "rank", "world_size", "resumed"))
    where = f"rank {plain(fields.get('rank', 0))} of {plain(fields.get('world_size', 1))}"
    return f"run {plain(fields.get('run', ''))} started, {where}" + (f" ({rest})" if rest else "")


def _describe_resumption(fields: Fields) -> str:
    origin = fields.get("from")
    if not isinstance(origin, Mapping):
        return "======== run started again from its beginning: all above is superseded ========"
    where = f"attempt {plain(origin.get('attempt'))}, event {plain(origin.get('seq'))}"
    step = plain(fields.get("from_step", "?"))
    return f"======== run resumed from step {step} ({where}): what was logged after it is superseded ========"


def _describe_epoch_start(fields: Fields) -> str:
    last = fields.get("max_epochs")
    return f"epoch {plain(fields.get('epoch'))}" + (f" of {plain(last)}" if last is not None else "") + " started"


def _describe_epoch_end(fields: Fields) -> str:
    end = "finished" if fields.get("complete", True) else "cut short"
    bad = fields.get("bad_epochs")
    facts = [_list(fields.get("metrics")), f"bad epochs {plain(bad)}" if bad is not None else ""]
    return f"epoch {plain(fields.get('epoch'))} {end}{_seconds(fields)}" + _behind_colon(facts)


def _describe_evaluation(fields: Fields) -> str:
    return f"evaluation on {plain(fields.get('split', '?'))}{_seconds(fields)}" + _behind_colon(
        [_list(fields.get("metrics"))]
    )


def _describe_checkpoint(fields: Fields) -> str:
    score = _list({str(fields.get("metric")): fields.get("score")}) if "score" in fields else ""
    what = f"{plain(fields.get('kind', 'model'))} model saved: {plain(fields.get('path', '?'))}"
    return what + (f" ({score})" if score else "")


def _describe_learning_rate(fields: Fields) -> str:
    reason = fields.get("reason")
    change = f"learning rate changed from {plain(fields.get('from'))} to {plain(fields.get('to'))}"
    return change + (f" ({plain(reason)})" if reason else "")


def _describe_command(fields: Fields) -> str:
    reason = fields.get("reason")
    told = f"command {plain(fields.get('verb', '?'))} {str(fields['event']).removeprefix('command/')}"
    return told + (f": {plain(reason)}" if reason else "")


def _describe_end(fields: Fields) -> str:
    reason = fields.get("reason")
    return str(fields["event"]).replace("/", " ") + (f": {plain(reason)}" if reason else "")


def _describe_other(fields: Fields) -> str:
    return str(fields["event"]) + _behind_colon([_list(fields, leave_out=("event",))])


def _list(fields: object, leave_out: Sequence[str] = ()) -> str:
    if not isinstance(fields, Mapping):
        return ""
    return ", ".join(f"{name} {plain(value)}" for name, value in fields.items() if name not in leave_out)


def _seconds(fields: Fields) -> str:
    seconds = fields.get("seconds")
    return f" in {number(round(seconds, 1))} s" if isinstance(seconds, float) else ""


def _behind_colon(facts: Sequence[str]) -> str:
    text = ", ".join(fact for fact in facts if fact)
    return f": {text}" if text else ""


_SENTENCES: Final[dict[str, Callable[[Fields], str]]] = {
    "run/started": _describe_start,
    "run/resumed": _describe_resumption,
    "run/finished": _describe_end,
    "run/failed": _describe_end,
    "run/interrupted": _describe_end,
    "epoch/started": _describe_epoch_start,
    "epoch/finished": _describe_epoch_end,
    "evaluation/finished": _describe_evaluation,
    "checkpoint/saved": _describe_checkpoint,
    "learning_rate/changed": _describe_learning_rate,
    "command/applied": _describe_command,
    "command/rejected": _describe_command,
}
"""How lifecycle events are told; any other is told by its name and fields."""

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
