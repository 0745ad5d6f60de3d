"""The kinds of rules, with a module for each; may use `runtime` and the modules of `alerts`."""

from __future__ import annotations

from typing import Final

from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.rules.dead import Dead
from trainwire_sinks.alerts.rules.disk_full import DiskFull
from trainwire_sinks.alerts.rules.ended import Failed, Finished, Interrupted
from trainwire_sinks.alerts.rules.not_finite import NotFinite
from trainwire_sinks.alerts.rules.plateau import Plateau
from trainwire_sinks.alerts.rules.sink_behind import SinkBehind
from trainwire_sinks.alerts.rules.spike import Spike
from trainwire_sinks.alerts.rules.stalled import Stalled
from trainwire_sinks.alerts.rules.threshold import Threshold

_CLASSES: Final[tuple[type[Rule], ...]] = (
    NotFinite, Threshold, Spike, Plateau, Stalled, Dead, Failed, Interrupted, Finished, SinkBehind, DiskFull,
)  # fmt: skip

KINDS: Final[dict[str, type[Rule]]] = {rule.kind: rule for rule in _CLASSES}
"""The rules by their kind's name in the rules file."""
