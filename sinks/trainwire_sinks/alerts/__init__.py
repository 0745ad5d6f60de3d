"""Alerts: the rules, the engine that evaluates them and the notifiers; may use `inspect`, `runtime` and `text`."""
