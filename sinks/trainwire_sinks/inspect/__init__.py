"""Summarizes runs: overview, ranks, progress of sinks, comparison; may use `runtime` and `text`."""
