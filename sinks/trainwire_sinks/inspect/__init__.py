"""What a run's folder says at a glance: overview, ranks, sinks' progress, comparison. Uses `runtime` and `text`."""
