"""Lets the machine that tests run on rest for seconds, where what they look at has to be done by then."""

from __future__ import annotations

from trainwire.bus.bus import EventBus


def close_patiently() -> None:
    """From now on have buses wait longer, if need be, for the journal that is read next; it is a bound, and no wait."""
    EventBus.close.__defaults__ = (30.0, *(EventBus.close.__defaults__ or ())[1:])
