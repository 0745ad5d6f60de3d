"""The event bus, from `log` to journal and wire. Uses the protocol only, and needs no torch."""
