"""For authors of sinks: a sample run, and a check that output is written exactly once. Uses the runtime room."""
