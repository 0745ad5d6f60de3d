"""Runs a sink: base classes, outputs, the runner and exactly-once delivery; may use `text`."""
