"""Helpers for authors of sinks: a sample run and a check of exactly-once output; may use `runtime` and `text`."""
