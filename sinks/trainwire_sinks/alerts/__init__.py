"""Alerts: the rules, the engine that evaluates them and the notifiers; uses `text`, `runtime` and `inspect`."""
